"""Runs: consecutive slots of a day in which something holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Runs:
    """Of k runs: the row of the mask, the first slot, the number of slots."""

    row: NDArray[np.intp]
    first: NDArray[np.intp]
    length: NDArray[np.intp]

    @property
    def slices(self) -> list[tuple[int, slice]]:
        """Row and slots of each run."""
        pairs = zip(self.row.tolist(), self.first.tolist(), self.length.tolist(), strict=True)
        return [(row, slice(first, first + length)) for row, first, length in pairs]


def runs(mask: NDArray[np.bool_], least: int = 1) -> Runs:
    """The runs of (n, slots) that have `least` slots, or reach the day's begin or end: what comes before or after
    may make them longer."""
    step = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, first = np.nonzero(step == 1)
    end = np.nonzero(step == -1)[1]
    kept = (end - first >= least) | (first == 0) | (end == mask.shape[1])
    return Runs(row[kept], first[kept], (end - first)[kept])


def longest(mask: NDArray[np.bool_]) -> int:
    """Slots of the longest run."""
    return int(runs(mask).length.max(initial=0))
