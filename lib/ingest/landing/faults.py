"""What goes wrong over the whole demo: planned once per region, from the seed, so that each day knows it alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from lib.ingest.landing.customers import REGISTER_DIGITS, Customers, Recipe, gate_ids, transformer_ids
from lib.ingest.landing.source import LandingSource
from lib.ingest.source import INTERVAL_S

NEVER = np.iinfo(np.int64).max
AREA_KINDS = ("stopped_meter", "wrong_ct_ratio", "wrong_transformer", "bypass_theft")
_SIZE = 0.15  # of the area's energy: enough to leave the band of normal losses
_MOST_METERS = 30
STORM_S = 900
_STORM_ALARMS = 200


@dataclass(frozen=True)
class Fault:
    """One row of the truth: docs/landing.md says what `size` is; times in s since 1970, `to_s` excluded."""

    kind: str
    meter_id: str | None
    transformer_id: str | None
    from_s: int
    to_s: int | None
    size: float
    recorded_transformer_id: str | None = None
    """Where the records have the meter, if elsewhere."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Slots are columns of the source's profiles; n customers, n_area areas."""

    stop_slot: NDArray[np.int64]
    """(n,) from when on the meter stands still, NEVER if never."""
    theft_slot: NDArray[np.int64]
    theft_share: NDArray[np.float64]
    """(n,) share of the energy that passes the meter by, from theft_slot on."""
    recorded_area: NDArray[np.int32]
    """(n,) the area that the records say."""
    gate_slot: NDArray[np.int64]
    """(n_area,) from when on the gate's recorded CT ratio is wrong ..."""
    gate_factor: NDArray[np.float64]
    """(n_area,) ... by this factor, recorded over true."""
    outages: tuple[tuple[int, int, int], ...]
    """area, first slot, first slot with supply again."""
    swaps: dict[int, int]
    """customer -> slot at whose start its new device begins to count from 0."""
    base_wh: NDArray[np.float64]
    """(n,) Wh: registers at the profiles' start."""
    storm: tuple[int, int]
    """s since 1970 and number of the alarm storm's alarms."""
    faults: tuple[Fault, ...]
    untouched: NDArray[np.bool_]
    """(n,) customers without any of these faults."""


def plan(source: LandingSource, recipe: Recipe, customers: Customers, days: Sequence[date]) -> Plan:
    """The faults of these days. Areas get one kind each, in turn; some areas' few customers cannot make a fault show.

    Meters stop, thefts begin and CT ratios become wrong at a day's start; the wrong transformer is recorded all along.
    """
    planner = _Planner(source, recipe, customers, days)
    planner.add_losses(round(recipe.faulty_areas * source.n_area))
    planner.add_outages()
    planner.add_devices(max(1, len(customers) // 2000))
    planner.add_storm()
    return planner.plan


class _Planner:
    """The plan as it grows; `taken` holds the areas to which something happens already."""

    def __init__(self, source: LandingSource, recipe: Recipe, customers: Customers, days: Sequence[date]) -> None:
        self.source, self.customers = source, customers
        self.random = recipe.stream("faults")
        self.spans = [source.slots_of(day, recipe.time_zone) for day in days]
        self.areas, self.gates = transformer_ids(source, recipe.region), gate_ids(source, recipe.region)
        n, n_area = len(customers), source.n_area
        first, stop = self.spans[0].start, self.spans[-1].stop
        self.energy = energy_wh(source, customers, stop) - energy_wh(source, customers, first)
        in_area = customers.area >= 0
        self.loads = in_area & ~source.meter_generates[customers.meter]
        self.area_energy = np.bincount(customers.area[in_area], weights=self.energy[in_area], minlength=n_area)
        self.taken: set[int] = set()
        self.stop_slot, self.theft_slot, self.theft_share = np.full(n, NEVER), np.full(n, NEVER), np.zeros(n)
        self.recorded_area = customers.area.copy()
        self.gate_slot, self.gate_factor = np.full(n_area, NEVER), np.ones(n_area)
        self.outages: list[tuple[int, int, int]] = []
        self.swaps: dict[int, int] = {}
        self.base_wh = customers.base_wh.copy()
        self.storm = (0, 0)
        self.faults: list[Fault] = []
        self.untouched = np.ones(n, dtype=bool)

    @property
    def plan(self) -> Plan:
        return Plan(
            self.stop_slot, self.theft_slot, self.theft_share, self.recorded_area, self.gate_slot, self.gate_factor,
            tuple(self.outages), self.swaps, self.base_wh, self.storm, tuple(self.faults), self.untouched,
        )  # fmt: skip

    def add_losses(self, count: int) -> None:
        """The kinds that show in an area's loss, in turn, in `count` areas as far as there are such."""
        made = 0
        for area in self.random.permutation(self.source.n_area).tolist():
            if made == count:
                return
            kind = AREA_KINDS[made % len(AREA_KINDS)]
            begin = self._day().start
            effect = self.random.uniform(0.8, 1.0) if kind == "bypass_theft" else 1.0
            meters = self._meters_of(area, effect)
            if area not in self.taken and len(meters) and self._add_loss(kind, area, begin, effect, meters):
                self.taken.add(area)
                made += 1

    def _add_loss(self, kind: str, area: int, begin: int, effect: float, meters: NDArray[np.intp]) -> bool:
        """Whether it could be done."""
        if kind == "wrong_ct_ratio":
            self.gate_slot[area] = begin
            self.gate_factor[area] = factor = float(self.random.choice([0.5, 2.0]))
            self._add(kind, self.gates[area], area, begin, None, factor)
            return True
        recorded = None
        if kind == "wrong_transformer":
            others = self.area_energy > 0
            others[[area, *self.taken]] = False
            if not others.any():
                return False
            # one of like size, whose loss then shows the energy that it lacks
            unlike = np.abs(np.log(np.where(others, self.area_energy, np.inf) / self.area_energy[area]))
            other = int(np.argmin(unlike))
            self.taken.add(other)
            self.recorded_area[meters] = other
            begin, recorded = self.spans[0].start, self.areas[other]
        elif kind == "stopped_meter":
            self.stop_slot[meters] = begin
        else:
            self.theft_slot[meters], self.theft_share[meters] = begin, effect
        for m in meters:
            size = effect if kind == "bypass_theft" else self.energy[m] / self.area_energy[area]
            self._add(kind, str(self.customers.meter_id[m]), area, begin, None, size, recorded)
        self.untouched[meters] = False
        return True

    def add_outages(self) -> None:
        """On each day one area in fifty, among those to which nothing else happens."""
        free = [k for k in self.random.permutation(self.source.n_area).tolist() if k not in self.taken]
        for span in self.spans:
            for area in free[: -(-self.source.n_area // 50)]:
                first = int(self.random.integers(span.start + 8, span.stop - 24))
                stop = first + int(self.random.integers(2, 17))
                self.outages.append((area, first, stop))
                self.taken.add(area)
                self._add("outage", None, area, first, stop, (stop - first) * INTERVAL_S / 3600)
            free = [k for k in free if k not in self.taken]

    def add_devices(self, count: int) -> None:
        """Registers that run over and devices that are swapped, `count` of each, where nothing else happens."""
        calm = self.loads & ~np.isin(self.customers.area, list(self.taken)) & (self.energy > 2000 * len(self.spans))
        chosen = self.random.permutation(np.flatnonzero(calm))
        for m in chosen[:count].tolist():
            span = self._day()
            before, after = (energy_wh(self.source, self.customers, slot)[m] for slot in (span.start, span.stop))
            if after - before >= 500:
                self.base_wh[m] = np.floor(10.0 ** (REGISTER_DIGITS + 3) - (before + after) / 2)
                self._touch("rollover", m, span.start, span.stop)
        for m in chosen[count : 2 * count].tolist():
            span = self._day()
            self.swaps[m] = slot = int(self.random.integers(span.start + 20, span.stop - 20))
            self._touch("meter_swap", m, slot, None)

    def add_storm(self) -> None:
        span = self._day()
        second = self._seconds(int(self.random.integers(span.start + 4, span.stop - 4)))
        self.storm = (second, _STORM_ALARMS)
        self.faults.append(Fault("alarm_storm", None, None, second, second + STORM_S, float(_STORM_ALARMS)))

    def _day(self) -> slice:
        return self.spans[int(self.random.integers(len(self.spans)))]

    def _seconds(self, slot: int) -> int:
        return self.source.start_s + INTERVAL_S * int(slot)

    def _touch(self, kind: str, m: int, first: int, stop: int | None) -> None:
        self.untouched[m] = False
        self._add(kind, str(self.customers.meter_id[m]), int(self.customers.area[m]), first, stop, 1.0)

    def _add(
        self, kind: str, meter: str | None, area: int, first: int, stop: int | None, size: float,
        recorded: str | None = None,
    ) -> None:  # fmt: skip
        until = None if stop is None else self._seconds(stop)
        fault = Fault(kind, meter, self.areas[area], self._seconds(first), until, round(float(size), 6), recorded)
        self.faults.append(fault)

    def _meters_of(self, area: int, effect: float) -> NDArray[np.intp]:
        """The area's largest customers that together move _SIZE of its energy; none where it would take too many."""
        of = np.flatnonzero(self.loads & (self.customers.area == area))
        of = of[np.argsort(-self.energy[of], kind="stable")]
        reached = np.cumsum(self.energy[of]) * effect >= _SIZE * self.area_energy[area]
        count = int(np.argmax(reached)) + 1 if self.area_energy[area] > 0 and reached.any() else 0
        return of[:count] if 0 < count <= min(_MOST_METERS, len(of) - 1) else of[:0]


def energy_wh(source: LandingSource, customers: Customers, slot: int) -> NDArray[np.float64]:
    """(n,) Wh from the profiles' start to the slot's start, were there no outage."""
    power_w = np.abs(source.meter_p_kw[customers.meter].astype(np.float64)) * customers.share * 1e3
    return power_w * source.hours[source.meter_profile[customers.meter], slot]
