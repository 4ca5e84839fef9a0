"""Power flow of every snapshot of a network and day, summarised per bus, per branch and for the network."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lib.algorithm.operator import Day, Rejected, Side, Unusable
from lib.algorithm.powerflow_rows import State, branch_rows, bus_rows
from lib.grid.network import Network
from lib.grid.powerflow import PowerFlow, SlotStatus, solve
from lib.grid.summary import LANES, TILES, DaySummary, Limits, Summariser, loading_max_percent, merge
from lib.tables import ARROW
from lib.tables.tiles import Slot, decode, decode_status, encode

_REWRITE = "write this row again from its source (ingest), then run powerflow.solve for this day"
_KW = 1e-3
_last = threading.local()
"""The thread's last power flow: the next may write over its arrays."""


@dataclass(eq=False)
class Partial:
    """What the tiles of one network and day came to so far. Arrays of (4,) hold one value per tile."""

    summary: DaySummary
    interval_s: int
    slot_end_us: NDArray[np.int64]
    """(128,) UTC end of each slot in microseconds since 1970; 0 in tiles not yet in."""
    slots: NDArray[np.int64]
    """(4, 4) slots per tile and SlotStatus."""
    infeed_mva: NDArray[np.complex128]
    iterations: NDArray[np.int64]
    iterations_max: int
    max_mismatch_mva: float
    voltages: tuple[dict[str, Any], ...] = ()
    """Rows of state_tile, if wanted."""


@dataclass(frozen=True)
class PowerFlowOperator:
    """`powerflow.solve`: parameters as in `lib.settings.SolveSettings`."""

    tolerance: float = 1e-8
    max_iterations: int = 12
    fallback: bool = True
    v_min_pu: float = 0.9
    v_max_pu: float = 1.1
    heavy_percent: float = 80.0
    overload_percent: float = 100.0
    full_voltages: bool = False

    name: ClassVar[str] = "powerflow"
    version: ClassVar[int] = 1
    table: ClassVar[str] = "snapshot_tile"
    columns: ClassVar[tuple[str, ...]] = (
        "network_id", "network_version", "first_slot", "slot_count", "first_ts", "interval_s", "n_bus",
        "p_kw", "q_kvar", "slot_status",
    )  # fmt: skip
    group: ClassVar[tuple[str, ...]] = ("network_id", "network_version")
    key: ClassVar[tuple[str, ...]] = ("first_slot",)
    side: ClassVar[Side] = Side("network", ("content",), "digest")
    figures: ClassVar[Mapping[str, str]] = {
        "networks": "sum", "snapshots": "sum", "converged": "sum", "newton": "sum", "diverged": "sum", "bad": "sum",
        "missing": "sum", "bus_snapshots": "sum", "loss_kwh": "sum", "infeed_kwh": "sum", "vm_min_pu": "min",
        "loading_max_percent": "max",
    }  # fmt: skip

    @property
    def outputs(self) -> tuple[str, ...]:
        voltages = ("state_tile",) if self.full_voltages else ()
        return ("bus_day", "branch_day", *voltages, "network_result")

    def prepare(self, side: Mapping[str, Any]) -> State:
        try:
            network = Network.from_bytes(side["content"] or b"")
            for name in ("branch_y_pu", "y_shunt_pu", "s_constant_current_mva", "fixed_v_pu", "vn_kv"):
                if not np.isfinite(getattr(network, name)).all():
                    raise ValueError(f"{name} holds a value that is not finite, such as a branch of zero impedance")
            _ = network.factorisation
        except ValueError as e:
            raise Unusable(f"its network cannot be solved: {e}", "mend this network's row in table network") from e
        band = np.full(network.n_bus, self.v_min_pu), np.full(network.n_bus, self.v_max_pu)
        return State(network, Summariser(network, Limits(*band, self.heavy_percent, self.overload_percent)))

    def map(self, rows: pa.Table, state: State, day: Day) -> tuple[Partial | None, list[Rejected]]:
        """Solves the tiles in `rows`, each a row of snapshot_tile."""
        partial: Partial | None = None
        rejected = []
        for i in range(rows.num_rows):
            row = {name: rows.column(name)[i] for name in self.columns}
            try:
                tile = _read(row, state.network.n_bus, day)
                if partial is None:
                    partial = _empty(state, tile["interval_s"])
                elif tile["interval_s"] != partial.interval_s:
                    raise Unusable(
                        f"interval_s is {tile['interval_s']}, other tiles of the day have {partial.interval_s}",
                        _REWRITE,
                    )
                self._add(partial, tile, state)
            except Unusable as e:
                key = {name: row[name].as_py() for name in (*self.group, *self.key)}
                rejected.append(Rejected(self.table, key, e.reason, e.remedy))
        return partial, rejected

    def _add(self, partial: Partial, tile: dict[str, Any], state: State) -> None:
        p, q = tile["p_kw"], tile["q_kvar"]
        flow = solve(
            state.network, p, q, tolerance=self.tolerance, max_iterations=self.max_iterations, fallback=self.fallback,
            scale=_KW, out=getattr(_last, "flow", None),
        )  # fmt: skip
        _last.flow = flow
        first = tile["first_slot"]
        k = first // LANES
        valid = tile["slot_status"] == Slot.VALID
        used = valid & flow.converged
        e, f = flow.e[0], flow.f[0]
        state.summariser.add_tile(partial.summary, e, f, used, first)
        partial.slots[k] = np.bincount(flow.status[valid], minlength=len(SlotStatus))
        partial.slot_end_us[first : first + LANES] = (
            tile["first_us"] + np.arange(LANES) * tile["interval_s"] * 1_000_000
        )
        if used.any():
            partial.infeed_mva[k] = state.summariser.infeed(e, f, p, q, _KW)[used].sum()
            partial.iterations[k] = flow.iterations[used].sum()
            partial.iterations_max = max(partial.iterations_max, int(flow.iterations[used].max()))
            partial.max_mismatch_mva = max(partial.max_mismatch_mva, float(flow.max_mismatch_mva[used].max()))
        if self.full_voltages:
            partial.voltages += (_voltage_row(tile, flow, valid),)

    def merge(self, a: Partial, b: Partial) -> Partial:
        if a.interval_s != b.interval_s:
            raise Unusable(f"tiles of one day have intervals of {a.interval_s} s and {b.interval_s} s", _REWRITE)
        return Partial(
            merge(a.summary, b.summary), a.interval_s, a.slot_end_us + b.slot_end_us, a.slots + b.slots,
            a.infeed_mva + b.infeed_mva, a.iterations + b.iterations, max(a.iterations_max, b.iterations_max),
            max(a.max_mismatch_mva, b.max_mismatch_mva),
            tuple(sorted(a.voltages + b.voltages, key=lambda row: row["first_slot"])),
        )  # fmt: skip

    def finish(self, partial: Partial, state: State, day: Day) -> tuple[dict[str, pa.RecordBatch], dict[str, float]]:
        summary, hours = partial.summary, partial.interval_s / 3600
        buses = bus_rows(summary, state, partial.slot_end_us, partial.interval_s)
        branches = branch_rows(summary, state, partial.slot_end_us, partial.interval_s)
        ok, newton, diverged, bad = partial.slots.sum(axis=0).tolist()
        slots, solved = day.length_s // partial.interval_s, ok + newton
        infeed = complex(_in_order(partial.infeed_mva)) * 1e3 * hours
        loss_kwh = float(np.nansum(branches["loss_kwh"].to_numpy(zero_copy_only=False)))
        result = {
            "slots": slots, "slots_converged": solved, "slots_newton": newton, "slots_diverged": diverged,
            "slots_bad": bad, "infeed_p_kwh": infeed.real if solved else None,
            "infeed_q_kvarh": infeed.imag if solved else None,
            "cos_phi": abs(infeed.real) / abs(infeed) if abs(infeed) > 0 else None,
            "loss_kwh": loss_kwh if solved else None, "loss_is_lower_bound": True, "measured_share": 0.0,
            "iterations_mean": int(partial.iterations.sum()) / solved if solved else None,
            "iterations_max": partial.iterations_max if solved else None,
            "max_mismatch_kva": partial.max_mismatch_mva * 1e3 if solved else None,
            "engine": f"gridsink {self.name} {self.version}, float64 x {LANES} lanes",
        }  # fmt: skip
        figures = {
            "networks": 1, "snapshots": slots, "converged": solved, "newton": newton, "diverged": diverged, "bad": bad,
            "missing": slots - solved - diverged - bad,
            "bus_snapshots": state.network.n_bus * (solved + diverged + bad),
            "loss_kwh": loss_kwh, "infeed_kwh": infeed.real,
            "vm_min_pu": float(np.min(summary.vm_min_pu[summary.bus_slots > 0], initial=math.inf)),
            "loading_max_percent": float(np.nanmax(loading_max_percent(summary), initial=-math.inf)),
        }  # fmt: skip
        outputs = {"bus_day": buses, "branch_day": branches, "network_result": _batch("network_result", [result])}
        if self.full_voltages:
            outputs["state_tile"] = _batch("state_tile", list(partial.voltages))
        return outputs, figures

    @classmethod
    def from_settings(cls, solve_settings: Any, full_voltages: bool = False) -> PowerFlowOperator:
        """The operator that `lib.settings.SolveSettings` describe."""
        names = {f.name for f in dataclasses.fields(cls)} - {"full_voltages"}
        return cls(**{name: getattr(solve_settings, name) for name in names}, full_voltages=full_voltages)


def _read(row: Mapping[str, pa.Scalar], n_bus: int, day: Day) -> dict[str, Any]:
    """A tile's values, checked. Raises Unusable."""
    missing = [name for name, value in row.items() if not value.is_valid]
    if missing:
        raise Unusable(f"{', '.join(missing)} is null", _REWRITE)
    names = ("first_slot", "slot_count", "interval_s", "n_bus")
    tile: dict[str, Any] = {name: row[name].as_py() for name in names}
    tile["first_us"] = row["first_ts"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).as_py()
    if tile["n_bus"] != n_bus:
        raise Unusable(f"the tile has {tile['n_bus']} buses, its network {n_bus}", _REWRITE)
    if tile["interval_s"] <= 0 or day.length_s % tile["interval_s"]:
        raise Unusable(
            f"interval_s is {tile['interval_s']}, which does not divide the day's {day.length_s} s", _REWRITE
        )
    first, count, slots = tile["first_slot"], tile["slot_count"], day.length_s // tile["interval_s"]
    if first % LANES or not 0 <= first < TILES * LANES:
        raise Unusable(f"first_slot is {first}, not 0, 32, 64 or 96", _REWRITE)
    if not 1 <= count <= LANES or first + count > slots:
        raise Unusable(f"slot_count is {count} from slot {first} on: out of range in a day of {slots} slots", _REWRITE)
    try:
        for name in ("p_kw", "q_kvar"):
            tile[name] = np.require(decode(row[name].as_buffer(), n_bus), requirements="A")
        status = decode_status(row["slot_status"].as_buffer())
    except ValueError as e:
        raise Unusable(str(e), _REWRITE) from e
    tile["slot_status"] = np.where(np.arange(LANES) < count, status, Slot.PADDED)
    return tile


def _empty(state: State, interval_s: int) -> Partial:
    return Partial(
        state.summariser.empty(), interval_s, np.zeros(TILES * LANES, np.int64),
        np.zeros((TILES, len(SlotStatus)), np.int64),
        np.zeros(TILES, np.complex128), np.zeros(TILES, np.int64), 0, 0.0,
    )  # fmt: skip


def _in_order(per_tile: NDArray[Any]) -> Any:
    """Sum over tiles in slot order: the same bits however they were merged."""
    return ((per_tile[0] + per_tile[1]) + per_tile[2]) + per_tile[3]


def _voltage_row(tile: Mapping[str, Any], flow: PowerFlow, valid: NDArray[np.bool_]) -> dict[str, Any]:
    row = {name: tile[name] for name in ("first_slot", "slot_count", "interval_s", "n_bus")}
    wanted = np.where(valid, 0.0, np.nan)
    return row | {
        "first_ts": tile["first_us"], "vm_pu": encode(flow.vm_pu + wanted),
        "va_degree": encode(flow.va_degree + wanted),
        "slot_status": tile["slot_status"].astype(np.uint8).tobytes(),
    }  # fmt: skip


def _batch(table: str, rows: list[dict[str, Any]]) -> pa.RecordBatch:
    schema = pa.schema([field for field in ARROW[table] if rows and field.name in rows[0]])
    return pa.RecordBatch.from_pylist(rows, schema=schema)
