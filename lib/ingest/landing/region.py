"""One region of the demo landing: everything that its days share, the same in whichever worker it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lib.ingest.landing.customers import Customers, Recipe, split
from lib.ingest.landing.day import Day, counts, energies, metered_wh, solve_day
from lib.ingest.landing.faults import Plan, plan
from lib.ingest.landing.source import LandingSource
from lib.ingest.source import INTERVAL_S

_MEAN_RUN = 19.5
_LONGEST_RUN = 38
# Share of the customers with each of these a day; at least one.
_DAILY = {
    "late": 0.003, "corrected": 0.003, "duplicate": 0.003, "spike": 0.001, "negative": 0.001, "frozen": 0.001
}  # fmt: skip
_AS_CURVES = ("late", "corrected", "duplicate")


@dataclass(frozen=True, eq=False)
class DemoRegion:
    """`n_day` civil days from `first` on."""

    source: LandingSource
    recipe: Recipe
    first: date
    n_day: int

    @cached_property
    def days(self) -> list[date]:
        return [self.first + timedelta(days=k) for k in range(self.n_day)]

    @cached_property
    def customers(self) -> Customers:
        return split(self.source, self.recipe)

    @cached_property
    def plan(self) -> Plan:
        return plan(self.source, self.recipe, self.customers, self.days)

    @cached_property
    def as_readings(self) -> NDArray[np.bool_]:
        """(n,) customers that come as interval rows, a quarter; the others come as day curves."""
        return np.arange(len(self.customers)) % 4 == 0

    @cached_property
    def swap_steps(self) -> Mapping[int, float]:
        """Customer -> steps on the old device's counter when it was taken down."""
        found: dict[int, float] = {}
        for day in self.days:
            slots = self.slots(day)
            swapped = {m: slot for m, slot in self.plan.swaps.items() if slots.start <= slot < slots.stop}
            if swapped:
                _, energy, _ = energies(self.source, self.recipe, self.customers, self.plan, day)
                counted = self.counted(day, energy)
                found |= {m: float(counted[m, slot - slots.start]) for m, slot in swapped.items()}
        return found

    def slots(self, day: date) -> slice:
        return self.source.slots_of(day, self.recipe.time_zone)

    def seconds(self, slot: int) -> int:
        """s since 1970 of the slot's start."""
        return self.source.start_s + INTERVAL_S * int(slot)

    def ends(self, day: date) -> NDArray[np.int64]:
        """(n_slot,) s since 1970 of the day's slots' ends."""
        slots = self.slots(day)
        return self.source.start_s + INTERVAL_S * np.arange(slots.start + 1, slots.stop + 1, dtype=np.int64)

    def solve(self, day: date) -> Day:
        return solve_day(self.source, self.recipe, self.customers, self.plan, day)

    def counted(self, day: date, energy_wh: NDArray[np.float64], faultless: bool = False) -> NDArray[np.float64]:
        """(n, n_slot + 1) steps on the counters at the slots' boundaries, were no device ever swapped."""
        it, slots = self.plan, self.slots(day)
        bounds = (slots.start, slots.stop)
        if faultless:
            never = np.full_like(it.stop_slot, np.iinfo(np.int64).max)
            it = Plan(**vars(it) | {"stop_slot": never, "theft_slot": never})
        start, end = (it.base_wh + metered_wh(self.source, self.customers, it, slot) for slot in bounds)
        return counts(start, end, energy_wh, self.customers.step_wh)

    def day_faults(self, day: date) -> dict[str, NDArray[np.intp]]:
        """Kind -> customers it happens to on that day, no customer twice and none that has another fault."""
        random = self.recipe.stream("day faults", day)
        dark = [area for area, _, _ in self.plan.outages]
        loads = ~self.source.meter_generates[self.customers.meter] & (self.customers.area >= 0)
        free = random.permutation(np.flatnonzero(loads & self.plan.untouched & ~np.isin(self.customers.area, dark)))
        n_slot = self.slots(day).stop - self.slots(day).start
        shares = _DAILY | {"missing": self.recipe.missing_share * n_slot / _MEAN_RUN}
        found = {}
        for kind, share in shares.items():
            able = free[~self.as_readings[free]] if kind in _AS_CURVES else free
            found[kind] = able[: max(1, round(share * len(self.customers))) if share else 0]
            free = free[~np.isin(free, found[kind])]
        return found

    def runs(self, day: date, kind: str, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First slot and length of one run within the day for each of `count` customers."""
        random = self.recipe.stream("runs", kind, day)
        n_slot = self.slots(day).stop - self.slots(day).start
        length = random.integers(1, _LONGEST_RUN + 1, count)
        return random.integers(0, n_slot - length + 1), length
