"""A day's files of the meters, with what goes wrong on the way from the meter to the file."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lib.ingest.landing import files
from lib.ingest.landing.customers import PHASES, REGISTER_DIGITS, THREE_PHASE, gate_ids, gate_ratio, transformer_ids
from lib.ingest.landing.day import GATE_STEP_WH, Day, gate_counts, noisy_volts
from lib.ingest.landing.faults import Fault
from lib.ingest.landing.region import DemoRegion
from lib.ingest.source import INTERVAL_S

Curve = tuple[NDArray[np.intp], str, str, NDArray[np.float64], str]
"""Customers, register, phase, their values (n, n_slot), unit."""
_SPIKE_KWH = 1000.0
_UNITS = {"import_kwh": "kWh", "export_kwh": "kWh", "q_kvar": "kvar", "u_v": "V", "i_a": "A"}


def meter_files(region: DemoRegion, day: date, it: Day) -> tuple[list[tuple[str, pa.Table]], list[Fault]]:
    """Files of `meters` that are delivered for this day, and the faults that this day alone has."""
    end_s = region.seconds(it.slots.stop)
    received, later, last = end_s + 3 * 3600, end_s + 27 * 3600, end_s + 30 * 3600
    chosen = region.day_faults(day)
    curves = list(_curves(region, day, it, chosen["frozen"]))
    corrected = [_only(c, _mask(region, chosen["corrected"])) for c in curves if c[1] == "import_kwh"]  # copies
    found = _damage(region, day, curves, chosen)
    kept = [_only(curve, ~region.as_readings & ~_mask(region, chosen["late"])) for curve in curves]
    rows = [_only(curve, region.as_readings) for curve in curves]
    late = [_only(curve, _mask(region, chosen["late"])) for curve in curves]
    twice = [_only(curve, _mask(region, chosen["duplicate"])) for curve in kept]
    result = [
        (files.name("curves", received, ".parquet"), _curve_table(region, day, kept, suspect=chosen["corrected"])),
        (files.name("curves", received, "-again.parquet"), _curve_table(region, day, twice)),
        (files.name("curves", later, "-late.jsonl"), _curve_table(region, day, late)),
        (files.name("curves", last, "-corrected.jsonl"), _curve_table(region, day, corrected)),
        (files.name("readings", received, ".parquet"), _reading_table(region, day, rows, chosen["missing"])),
        (files.name("readings", received, "-registers.csv.gz"), _register_table(region, day, it)),
        (files.name("readings", received, "-gates.csv.gz"), _gate_table(region, day, it)),
    ]
    return [(name, table) for name, table in result if table.num_rows], found


def secondary_kwh(region: DemoRegion, counted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Steps as kWh on the meter's own side, (n, ...)."""
    step = region.customers.step_wh / region.customers.ratio / 1e3
    return np.round(counted * step.reshape(-1, *[1] * (counted.ndim - 1)), 5)


def _curves(region: DemoRegion, day: date, it: Day, frozen: NDArray[np.intp]) -> Iterator[Curve]:
    """Every customer's curves of the day as its meter measured them."""
    customers, generates = region.customers, region.source.meter_generates[region.customers.meter]
    energy = secondary_kwh(region, np.diff(region.counted(day, it.energy_wh), axis=1))
    for register, of in (("import_kwh", ~generates), ("export_kwh", generates)):
        yield np.flatnonzero(of), register, "ABC", energy[of], "kWh"
    yield np.arange(len(customers)), "q_kvar", "ABC", np.round(it.q_kvar / customers.ratio[:, None], 4) + 0.0, "kvar"
    for phase in range(THREE_PHASE):
        of = (customers.phase == phase) | (customers.phase == THREE_PHASE)
        random = region.recipe.stream("volts", day, phase)
        volts = noisy_volts(it.u_v[of], random, customers.pt_ratio[of])
        still = np.isin(np.flatnonzero(of), frozen)
        volts[still] = volts[still, :1]
        yield np.flatnonzero(of), "u_v", PHASES[phase], volts, "V"


def _damage(region: DemoRegion, day: date, curves: list[Curve], chosen: dict[str, NDArray[np.intp]]) -> list[Fault]:
    """Spoils the values in place; NaN is missing. Says what it did, delays and repetitions of whole days included."""
    start = region.slots(day).start
    span = (region.seconds(start), region.seconds(region.slots(day).stop))
    ids = transformer_ids(region.source, region.recipe.region)
    faults = []
    for kind, meters in chosen.items():
        first, length = region.runs(day, kind, len(meters))
        if kind in ("spike", "negative"):
            length[:] = 1
        for m, a, n in zip(meters.tolist(), first.tolist(), length.tolist(), strict=True):
            size, bounds = float(n), (region.seconds(start + a), region.seconds(start + a + n))
            if kind in ("late", "duplicate", "frozen"):
                size, bounds = 1.0, span
            for of, register, _, values, _ in curves:
                at = np.searchsorted(of, m)
                if at == len(of) or of[at] != m or (kind != "missing" and register != "import_kwh"):
                    continue
                row, part = values[at], slice(a, a + n)
                if kind == "missing":
                    row[part] = np.nan
                elif kind == "spike":
                    size = _SPIKE_KWH
                    row[part] += size
                elif kind == "negative":
                    row[part] = -row[part] - 0.5
                    size = float(row[a])
                elif kind == "corrected":
                    row[part] = np.round(row[part] * 1.5 + 0.1, 5)
            faults.append(Fault(kind, str(region.customers.meter_id[m]), ids[region.customers.area[m]], *bounds, size))
    return faults


def _mask(region: DemoRegion, of: NDArray[np.intp]) -> NDArray[np.bool_]:
    mask = np.zeros(len(region.customers), dtype=bool)
    mask[of] = True
    return mask


def _only(curve: Curve, mask: NDArray[np.bool_]) -> Curve:
    of, register, phase, values, unit = curve
    return of[mask[of]], register, phase, values[mask[of]], unit


def _numbers(values: NDArray[np.float64]) -> pa.Array:
    flat = values.ravel()
    return pa.array(flat, pa.float64(), mask=np.isnan(flat))


def _curve_table(
    region: DemoRegion, day: date, curves: list[Curve], suspect: NDArray[np.intp] | None = None
) -> pa.Table:
    parts = []
    for of, register, phase, values, unit in curves:
        n, n_slot = values.shape
        quality = np.full(n, "good", dtype=object)
        if suspect is not None and register == "import_kwh":
            quality[np.isin(of, suspect)] = "suspect"
        columns = {
            "meter_id": pa.array(region.customers.meter_id[of], pa.string()),
            "date": pa.array([day.isoformat()] * n, pa.string()),
            "register": pa.array([register] * n, pa.string()),
            "phase": pa.array([phase] * n, pa.string()),
            "values": pa.ListArray.from_arrays(np.arange(n + 1, dtype=np.int32) * n_slot, _numbers(values)),
            "unit": pa.array([unit] * n, pa.string()),
            "quality": pa.array(quality, pa.string()),
        }
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def _reading_table(region: DemoRegion, day: date, curves: list[Curve], missing: NDArray[np.intp]) -> pa.Table:
    """Interval rows; a missing value has no row."""
    ends = region.ends(day)
    parts = []
    for of, register, phase, values, unit in curves:
        n, n_slot = values.shape
        there = ~np.isnan(values.ravel())
        parts.append(
            _long(
                np.repeat(region.customers.meter_id[of], n_slot)[there], files.instants(np.tile(ends, n)[there]),
                register, phase, values.ravel()[there], unit,
            )
        )  # fmt: skip
    return pa.concat_tables(parts)


def _long(
    meter_id: NDArray[np.str_], ts: pa.Array, register: str, phase: str, values: NDArray[np.float64], unit: str
) -> pa.Table:
    def same(text: str) -> pa.Array:
        return pa.repeat(pa.scalar(text), len(values))

    return pa.table(
        {
            "meter_id": pa.array(meter_id, pa.string()), "ts": ts, "register": same(register), "phase": same(phase),
            "value": pa.array(values), "unit": same(unit), "quality": same("good"),
        }
    )  # fmt: skip


def _register_table(region: DemoRegion, day: date, it: Day) -> pa.Table:
    """Cumulative registers at the day's end, on the first day at its start too."""
    counted = region.counted(day, it.energy_wh)[:, [0, -1]]
    generates = region.source.meter_generates[region.customers.meter]
    parts = []
    for place, slot in ((0, it.slots.start), (1, it.slots.stop)):
        if place == 0 and day != region.first:
            continue
        steps = counted[:, place].copy()
        for m, swapped in region.plan.swaps.items():
            if slot > swapped:
                steps[m] -= region.swap_steps[m]
        shown = secondary_kwh(region, steps) % 10.0**REGISTER_DIGITS
        for register, of in (("import_total_kwh", ~generates), ("export_total_kwh", generates)):
            ts = files.with_offset([region.seconds(slot)] * int(of.sum()), region.recipe.time_zone)
            parts.append(_long(region.customers.meter_id[of], ts, register, "ABC", np.round(shown[of], 5), "kWh"))
    return pa.concat_tables(parts)


def _gate_table(region: DemoRegion, day: date, it: Day) -> pa.Table:
    """Gate meters and the infeed's, in civil time with fold."""
    ratio = gate_ratio(region.source)
    ids = gate_ids(region.source, region.recipe.region)
    random = region.recipe.stream("gates", day)
    forward, reverse = (np.round(steps * GATE_STEP_WH / 1e3, 5) for steps in gate_counts(region.source, it))
    columns = [
        ("import_kwh", "ABC", forward), ("export_kwh", "ABC", reverse),
        ("q_kvar", "ABC", np.round(it.gate_kvar / ratio[:, None], 4)),
    ]  # fmt: skip
    for phase in PHASES[:THREE_PHASE]:
        columns.append(("u_v", phase, noisy_volts(it.gate_u_v, random, np.ones(len(ids)))))
        columns.append(("i_a", phase, np.round(it.gate_i_a / ratio[:, None], 3)))
    ts, fold = files.civil(np.tile(region.ends(day), len(ids)), region.recipe.time_zone)
    n_slot = len(region.ends(day))
    parts = [_long(np.repeat(ids, n_slot), ts, r, p, values.ravel(), _UNITS[r]) for r, p, values in columns]
    parts = [part.append_column("fold", fold) for part in parts]
    infeed = it.infeed_kw * INTERVAL_S / 3600
    ts, fold = files.civil(region.ends(day), region.recipe.time_zone)
    for register, values in (("import_kwh", np.maximum(infeed, 0)), ("export_kwh", np.maximum(-infeed, 0))):
        meter = np.repeat(infeed_meter(region.recipe.region), n_slot)
        parts.append(
            _long(meter, ts, register, "ABC", np.round(values, 3).astype(np.float64), "kWh").append_column("fold", fold)
        )
    return pa.concat_tables(parts)


def infeed_meter(region: str) -> str:
    """Meter at the network's infeed."""
    return f"{region}-f00000"
