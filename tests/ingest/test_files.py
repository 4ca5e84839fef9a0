from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.ingest.files import landed, problem_of, rows
from lib.setting_groups import SourceSettings
from lib.tables.bronze import FEEDS

ALARMS, READINGS, CURVES, CUSTOMERS = (FEEDS[name] for name in ("alarms", "readings", "curves", "customers"))
PLAIN = SourceSettings()


def read(path: Path, feed: object = ALARMS, source: SourceSettings = PLAIN) -> list[dict[str, object]]:
    return [row for batch in rows(path, feed, source) for row in batch.to_pylist()]  # type: ignore[arg-type]


def test_encoding_separator_and_names_of_the_source_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("CONS_NO;METER;valid_from;name;note\n台区1;m1;2015-01-01;王;x\n".encode("gb18030"))
    source = SourceSettings(encoding="gb18030", separator=";", rename={"CONS_NO": "customer_id", "METER": "meter_id"})
    assert problem_of(path, CUSTOMERS, source) is None
    (row,) = read(path, CUSTOMERS, source)
    assert (row["customer_id"], row["meter_id"], row["phase"]) == ("台区1", "m1", None)
    assert json.loads(str(row["extra"])) == {"note": "x"}
    assert "王" not in str(row)
    problem = problem_of(path, CUSTOMERS, PLAIN)
    assert problem is not None
    assert problem[0].startswith("line 2 is not utf-8")


def test_quotes_lines_within_them_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfcode,device_id,network_id,ts,text\nX,d,n,t,"one\ntwo, ""three"""\nY,d,n,t,\n')
    assert problem_of(path, ALARMS, PLAIN) is None
    found = read(path)
    assert [(row["line"], row["code"], row["text"]) for row in found] == [(1, "X", 'one\ntwo, "three"'), (2, "Y", None)]


def test_lines_are_counted_past_damaged_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("code,device_id,network_id,ts\nA,d,n,t\nB,d\nC,d,n,t\nD,d,n,t,u,v\nE,d,n,t\n")
    found = {row["line"]: row for row in read(path)}
    assert {line: row["code"] for line, row in found.items()} == {1: "A", 2: None, 3: "C", 4: None, 5: "E"}
    assert [line for line, row in found.items() if row["damage"]] == [2, 4]
    assert found[4]["damage"] == "the row has 6 fields, the header 4"


def test_a_quote_that_never_ends_leaves_a_row_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('code,device_id,network_id,ts\nA,d,n,t\nB,"d,n,t\n')
    found = read(path)
    assert any(row["damage"] for row in found)
    assert {row["code"] for row in found} <= {"A", None}


def test_parquet_of_any_types_and_objects_become_the_same_texts(tmp_path: Path) -> None:
    columns = {"meter_id": ["m"], "date": ["2016-01-05"], "register": ["p_kw"], "values": [[1.5, None, 2.0]]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    typed = pa.table(columns | {"register": pa.array(["p_kw"]).dictionary_encode()})
    pq.write_table(typed, tmp_path / "b.parquet")
    (tmp_path / "a.jsonl").write_text(json.dumps({name: values[0] for name, values in columns.items()}) + "\n")
    found = [read(tmp_path / name, CURVES) for name in ("a.parquet", "b.parquet", "a.jsonl")]
    assert found[0][0]["values"] == "[1.5, null, 2.0]"
    assert found[0] == found[1] == found[2]


def test_a_line_that_is_no_object_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"code": "A"}\n\n[1]\n{"code"')
    found = read(path)
    assert [(row["line"], row["code"]) for row in found] == [(1, "A"), (3, None), (4, None)]
    assert [str(row["damage"])[:16] for row in found] == ["None", "the line is no J", "the line is no J"]


def test_columns_that_lack_or_come_twice_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("meter_id,ts,ZEIT,value\n")
    source = SourceSettings(rename={"ZEIT": "ts"})
    assert problem_of(path, READINGS, source) == (
        "column ts comes twice", "mend the file or ingest.sources.meters.rename",
    )  # fmt: skip
    problem = problem_of(path, READINGS, PLAIN)
    assert problem is not None
    assert problem[0] == "column register is missing; there are meter_id, ts, ZEIT, value"


@pytest.mark.parametrize("name", ["readings-2016.csv", "alarms-20160101T000000Z.csv", "readings-20160101T000000Z.xlsx"])
def test_names_that_say_nothing_are_a_problem_and_hidden_files_are_not_seen(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "north" / "meters"
    folder.mkdir(parents=True)
    for each in (name, "_readings-20160101T000000Z.csv", ".x", "readings-20160101T000000Z-0003.csv.gz"):
        (folder / each).touch()
    found = {Path(it.path).name: it for it in landed(tmp_path, ["north", "south"], ["meters", "alarms"])}
    assert set(found) == {name, "readings-20160101T000000Z-0003.csv.gz"}
    assert found[name].problem
    good = found["readings-20160101T000000Z-0003.csv.gz"]
    assert (good.problem, good.feed, good.received) == (None, "readings", "20160101T000000Z")
