"""What table `partial` gives back where it is whole, damaged or gone."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.analysis import partials
from lib.analysis.cache import explain_rows
from lib.calculation.located import Cell
from lib.errors import GridsinkError
from lib.tables import ARROW, TABLES
from tests.analysis.worlds import (
    KEYS,
    ODD,
    ONE,
    TWO,
    World,
    late,
    log_folder,
    prints,
    table,
)


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
