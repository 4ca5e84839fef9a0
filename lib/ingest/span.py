"""A run of civil days as one grid of slots, in universal time, so that a day may have 92, 96 or 100 of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from lib.tables.tiles import day_slots, day_start

WEEK = 7


@dataclass(frozen=True)
class Span:
    """Consecutive days: those that are wanted, eight before them and the day after, which the rules look at.

    Eight, since the values of a week before begin with what a register counted since the midnight before that day.

    `begin` is the first day's start and `bounds` each day's first and last + 1 column, in intervals of `interval_s`.
    """

    days: tuple[date, ...]
    wanted: frozenset[date]
    interval_s: int
    begin: int
    bounds: tuple[tuple[int, int], ...]

    @staticmethod
    def around(wanted: list[date], time_zone: str, interval_s: int = 900) -> Span:
        """The span of the wanted days, with what the rules look at."""
        first, last = min(wanted) - timedelta(days=WEEK + 1), max(wanted) + timedelta(days=1)
        days = tuple(first + timedelta(days=k) for k in range((last - first).days + 1))
        ends = np.cumsum([day_slots(day, time_zone, interval_s) for day in days]).tolist()
        bounds = tuple(zip([0, *ends[:-1]], ends, strict=True))
        begin = int(day_start(first, time_zone).timestamp()) // interval_s
        return Span(days, frozenset(wanted), interval_s, begin, bounds)

    @property
    def width(self) -> int:
        """Slots of all days."""
        return self.bounds[-1][1]

    @property
    def ends_us(self) -> NDArray[np.int64]:
        """(width,) UTC end of each slot in microseconds since 1970."""
        return (self.begin + 1 + np.arange(self.width)) * self.interval_s * 1_000_000

    @property
    def week_before(self) -> NDArray[np.int64]:
        """(width,) column of the same time a week before; -1 outside the span or where the days differ in length."""
        source = np.full(self.width, -1)
        for k in range(WEEK, len(self.days)):
            (first, end), (from_, to) = self.bounds[k], self.bounds[k - WEEK]
            if end - first == to - from_:
                source[first:end] = np.arange(from_, to)
        return source

    @property
    def day_of_slot(self) -> NDArray[np.int64]:
        """(width,) which of the days each slot lies in."""
        return np.repeat(np.arange(len(self.days)), [end - first for first, end in self.bounds])


def affected(days: set[date]) -> set[date]:
    """Days whose estimates may change with readings of `days`: these, their neighbours, and a week after."""
    return {day + timedelta(days=k) for day in days for k in (-1, 0, 1, WEEK, WEEK + 1)}
