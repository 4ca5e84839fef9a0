"""Rules on arrays of slots: gaps, spikes, frozen values, cumulative registers. Plain numpy, no Spark.

Arrays are (series, slot) over consecutive slots, NaN where there is no value. `days` are the (first, last + 1) columns
of each civil day. A rule looks no further than it says, so that a day's result does not depend on what else was loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]
Days = Sequence[tuple[int, int]]

_ENOUGH = 24  # values of a day from which its usual size can be told


def neighbours(present: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Column of the last present value before or at each slot (-1: none) and of the next one (width: none)."""
    width = present.shape[1]
    columns = np.arange(width)
    before = np.maximum.accumulate(np.where(present, columns, -1), axis=1)
    after = np.minimum.accumulate(np.where(present, columns, width)[:, ::-1], axis=1)[:, ::-1]
    return before, after


def gap_lengths(present: Mask) -> NDArray[np.int64]:
    """Length in slots of the gap that each slot lies in; 0 where there is a value."""
    before, after = neighbours(present)
    return np.where(present, 0, after - before - 1)


def linear(values: Values, limit: int) -> tuple[Values, Mask]:
    """Fills gaps of at most `limit` slots that have a value on both sides, on the line between these."""
    present = np.isfinite(values)
    before, after = neighbours(present)
    mask = ~present & (after - before - 1 <= limit) & (before >= 0) & (after < values.shape[1])
    row, column = np.nonzero(mask)
    a, b = before[row, column], after[row, column]
    left, right = values[row, a], values[row, b]
    filled = values.copy()
    filled[row, column] = left + (right - left) * ((column - a) / (b - a))
    return filled, mask


def from_week_before(values: Values, week_before: NDArray[np.int64], limit: int) -> tuple[Values, Mask]:
    """Fills gaps of at most `limit` slots by the value in column `week_before` (-1: there is none)."""
    present = np.isfinite(values)
    source = np.where(week_before >= 0, values[:, week_before], np.nan)
    mask = ~present & (gap_lengths(present) <= limit) & np.isfinite(source)
    return np.where(mask, source, values), mask


def spikes(values: Values, days: Days, factor: float, floor: float, most: int) -> Mask:
    """Values above `floor` and above `factor` times the day's 90 % quantile of |value|, at most `most` in a day.

    More than that is no spike but a change; a day of fewer than 24 values is not judged.
    """
    mask = np.zeros(values.shape, bool)
    for first, end in days:
        size = np.abs(values[:, first:end])
        count = np.isfinite(size).sum(axis=1)
        ordered = np.sort(size, axis=1)  # NaN last
        at = np.maximum(0.9 * (count - 1), 0).astype(np.int64)
        usual = ordered[np.arange(len(size)), at]
        with np.errstate(invalid="ignore"):
            high = (size > factor * usual[:, None]) & (size > floor)
        high[(count < _ENOUGH) | (high.sum(axis=1) > most)] = False
        mask[:, first:end] = high
    return mask


def frozen(values: Values, days: Days, length: int) -> Mask:
    """Slots of runs of at least `length` equal values other than 0 within a day."""
    mask = np.zeros(values.shape, bool)
    for first, end in days:
        part = values[:, first:end]
        alive = np.isfinite(part) & (part != 0)
        begins = np.ones(part.shape, bool)
        begins[:, 1:] = (part[:, 1:] != part[:, :-1]) | ~alive[:, 1:]
        run = begins.cumsum(axis=1) + np.arange(len(part))[:, None] * (part.shape[1] + 1)
        sizes = np.bincount(run.ravel())
        mask[:, first:end] = alive & (sizes[run] >= length)
    return mask


def shares(total: NDArray[np.int64], owner: NDArray[np.int64], weight: Values) -> NDArray[np.int64]:
    """Each whole `total` as whole numbers, one a weight, that add up to it and are in proportion to the weights.

    owner: ascending, to which total each weight belongs; weights are not negative. Evenly where they are all 0.
    """
    if not len(owner):
        return np.zeros(0, np.int64)
    count = np.bincount(owner, minlength=len(total))
    first = np.cumsum(count) - count
    running = np.cumsum(weight)
    running -= np.where(first > 0, running[first - 1], 0.0)[owner]
    last = (first + count - 1)[owner]
    even = running[last] <= 0
    running = np.where(even, np.arange(len(owner)) - first[owner] + 1.0, running)
    upto = np.floor(total[owner] * running / running[last]).astype(np.int64)
    upto[first + count - 1] = total
    upto[1:] -= np.where(owner[1:] == owner[:-1], upto[:-1], 0)
    return upto


def advance(before: Values, after: Values, modulus: Values) -> tuple[Values, Mask]:
    """What cumulative registers counted between two readings, and which of them ran over.

    A register that falls ran over if it fell from the last to the first tenth of `modulus`; NaN if it fell otherwise.
    """
    delta = after - before
    with np.errstate(invalid="ignore"):
        over = (delta < 0) & (before >= 0.9 * modulus) & (after <= 0.1 * modulus)
        delta = np.where(over, delta + modulus, delta)
        return np.where(delta < 0, np.nan, delta), over
