"""Bin-packing of loads: longest processing time first (Graham 1969, Bounds on multiprocessing timing anomalies)."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

Piece = tuple[float, int, int, int]  # load, kind (0 chunk, 1 slot), digest or slot, number of the chunk


def pack(pieces: Sequence[Piece], reducers: int) -> tuple[dict[tuple[int, int, int], int], list[float]]:
    """(kind, id, number) -> reducer, and the reducers' loads: each piece, the largest first, on the least loaded."""
    heap = [(0.0, reducer) for reducer in range(reducers)]
    place: dict[tuple[int, int, int], int] = {}
    for load, *piece in sorted(pieces, key=lambda it: (-it[0], *it[1:])):
        least, reducer = heap[0]
        place[piece[0], piece[1], piece[2]] = reducer
        heapq.heapreplace(heap, (least + load, reducer))
    loads = [0.0] * reducers
    for load, reducer in heap:
        loads[reducer] = load
    return place, loads


def pack_slots(slots: Sequence[int], reducers: int) -> tuple[dict[tuple[int, int, int], int], list[float]]:
    """Slots of keys that are not placed by themselves."""
    return pack([(load, 1, number, 0) for number, load in enumerate(slots)], reducers)
