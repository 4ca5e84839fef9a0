"""Power flow of every snapshot of a network and day, summarised per bus, per branch and for the network."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from lib.algorithm.equivalence import identical
from lib.algorithm.operator import Day, Examples, Figure, Rejected, Side, Unusable
from lib.algorithm.operators import _tile
from lib.algorithm.operators._powerflow_rows import State, branch_rows, bus_rows
from lib.algorithm.operators._tile import Tile, in_order
from lib.grid.network import Network
from lib.grid.powerflow import PowerFlow, SlotStatus, solve
from lib.grid.regulation import turns
from lib.grid.summary import LANES, TILES, DaySummary, Limits, Summariser, loading_max_percent, merge
from lib.tables import ARROW
from lib.tables.tiles import Slot, encode

_POWERS = ("p_kw", "q_kvar")
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
    """(4, 5) slots per tile and SlotStatus."""
    infeed_mva: NDArray[np.complex128]
    iterations: NDArray[np.int64]
    iterations_max: int
    max_mismatch_mva: float
    voltages: tuple[dict[str, Any], ...] = ()
    """Rows of state_tile, if wanted."""


@dataclass(frozen=True)
class PowerFlowOperator:
    """Power flow of every snapshot: voltages, loadings and losses per bus, branch and network."""

    tolerance: Annotated[float, Field(gt=0, le=1e-3, description="bound of the voltage error, per unit")] = 1e-8
    max_iterations: Annotated[
        int, Field(ge=1, description="linear solves before a snapshot goes to Newton's method")
    ] = 12
    fallback: Annotated[bool, Field(description="solve what the sweep cannot with Newton's method")] = True
    v_min_pu: Annotated[float, Field(gt=0, description="lower edge of the voltage band, per unit")] = 0.9
    v_max_pu: Annotated[float, Field(gt=0, description="upper edge of the voltage band, per unit")] = 1.1
    heavy_percent: Annotated[float, Field(gt=0, description="heavy load above this loading")] = 80.0
    overload_percent: Annotated[float, Field(gt=0, description="overload above this loading")] = 100.0
    full_voltages: Annotated[bool, Field(description="keep every snapshot's voltages in state_tile")] = False

    name: ClassVar[str] = "powerflow"
    version: ClassVar[int] = 1
    table: ClassVar[str] = _tile.TABLE
    columns: ClassVar[tuple[str, ...]] = (*_tile.COLUMNS, *_POWERS)
    group: ClassVar[tuple[str, ...]] = _tile.GROUP
    key: ClassVar[tuple[str, ...]] = _tile.KEY
    side: ClassVar[Side | None] = Side("network", ("content",), ("valid_from", "valid_to"))
    figures: ClassVar[Mapping[str, Figure]] = {
        "networks": Figure("sum", "bigint", "", "networks with a result", 0),
        "snapshots": Figure("sum", "bigint", "", "slots of the day", 0),
        "converged": Figure("sum", "bigint", "", "slots solved", 0),
        "newton": Figure("sum", "bigint", "", "of these by Newton's method", 0),
        "diverged": Figure("sum", "bigint", "", "slots without a solution", 0),
        "hunting": Figure("sum", "bigint", "", "slots solved whose tap changers do not settle", 0),
        "bad": Figure("sum", "bigint", "", "slots with an injection that is no number", 0),
        "missing": Figure("sum", "bigint", "", "slots without data", 0),
        "bus_snapshots": Figure("sum", "bigint", "", "buses times slots worked on", 0),
        "loss_kwh": Figure("sum", "double", "kWh", "losses of all branches, from slot means: a lower bound"),
        "infeed_kwh": Figure("sum", "double", "kWh", "energy from the external grids"),
        "vm_min_pu": Figure("min", "double", "pu", "lowest voltage of any bus", 0),
        "vm_max_pu": Figure("max", "double", "pu", "highest voltage of any bus", 0),
        "minutes_below": Figure("sum", "double", "min", "time below v_min_pu, summed over buses", 0),
        "minutes_above": Figure("sum", "double", "min", "time above v_max_pu, summed over buses", 0),
        "loading_max_percent": Figure("max", "double", "%", "highest loading of any branch", 0),
        "minutes_overload": Figure("sum", "double", "min", "time above overload_percent, summed over branches", 0),
    }

    def __post_init__(self) -> None:
        if self.v_min_pu >= self.v_max_pu:
            raise ValueError(f"v_min_pu {self.v_min_pu} must be below v_max_pu {self.v_max_pu}")
        if self.heavy_percent > self.overload_percent:
            raise ValueError(
                f"heavy_percent {self.heavy_percent} must not exceed overload_percent {self.overload_percent}"
            )

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
        tiles, rejected = _tile.read(rows, _POWERS, day, state.network.n_bus)
        if not tiles:
            return None, rejected
        partial = _empty(state, tiles[0].interval_s)
        for tile in tiles:
            self._add(partial, tile, state)
        return partial, rejected

    def _add(self, partial: Partial, tile: Tile, state: State) -> None:
        p, q = (tile.powers[name] for name in _POWERS)
        flow = solve(
            state.network, p, q, tolerance=self.tolerance, max_iterations=self.max_iterations, fallback=self.fallback,
            scale=_KW, out=getattr(_last, "flow", None),
        )  # fmt: skip
        _last.flow = flow
        first, k = tile.first_slot, tile.index
        valid = tile.status == Slot.VALID
        used = valid & flow.converged
        e, f = flow.e[0], flow.f[0]
        regulated = len(state.network.tap_changers) + len(state.network.inverters) > 0
        turn = turns(state.network, flow.tap_pos.T).T if regulated else None
        state.summariser.add_tile(partial.summary, e, f, used, first, turn)
        partial.slots[k] = np.bincount(flow.status[valid], minlength=len(SlotStatus))
        partial.slot_end_us[first : first + LANES] = tile.slot_end_us
        if used.any():
            fed = (flow.slack_p_mw + 1j * flow.slack_q_mvar).sum(axis=0) if regulated else None
            partial.infeed_mva[k] += (state.summariser.infeed(e, f, p, q, _KW) if fed is None else fed)[used].sum()
            partial.iterations[k] = flow.iterations[used].sum()
            partial.iterations_max = max(partial.iterations_max, int(flow.iterations[used].max()))
            partial.max_mismatch_mva = max(partial.max_mismatch_mva, float(flow.max_mismatch_mva[used].max()))
        if self.full_voltages:
            partial.voltages += (_voltage_row(tile, flow, valid),)

    def merge(self, a: Partial, b: Partial) -> Partial:
        _tile.require_equal_intervals(a.interval_s, b.interval_s)
        return Partial(
            merge(a.summary, b.summary), a.interval_s, a.slot_end_us + b.slot_end_us, a.slots + b.slots,
            a.infeed_mva + b.infeed_mva, a.iterations + b.iterations, max(a.iterations_max, b.iterations_max),
            max(a.max_mismatch_mva, b.max_mismatch_mva),
            tuple(sorted(a.voltages + b.voltages, key=lambda row: row["first_slot"])),
        )  # fmt: skip

    def finish(self, partial: Partial, state: State, day: Day) -> tuple[dict[str, pa.RecordBatch], dict[str, Any]]:
        summary, hours = partial.summary, partial.interval_s / 3600
        buses = bus_rows(summary, state, partial.slot_end_us, partial.interval_s)
        branches = branch_rows(summary, state, partial.slot_end_us, partial.interval_s)
        ok, newton, diverged, bad, hunting = partial.slots.sum(axis=0).tolist()
        slots, solved = day.length_s // partial.interval_s, ok + newton + hunting
        infeed = complex(in_order(partial.infeed_mva)) * 1e3 * hours
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
        minutes, known = partial.interval_s / 60, summary.bus_slots > 0
        loading = loading_max_percent(summary)
        figures = {
            "networks": 1, "snapshots": slots, "converged": solved, "newton": newton, "diverged": diverged, "bad": bad,
            "hunting": hunting,
            "missing": slots - solved - diverged - bad,
            "bus_snapshots": state.network.n_bus * (solved + diverged + bad),
            "loss_kwh": result["loss_kwh"], "infeed_kwh": result["infeed_p_kwh"],
            "vm_min_pu": float(summary.vm_min_pu[known].min()) if known.any() else None,
            "vm_max_pu": float(summary.vm_max_pu[known].max()) if known.any() else None,
            "minutes_below": float(summary.slots_below.sum() * minutes) if known.any() else None,
            "minutes_above": float(summary.slots_above.sum() * minutes) if known.any() else None,
            "loading_max_percent": None if np.isnan(loading).all() else float(np.nanmax(loading)),
            "minutes_overload": None if np.isnan(loading).all() else float(summary.slots_overload.sum() * minutes),
        }  # fmt: skip
        outputs = {"bus_day": buses, "branch_day": branches, "network_result": _batch("network_result", [result])}
        if self.full_voltages:
            outputs["state_tile"] = _batch("state_tile", list(partial.voltages))
        return outputs, figures

    def equivalent(self, a: Partial, b: Partial) -> bool:
        return identical(a, b)

    @classmethod
    def examples(cls, seed: int) -> Examples:
        """The three tiles of a day of two buses."""
        from lib.grid.warm import two_bus_network

        operator, day = cls(full_voltages=True), Day("example", date(2016, 1, 1), 86_400)
        state = operator.prepare({"content": two_bus_network().to_bytes()})
        rows = _tile.example_rows(seed, state.network.n_bus, day)
        partials = (operator.map(rows.slice(i, 1), state, day)[0] for i in range(rows.num_rows))
        return Examples(_empty(state, 900), tuple(partials))

    @classmethod
    def from_settings(cls, settings: Any, **overrides: Any) -> PowerFlowOperator:
        """The operator that group `solve` of `lib.settings.Settings` describes."""
        names = {f.name for f in dataclasses.fields(cls)} - {"full_voltages"}
        return cls(**{name: getattr(settings.solve, name) for name in names} | overrides)


def _empty(state: State, interval_s: int) -> Partial:
    return Partial(
        state.summariser.empty(), interval_s, np.zeros(TILES * LANES, np.int64),
        np.zeros((TILES, len(SlotStatus)), np.int64),
        np.zeros(TILES, np.complex128), np.zeros(TILES, np.int64), 0, 0.0,
    )  # fmt: skip


def _voltage_row(tile: Tile, flow: PowerFlow, valid: NDArray[np.bool_]) -> dict[str, Any]:
    wanted = np.where(valid, 0.0, np.nan)
    return {
        "first_slot": tile.first_slot, "slot_count": tile.slot_count, "interval_s": tile.interval_s,
        "n_bus": tile.n_bus, "first_ts": tile.first_us, "vm_pu": encode(flow.vm_pu + wanted),
        "va_degree": encode(flow.va_degree + wanted), "slot_status": tile.status.astype(np.uint8).tobytes(),
    }  # fmt: skip


def _batch(table: str, rows: list[dict[str, Any]]) -> pa.RecordBatch:
    schema = pa.schema([field for field in ARROW[table] if rows and field.name in rows[0]])
    return pa.RecordBatch.from_pylist(rows, schema=schema)


OPERATOR = PowerFlowOperator
