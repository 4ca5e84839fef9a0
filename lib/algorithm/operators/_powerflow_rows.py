"""Rows of `bus_day` and `branch_day` from a day's summary, as Arrow arrays without a Python loop."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lib.grid.network import BRANCH_KINDS, Network
from lib.grid.summary import DaySummary, Summariser, day_sum, loading_max_percent, vm_mean_pu, vm_p95_pu

_TS = pa.timestamp("us", tz="UTC")
_TRANSFORMERS = [BRANCH_KINDS.index(kind) for kind in ("trafo", "trafo3w")]


@dataclass(eq=False)
class State:
    """A network, what the summaries need of it, and the columns that are the same every day."""

    network: Network
    summariser: Summariser
    bus_columns: dict[str, pa.Array] = field(init=False)
    branch_columns: dict[str, pa.Array] = field(init=False)
    is_transformer: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        n = self.network
        self.bus_columns = {"bus": pa.array(n.bus_ids, pa.int64()), "vn_kv": pa.array(n.vn_kv[: n.n_bus], pa.float64())}
        kinds = pa.DictionaryArray.from_arrays(pa.array(n.branch_kind, pa.int32()), pa.array(BRANCH_KINDS, pa.string()))
        self.branch_columns = {
            "element_type": kinds.cast(pa.string()),
            "element": pa.array(n.branch_element, pa.int64()),
            "side": pa.array(n.branch_side, pa.int32()),
            "loading_basis": pa.array(["current"] * n.n_branch, pa.string()),
        }
        self.is_transformer = np.isin(n.branch_kind, _TRANSFORMERS)


def bus_rows(day: DaySummary, state: State, slot_end_us: NDArray[np.int64], interval_s: int) -> pa.RecordBatch:
    """One row per bus; nulls where no slot was solved or the bus has no source."""
    known, minutes = day.bus_slots > 0, interval_s / 60
    return pa.RecordBatch.from_pydict(
        state.bus_columns
        | {
            "vm_min_pu": nullable(day.vm_min_pu, known),
            "vm_min_ts": _slot_ts(day.vm_min_slot, slot_end_us),
            "vm_mean_pu": nullable(vm_mean_pu(day), known),
            "vm_max_pu": nullable(day.vm_max_pu, known),
            "vm_max_ts": _slot_ts(day.vm_max_slot, slot_end_us),
            "vm_p95_pu": nullable(vm_p95_pu(day), known),
            "minutes_below": nullable(day.slots_below * minutes, known),
            "minutes_above": nullable(day.slots_above * minutes, known),
            "slots_valid": pa.array(day.bus_slots, pa.int32()),
        }
    )


def branch_rows(day: DaySummary, state: State, slot_end_us: NDArray[np.int64], interval_s: int) -> pa.RecordBatch:
    """One row per branch; nulls where no slot was solved, and no loading where no end has a rating."""
    known, minutes, kwh = day.branch_slots > 0, interval_s / 60, interval_s / 3.6
    rated = known & state.summariser.rated
    loss, iron = day_sum(day.loss_sum) * kwh, day_sum(day.iron_sum) * kwh
    transformer = state.is_transformer
    return pa.RecordBatch.from_pydict(
        state.branch_columns
        | {
            "loading_max_percent": nullable(loading_max_percent(day), rated),
            "loading_max_ts": _slot_ts(day.load_max_slot, slot_end_us),
            "minutes_heavy": nullable(day.slots_heavy * minutes, rated),
            "minutes_overload": nullable(day.slots_overload * minutes, rated),
            "energy_kwh": nullable(day_sum(day.energy_sum) * kwh, known),
            "loss_kwh": nullable(loss, known),
            "loss_copper_kwh": nullable(np.where(transformer, loss - iron, 0.0), known),
            "loss_iron_kwh": nullable(np.where(transformer, iron, 0.0), known),
            "loss_line_kwh": nullable(np.where(transformer, 0.0, loss), known),
            "reverse_power": nullable(day.reverse, known),
            "slots_valid": pa.array(day.branch_slots, pa.int32()),
        }
    )


def nullable(values: NDArray, known: NDArray[np.bool_]) -> pa.Array:
    """Arrow array of `values`, null where not `known`."""
    return pa.array(values) if known.all() else pa.array(values, mask=~known)


def _slot_ts(slot: NDArray[np.int32], slot_end_us: NDArray[np.int64]) -> pa.Array:
    return nullable(slot_end_us[slot], slot >= 0).cast(_TS)
