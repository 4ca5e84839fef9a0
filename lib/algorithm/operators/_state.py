"""Estimated voltages of a day's tiles: what `state_day`, `bad_measurement` and `unobservable_island` are made of.

Extremes and counts merge exactly in any order; sums are kept per tile and added in slot order.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lib.algorithm.operators import _tile
from lib.algorithm.operators._measured import METER, PSEUDO, TELEMETRY, Lines
from lib.algorithm.operators._powerflow_rows import nullable
from lib.algorithm.operators._tile import TILES, Tile, in_order
from lib.grid.estimation import EstimateStatus, StateEstimate
from lib.grid.network import BRANCH_KINDS, Network
from lib.tables import ARROW
from lib.tables.tiles import LANES, Slot

_TS = pa.timestamp("us", tz="UTC")
_UNIT = {"v": "pu", "p": "MW", "q": "Mvar", "i": "kA"}
_ENDS = {"line": ("from", "to"), "trafo": ("hv", "lv")}
_LEGS = {"hv": (0, 0), "mv": (1, 1), "lv": (2, 1)}
_COUNTS = (
    "slots", "slots_below", "slots_above", "slots_voltage", "slots_power", "slots_pseudo", "slots_zero",
)  # fmt: skip
Island = tuple[tuple[int, ...], tuple[str, ...], int, int]
"""Buses left open, what would mend it, number of slots, first slot."""


@dataclass(eq=False)
class Partial:
    """What the tiles of one network and day came to so far. Counts of (n,) are slots of each bus."""

    interval_s: int
    slot_end_us: NDArray[np.int64]
    """(128,) UTC end of each slot in microseconds since 1970; 0 in tiles not yet in."""
    vm_sum_pu: NDArray[np.float64]
    """(4, n) per tile."""
    vm_min_pu: NDArray[np.float64]
    vm_min_slot: NDArray[np.int32]
    """(n,) first slot with the minimum, -1 for none."""
    vm_max_pu: NDArray[np.float64]
    vm_max_slot: NDArray[np.int32]
    slots: NDArray[np.int32]
    """With an estimate."""
    slots_below: NDArray[np.int32]
    slots_above: NDArray[np.int32]
    slots_voltage: NDArray[np.int32]
    """With an estimate and a measured voltage here."""
    slots_power: NDArray[np.int32]
    slots_pseudo: NDArray[np.int32]
    slots_zero: NDArray[np.int32]
    status: NDArray[np.int64]
    """(4,) slots by EstimateStatus."""
    partly: int
    """Estimated slots with buses left open."""
    with_pseudo: int
    """Estimated slots whose powers are pseudo-measurements."""
    tested: int
    """Estimated slots with redundant measurements ..."""
    suspect: int
    """... of these with an objective beyond chance."""
    objective: NDArray[np.float64]
    """(4,) sum over the tested slots of each tile."""
    degrees_of_freedom: int
    open_buses: int
    """Most buses left open in a slot."""
    points: int = 0
    """Points of telemetry that measure something here ..."""
    unplaced: int = 0
    """... and those that cannot be placed."""
    bad: tuple[dict[str, Any], ...] = ()
    """Rows of bad_measurement in order of time."""
    islands: tuple[Island, ...] = ()
    """Sorted."""


def empty(n_bus: int, interval_s: int) -> Partial:
    """The partial of no tiles: the neutral element of `merge`."""
    counts: dict[str, Any] = {name: np.zeros(n_bus, np.int32) for name in _COUNTS}
    return Partial(
        interval_s=interval_s, slot_end_us=np.zeros(TILES * LANES, np.int64), vm_sum_pu=np.zeros((TILES, n_bus)),
        vm_min_pu=np.full(n_bus, np.inf), vm_min_slot=np.full(n_bus, -1, np.int32),
        vm_max_pu=np.full(n_bus, -np.inf), vm_max_slot=np.full(n_bus, -1, np.int32),
        status=np.zeros(len(EstimateStatus), np.int64), partly=0, with_pseudo=0, tested=0, suspect=0,
        objective=np.zeros(TILES), degrees_of_freedom=0, open_buses=0, **counts,
    )  # fmt: skip


def add_tile(
    into: Partial, tile: Tile, lines: Lines, values: NDArray, std: NDArray, found: StateEstimate,
    band: tuple[float, float], alpha: float,
) -> None:  # fmt: skip
    """Adds one estimated tile, in place. values, std: of the lines; band: of voltages, pu; alpha: of the objective."""
    network, count = lines.network, tile.slot_count
    into.slot_end_us[tile.first_slot : tile.first_slot + LANES] = tile.slot_end_us
    into.status += np.bincount(found.status, minlength=len(EstimateStatus))
    vm = found.vm_pu
    known = np.isfinite(vm)
    low, high = np.where(known, vm, np.inf), np.where(known, vm, -np.inf)
    for name, extreme, at in (("min", low, low.argmin(axis=1)), ("max", high, high.argmax(axis=1))):
        value = extreme[np.arange(len(vm)), at]
        slot = np.where(np.isfinite(value), tile.first_slot + at, -1).astype(np.int32)
        _extreme(into, name, value, slot)
    into.vm_sum_pu[tile.index] = np.where(known, vm, 0.0).sum(axis=1)
    into.slots += known.sum(axis=1, dtype=np.int32)
    into.slots_below += (low < band[0]).sum(axis=1, dtype=np.int32)
    into.slots_above += (high > band[1]).sum(axis=1, dtype=np.int32)
    _count_measured(into, lines, values, known)
    converged, energised = found.converged, network.factorisation.energised[: network.n_bus]
    left_open = np.where(converged, (~known & energised[:, None]).sum(axis=0), 0)
    into.partly += int((left_open > 0).sum())
    into.open_buses = max(into.open_buses, int(left_open.max(initial=0)))
    into.with_pseudo += int((converged & (tile.status[:count] == Slot.MISSING)).sum())
    tested = converged & (found.degrees_of_freedom > 0)
    into.tested += int(tested.sum())
    into.suspect += int((found.p_value[tested] < alpha).sum())
    into.objective[tile.index] = np.where(tested, found.objective, 0.0).sum()
    into.degrees_of_freedom += int(found.degrees_of_freedom[tested].sum())
    into.bad = _in_time(into.bad + _bad_rows(tile, lines, values, std, found))
    islands = [
        (tuple(island.buses.tolist()), tuple(island.remedies), int(at.sum()), tile.first_slot + int(at.argmax()))
        for number, it in enumerate(found.observability)
        if (at := converged & (found.pattern == number)).any() for island in it.islands
    ]  # fmt: skip
    into.islands = _together(into.islands + tuple(islands))


def merge(a: Partial, b: Partial) -> Partial:
    """Both in one, exact: associative and commutative bit for bit. Raises Unusable where intervals differ."""
    _tile.require_equal_intervals(a.interval_s, b.interval_s)
    greatest = {name: max(getattr(a, name), getattr(b, name)) for name in ("open_buses", "points", "unplaced")}
    other = {"interval_s", "bad", "islands", *greatest}
    sums = [f.name for f in dataclasses.fields(Partial) if f.name not in other]
    out = Partial(
        interval_s=a.interval_s, bad=_in_time(a.bad + b.bad), islands=_together(a.islands + b.islands), **greatest,
        **{name: getattr(a, name) + getattr(b, name) for name in sums},
    )  # fmt: skip
    for name in ("min", "max"):
        for part in (f"vm_{name}_pu", f"vm_{name}_slot"):
            setattr(out, part, getattr(a, part).copy())
        _extreme(out, name, getattr(b, f"vm_{name}_pu"), getattr(b, f"vm_{name}_slot"))
    return out


def state_rows(it: Partial, network: Network) -> pa.RecordBatch:
    """Rows of state_day; nulls where there is no estimate."""
    known, minutes = it.slots > 0, it.interval_s / 60
    with np.errstate(invalid="ignore"):
        mean = in_order(it.vm_sum_pu) / it.slots
    return pa.RecordBatch.from_pydict(
        {
            "bus": pa.array(network.bus_ids, pa.int64()),
            "vn_kv": pa.array(network.vn_kv[: network.n_bus], pa.float64()),
            "vm_min_pu": nullable(it.vm_min_pu, known), "vm_min_ts": _ts(it.vm_min_slot, it.slot_end_us),
            "vm_mean_pu": nullable(mean, known),
            "vm_max_pu": nullable(it.vm_max_pu, known), "vm_max_ts": _ts(it.vm_max_slot, it.slot_end_us),
            "minutes_below": nullable(it.slots_below * minutes, known),
            "minutes_above": nullable(it.slots_above * minutes, known),
            "slots_valid": pa.array(it.slots, pa.int32()),
            **{f"{name}{end}": pa.array(getattr(it, name), pa.int32()) for name, end in (
                ("slots_voltage", "_measured"), ("slots_power", "_measured"), ("slots_pseudo", ""),
                ("slots_zero", "_injection"),
            )},
        }
    )  # fmt: skip


def table_rows(table: str, rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """Rows as the table has them, without the columns of the cell and the group."""
    names = ("region", "date", *_tile.GROUP)
    return pa.RecordBatch.from_pylist(rows, schema=pa.schema([f for f in ARROW[table] if f.name not in names]))


def island_rows(it: Partial) -> list[dict[str, Any]]:
    """Rows of unobservable_island."""
    return [
        {
            "island": number, "bus": buses[0] if buses else None, "buses": len(buses), "bus_ids": list(buses),
            "remedies": "; ".join(remedies), "slots": slots, "first_slot": first,
            "first_ts": pa.scalar(int(it.slot_end_us[first]), _TS),
        }
        for number, (buses, remedies, slots, first) in enumerate(it.islands)
    ]  # fmt: skip


def bad_rows(it: Partial) -> list[dict[str, Any]]:
    """Rows of bad_measurement."""
    return [row | {"ts": pa.scalar(int(it.slot_end_us[row["slot"]]), _TS)} for row in it.bad]


def _bad_rows(
    tile: Tile, lines: Lines, values: NDArray, std: NDArray, found: StateEstimate
) -> tuple[dict[str, Any], ...]:  # fmt: skip
    rows = []
    for lane, k, residual, normalised in found.removed.itertuples(index=False, name=None):
        line = lines.table.loc[k]
        v = found.e[lane // LANES, :, lane % LANES] + 1j * found.f[lane // LANES, :, lane % LANES]
        estimated = _quantity(lines, line, v)
        rows.append({
            "slot": tile.first_slot + int(lane),
            **{name: line[name] for name in ("measurement_type", "element_type", "side", "source", "point_id")},
            "element": int(line["element"]), "unit": _UNIT[line["measurement_type"]], "value": float(values[k, lane]),
            "estimated": estimated if np.isfinite(estimated) else None, "std_dev": float(std[k]),
            "residual": float(residual), "normalised_residual": float(normalised),
        })  # fmt: skip
    return tuple(rows)


def _quantity(lines: Lines, line: Any, v: NDArray[np.complex128]) -> float:
    """What the measurement would show at voltages (n_row,), in its own unit."""
    network, kind = lines.network, line["measurement_type"]
    if line["element_type"] == "bus":
        row = network.row_of[int(line["element"])]
        if kind == "v":
            return float(abs(v[row]))
        y = lines.admittance[[row]]
        fed_in = v[row] * np.conj(y.data @ v[y.indices]) + network.s_constant_current_mva[row] * abs(v[row])
        return float(-fed_in.real if kind == "p" else -fed_in.imag)
    side = line["side"]
    leg, end = _LEGS[side] if line["element_type"] == "trafo3w" else (0, _ENDS[line["element_type"]].index(side))
    of_kind = network.branch_kind == BRANCH_KINDS.index(line["element_type"])
    here = of_kind & (network.branch_element == int(line["element"])) & (network.branch_side == leg)
    b = int(np.flatnonzero(here)[0])
    ends = [network.branch_from[b], network.branch_to[b]]
    current = network.branch_y_pu[b, end] @ v[ends]
    if kind == "i":
        return float(abs(current) / (np.sqrt(3) * network.vn_kv[ends[end]]))
    power = v[ends[end]] * np.conj(current)
    return float(power.real if kind == "p" else power.imag)


def _count_measured(into: Partial, lines: Lines, values: NDArray, known: NDArray[np.bool_]) -> None:
    """Adds each bus's slots with an estimate by what is measured there."""
    source, kind = (lines.table[name].to_numpy() for name in ("source", "measurement_type"))

    def slots_with(what: str, *sources: str) -> NDArray[np.bool_]:
        chosen = np.flatnonzero((lines.row >= 0) & np.isin(source, sources) & (kind == what))
        has = np.zeros(known.shape, bool)
        np.logical_or.at(has, lines.row[chosen], np.isfinite(values[chosen]))
        return has & known

    power = slots_with("p", METER, TELEMETRY)
    into.slots_voltage += slots_with("v", METER, TELEMETRY).sum(axis=1, dtype=np.int32)
    into.slots_power += power.sum(axis=1, dtype=np.int32)
    into.slots_pseudo += (slots_with("p", PSEUDO) & ~power).sum(axis=1, dtype=np.int32)
    into.slots_zero += (known & lines.zero[:, None]).sum(axis=1, dtype=np.int32)


def _extreme(into: Partial, name: str, value: NDArray, slot: NDArray) -> None:
    """Takes what is beyond into's own extreme, or as far and earlier."""
    own, at = getattr(into, f"vm_{name}_pu"), getattr(into, f"vm_{name}_slot")
    sign = -1 if name == "min" else 1
    taken = (sign * value > sign * own) | ((value == own) & (slot < at))
    own[taken], at[taken] = value[taken], slot[taken]


def _in_time(rows: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """A slot's rows stay in the order in which they were found: they are of one tile."""
    return tuple(sorted(rows, key=lambda row: row["slot"]))


def _together(islands: tuple[Island, ...]) -> tuple[Island, ...]:
    found: dict[tuple[tuple[int, ...], tuple[str, ...]], tuple[int, int]] = {}
    for buses, remedies, slots, first in islands:
        before = found.get((buses, remedies), (0, first))
        found[buses, remedies] = before[0] + slots, min(before[1], first)
    return tuple(sorted((*key, *value) for key, value in found.items()))


def _ts(slot: NDArray[np.int32], slot_end_us: NDArray[np.int64]) -> pa.Array:
    return nullable(slot_end_us[slot], slot >= 0).cast(_TS)
