"""When a result is taken from the cache: tables that delta-rs wrote, changed in every way, without Spark."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lib.algorithm.fingerprint import Fingerprint
from lib.algorithm.operator import Side
from lib.analysis import partials
from lib.analysis.cache import Cache, Entry, Input, Output, OutputFile, Verdict, explain_rows
from lib.calculation.changes import TableLog
from lib.calculation.located import Cell
from lib.errors import GridsinkError
from lib.tables import ARROW, TABLES, Lake
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


def test_what_did_not_change_is_current(world: World) -> None:
    decided = world.decide()
    for key, verdict in decided.items():
        assert (verdict.status, verdict.reason) == ("current", "unchanged")
        assert verdict.inputs == world.digests(*key)
        assert verdict.entry is not None
        assert replace(verdict.entry, figures=b"", inputs=(), outputs=()) == replace(
            world.entry(*key), figures=b"", inputs=(), outputs=()
        )
    assert [it["cache"] for it in explain_rows(decided.values())] == ["hit"] * 4


def test_partials_come_back(world: World) -> None:
    cache = world.cache()
    entries = [it.entry for it in cache.decide(world.cells(), world.versions()) if it.entry]
    assert cache.content(entries[1:]) == {key: world.entry(*key).figures for key in KEYS[1:]}
    for entry, figures in cache.contents(entries):
        assert figures == world.entry(entry.region, entry.date).figures
    assert cache.contents([replace(entries[0], digest="another")]) == []


def test_nothing_was_calculated_yet(world: World) -> None:
    shutil.rmtree(world.lake.path("partial"))
    for verdict in world.decide().values():
        assert (verdict.status, verdict.reason) == ("compute", "never calculated")
        assert verdict.inputs == {TILES: None, NETWORK: None}


def optimize(world: World) -> None:
    table(world, TILES).optimize.compact()
    table(world, TILES).vacuum(0, enforce_retention_duration=False, dry_run=False)


def other_partition(world: World) -> None:
    write_deltalake(world.lake.path(TILES), rows("south", date(2016, 1, 3), 1), mode="append")


def optimize_output(world: World) -> None:
    write_deltalake(world.lake.path(BUSES), rows("south", date(2016, 1, 3), 1), mode="append")
    table(world, BUSES).optimize.z_order(["v"])


@pytest.mark.parametrize("change", [optimize, other_partition, optimize_output])
def test_what_changes_no_row_of_a_cell_leaves_it_current(world: World, change: Callable[[World], None]) -> None:
    before = TableLog(world.lake, BUSES).files("south", ONE)
    change(world)
    if change is optimize_output:
        assert TableLog(world.lake, BUSES).files("south", ONE) != before
    assert world.status() == ["current"] * 4


def late(world: World) -> None:
    write_deltalake(world.lake.path(TILES), rows("south", TWO, 99), mode="append")


def delete(world: World) -> None:
    table(world, TILES).delete(where("south", TWO) + " AND v > 5")


def update(world: World) -> None:
    table(world, TILES).update(updates={"v": "v + 1"}, predicate=where("south", TWO))


def merge(world: World) -> None:
    merger = table(world, TILES).merge(rows("south", TWO, 77), "t.v = s.v", source_alias="s", target_alias="t")
    merger.when_not_matched_insert_all().execute()


@pytest.mark.parametrize(
    ("change", "told"), [(late, "WRITE"), (delete, "DELETE"), (update, "UPDATE"), (merge, "MERGE")]
)
def test_a_touched_cell_is_hashed_and_found_again_or_not(
    world: World, change: Callable[[World], None], told: str
) -> None:
    before = world.decide()
    change(world)
    decided = world.decide()
    assert [it.status for it in decided.values()] == ["current", "current", "current", "check"]
    verdict, version = decided["south", TWO], world.versions()[TILES]
    assert verdict.reason == f"snapshot_tile changed in version {version} ({told})"
    assert verdict.inputs == {TILES: None, NETWORK: before["south", TWO].inputs[NETWORK]}
    old = before["south", TWO].entry
    assert old is not None
    assert verdict.known == {old.digest: old}
    assert world.entry("south", TWO).digest not in verdict.known
    world.calculate([("south", TWO)])
    assert world.status() == ["current"] * 4


def test_rows_put_back_are_found_again(world: World) -> None:
    version = world.versions()[TILES]
    late(world)
    table(world, TILES).restore(version)
    verdict = world.decide()["south", TWO]
    assert (verdict.status, "RESTORE" in verdict.reason) == ("check", True)
    assert world.entry("south", TWO).digest in verdict.known
    # Recorded again with the version that was hashed, it stands without hashing.
    cache = world.cache()
    cache.decide(world.cells(), world.versions())
    found = cache.contents(verdict.known.values())
    cache.record([replace(e, inputs=world.entry("south", TWO).inputs, figures=f) for e, f in found], "run 2")
    assert world.status() == ["current"] * 4
    entry = world.decide()["south", TWO].entry
    assert entry is not None
    assert cache.content([entry]) == {("south", TWO): world.entry("south", TWO).figures}


def test_a_changed_network_concerns_its_region(world: World) -> None:
    write_deltalake(world.lake.path(NETWORK), rows("south", ONE, 2).drop_columns("date"), mode="append")
    decided = world.decide()
    assert [it.status for it in decided.values()] == ["current", "current", "check", "check"]
    assert decided["south", ONE].reason == "network changed in version 2 (WRITE)"
    assert decided["south", ONE].inputs[TILES] is not None


def test_another_fingerprint_is_calculated_and_told(world: World) -> None:
    new = replace(world, fingerprint=prints(v_min_pu=0.95))
    for key, verdict in new.decide().items():
        assert (verdict.status, verdict.reason) == ("compute", "parameter v_min_pu 0.9 -> 0.95")
        assert verdict.inputs == world.digests(*key)  # no need to hash again
        assert verdict.known == {}
    new.calculate()
    assert new.status() == ["current"] * 4
    # Both wrote the same output table: the files of the old ones are known, and can be put back.
    decided = world.decide()
    assert {it.status for it in decided.values()} == {"check"}
    assert all(it.reason.startswith("bus_day was changed in version") for it in decided.values())
    for verdict in decided.values():
        (entry,) = verdict.known.values()
        assert world.cache().outputs_differ(entry) == verdict.reason
        assert None not in verdict.inputs.values()


def test_operators_share_recorded_digests(world: World) -> None:
    other = replace(world, operator=Summing("another"))
    for key, verdict in other.decide().items():
        assert (verdict.status, verdict.reason) == ("compute", "never calculated")
        assert verdict.inputs == world.digests(*key)


def test_an_operator_finds_its_rows_again_by_anothers_digest(world: World) -> None:
    version = world.versions()[TILES]
    late(world)
    table(world, TILES).restore(version)
    other = replace(world, operator=Summing("another"))
    other.calculate([("south", TWO)])
    verdict = world.decide()["south", TWO]
    assert verdict.inputs == world.digests("south", TWO)
    assert verdict.status == "check"  # the other one wrote bus_day
    assert "bus_day was changed" in verdict.reason


def test_entries_that_disagree_count_for_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    entry = world.entry("south", ONE)
    wrong = tuple(replace(it, digest="something else") for it in entry.inputs)
    cache = world.cache()
    cache.record([replace(entry, inputs=wrong, digest="wrong")], "run 2")
    verdict = world.decide()["south", ONE]
    assert (verdict.status, verdict.inputs) == ("check", {TILES: None, NETWORK: None})
    assert "disagree" in verdict.reason
    assert "disagree" in caplog.text


def test_another_length_of_the_day_is_another_cell(world: World) -> None:
    longer = replace(world, length_s=90_000)
    assert longer.status() == ["compute"] * 4
    assert "length of the day" in longer.decide()["south", ONE].reason


@pytest.mark.parametrize("name", [TILES, NETWORK])
def test_a_lost_log_means_hashing(world: World, name: str) -> None:
    for _ in range(2):
        write_deltalake(world.lake.path(TILES), rows("north", ONE, 1), mode="append")
        write_deltalake(world.lake.path(NETWORK), rows("north", ONE, 1).drop_columns("date"), mode="append")
    table(world, name).create_checkpoint()
    last = world.versions()[name]
    for version in range(last):
        (log_folder(world, name) / f"{version:020d}.json").unlink()
    decided = world.decide()
    assert {it.status for it in decided.values()} == {"check"}
    assert decided["south", ONE].reason == f"{name}: the log of version {last - 1} is gone"
    assert {it.inputs[name] for it in decided.values()} == {None}


def test_a_log_lost_after_the_last_version(world: World) -> None:
    table(world, TILES).create_checkpoint()
    for path in log_folder(world, TILES).glob("*.json"):
        path.unlink()
    assert world.status() == ["check"] * 4
    world.calculate()
    assert world.status() == ["current"] * 4


def test_a_table_made_anew_means_hashing(world: World) -> None:
    shutil.rmtree(world.lake.path(NETWORK))
    for region in (ODD, "south"):
        new = rows(region, ONE, 1).drop_columns("date")
        write_deltalake(world.lake.path(NETWORK), new, mode="append", partition_by=["region"])
    decided = world.decide()
    assert {it.status for it in decided.values()} == {"check"}
    assert decided["south", ONE].reason == "network: the table was made anew"


def test_a_table_put_back_from_a_copy_means_hashing(world: World) -> None:
    copy = Path(world.lake.root) / "copy"
    shutil.copytree(world.lake.path(TILES), copy)
    late(world)
    world.calculate([("south", TWO)])
    shutil.rmtree(world.lake.path(TILES))
    shutil.copytree(copy, world.lake.path(TILES))
    other_partition(world)  # the same version number as of the late rows, and the same table id
    decided = world.decide()
    assert [it.status for it in decided.values()][:3] == ["current"] * 3
    verdict = decided["south", TWO]
    # The first entry still stands: of it the log tells that nothing changed. The second one must not be taken.
    assert verdict.inputs == world.digests("south", TWO)
    assert (verdict.status, content(world.lake, TILES, "south", TWO)) == ("check", [3, 13])
    assert world.entry("south", TWO).digest in verdict.known


def change_output(world: World) -> None:
    table(world, BUSES).delete(where("south", ONE))


def replace_output(world: World) -> None:
    write_deltalake(
        world.lake.path(BUSES), rows("south", ONE, 5), mode="overwrite", predicate=where("south", ONE)
    )  # fmt: skip


@pytest.mark.parametrize(("change", "told"), [(change_output, "DELETE"), (replace_output, "WRITE")])
def test_a_changed_output_is_told(world: World, change: Callable[[World], None], told: str) -> None:
    change(world)
    decided = world.decide()
    assert [it.status for it in decided.values()] == ["current", "current", "check", "current"]
    verdict = decided["south", ONE]
    assert verdict.reason == f"bus_day was changed in version {table(world, BUSES).version()} ({told})"
    assert list(verdict.known) == [world.entry("south", ONE).digest]
    assert verdict.inputs == world.digests("south", ONE)


def test_an_output_table_that_is_gone(world: World) -> None:
    shutil.rmtree(world.lake.path(BUSES))
    decided = world.decide()
    assert {it.status for it in decided.values()} == {"check"}
    assert decided["south", ONE].reason == "the lake has no table bus_day"


def test_an_output_that_another_writer_changed_before_it_was_recorded(world: World) -> None:
    late(world)
    replace_output(world)
    entry = world.entry("south", ONE)
    change_output(world)  # between the commit and the look at its version
    stale = tuple(replace(it, version=table(world, BUSES).version()) for it in entry.outputs)
    world.cache().record([replace(entry, outputs=stale)], "run 2")
    verdict = world.decide()["south", ONE]
    assert verdict.status == "check"


def test_all_is_calculated_when_asked_for(world: World) -> None:
    for verdict in world.decide(recompute=True).values():
        assert (verdict.status, verdict.reason) == ("compute", "asked for")
        assert verdict.inputs == {TILES: None, NETWORK: None}


def partial_files(world: World) -> list[Path]:
    found = pa.table(table(world, "partial").get_add_actions(flatten=True)).to_pylist()
    return [Path(world.lake.path("partial")) / unquote(row["path"]) for row in found]


def rewrite(path: Path, column: str, row: int, value: Any) -> None:
    """Changes one value of a file, as a failing disk never would, and a careless hand may."""
    held = pq.ParquetFile(path).read()
    values = held.column(column).to_pylist()
    values[row] = value(values[row])
    at = held.schema.get_field_index(column)
    pq.write_table(
        held.set_column(at, held.schema.field(column), pa.array(values, held.schema.field(column).type)), path
    )


@pytest.mark.parametrize("column", ["digest", "inputs", "outputs", "rows_out", "rejected", "manifest", "checksum"])
def test_a_row_that_does_not_fit_its_checksum_is_damaged(
    world: World, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = partial_files(world)
    rewrite(path, column, 2, lambda v: v + 1 if isinstance(v, int) else v[:-1] + chr(ord(v[-1]) ^ 1))
    decided = world.decide()
    assert [it.status for it in decided.values()].count("compute") == 1
    (verdict,) = (it for it in decided.values() if it.status == "compute")
    assert verdict.reason == "its entry in table partial is damaged"
    assert "damaged" in caplog.text
    world.calculate([(verdict.region, verdict.date)])
    assert world.status() == ["current"] * 4


def test_a_damaged_partial_is_not_given(world: World, caplog: pytest.LogCaptureFixture) -> None:
    (path,) = partial_files(world)
    rewrite(path, "figures", 1, lambda v: v[:-1] + b"?")
    cache = world.cache()
    entries = [it.entry for it in cache.decide(world.cells(), world.versions()) if it.entry]
    assert len(entries) == 4
    found = cache.content(entries)
    assert len(found) == 3
    assert "damaged" in caplog.text
    (lost,) = set(KEYS) - set(found)
    cache.forget([lost])
    assert world.decide()[lost].status == "compute"


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_a_damaged_file_takes_no_other_with_it(world: World, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    late(world)
    world.calculate([("south", TWO)])
    first = min(partial_files(world), key=lambda path: path.stat().st_mtime_ns)
    held = first.read_bytes()
    if damage == "gone":
        first.unlink()
    else:
        first.write_bytes(held[:200] if damage == "cut" else held[:-8] + b"\0\0" + held[-6:])
    decided = world.decide()
    assert [it.status for it in decided.values()] == ["compute"] * 3 + ["current"]
    assert first.name in decided["south", ONE].reason
    assert first.name in caplog.text
    world.calculate(KEYS[:3])
    assert world.status() == ["current"] * 4


def test_a_file_whose_partials_cannot_be_read_can_be_forgotten(world: World) -> None:
    late(world)
    world.calculate([("south", TWO)])
    first = min(partial_files(world), key=lambda path: path.stat().st_mtime_ns)
    group = pq.ParquetFile(first).metadata.row_group(0)
    column = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == "figures")
    held = bytearray(first.read_bytes())
    begin = min(at for at in (column.dictionary_page_offset, column.data_page_offset) if at)
    held[begin : begin + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    first.write_bytes(held)
    cache = world.cache()
    entries = [it.entry for it in cache.decide(world.cells(), world.versions()) if it.entry]
    assert len(entries) == 4
    assert list(cache.content(entries)) == [("south", TWO)]
    cache.forget(KEYS[:3])
    assert world.status() == ["compute"] * 3 + ["current"]
    world.calculate(KEYS[:3])
    assert world.status() == ["current"] * 4


def test_a_table_that_cannot_be_opened_stops_writing_only(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for path in log_folder(world, "partial").iterdir():
        path.write_text("{")
    decided = world.decide()
    assert {it.status for it in decided.values()} == {"compute"}
    assert "table partial cannot be read" in decided["south", ONE].reason
    assert "move the table's folder away" in caplog.text
    with pytest.raises(GridsinkError, match="table partial cannot be written") as caught:
        world.cache().record([world.entry("south", ONE)], "run 2")
    assert "folder away" in caught.value.remedy
    assert explain_rows(decided.values())[0]["cache"] == "miss"


def test_entries_are_forgotten_by_cell_and_fingerprint(world: World) -> None:
    new = replace(world, fingerprint=prints(v_min_pu=0.95))
    new.calculate()
    new.cache().forget([(ODD, ONE), ("south", TWO)])
    assert new.status() == ["compute", "current", "current", "compute"]
    assert all(it.known for it in world.decide().values())
    new.cache().forget([("nowhere", ONE)])


def test_the_table_is_the_declared_one_and_is_compacted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found = table(world, "partial")
    assert pa.schema(found.schema().to_arrow()).names == ARROW["partial"].names
    assert found.metadata().partition_columns == list(TABLES["partial"].partition_by)
    assert (found.protocol().min_reader_version, found.protocol().min_writer_version) == (1, 2)
    assert found.history(1)[0]["userMetadata"] == '{"run_id": "run 1"}'
    monkeypatch.setattr(partials, "MOST_FILES", 3)
    for key in KEYS:
        world.calculate([key])
    assert len(partial_files(world)) < 4
    assert world.status() == ["current"] * 4
    cache = world.cache()
    entries = [it.entry for it in cache.decide(world.cells(), world.versions()) if it.entry]
    assert cache.content(entries) == {key: world.entry(*key).figures for key in KEYS}


def test_entries_of_another_owner_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="another operator"):
        world.cache().record([replace(world.entry("south", ONE), operator="another")], "run 2")


def test_thousands_of_cells(world: World) -> None:
    one = world.entry("south", ONE)
    days = [ONE + timedelta(n) for n in range(10, 5_010)]
    empty = tuple(replace(it, files=()) for it in one.outputs)
    manifest = world.cache().manifest
    many = [
        replace(one, date=day, outputs=empty, figures=str(day).encode(), manifest=manifest) for day in days
    ]  # fmt: skip
    world.cache().record(many, "run 2")
    cache = world.cache()
    decided = cache.decide([Cell("south", day, 86_400, (), ()) for day in days], world.versions())
    assert {it.status for it in decided} == {"current"}
    some = [it.entry for it in decided[:50] if it.entry]
    assert cache.content(some) == {("south", day): str(day).encode() for day in days[:50]}
    assert world.status() == ["current"] * 4


def test_it_says_so_on_standard_logging(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        world.decide()
    assert caplog.text == ""


def some_rows(random: Random) -> pa.Table:
    return rows(*random.choice(KEYS), random.randrange(20))


def copy_away(world: World, random: Random) -> None:
    name = random.choice([TILES, NETWORK, BUSES])
    shutil.rmtree(Path(world.lake.root) / "copy" / name, ignore_errors=True)
    shutil.copytree(world.lake.path(name), Path(world.lake.root) / "copy" / name)


def put_back(world: World, random: Random) -> None:
    copies = sorted((Path(world.lake.root) / "copy").glob("*"))
    if copies:
        copy = random.choice(copies)
        shutil.rmtree(world.lake.path(copy.name))
        shutil.copytree(copy, world.lake.path(copy.name))


def lose_log(world: World, random: Random) -> None:
    name = random.choice([TILES, NETWORK, BUSES])
    table(world, name).create_checkpoint()
    commits = sorted(log_folder(world, name).glob("*.json"))
    for path in commits[: random.randrange(len(commits))]:  # without its last commit nobody can write to it
        path.unlink()


def restore(world: World, random: Random) -> None:
    name = random.choice([TILES, BUSES])
    table(world, name).restore(random.randrange(table(world, name).version() + 1))


def change_network(world: World, random: Random) -> None:
    write_deltalake(world.lake.path(NETWORK), some_rows(random).drop_columns("date"), mode="append")


EVENTS: dict[str, Callable[[World, Random], Any]] = {
    "run": lambda world, _: world.run(),
    "append": lambda world, random: write_deltalake(world.lake.path(TILES), some_rows(random), mode="append"),
    "delete": lambda world, random: table(world, TILES).delete(f"v = {random.randrange(20)}"),
    "update": lambda world, random: table(world, TILES).update(
        updates={"v": "v + 1"}, predicate=where(*random.choice(KEYS))
    ),
    "optimize": lambda world, random: table(world, random.choice([TILES, NETWORK, BUSES])).optimize.compact(),
    "vacuum": lambda world, _: table(world, TILES).vacuum(0, enforce_retention_duration=False, dry_run=False),
    "network": change_network,
    "restore": restore,
    "lose log": lose_log,
    "copy away": copy_away,
    "put back": put_back,
    "spoil output": lambda world, random: table(world, BUSES).delete(where(*random.choice(KEYS))),
    "another run": lambda world, _: replace(world, fingerprint=prints(v_min_pu=0.95)).run(),
}


# No shrinking: each step writes tables.
@hypothesis_settings(max_examples=12, phases=[Phase.generate])
@given(st.lists(st.sampled_from(["run", *EVENTS]), min_size=6, max_size=12), st.randoms(use_true_random=False))
def test_what_is_current_is_what_a_calculation_would_give(events: list[str], random: Random) -> None:
    with TemporaryDirectory() as folder:
        world = build(Path(folder))
        for event in events:
            # A version whose files were vacuumed cannot be restored, and so on: then nothing happened.
            with contextlib.suppress(DeltaError, OSError, ValueError):
                EVENTS[event](world, random)
            for key, verdict in world.decide().items():
                if verdict.status == "current":
                    assert verdict.entry is not None
                    assert verdict.entry.digest == world.entry(*key).digest
                    assert content(world.lake, BUSES, *key) == [world.result(*key)]
        world.run()
        assert world.status() == ["current"] * 4
