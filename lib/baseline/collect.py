"""Collect to the driver: every snapshot of the chosen days as one Arrow table in the driver's Python, like the original
framework does, then network-days to calculate on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lib.grid.network import Network
from lib.tables.tiles import LANES, Slot, decode, decode_status

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from lib.tables import Lake

KEY = ("region", "date", "network_id", "network_version")
COLUMNS = (
    *KEY, "first_slot", "slot_count", "first_ts", "interval_s", "n_bus", "p_kw", "q_kvar", "slot_status",
)  # fmt: skip
ROWS_PER_BATCH = 64
"""A row holds a megabyte, and an Arrow batch of binary values no more than two gigabytes."""
NetworkKey = tuple[str, str, int]
DayKey = tuple[str, date, str, int]


@dataclass(frozen=True)
class NetworkDay:
    """The tiles of one network and day, side by side in slot order."""

    region: str
    date: date
    network_id: str
    network_version: int
    network: Network
    first_slot: NDArray[np.int32]
    """(n_tile,)"""
    used: NDArray[np.bool_]
    """(n_tile * 32,) neither missing nor padding"""
    p_kw: NDArray[np.float32]
    """(n_bus, n_tile * 32) net injection, generation positive"""
    q_kvar: NDArray[np.float32]

    @property
    def key(self) -> DayKey:
        return self.region, self.date, self.network_id, self.network_version

    @property
    def network_key(self) -> NetworkKey:
        return self.region, self.network_id, self.network_version

    @property
    def slot(self) -> NDArray[np.int32]:
        """(n_tile * 32,) slot within the day."""
        return (self.first_slot[:, None] + np.arange(LANES, dtype=np.int32)).ravel().astype(np.int32)

    @property
    def n_snapshot(self) -> int:
        return int(self.used.sum())


@dataclass(frozen=True)
class Collected:
    """What came to the driver."""

    tiles: pa.Table
    networks: dict[NetworkKey, Network]
    bytes_to_driver: int
    """Arrow bytes of tiles and networks, as they arrived"""

    @cached_property
    def rows(self) -> dict[DayKey, list[int]]:
        """Rows of `tiles` per network-day, both in key order. Raises ValueError where a network is not in the lake."""
        keys = self.tiles.select([*KEY, "first_slot"]).to_pylist()
        rows: dict[DayKey, list[int]] = {}
        for row in sorted(range(len(keys)), key=lambda i: tuple(keys[i].values())):
            key = tuple(keys[row].values())[:-1]
            region, day, network_id, version = key
            if (region, network_id, version) not in self.networks:
                raise ValueError(f"snapshot_tile {region} {day}: table network has no {network_id} version {version}")
            rows.setdefault(key, []).append(row)
        return rows

    def used(self, key: DayKey) -> NDArray[np.bool_]:
        """(n_tile * 32,) slots of a network-day that are neither missing nor padding."""
        status = self.tiles["slot_status"]
        return np.concatenate([decode_status(status[row].as_buffer()) for row in self.rows[key]]) == Slot.VALID

    def network_days(self) -> Iterator[NetworkDay]:
        """In key order, one at a time."""
        return map(self.network_day, self.rows)

    def network_day(self, key: DayKey) -> NetworkDay:
        """The arrays of one network-day."""
        region, _, network_id, version = key
        network, rows = self.networks[region, network_id, version], self.rows[key]
        first_slot = np.array([self.tiles["first_slot"][row].as_py() for row in rows], np.int32)
        p, q = (self._matrix(name, rows, network.n_bus) for name in ("p_kw", "q_kvar"))
        return NetworkDay(*key, network, first_slot, self.used(key), p, q)

    def table(self, key: DayKey) -> pa.Table:
        """The rows of one network-day as they came, not copied."""
        return pa.concat_tables([self.tiles.slice(row, 1) for row in self.rows[key]])

    def _matrix(self, name: str, rows: list[int], n_bus: int) -> NDArray[np.float32]:
        column = self.tiles[name]
        return np.concatenate([decode(column[row].as_buffer(), n_bus) for row in rows], axis=1)


def collect(
    spark: SparkSession, lake: Lake, *, regions: Sequence[str] = (), first: date | None = None, last: date | None = None
) -> Collected:
    """All tiles of the regions (default: all) and days first..last to the driver, by Spark's own Arrow collect."""
    tiles = lake.read(spark, "snapshot_tile").select(*COLUMNS)
    networks = lake.read(spark, "network").select("region", "network_id", "network_version", "content")
    if regions:
        tiles, networks = (frame.where(frame.region.isin(list(regions))) for frame in (tiles, networks))
    if first is not None:
        tiles = tiles.where(tiles.date >= first)
    if last is not None:
        tiles = tiles.where(tiles.date <= last)
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(ROWS_PER_BATCH))
    tile_table, network_table = tiles.toArrow(), networks.toArrow()
    return Collected(
        tiles=tile_table,
        networks={
            (row["region"], row["network_id"], row["network_version"]): Network.from_bytes(row["content"])
            for row in network_table.to_pylist()
        },
        bytes_to_driver=tile_table.nbytes + network_table.nbytes,
    )
