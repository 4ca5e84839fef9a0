"""Rows by key from files, a row group at a time."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.calculation.located import File
from lib.calculation.rows import Corrupt, FileRows
from lib.calculation.storage import filesystem

ROWS = [("b", 0, b"b0"), ("a", 0, b"a0"), ("a", 1, b"a1"), ("b", 1, b"b1"), ("a", 2, b"a2")]


def table(rows: list[tuple[str, int, bytes]]) -> pa.Table:
    return pa.table({"g": [r[0] for r in rows], "k": [r[1] for r in rows], "x": [r[2] for r in rows]})


def rows_in(root: Path, *names: str) -> FileRows:
    files = [File(name, (root / name).stat().st_size if (root / name).exists() else 1, 5) for name in names]
    return FileRows(filesystem(str(root)), files, ("g",), ("g", "k", "x", "later"), ("k",))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_groups_come_whole_whatever_the_row_groups(tmp_path: Path, size: int) -> None:
    pq.write_table(table(ROWS[:3]), tmp_path / "1.parquet", row_group_size=size)
    pq.write_table(table(ROWS[3:]), tmp_path / "2.parquet", row_group_size=size)
    source = rows_in(tmp_path, "1.parquet", "2.parquet")
    index = source.index()
    assert list(index) == [("a",), ("b",)]
    for (group,), places in index.items():
        read = pa.concat_tables([source.read(place) for place, _ in places])
        assert read.column("x").to_pylist() == [x for g, _, x in ROWS if g == group]
        assert read.column("later").null_count == read.num_rows  # a column added after these files
    assert source.rows_found == 5
    assert source.bytes_read > 0
    assert not source.corrupt


def test_row_groups_of_scattered_groups_are_read_once_as_long_as_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("1.parquet", "2.parquet"):
        pq.write_table(table(ROWS), tmp_path / name)

    def read() -> int:
        source = rows_in(tmp_path, "1.parquet", "2.parquet")
        index = source.index()
        source.bytes_read = 0
        for places in index.values():
            assert sum(source.read(place).num_rows for place, _ in places) in (4, 6)
        return source.bytes_read

    once = read()
    monkeypatch.setattr("lib.calculation.rows.KEPT_BYTES", 1)
    assert read() == 2 * once  # two groups in each of two files


def test_a_corrupt_file_counts_its_rows_and_spares_the_others(tmp_path: Path) -> None:
    pq.write_table(table(ROWS), tmp_path / "good.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nonsense PAR1")
    source = rows_in(tmp_path, "bad.parquet", "good.parquet")
    assert sum(len(place.rows) for places in source.index().values() for place, _ in places) == 5
    (bad,) = source.corrupt
    assert isinstance(bad, Corrupt)
    assert (bad.file.path, bad.rows) == ("bad.parquet", 5)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.parquet"):
        rows_in(tmp_path, "gone.parquet").index()
