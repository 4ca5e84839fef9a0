"""A lake of four cells that delta-rs wrote, and runs of an operator over it, without Spark."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from lib.algorithm.fingerprint import Fingerprint
from lib.algorithm.operator import Side
from lib.analysis.cache import Cache, Entry, Input, Output, OutputFile, Verdict
from lib.calculation.changes import TableLog
from lib.calculation.located import Cell
from lib.tables import Lake
from lib.tables.digest import cell_digest, of_parts

ODD = "a b/ü%20'"
ONE, TWO = date(2016, 1, 1), date(2016, 1, 2)
KEYS = [(ODD, ONE), (ODD, TWO), ("south", ONE), ("south", TWO)]
TILES, NETWORK, BUSES = "snapshot_tile", "network", "bus_day"


@dataclass(frozen=True)
class Summing:
    """An operator as far as the cache looks at it."""

    name: str = "summing"
    table: ClassVar[str] = TILES
    columns: ClassVar[tuple[str, ...]] = ("v",)
    group: ClassVar[tuple[str, ...]] = ("network_id",)
    key: ClassVar[tuple[str, ...]] = ("first_slot",)
    side: ClassVar[Side] = Side(NETWORK, ("content",), ("valid_from", "valid_to"))
    outputs: ClassVar[tuple[str, ...]] = (BUSES,)


COLUMNS = {
    TILES: ("first_slot", "network_id", "v"),
    NETWORK: ("content", "network_id", "valid_from", "valid_to"),
}


def prints(**parameters: Any) -> Fingerprint:
    manifest = {"operator": "summing 1", "parameters": parameters, "sources": {}, "libraries": {}}
    return Fingerprint(of_parts(manifest), manifest)


OLD = prints(v_min_pu=0.9)


def rows(region: str, day: date, *values: int) -> pa.Table:
    n = len(values)
    return pa.table({"region": [region] * n, "date": pa.array([day] * n, pa.date32()), "v": pa.array(values)})


def where(region: str, day: date) -> str:
    text = region.replace("'", "''")
    return f"region = '{text}' AND date = '{day}'"


def content(lake: Lake, table: str, region: str, day: date) -> list[int]:
    """The cell's values, as delta-rs reads them."""
    found = pa.table(DeltaTable(lake.path(table)).to_pyarrow_table()).to_pylist()
    return sorted(r["v"] for r in found if r["region"] == region and r.get("date", day) == day)


@dataclass
class World:
    """A lake of four cells, and a run of an operator over it that hashes what it is told to."""

    lake: Lake
    operator: Summing = Summing()
    fingerprint: Fingerprint = OLD
    length_s: int = 86_400

    def cells(self) -> list[Cell]:
        return [Cell(region, day, self.length_s, (), ()) for region, day in KEYS]

    def versions(self) -> dict[str, int]:
        return {table: DeltaTable(self.lake.path(table)).version() for table in COLUMNS}

    def cache(self) -> Cache:
        return Cache(self.lake, self.operator, self.fingerprint)

    def decide(self, **options: Any) -> dict[tuple[str, date], Verdict]:
        found = self.cache().decide(self.cells(), self.versions(), **options)
        assert [(it.region, it.date) for it in found] == KEYS
        return {(it.region, it.date): it for it in found}

    def status(self, **options: Any) -> list[str]:
        return [it.status for it in self.decide(**options).values()]

    def digests(self, region: str, day: date) -> dict[str, str]:
        """Digests as a worker would make them, of the rows."""
        return {table: of_parts({"rows": content(self.lake, table, region, day)}) for table in COLUMNS}

    def entry(self, region: str, day: date) -> Entry:
        digests, versions = self.digests(region, day), self.versions()
        inputs = tuple(
            Input(t, COLUMNS[t], TableLog(self.lake, t).id, versions[t], digests[t]) for t in sorted(COLUMNS)
        )
        return Entry(
            self.operator.name, self.fingerprint.digest, region, day, cell_digest(digests, self.length_s), inputs,
            self.outputs(region, day), 3, 2, 1, ({"table": TILES, "key": {"first_slot": 0}, "reason": "bad ü"},),
            f"partial of {region} {day}".encode(), self.cache().manifest,
        )  # fmt: skip

    def outputs(self, region: str, day: date) -> tuple[Output, ...]:
        table = DeltaTable(self.lake.path(BUSES))
        files = pa.table(table.get_add_actions(flatten=True)).to_pylist()
        held = [f for f in files if (f["partition.region"], f["partition.date"]) == (region, day)]
        return (
            Output(BUSES, table.version(), tuple(OutputFile(unquote(f["path"]), 1, 1, "d") for f in held)),
        )  # fmt: skip

    def result(self, region: str, day: date) -> int:
        return sum(content(self.lake, TILES, region, day)) + 1000 * sum(content(self.lake, NETWORK, region, day))

    def run(self) -> None:
        """What a run does: finds again what it can by the rows' digest, calculates the rest."""
        cache, again, compute = self.cache(), [], []
        for verdict in cache.decide(self.cells(), self.versions()):
            key = verdict.region, verdict.date
            digests = {table: verdict.inputs[table] or digest for table, digest in self.digests(*key).items()}
            entry = verdict.known.get(cell_digest(digests, self.length_s))
            if entry is not None and cache.outputs_differ(entry) is None:
                again += [replace(e, inputs=self.entry(*key).inputs, figures=f) for e, f in cache.contents([entry])]
            elif verdict.status != "current":
                compute.append(key)
        cache.record(again, "found")
        self.calculate(compute)

    def calculate(self, keys: list[tuple[str, date]] = KEYS) -> None:
        """Writes results of the cells and records them."""
        for key in keys:
            result = rows(*key, self.result(*key))
            write_deltalake(self.lake.path(BUSES), result, mode="overwrite", predicate=where(*key))
        cache = self.cache()
        cache.decide(self.cells(), self.versions())
        cache.record([self.entry(*key) for key in keys], "run 1")


def build(root: Path) -> World:
    lake = Lake(str(root / "lake"))
    for i, key in enumerate(KEYS):
        for value in (i, 10 + i):
            write_deltalake(lake.path(TILES), rows(*key, value), mode="append", partition_by=["region", "date"])
        write_deltalake(lake.path(BUSES), rows(*key, 1), mode="append", partition_by=["region", "date"])
    for region in (ODD, "south"):
        table = rows(region, ONE, 1).drop_columns("date")
        write_deltalake(lake.path(NETWORK), table, mode="append", partition_by=["region"])
    world = World(lake)
    world.calculate()
    return world


@pytest.fixture
def world(tmp_path: Path) -> World:
    return build(tmp_path)


def table(world: World, name: str) -> DeltaTable:
    return DeltaTable(world.lake.path(name))


def log_folder(world: World, name: str) -> Path:
    return Path(world.lake.path(name)) / "_delta_log"


def late(world: World) -> None:
    write_deltalake(world.lake.path(TILES), rows("south", TWO, 99), mode="append")
