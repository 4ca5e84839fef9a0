"""Which cells are calculated when, and which together: rounds in order of use, blocks by a worker's memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date

from lib.calculation.located import Cell
from lib.tables import TABLES

FIRST_SHARE = 100
"""The first round takes this part of the days, so that there is something to use early."""
GROWTH = 4
"""Each round takes so many times the days of the one before."""
DAYS_PER_ROUND = 92
"""Most days of a round: bounds what a crash loses, and the driver's lists."""
BLOCKS_PER_CORE = 4
COMPRESSION = 4
"""Bytes in memory per byte on disk of a table of narrow rows; tables of large rows are not compressed."""

CellKey = tuple[str, date]


def rounds(cells: Collection[CellKey], priority: Sequence[str] = ()) -> list[list[CellKey]]:
    """Cells in rounds to be committed one by one: newest day first, within a day by `priority` of their regions."""
    rank = {region: place for place, region in enumerate(priority)}
    days = sorted({day for _, day in cells}, reverse=True)
    found, begin, size = [], 0, max(1, len(days) // FIRST_SHARE)
    while begin < len(days):
        some = set(days[begin : begin + size])
        chosen = [cell for cell in cells if cell[1] in some]
        found.append(sorted(chosen, key=lambda cell: (-cell[1].toordinal(), rank.get(cell[0], len(rank)), cell[0])))
        begin, size = begin + size, min(DAYS_PER_ROUND, size * GROWTH)
    return found


def bytes_of(cell: Cell, table: str) -> int:
    """Bytes that a cell's rows take in memory, from the snapshot's file sizes."""
    return cell.size * (1 if TABLES[table].large_rows else COMPRESSION)


def blocks(cells: Sequence[Cell], table: str, budget_bytes: int, cores: int) -> list[list[Cell]]:
    """The cells in their order, cut into tasks of about equal bytes: at most the budget each, enough for all cores.

    A cell larger than the budget is a block of its own; its worker reads it bit by bit (`lib.calculation.reading`).
    """
    sizes = [bytes_of(cell, table) for cell in cells]
    limit = min(budget_bytes, -(-sum(sizes) // max(1, cores * BLOCKS_PER_CORE)))
    found: list[list[Cell]] = []
    filled = 0
    for cell, size in zip(cells, sizes, strict=True):
        if not found or filled + size > limit * 1.01:
            found.append([])
            filled = 0
        found[-1].append(cell)
        filled += size
    return found
