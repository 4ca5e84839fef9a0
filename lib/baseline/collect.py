"""Collect to the driver: every snapshot of the chosen days as one Arrow table in the driver's Python, like the original
framework does, then network-days to calculate on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lib.grid.network import Network
from lib.tables.tiles import Slot, decode, decode_status

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from lib.tables import Lake

KEY = ("region", "date", "network_id", "network_version")
NetworkKey = tuple[str, str, int]


@dataclass(frozen=True)
class NetworkDay:
    """The snapshots of one network and day, in slot order, without padding and missing slots."""

    region: str
    date: date
    network_id: str
    network_version: int
    network: Network
    slot: NDArray[np.int32]
    """(n_snapshot,) slot within the day"""
    interval_s: int
    p_kw: NDArray[np.float32]
    """(n_bus, n_snapshot) net injection, generation positive"""
    q_kvar: NDArray[np.float32]

    @property
    def n_snapshot(self) -> int:
        return len(self.slot)

    @property
    def bus_snapshots(self) -> int:
        return self.network.n_bus * self.n_snapshot


@dataclass(frozen=True)
class Collected:
    """What came to the driver."""

    tiles: pa.Table
    networks: dict[NetworkKey, Network]
    bytes_to_driver: int
    """Arrow bytes of tiles and networks, as they arrived"""

    def network_days(self) -> Iterator[NetworkDay]:
        """In key order. Raises ValueError where a tile names a network that is not in the lake."""
        order = pc.sort_indices(self.tiles, [(name, "ascending") for name in (*KEY, "first_slot")])
        keys = self.tiles.select(KEY).take(order).to_pylist()
        begin = 0
        for end in range(1, len(keys) + 1):
            if end == len(keys) or keys[end] != keys[begin]:
                # one network-day at a time: the tiles are not held twice
                yield self._network_day(self.tiles.take(order[begin:end]))
                begin = end

    def _network_day(self, tiles: pa.Table) -> NetworkDay:
        rows = tiles.to_pylist()
        first = rows[0]
        key = (first["region"], first["network_id"], first["network_version"])
        if key not in self.networks:
            raise ValueError(f"snapshot_tile {first['date']}: network {key} is not in table network")
        network = self.networks[key]
        status = np.concatenate([decode_status(row["slot_status"]) for row in rows])
        slot = np.concatenate([row["first_slot"] + np.arange(32, dtype=np.int32) for row in rows])
        valid = status == Slot.VALID
        p, q = (
            np.concatenate([decode(row[name], network.n_bus) for row in rows], axis=1)[:, valid]
            for name in ("p_kw", "q_kvar")
        )
        return NetworkDay(*(first[name] for name in KEY), network, slot[valid], first["interval_s"], p, q)


def collect(
    spark: SparkSession, lake: Lake, *, regions: Sequence[str] = (), first: date | None = None, last: date | None = None
) -> Collected:
    """All tiles of the regions (default: all) and days first..last to the driver, by Spark's own Arrow collect."""
    columns = [*KEY, "first_slot", "interval_s", "p_kw", "q_kvar", "slot_status"]
    tiles = lake.read(spark, "snapshot_tile").select(*columns)
    networks = lake.read(spark, "network").select("region", "network_id", "network_version", "content")
    if regions:
        tiles, networks = (frame.where(frame.region.isin(list(regions))) for frame in (tiles, networks))
    if first is not None:
        tiles = tiles.where(tiles.date >= first)
    if last is not None:
        tiles = tiles.where(tiles.date <= last)
    tile_table, network_table = tiles.toArrow(), networks.toArrow()
    return Collected(
        tiles=tile_table,
        networks={
            (row["region"], row["network_id"], row["network_version"]): Network.from_bytes(row["content"])
            for row in network_table.to_pylist()
        },
        bytes_to_driver=tile_table.nbytes + network_table.nbytes,
    )
