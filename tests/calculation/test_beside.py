"""Rows of a second table: which ones a group gets, in which order, and what happens where a file is damaged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.algorithm.operator import Beside, inputs
from lib.calculation.beside import BesideRows, beside_rows
from lib.calculation.located import File
from lib.calculation.rows import Corrupt
from lib.tables import ARROW


@dataclass(frozen=True)
class Reader:
    """What this module needs of an operator."""

    table: ClassVar[str] = "snapshot_tile"
    columns: ClassVar[tuple[str, ...]] = ()
    group: ClassVar[tuple[str, ...]] = ("network_id", "network_version")
    key: ClassVar[tuple[str, ...]] = ("first_slot",)
    side: ClassVar[None] = None
    beside: ClassVar[Beside] = Beside("telemetry_day", ("value", "ts"), ("network_id",), ("point_id",))


def write(folder: Path, name: str, *points: tuple[str, str, list[float]]) -> File:
    rows = [{"network_id": network, "point_id": it, "value": values} for network, it, values in points]
    schema = pa.schema([f for f in ARROW["telemetry_day"] if f.name not in ("region", "date", "ts")])
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / name)
    return File(name, (folder / name).stat().st_size, len(rows))


def found(rows: BesideRows, network: str) -> list[dict[str, Any]]:
    return rows.of({"network_id": network, "network_version": 3}).select(["point_id", "value"]).to_pylist()


def test_a_group_gets_its_rows_in_order_however_they_lie(tmp_path: Path) -> None:
    a, b, c = ("n", "a", [1.0]), ("n", "b", [2.0, 3.0]), ("m", "c", [4.0])
    one = beside_rows(Reader(), str(tmp_path), (write(tmp_path, "1", c, a, b),))
    two = beside_rows(Reader(), str(tmp_path), (write(tmp_path, "2", b), write(tmp_path, "3", a, c)))
    assert one is not None
    assert two is not None
    for rows in (one, two):
        assert found(rows, "n") == [{"point_id": "a", "value": [1.0]}, {"point_id": "b", "value": [2.0, 3.0]}]
        assert found(rows, "m") == [{"point_id": "c", "value": [4.0]}]
        assert found(rows, "x") == []
        # a column that the files do not have yet
        assert rows.of({"network_id": "n"})["ts"].null_count == 2
    assert one.digest() == two.digest() is not None
    other = beside_rows(Reader(), str(tmp_path), (write(tmp_path, "4", c, a),))
    assert other is not None
    assert other.digest() != one.digest()


def test_no_files_are_no_rows(tmp_path: Path) -> None:
    rows = beside_rows(Reader(), str(tmp_path), ())
    assert rows is not None
    assert rows.of({"network_id": "n"}).num_rows == 0
    assert rows.of({"network_id": "n"}).schema.names == list(inputs(Reader())["telemetry_day"])


def test_a_damaged_file_is_told_and_gives_no_digest(tmp_path: Path) -> None:
    good = write(tmp_path, "good", ("n", "a", [1.0]))
    (tmp_path / "bad").write_bytes(b"PAR1 nonsense PAR1")
    rows = beside_rows(Reader(), str(tmp_path), (good, File("bad", 18, 1)))
    assert rows is not None
    assert rows.digest() is None
    with pytest.raises(Corrupt):
        rows.of({"network_id": "n"})
