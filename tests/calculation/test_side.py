"""Side rows: which one a group gets, and what happens where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.algorithm.operator import Side, Unusable
from lib.calculation.located import File
from lib.calculation.side import side_rows, state
from lib.tables import ARROW

DAY = date(2016, 1, 5)
SIDE = Side("transformer", ("s_rated_kva",), ("valid_from", "valid_to"))


@dataclass(frozen=True)
class Strict:
    """What this module needs of an operator."""

    table: ClassVar[str] = "meter_day"
    columns: ClassVar[tuple[str, ...]] = ()
    group: ClassVar[tuple[str, ...]] = ("network_id", "transformer_id")
    key: ClassVar[tuple[str, ...]] = ("meter_id",)
    side: ClassVar[Side] = SIDE

    def prepare(self, side: Any) -> Any:
        return dict(side)


@dataclass(frozen=True)
class Lenient(Strict):
    side: ClassVar[Side] = Side("transformer", ("s_rated_kva",), ("valid_from", "valid_to"), optional=True)


def write(path: Path, *transformers: str) -> tuple[File, ...]:
    rows = [
        {"transformer_id": it, "network_id": "n", "s_rated_kva": 250.0, "valid_from": date(2016, 1, 1)}
        for it in transformers
    ]
    schema = pa.schema([f for f in ARROW["transformer"] if f.name != "region"])
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return (File(path.name, path.stat().st_size, len(rows)),)


def found(operator: Any, root: Path, files: tuple[File, ...], transformer: str | None, day: date = DAY) -> Any:
    return state(operator, side_rows(operator, str(root), files), ("n", transformer), day)


def test_a_group_without_a_row_is_unusable_unless_the_side_is_optional(tmp_path: Path) -> None:
    files = write(tmp_path / "a.parquet", "t1")
    row = {"network_id": "n", "transformer_id": "t1", "s_rated_kva": 250.0}
    for operator in (Strict(), Lenient()):
        assert row.items() <= found(operator, tmp_path, files, "t1").items()
    for transformer, day in ((None, DAY), ("t2", DAY), ("t1", date(2015, 12, 31))):
        with pytest.raises(Unusable, match="has no row for"):
            found(Strict(), tmp_path, files, transformer, day)
        assert found(Lenient(), tmp_path, files, transformer, day) == {}


def test_two_rows_and_a_damaged_file_are_unusable_all_the_same(tmp_path: Path) -> None:
    twice = write(tmp_path / "twice.parquet", "t1", "t1")
    with pytest.raises(Unusable, match="2 rows"):
        found(Lenient(), tmp_path, twice, "t1")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nonsense PAR1")
    damaged = (*write(tmp_path / "good.parquet", "t1"), File("bad.parquet", 17, 1))
    assert found(Lenient(), tmp_path, damaged, "t1")["s_rated_kva"] == 250.0
    with pytest.raises(Unusable, match="cannot be read"):
        found(Lenient(), tmp_path, damaged, "t2")


def test_a_row_that_appears_changes_digest_and_state(tmp_path: Path) -> None:
    before, after = write(tmp_path / "before.parquet", "t1"), write(tmp_path / "after.parquet", "t1", "t2")
    operator = Lenient()
    digests = [side_rows(operator, str(tmp_path), files).digest(DAY) for files in (before, after)]  # type: ignore[union-attr]
    assert None not in digests
    assert digests[0] != digests[1]
    assert found(operator, tmp_path, before, "t2") == {}
    assert found(operator, tmp_path, after, "t2")["s_rated_kva"] == 250.0
    assert found(operator, tmp_path, before, "t2") == {}
