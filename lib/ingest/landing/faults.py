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
    random = recipe.stream("faults")
    spans = [source.slots_of(day, recipe.time_zone) for day in days]
    start, stop = spans[0].start, spans[-1].stop
    n, ids = len(customers), transformer_ids(source, recipe.region)
    energy = energy_wh(source, customers, stop) - energy_wh(source, customers, start)
    loads = ~source.meter_generates[customers.meter] & (customers.area >= 0)
    in_area = customers.area >= 0
    area_energy = np.bincount(customers.area[in_area], weights=energy[in_area], minlength=source.n_area)
    result = Plan(
        np.full(n, NEVER), np.full(n, NEVER), np.zeros(n), customers.area.copy(), np.full(source.n_area, NEVER),
        np.ones(source.n_area), (), {}, customers.base_wh.copy(), (0, 0), (), np.ones(n, dtype=bool),
    )  # fmt: skip
    faults: list[Fault] = []
    taken: set[int] = set()

    def seconds(slot: int) -> int:
        return source.start_s + INTERVAL_S * int(slot)

    def meters_of(area: int, effect: float) -> NDArray[np.intp]:
        """The area's largest customers that together move _SIZE of its energy; empty where too few would be enough."""
        of = np.flatnonzero(loads & (customers.area == area))
        of = of[np.argsort(-energy[of], kind="stable")]
        reached = np.cumsum(energy[of]) * effect >= _SIZE * area_energy[area]
        count = int(np.argmax(reached)) + 1 if reached.any() else 0
        return of[:count] if 0 < count <= min(_MOST_METERS, len(of) - 1) else of[:0]

    wanted = round(recipe.faulty_areas * source.n_area)
    made = 0
    for area in random.permutation(source.n_area).tolist():
        if made == wanted:
            break
        kind = AREA_KINDS[made % len(AREA_KINDS)]
        begin = spans[int(random.integers(len(spans)))].start
        effect = random.uniform(0.8, 1.0) if kind == "bypass_theft" else 1.0
        meters = meters_of(area, effect)
        if area in taken or not len(meters) or area_energy[area] <= 0:
            continue
        if kind == "wrong_ct_ratio":
            result.gate_slot[area] = begin
            result.gate_factor[area] = factor = float(random.choice([0.5, 2.0]))
            gate = gate_ids(source, recipe.region)[area]
            faults.append(Fault(kind, gate, ids[area], seconds(begin), None, factor))
        else:
            if kind == "wrong_transformer":
                free = [k for k in range(source.n_area) if k != area and k not in taken and area_energy[k] > 0]
                if not free:
                    continue
                other = min(free, key=lambda k: (abs(np.log(area_energy[k] / area_energy[area])), k))
                taken.add(other)
                result.recorded_area[meters] = other
                begin = start
            elif kind == "stopped_meter":
                result.stop_slot[meters] = begin
            else:
                result.theft_slot[meters], result.theft_share[meters] = begin, effect
            wrong = ids[other] if kind == "wrong_transformer" else None
            for m in meters:
                size = round(float(effect if kind == "bypass_theft" else energy[m] / area_energy[area]), 6)
                meter = str(customers.meter_id[m])
                faults.append(Fault(kind, meter, ids[area], seconds(begin), None, size, wrong))
            result.untouched[meters] = False
        taken.add(area)
        made += 1

    outages = []
    free = [k for k in random.permutation(source.n_area).tolist() if k not in taken]
    for span in spans:
        for area in free[: -(-source.n_area // 50)]:
            first = int(random.integers(span.start + 8, span.stop - 24))
            outages.append((area, first, first + int(random.integers(2, 17))))
            taken.add(area)
            faults.append(
                Fault(
                    "outage",
                    None,
                    ids[area],
                    seconds(first),
                    seconds(outages[-1][2]),
                    float((outages[-1][2] - first) / 4),
                )
            )
        free = [k for k in free if k not in taken]

    # Registers run over, and devices are swapped, where nothing else happens to the area.
    calm = np.flatnonzero(loads & ~np.isin(customers.area, list(taken)) & (energy > 2000 * len(days)))
    calm = random.permutation(calm)
    few = max(1, n // 2000)
    for m in calm[:few]:
        span = spans[int(random.integers(len(spans)))]
        before, after = (energy_wh(source, customers, slot)[m] for slot in (span.start, span.stop))
        if after - before >= 500:
            result.base_wh[m] = np.floor(10.0 ** (REGISTER_DIGITS + 3) - (before + after) / 2)
            result.untouched[m] = False
            faults.append(
                Fault(
                    "rollover",
                    str(customers.meter_id[m]),
                    ids[customers.area[m]],
                    seconds(span.start),
                    seconds(span.stop),
                    1.0,
                )
            )
    for m in calm[few : 2 * few]:
        span = spans[int(random.integers(len(spans)))]
        slot = int(random.integers(span.start + 20, span.stop - 20))
        result.swaps[int(m)] = slot
        result.untouched[m] = False
        faults.append(Fault("meter_swap", str(customers.meter_id[m]), ids[customers.area[m]], seconds(slot), None, 1.0))

    span = spans[int(random.integers(len(spans)))]
    storm = (seconds(int(random.integers(span.start + 4, span.stop - 4))), 200)
    faults.append(Fault("alarm_storm", None, None, storm[0], storm[0] + STORM_S, float(storm[1])))
    return Plan(**vars(result) | {"outages": tuple(outages), "storm": storm, "faults": tuple(faults)})


def energy_wh(source: LandingSource, customers: Customers, slot: int) -> NDArray[np.float64]:
    """(n,) Wh from the profiles' start to the slot's start, were there no outage."""
    power_w = np.abs(source.meter_p_kw[customers.meter].astype(np.float64)) * customers.share * 1e3
    return power_w * source.hours[source.meter_profile[customers.meter], slot]
