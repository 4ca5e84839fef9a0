"""Rows of snapshot_tile, checked: what the operators on that table have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lib.algorithm.operator import Day, Rejected, Unusable
from lib.tables import ARROW
from lib.tables.tiles import LANES, Slot, decode, decode_status, encode, slot_status

TABLE = "snapshot_tile"
GROUP = ("network_id", "network_version")
KEY = ("first_slot",)
COLUMNS = (*GROUP, *KEY, "slot_count", "first_ts", "interval_s", "n_bus", "slot_status")
"""What `read` needs besides the powers."""
TILES = 4
"""Tiles of the longest day."""
REWRITE = "write this row again from its source (ingest), then run this day again"


@dataclass(frozen=True, eq=False)
class Tile:
    """32 consecutive slots of one network."""

    first_slot: int
    """0, 32, 64 or 96."""
    slot_count: int
    interval_s: int
    n_bus: int
    first_us: int
    """UTC end of the first slot in microseconds since 1970."""
    status: NDArray[np.uint8]
    """(32,) values of `Slot`; PADDED from slot_count on."""
    powers: Mapping[str, NDArray[np.float32]]
    """(n_bus, 32) each, by the name of its column."""

    @property
    def index(self) -> int:
        """Which tile of the day: 0 to 3."""
        return self.first_slot // LANES

    @property
    def slot_end_us(self) -> NDArray[np.int64]:
        """(32,) UTC end of each slot in microseconds since 1970."""
        return self.first_us + np.arange(LANES) * self.interval_s * 1_000_000


def read(
    rows: pa.Table, powers: Sequence[str], day: Day, n_bus: int | None = None, optional: Sequence[str] = ()
) -> tuple[list[Tile], list[Rejected]]:
    """The tiles that can be used, in order of time, and the others with the reason. n_bus: of the network.

    Raises Unusable where intervals differ.
    """
    tiles: list[Tile] = []
    rejected = []
    for i in range(rows.num_rows):
        row = {name: rows.column(name)[i] for name in (*COLUMNS, *powers)}
        more = {name: rows.column(name)[i] for name in optional}
        more = {name: value for name, value in more.items() if value.is_valid}
        try:
            tile = _tile(row | more, (*powers, *more), day, n_bus)
            tiles.append(tile)
        except Unusable as e:
            key = {name: row[name].as_py() for name in (*GROUP, *KEY)}
            rejected.append(Rejected(TABLE, key, e.reason, e.remedy))
    tiles.sort(key=lambda tile: tile.first_slot)  # of equal extrema the first in time counts, wherever its row is
    for tile in tiles[1:]:
        require_equal_intervals(tiles[0].interval_s, tile.interval_s)
    return tiles, rejected


def example_rows(seed: int, n_bus: int, day: Day, interval_s: int = 900) -> pa.Table:
    """A day's rows of one network with random powers: loads, feed-in, one slot missing and one unusable."""
    random = np.random.default_rng(seed)
    slots = day.length_s // interval_s
    start = datetime.combine(day.date, time(), UTC)
    rows = []
    for first in range(0, slots, LANES):
        count = min(LANES, slots - first)
        p = random.normal(-2, 4, (n_bus, count))
        p[0, 1] = np.nan if first else p[0, 1]
        rows.append(
            {
                "network_id": "example", "network_version": 1, "first_slot": first, "slot_count": count,
                "first_ts": start + timedelta(seconds=interval_s * (first + 1)), "interval_s": interval_s,
                "n_bus": n_bus, "slot_status": slot_status(count, [] if first else [int(random.integers(count))]),
                "p_kw": encode(p), "q_kvar": encode(0.3 * p),
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows, pa.schema([f for f in ARROW[TABLE] if f.name in rows[0]]))


def require_equal_intervals(a_s: int, b_s: int) -> None:
    """Raises Unusable where two intervals of a day differ; the same words in whichever order the tiles come."""
    if a_s != b_s:
        raise Unusable("tiles of one day differ in interval_s", REWRITE)


def in_order(per_tile: NDArray[Any]) -> Any:
    """Sum of an array of (4, ...) over the tiles, in slot order: the same bits however they were merged."""
    return ((per_tile[0] + per_tile[1]) + per_tile[2]) + per_tile[3]


def _tile(row: Mapping[str, pa.Scalar], powers: Sequence[str], day: Day, n_bus: int | None) -> Tile:
    missing = [name for name, value in row.items() if not value.is_valid]
    if missing:
        raise Unusable(f"{', '.join(missing)} is null", REWRITE)
    first, count, interval, buses = (row[n].as_py() for n in ("first_slot", "slot_count", "interval_s", "n_bus"))
    if buses < 1:
        raise Unusable(f"n_bus is {buses}", REWRITE)
    if n_bus is not None and buses != n_bus:
        raise Unusable(f"the tile has {buses} buses, its network {n_bus}", REWRITE)
    if interval <= 0 or day.length_s % interval:
        raise Unusable(f"interval_s is {interval}, which does not divide the day's {day.length_s} s", REWRITE)
    slots = day.length_s // interval
    if first % LANES or not 0 <= first < TILES * LANES:
        raise Unusable(f"first_slot is {first}, not 0, 32, 64 or 96", REWRITE)
    if not 1 <= count <= LANES or first + count > slots:
        raise Unusable(f"slot_count is {count} from slot {first} on: out of range in a day of {slots} slots", REWRITE)
    try:
        status = decode_status(row["slot_status"].as_buffer())
        # aligned, as kernels want it: a value of an Arrow array may begin anywhere
        values = {name: np.require(decode(row[name].as_buffer(), buses), requirements="A") for name in powers}
    except ValueError as e:
        raise Unusable(str(e), REWRITE) from e
    first_us = row["first_ts"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).as_py()
    status = np.where(np.arange(LANES) < count, status, np.uint8(Slot.PADDED))
    return Tile(first, count, interval, buses, first_us, status, values)
