"""Points of telemetry_day that measure something of a network, brought to the slots of a tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lib.algorithm.operator import Beside, Rejected
from lib.algorithm.operators._tile import Tile
from lib.grid.network import BRANCH_KINDS, Network
from lib.tables import ARROW

TABLE = "telemetry_day"
_SERIES = ("ts", "value", "std_dev", "valid")
BESIDE = Beside(
    TABLE, ("element_type", "element", "side", "measurement_type", "unit", *_SERIES), ("network_id",), ("point_id",)
)  # fmt: skip
_UNITS = {"v": ("kV", "pu"), "p": ("MW",), "q": ("Mvar",), "i": ("kA",)}
_LEGS = {"line": {"from": 0, "to": 0}, "trafo": {"hv": 0, "lv": 0}, "trafo3w": {"hv": 0, "mv": 1, "lv": 2}}
_REMEDY = "mend the point's place in its source (telemetry) or the network's model, and load it again"


@dataclass(frozen=True, eq=False)
class Points:
    """n points in order of their names, with their valid values of the day, k of all of them together.

    Units are pandapower's: pu, MW, Mvar, kA.
    """

    point_id: list[str]
    measurement_type: list[str]
    element_type: list[str]
    element: list[int]
    """A bus is the network's own name of it."""
    side: list[str | None]
    row: NDArray[np.int64]
    """(n,) of the bus; -1 for a branch."""
    std_dev: NDArray[np.float64]
    """(n,) largest of the day's; NaN where none is known."""
    point: NDArray[np.int64]
    """(k,)"""
    ts_us: NDArray[np.int64]
    value: NDArray[np.float64]

    @property
    def place(self) -> tuple[tuple[Any, ...], ...]:
        """What each measures where: equal ones make the same lines."""
        return tuple(zip(self.point_id, self.measurement_type, self.element_type, self.element, self.side, strict=True))

    def in_tile(self, tile: Tile) -> NDArray[np.float64]:
        """(n, slot_count) mean of the values within each slot, its end included, its begin not; NaN where none is."""
        length = tile.interval_s * 1_000_000
        slot = -((tile.first_us - self.ts_us) // length)  # of the slot that ends at or next after it
        here = (slot >= 0) & (slot < tile.slot_count)
        at = self.point[here], slot[here]
        total, count = np.zeros((2, len(self.point_id), tile.slot_count))
        np.add.at(total, at, self.value[here])
        np.add.at(count, at, 1)
        with np.errstate(invalid="ignore"):
            return total / count

    def mean_size(self) -> NDArray[np.float64]:
        """(n,) mean of the values' sizes over the day; 0 where there is none."""
        n = len(self.point_id)
        total = np.bincount(self.point, np.abs(self.value), n)
        return np.asarray(total / np.maximum(np.bincount(self.point, minlength=n), 1))


def read(rows: pa.Table | None, network: Network) -> tuple[Points, list[Rejected]]:
    """The points that can be used, and the others with the reason."""
    if rows is None:
        rows = pa.schema([ARROW[TABLE].field(name) for name in (*BESIDE.key, *BESIDE.columns)]).empty_table()
    problems = [_problem(row, network) for row in rows.drop_columns(list(_SERIES)).to_pylist()]
    length = {name: pc.fill_null(pc.list_value_length(rows[name]), -1).to_numpy() for name in _SERIES}
    ragged = (length["ts"] < 0) | (length["value"] != length["ts"]) | (length["valid"] != length["ts"])
    problems = [
        it or ("its arrays differ in length" if bad else None) for it, bad in zip(problems, ragged, strict=True)
    ]
    rejected = [
        Rejected(TABLE, {"point_id": name}, problem, _REMEDY, 0)
        for name, problem in zip(rows["point_id"].to_pylist(), problems, strict=True) if problem
    ]  # fmt: skip
    good = np.array([it is None for it in problems], bool)
    return _points(rows.filter(pa.array(good, pa.bool_())), network), rejected


def _points(rows: pa.Table, network: Network) -> Points:
    places = rows.drop_columns(list(_SERIES)).to_pylist()
    is_bus = [it["element_type"] == "bus" for it in places]
    row = np.array([network.row_of[it["element"]] if bus else -1 for it, bus in zip(places, is_bus, strict=True)], int)
    factor = np.array([1 / network.vn_kv[r] if it["unit"] == "kV" else 1.0 for it, r in zip(places, row, strict=True)])
    lists = {name: rows[name].combine_chunks() for name in _SERIES}
    point = pc.list_parent_indices(lists["ts"]).to_numpy()
    ts, value = pc.list_flatten(lists["ts"]), pc.list_flatten(lists["value"])
    ts_us = ts.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy(zero_copy_only=False)
    values = value.to_numpy(zero_copy_only=False).astype(np.float64)
    valid = pc.fill_null(pc.list_flatten(lists["valid"]), False).to_numpy(zero_copy_only=False).astype(bool)
    valid &= np.isfinite(values) & np.isfinite(ts_us)
    std_dev = np.full(len(places), np.nan)
    for k, spread in enumerate(lists["std_dev"]):
        if spread.is_valid:
            known = pc.drop_null(spread.values).to_numpy()
            known = known[np.isfinite(known) & (known > 0)]
            std_dev[k] = known.max(initial=0) * factor[k] or np.nan
    return Points(
        point_id=[it["point_id"] for it in places], measurement_type=[it["measurement_type"] for it in places],
        element_type=[it["element_type"] for it in places],
        element=[int(network.bus_ids[r]) if r >= 0 else it["element"] for it, r in zip(places, row, strict=True)],
        side=[None if bus else it["side"] for it, bus in zip(places, is_bus, strict=True)],
        row=row, std_dev=std_dev, point=point[valid], ts_us=ts_us[valid].astype(np.int64),
        value=(values * factor[point])[valid],
    )  # fmt: skip


def _problem(row: dict[str, Any], network: Network) -> str | None:
    """Why the point cannot be placed on the network, or None."""
    kind, of, element = row["measurement_type"], row["element_type"], row["element"]
    if kind not in _UNITS:
        return f"measurement_type {kind} is none of {', '.join(_UNITS)}"
    if row["unit"] not in _UNITS[kind]:
        return f"{kind} is in {row['unit']}, not in {' or '.join(_UNITS[kind])}"
    if of == "bus":
        if kind == "i":
            return "a current is measured at a line or transformer, not at a bus"
        if element not in network.row_of:
            return f"bus {element} is not in service in the network"
        at = network.row_of[element]
        if at >= network.n_bus:
            return f"bus {element} is not one of the network's visible buses"
        if kind != "v" and (network.member_row == at).sum() > 1:
            return f"bus {element} is one with others in the model: which share of its power is measured is not known"
        return None
    if kind == "v":
        return "a voltage is measured at a bus"
    if of not in _LEGS:
        return f"element_type {of} is none of bus, {', '.join(_LEGS)}"
    if row["side"] not in _LEGS[of]:
        return f"side {row['side']} of a {of} is none of {', '.join(_LEGS[of])}"
    found = (network.branch_element == element) & (network.branch_kind == BRANCH_KINDS.index(of))
    return None if found.any() else f"{of} {element} is not in service in the network"
