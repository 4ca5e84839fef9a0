"""Rows of meter_day, checked, as matrices [meter][slot]: what the operators on that table have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lib.algorithm.operator import Day, Rejected
from lib.tables import ARROW
from lib.tables.quality import Quality

TABLE = "meter_day"
GROUP = ("network_id", "transformer_id")
"""Meters of one transformer's area; where transformer_id is null those at medium voltage, the network's gate too."""
KEY = ("meter_id",)
COLUMNS = ("is_gate", "interval_s", "slots")
"""What `read` needs besides the quantities."""
INTERVAL_S = 900
HOURS = INTERVAL_S / 3600
ROUNDING = 2.0**-22
"""Powers, voltages and currents are float32: what is beyond a limit by no more than this part of it is at the limit."""
_REMEDY = "write this day again from its readings (ingest.load)"


@dataclass(frozen=True, eq=False)
class Meters:
    """Some meters of a group and day: n rows, one quarter-hour a column."""

    rows: pa.Table
    meter_id: tuple[str, ...]
    is_gate: NDArray[np.bool_]
    """(n,) gate meter of the transformer, or of the network."""
    slots: int

    def values(self, name: str) -> NDArray[np.float64]:
        """(n, slots) values of a quantity, NaN where there is none."""
        whole, lists = self._lists(name)
        result = np.full((len(self.meter_id), self.slots), np.nan)
        result[whole] = lists.cast(pa.float64()).to_numpy(zero_copy_only=False).reshape(-1, self.slots)
        return result

    def wh(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(n, slots) whole Wh, 0 where there is none, and where there is a value."""
        whole, lists = self._lists(name)
        result = np.zeros((len(self.meter_id), self.slots), np.int64)
        known = np.zeros(result.shape, bool)
        result[whole] = lists.fill_null(0).to_numpy().reshape(-1, self.slots)
        known[whole] = lists.is_valid().to_numpy(zero_copy_only=False).reshape(-1, self.slots)
        return result, known

    def has(self, name: str) -> NDArray[np.bool_]:
        """(n,) whether the meter has any value of the quantity."""
        return self._lists(name)[0]

    def marked(self, name: str, flags: Quality) -> NDArray[np.bool_]:
        """(n, slots) whether a code has one of `flags`; name: of the column of codes."""
        codes = _column(self.rows, name)
        whole = codes.is_valid().to_numpy(zero_copy_only=False)
        result = np.zeros((len(self.meter_id), self.slots), np.uint8)
        result[whole] = np.frombuffer(b"".join(codes.drop_null().to_pylist()), np.uint8).reshape(-1, self.slots)
        return result & np.uint8(flags) != 0

    def _lists(self, name: str) -> tuple[NDArray[np.bool_], pa.Array]:
        """Which rows have a list, and the elements of all lists side by side."""
        column = _column(self.rows, name)
        return column.is_valid().to_numpy(zero_copy_only=False), column.flatten()


def read(
    rows: pa.Table, quantities: Sequence[str], qualities: Sequence[str], day: Day
) -> tuple[Meters | None, list[Rejected]]:
    """The meters whose arrays fit the day, None if there are none; the others with the reason."""
    slots = day.length_s // INTERVAL_S
    wrong = pc.or_(pc.not_equal(rows["interval_s"], INTERVAL_S), pc.not_equal(rows["slots"], slots))
    wrong = pc.fill_null(wrong, True)
    for name in quantities:
        wrong = pc.or_(wrong, pc.fill_null(pc.not_equal(pc.list_value_length(_column(rows, name)), slots), False))
    for name in qualities:
        wrong = pc.or_(wrong, pc.fill_null(pc.not_equal(pc.binary_length(_column(rows, name)), slots), False))
    rejected = [
        Rejected(TABLE, row, f"it has not the day's {slots} quarter-hours in each of its arrays", _REMEDY)
        for row in rows.filter(wrong).select([*GROUP, *KEY]).to_pylist()
    ]
    rows = rows.filter(pc.invert(wrong))
    if not rows.num_rows:
        return None, rejected
    is_gate = pc.fill_null(rows["is_gate"], False).to_numpy(zero_copy_only=False).astype(bool)
    return Meters(rows, tuple(rows["meter_id"].to_pylist()), is_gate, slots), rejected


def example_rows(day: Day, meters: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows of meter_day in area "t" of network "n"; what is not given is null, quality codes are 0."""
    slots = day.length_s // INTERVAL_S
    common = {
        "region": day.region, "date": day.date, "network_id": "n", "transformer_id": "t", "is_gate": False,
        "interval_s": INTERVAL_S, "slots": slots, "readings": slots,
        **{name: bytes(slots) for name in ARROW[TABLE].names if name.endswith("_quality")},
    }  # fmt: skip
    named = ({"meter_id": f"m{k}"} | common | meter for k, meter in enumerate(meters))
    return pa.Table.from_pylist(list(named), schema=ARROW[TABLE])


EXAMPLE_DAY = Day("example", date(2016, 1, 1), 86_400)


def _column(rows: pa.Table, name: str) -> pa.Array:
    """As declared: a column that a file lacks comes as nulls, one that delta-rs wrote in another layout."""
    return rows[name].cast(ARROW[TABLE].field(name).type).combine_chunks()
