from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.ingest.files import landed, problem_of, rows
from lib.setting_groups import SourceSettings
from lib.tables.bronze import FEEDS
from tests.ingest.landings import encoded

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
    columns = {"meter_id": ["m"], "date": ["2016-01-05"], "register": ["p_kw"], "values": [[1.5, None, 2.25]]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    typed = pa.table(columns | {"register": pa.array(["p_kw"]).dictionary_encode()})
    pq.write_table(typed, tmp_path / "b.parquet")
    (tmp_path / "a.jsonl").write_text(json.dumps({name: values[0] for name, values in columns.items()}) + "\n")
    found = [read(tmp_path / name, CURVES) for name in ("a.parquet", "b.parquet", "a.jsonl")]
    assert found[0][0]["values"] == "[1.5, null, 2.25]"
    assert found[0] == found[1] == found[2]


def test_lists_of_numbers_become_json_value_for_value(tmp_path: Path) -> None:
    lists = [[0.1, None, -2.0, 1e-7, 123456.789], None, [], [float("nan"), 3.0, float("inf")]]
    for kind in (pa.float64(), pa.float32()):
        table = pa.table({"meter_id": list("abcd"), "date": ["x"] * 4, "register": ["y"] * 4})
        pq.write_table(table.append_column("values", pa.array(lists, pa.list_(kind))), tmp_path / "a.parquet")
        found = [it["values"] and json.loads(str(it["values"])) for it in read(tmp_path / "a.parquet", CURVES)]
        assert found[1:] == [None, [], [None, 3.0, None]]
        assert found[0][1] is None
        assert found[0][::2] == pytest.approx(lists[0][::2], rel=1e-7)  # type: ignore[index]


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


KINDS = ("csv", "csv.gz", "jsonl", "jsonl.gz", "parquet")
ROWS = [{"meter_id": f"m{k}", "ts": "2016-01-05", "register": "p_kw", "value": 1.5} for k in range(300)]


def written(folder: Path, kind: str, rows: list[dict[str, object]], cut: int = 0) -> Path:
    path = folder / f"a.{kind}"
    data = encoded(path.name, rows)
    path.write_bytes(data[: len(data) - cut])
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_whole_cut_empty_or_lack_a_column(tmp_path: Path, kind: str) -> None:
    whole = written(tmp_path, kind, ROWS)
    assert problem_of(whole, READINGS, PLAIN) is None
    assert [(row["meter_id"], row["value"], row["damage"]) for row in read(whole, READINGS)] == [
        (row["meter_id"], "1.5", None) for row in ROWS
    ]
    cut = written(tmp_path, kind, ROWS, cut=20 if "gz" in kind or kind == "parquet" else 12)
    problem = problem_of(cut, READINGS, PLAIN)
    if kind in ("csv", "jsonl"):  # whole rows of a text file are used
        assert problem is None
        *good, last = read(cut, READINGS)
        assert (len(good), bool(last["damage"])) == (299, True)
    else:
        assert problem is not None
        assert problem[0].startswith("the file is truncated")
    path = tmp_path / f"b.{kind}"
    path.touch()
    assert problem_of(path, READINGS, PLAIN) == (
        "the file is empty", "send it again; a file without rows has its header line",
    )  # fmt: skip
    lacking = written(tmp_path, kind, [{k: v for k, v in row.items() if k != "register"} for row in ROWS])
    problem = problem_of(lacking, READINGS, PLAIN)
    if "jsonl" in kind:  # each line has columns of its own
        assert {row["register"] for row in read(lacking, READINGS)} == {None}
    else:
        assert problem is not None
        assert problem[0].startswith("column register is missing")


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_another_type_or_encoding_are_told_row_by_row_or_file_by_file(tmp_path: Path, kind: str) -> None:
    drifted = written(tmp_path, kind, [{**row, "value": "much" if k == 7 else "1.5"} for k, row in enumerate(ROWS)])
    assert problem_of(drifted, READINGS, PLAIN) is None
    assert [row["value"] for row in read(drifted, READINGS)][6:9] == ["1.5", "much", "1.5"]
    path = tmp_path / f"b.{kind}"
    if kind == "parquet":
        columns = {name: [row[name] for row in ROWS] for name in ROWS[0]} | {
            "meter_id": ["Stö".encode("latin-1")] * 300
        }
        pq.write_table(pa.table(columns), path)
        assert [bool(row["damage"]) for row in read(path, READINGS)] == [True]
        return
    data = encoded(path.name.removesuffix(".gz"), ROWS).replace(b"m299", "ö".encode("latin-1"))
    path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    problem = problem_of(path, READINGS, PLAIN)
    assert problem is not None
    assert "byte 0xf6" in problem[0]


def test_a_header_alone_is_a_file_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("meter_id,ts,register,value\n")
    assert problem_of(path, READINGS, PLAIN) is None
    assert read(path, READINGS) == []


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
