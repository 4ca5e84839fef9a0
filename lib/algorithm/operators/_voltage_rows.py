"""Voltages of many meters against their limits: rows of voltage_day and voltage_run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lib.algorithm.operators import _meter
from lib.algorithm.operators._meter import HOURS, ROUNDING, Meters
from lib.algorithm.operators._runs import runs
from lib.tables import ARROW
from lib.tables.quality import ESTIMATED_SLOT, Quality

PHASES = ("A", "B", "C")
_GASP_SLOTS = 2


@dataclass(frozen=True, eq=False)
class Limits:
    """V, phase to neutral, (n,) each."""

    nominal: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    outage: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Voltages:
    """(n, 3, slots) each: values, NaN where not valid; whether there was no supply; low and high."""

    u_v: NDArray[np.float64]
    outage: NDArray[np.bool_]
    low: NDArray[np.bool_]
    high: NDArray[np.bool_]
    has: NDArray[np.bool_]
    """(n, 3) whether the meter has a voltage of the phase that day."""


@cache
def schema(table: str) -> pa.Schema:
    """Columns that an operator gives: all but the cell's and the group's."""
    return pa.schema([f for f in ARROW[table] if f.name not in ("region", "date", *_meter.GROUP)])


def supplied(meters: Meters, limits: Limits) -> Voltages:
    """Voltages while there was supply.

    Without supply: below the outage limit, and the slot before and after such, whose means are partly of the outage; on
    a day with a last gasp also one or two slots in a row below the lower limit, the mark of a short interruption.
    Estimates and suspect values (frozen ones) are not valid.
    """
    names = [f"u_{phase.lower()}_v" for phase in PHASES]
    u = np.stack([meters.values(name) for name in names], axis=1)
    has = np.stack([meters.has(name) for name in names], axis=1)
    doubtful = meters.marked("u_quality", ESTIMATED_SLOT | Quality.SUSPECT)
    with np.errstate(invalid="ignore"):
        outage = u < limits.outage[:, None, None]
        near = outage.copy()
        near[..., 1:] |= outage[..., :-1]
        near[..., :-1] |= outage[..., 1:]
        low = u < limits.low[:, None, None] * (1 - ROUNDING)
        gasped = _gasped(meters)
        short = runs((low & ~near & gasped[:, None, None]).reshape(-1, meters.slots))
        flat = near.reshape(-1, meters.slots)
        for row, at in short.slices:
            if at.stop - at.start <= _GASP_SLOTS:
                flat[row, at] = True
        u[(doubtful[:, None] & ~outage) | near] = np.nan
        return Voltages(u, near, u < limits.low[:, None, None] * (1 - ROUNDING),
                        u > limits.high[:, None, None] * (1 + ROUNDING), has)  # fmt: skip


def day_rows(meters: Meters, it: Voltages, limits: Limits, rated_a: float, chosen: Any) -> pa.Table:
    """Rows of voltage_day of the meters with a voltage. rated_a: of the transformer; chosen: VoltageQuality."""
    valid = ~np.isnan(it.u_v)
    count = {name: mask.sum(axis=(1, 2)) for name, mask in
             (("valid", valid), ("low", it.low), ("high", it.high), ("outage", it.outage))}  # fmt: skip
    low, high = it.low.any(axis=1), it.high.any(axis=1)
    wh = meters.wh("import_wh")[0] + meters.wh("export_wh")[0]
    some, phases = count["valid"] > 0, it.has.sum(axis=1)
    least, most = np.where(valid, it.u_v, np.inf).min(axis=(1, 2)), np.where(valid, it.u_v, -np.inf).max(axis=(1, 2))
    unbalance = _unbalance(it.u_v)
    imbalance = _imbalance(meters, rated_a, chosen.imbalance_load_percent)
    columns = {
        "meter_id": pa.array(meters.meter_id), "is_gate": pa.array(meters.is_gate), "phases": pa.array(phases),
        "nominal_v": pa.array(limits.nominal), "low_v": pa.array(limits.low), "high_v": pa.array(limits.high),
        "slots": pa.array(phases * meters.slots), **{f"slots_{name}": pa.array(n) for name, n in count.items()},
        "pass_percent": pa.array(
            100 * (count["valid"] - count["low"] - count["high"]) / np.maximum(count["valid"], 1), mask=~some
        ),
        "u_min_v": pa.array(least, mask=~some), "u_max_v": pa.array(most, mask=~some),
        "low_h": pa.array(low.sum(axis=1) * HOURS), "high_h": pa.array(high.sum(axis=1) * HOURS),
        "outside_wh": pa.array((wh * (low | high)).sum(axis=1)),
        **_judged("unbalance", unbalance, chosen.unbalance_percent),
        **_judged("imbalance", imbalance, chosen.imbalance_percent),
    }  # fmt: skip
    wanted = schema("voltage_day")
    table = pa.table([columns[name].cast(wanted.field(name).type) for name in wanted.names], schema=wanted)
    return table.filter(pa.array(phases > 0))


def run_rows(meters: Meters, it: Voltages, limits: Limits, least: int) -> pa.Table:
    """Rows of voltage_run."""
    rows = []
    for kind, mask, limit in (("low", it.low, limits.low), ("high", it.high, limits.high)):
        for flat, at in runs(mask.reshape(-1, meters.slots), least).slices:
            row, phase = divmod(flat, len(PHASES))
            u, nominal = it.u_v[row, phase, at], float(limits.nominal[row])
            off = np.abs(u - nominal)
            rows.append(
                {
                    "meter_id": meters.meter_id[row], "phase": PHASES[phase], "kind": kind, "first_slot": at.start,
                    "slots": meters.slots, "worst_slot": at.start + int(np.argmax(off)), "points": at.stop - at.start,
                    "worst_percent": float(100 * off.max() / nominal), "u_min_v": float(u.min()),
                    "u_max_v": float(u.max()), "nominal_v": nominal, "limit_v": float(limit[row]), "min_points": least,
                }
            )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema("voltage_run"))


def _gasped(meters: Meters) -> NDArray[np.bool_]:
    gasps = meters.rows["last_gasps"].to_pylist()
    return np.array([bool(it) for it in gasps], bool)


def _unbalance(u_v: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, slots) % of the mean, NaN where a phase has no valid voltage."""
    mean = u_v.sum(axis=1) / len(PHASES)
    return 100 * np.abs(u_v - mean[:, None]).max(axis=1) / mean


def _imbalance(meters: Meters, rated_a: float, load_percent: float) -> NDArray[np.float64]:
    """(n, slots) % of the largest current; NaN where a phase is not measured, below the load, and for customers."""
    i = np.stack([meters.values(f"i_{phase.lower()}_a") for phase in PHASES], axis=1)
    i[meters.marked("i_quality", ESTIMATED_SLOT)[:, None].repeat(len(PHASES), axis=1)] = np.nan
    most, mean = i.max(axis=1), i.sum(axis=1) / len(PHASES)
    with np.errstate(invalid="ignore", divide="ignore"):
        judged = (mean > load_percent * rated_a / 100 * (1 + ROUNDING)) & meters.is_gate[:, None]
        return np.where(judged, 100 * (most - i.min(axis=1)) / most, np.nan)


def _judged(name: str, values: NDArray[np.float64], limit: float) -> dict[str, pa.Array]:
    """Slots judged, those above the limit, and the largest value."""
    known = ~np.isnan(values)
    most = np.where(known, values, -np.inf).max(axis=1)
    # differences of values that are rounded: their rounding counts against the whole, not against the difference
    with np.errstate(invalid="ignore"):
        above = values > limit + 200 * ROUNDING
    return {
        f"{name}_slots": pa.array(known.sum(axis=1)), f"{name}_above": pa.array(above.sum(axis=1)),
        f"{name}_max_percent": pa.array(most, mask=~known.any(axis=1)),
    }  # fmt: skip
