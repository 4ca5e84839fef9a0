from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lib.errors import GridsinkError
from lib.ingest.maintain import maintain
from lib.tables import Lake
from lib.tables.quality import Quality
from tests.ingest.landings import REGION, customers, encoded, put, run_load, slot_ends, table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY = date(2016, 1, 5)
SENT = "20160106T021500Z"
LATIN = "device_id,network_id,ts,code\nd,n,2016-01-05,Stö\n".encode("latin-1")
LATER = "20160107T021500Z"
SILVER = (
    "meter_day", "meter_connection", "transformer", "outage", "alarm", "switch_state", "telemetry_day", "quarantine",
)  # fmt: skip


def readings(meter: str, values: list[Any], register: str = "import_kwh", **more: Any) -> list[dict[str, Any]]:
    return [
        {"meter_id": meter, "ts": ts, "register": register, "value": value, **more}
        for ts, value in zip(slot_ends(DAY), values, strict=False)
    ]


@pytest.fixture(scope="module")
def loaded(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """All sources, whole files and damaged ones, loaded once."""
    root = tmp_path_factory.mktemp("load")
    gone = {**customers("gone")[0], "valid_to": "2016-01-05"}
    put(root, "customers", f"customers-{SENT}.csv", [*customers("m1", "m2", "m3", "silent"), gone])
    put(root, "assets", f"transformers-{SENT}.csv", [
        {"transformer_id": "t1", "network_id": "n1", "s_rated_kva": 250, "gate_meter_id": "g1", "area_type": "rural"},
        {"transformer_id": "t2", "network_id": "n1", "s_rated_kva": "many", "gate_meter_id": "", "area_type": "rural"},
    ])  # fmt: skip
    put(root, "meters", f"devices-{SENT}.csv", [
        {"meter_id": "g1", "device_id": "d1", "valid_from": "2015-01-01T00:00:00+01:00", "ct_ratio": 40, "use": "gate"},
    ])  # fmt: skip
    good = readings("m1", [0.25] * 96, colour="red")
    odd: list[dict[str, Any]] = [
        good[0],  # the same again
        {**good[1], "value": 0.5},  # contradicts the row above in the same file
        {**good[2], "meter_id": "nobody"},
        {**good[3], "unit": "furlong"},
        {**good[4], "ts": "soon"},
        {**good[5], "ts": "2999-01-01T00:00:00Z"},
        {**good[6], "value": "abc"},
        {**good[7], "register": "mood"},
        {**good[8], "ts": "2016-01-05T00:20:00+01:00"},
    ]
    put(root, "meters", f"readings-{SENT}-1.csv", [*good, *odd])
    put(root, "meters", f"readings-{SENT}-copy.csv", encoded("x.csv", [*good, *odd]))
    values = [0.5] * 96
    put(root, "meters", f"curves-{SENT}.jsonl.gz", [
        {"meter_id": "g1", "date": "2016-01-05", "register": "import_kwh", "values": values, "unit": "kWh"},
        {"meter_id": "m2", "date": "2016-01-05", "register": "import_kwh", "values": [500.0] * 96, "unit": "Wh"},
        {"meter_id": "m3", "date": "2016-01-05", "register": "import_kwh", "values": [1, 2]},
    ])  # fmt: skip
    put(root, "meters", f"readings-{SENT}-2.parquet", readings("m3", [230.5] * 96, "u_v", phase="A"))
    put(root, "meters", f"events-{SENT}.jsonl", [
        {"meter_id": "m3", "ts": "2016-01-05T14:30:02+01:00", "event": "last_gasp"},
    ])  # fmt: skip
    # damaged files
    put(root, "meters", f"readings-{SENT}-empty.csv", b"")
    put(root, "meters", f"readings-{SENT}-cut.csv.gz", encoded("x.csv.gz", good)[:-40])
    put(root, "meters", f"readings-{SENT}-cut.parquet", encoded("x.parquet", good)[:-40])
    put(root, "meters", f"readings-{SENT}-columns.csv", b"meter_id,ts,value\nm1,2016-01-05T00:15:00+01:00,1\n")
    put(root, "meters", "whatever.csv", b"a,b\n1,2\n")
    put(
        root,
        "alarms",
        f"alarms-{SENT}-latin.csv",
        "device_id,network_id,ts,code\nd,n,2016-01-05,Stö\n".encode("latin-1"),
    )
    put(root, "meters", f"readings-{SENT}-rows.csv", encoded("x.csv", readings("m2", [0.1]) * 1) + b"m2,2016-01-05\n")
    drifted = readings("m2", ["0.25", "much"], "q_kvar")
    put(root, "meters", f"readings-{SENT}-drift.parquet", drifted)
    put(root, "meters", f"readings-{SENT}-copy.parquet", encoded("x.parquet", drifted))
    lacking = [{name: row[name] for name in ("meter_id", "ts", "value")} for row in drifted]
    put(root, "meters", f"readings-{SENT}-columns.parquet", lacking)
    # other systems
    put(root, "alarms", f"alarms-{SENT}.jsonl", (
        b'{"device_id": "t1", "network_id": "n1", "ts": "2016-01-05T14:30:02", "code": "SUPPLY_LOST"}\n'
        + b'{"device_id": "t1", "netw'
    ))  # fmt: skip
    put(root, "switches", f"switches-{SENT}.csv", [
        {"switch_id": "s1", "network_id": "n1", "ts": "2016-01-05T10:00:00+01:00", "closed": "true", "element": 4},
        {"switch_id": "s1", "network_id": "n1", "ts": "2016-01-05T11:00:00+01:00", "closed": "perhaps", "element": 4},
    ])  # fmt: skip
    put(root, "outages", f"outages-{SENT}.csv", [
        {"outage_id": "o1", "network_id": "n1", "transformer_id": "t1", "start_ts": "2016-01-05T14:31:00+01:00",
         "end_ts": "", "reported_ts": "", "cause": "fault"},
    ])  # fmt: skip
    put(root, "outages", f"outages-{LATER}.csv", [
        {"outage_id": "o1", "network_id": "n1", "transformer_id": "t1", "start_ts": "2016-01-05T14:31:00+01:00",
         "end_ts": "2016-01-05T16:02:00+01:00", "reported_ts": "", "cause": "fault"},
    ])  # fmt: skip
    put(root, "telemetry", f"telemetry-{SENT}.jsonl", [
        {"point_id": "p1", "network_id": "n1", "element_type": "trafo", "element": 0, "side": "hv",
         "measurement_type": "p", "ts": f"2016-01-05T00:{minute}:00+01:00", "value": value, "unit": "kW"}
        for minute, value in ((30, 2000), (15, 1000))
    ])  # fmt: skip
    result, context = run_load(spark, root)
    return root, result, context


def lake_of(root: Path) -> Lake:
    return Lake(f"{root}/lake")


def days_of(root: Path) -> dict[str, dict[str, Any]]:
    return {row["meter_id"]: row for row in table(lake_of(root), "meter_day")}


def test_every_row_is_accounted_for(loaded: Any) -> None:
    _, result, context = loaded
    feeds = {row["feed"]: row for row in result.tables["rows"]}
    for row in feeds.values():
        ends = ("rows_out", "rows_quarantined", "rows_duplicate", "rows_superseded")
        assert row["rows_in"] == sum(row[name] for name in ends), row
    # 96 + 9 by hand, 96 voltages, a row and a damaged one, two of drifted type, three curves, an event
    assert feeds["readings"]["rows_in"] == 105 + 96 + 2 + 2 + 3 + 1
    assert feeds["readings"]["rows_duplicate"] == 1
    # of the odd rows, the cut one, the short curve, the drifted one
    assert feeds["readings"]["rows_quarantined"] == 8 + 1 + 1 + 1
    assert feeds["outages"]["rows_superseded"] == 1
    assert context.counts["files_refused"] == 7
    assert context.counts["files_known"] == 2


def test_both_forms_give_days_at_the_primary_side(loaded: Any) -> None:
    root, _, _ = loaded
    days = days_of(root)
    assert set(days) == {"g1", "m1", "m2", "m3", "silent"}
    assert days["m1"]["import_wh"] == [250, 500] + [250] * 94
    assert days["m1"]["p_kw"] == [1.0, 2.0] + [1.0] * 94
    assert days["g1"]["import_wh"] == [20_000] * 96
    assert (days["g1"]["transformer_id"], days["g1"]["is_gate"], days["m1"]["is_gate"]) == ("t1", True, False)
    assert (days["m1"]["transformer_id"], days["m1"]["network_id"], days["m1"]["phase"]) == ("t1", "n1", "A")
    assert days["m2"]["q_kvar"][:2] == [0.25, None]  # the other one is of a drifted type
    assert days["m3"]["u_a_v"] == [230.5] * 96
    assert days["m3"]["import_wh"] is None
    assert days["m3"]["last_gasps"] == [datetime(2016, 1, 5, 13, 30, 2, tzinfo=UTC)]
    assert set(days["m3"]["u_quality"]) == {Quality.SUSPECT}  # the same voltage all day


def test_a_connected_meter_without_a_reading_has_a_day_without_values(loaded: Any) -> None:
    root, _, _ = loaded
    row = days_of(root)["silent"]
    told = {"region": REGION, "date": DAY, "meter_id": "silent", "network_id": "n1", "transformer_id": "t1"}
    told |= {"is_gate": False, "phase": "A", "interval_s": 900, "slots": 96, "readings": 0}
    assert row == dict.fromkeys(row) | told


def test_what_is_refused_is_said_with_file_and_line(loaded: Any) -> None:
    root, _, _ = loaded
    found = [(row["table"], row["reason"], row["key"]) for row in table(lake_of(root), "quarantine")]
    for feed, reason, where in [
        ("readings", "a later row of the same file says otherwise", '"line": 2'),
        ("readings", "in no record of customers, transformers, networks or devices: nobody", '"rows": 1'),
        ("readings", "unknown unit: furlong", '"line": 100'),
        ("readings", "ts is no time of the accepted range: soon", '"line": 101'),
        ("readings", "ts is no time of the accepted range: 2999", '"line": 102'),
        ("readings", "value is no number: abc", '"line": 103'),
        ("readings", "unknown register: mood", '"line": 104'),
        ("readings", "ts is not the end of a quarter-hour", '"line": 105'),
        ("readings", "values has 2 elements, the day has 96", '"line": 3'),
        ("readings", "the row has 2 fields, the header", '"line": 2'),
        ("readings", "value is no number: much", '"line": 2'),
        ("alarms", "the line is no JSON", '"line": 2'),
        ("switches", "closed is neither true nor false: perhaps", '"line": 2'),
        ("transformers", "s_rated_kva is no number: many", '"line": 2'),
        ("landing_file", "the file is empty", "-empty.csv"),
        ("landing_file", "the file is truncated", "-cut.csv.gz"),
        ("landing_file", "the file is truncated", "-cut.parquet"),
        ("landing_file", "column register is missing", "-columns.csv"),
        ("landing_file", "column register is missing", "-columns.parquet"),
        ("landing_file", "line 2 is not utf-8-sig: byte 0xf6", "-latin.csv"),
        ("landing_file", "the file's name does not say what it holds", "whatever.csv"),
    ]:
        assert any(f == feed and reason in r and where in k for f, r, k in found), (feed, reason, where, found)


def test_other_systems_are_loaded(loaded: Any) -> None:
    root, _, _ = loaded
    lake = lake_of(root)
    assert [row["ts"] for row in table(lake, "alarm")] == [datetime(2016, 1, 5, 13, 30, 2, tzinfo=UTC)]
    assert [(row["closed"], row["element"]) for row in table(lake, "switch_state")] == [(True, 4)]
    (outage,) = table(lake, "outage")
    assert outage["end_ts"] == datetime(2016, 1, 5, 15, 2, tzinfo=UTC)
    assert outage["date"] == DAY
    (point,) = table(lake, "telemetry_day")
    assert (point["unit"], point["value"]) == ("MW", [1.0, 2.0])
    (transformer,) = table(lake, "transformer")
    assert (transformer["s_rated_kva"], transformer["gate_meter_id"]) == (250.0, "g1")


def test_extra_columns_are_kept_and_names_of_persons_are_not(loaded: Any) -> None:
    root, _, _ = loaded
    lake = lake_of(root)
    assert {row["extra"] for row in table(lake, "readings") if row["meter_id"] == "m1"} == {'{"colour": "red"}'}
    assert not any("Mustermann" in str(row) for row in table(lake, "customers"))


def test_loading_again_and_making_days_again_leave_equal_tables(spark: SparkSession, loaded: Any) -> None:
    root, _, _ = loaded
    lake = lake_of(root)
    before = {name: table(lake, name) for name in (*SILVER, "readings", "landing_file")}
    versions = {name: lake.snapshot(name).version() for name in SILVER if name != "quarantine"}
    result, context = run_load(spark, root)
    assert context.counts["files_in"] == 0
    assert result.tables["rows"] == []
    assert {name: lake.snapshot(name).version() for name in versions} == versions
    run_load(spark, root, first=datetime(2016, 1, 5), last=datetime(2016, 1, 5))
    assert {name: table(lake, name) for name in before} == before


def test_an_unknown_region_source_and_landing_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(GridsinkError, match="there is no landing folder"):
        run_load(spark, tmp_path)
    with pytest.raises(GridsinkError, match="there is no region mars"):
        run_load(spark, tmp_path, regions=("mars",))
    with pytest.raises(GridsinkError, match="there is no source gossip"):
        run_load(spark, tmp_path, sources=("gossip",))
    assert REGION == "north"


def test_late_and_corrected_files_change_the_days_that_they_touch_and_files_are_joined(
    spark: SparkSession, tmp_path: Path
) -> None:
    def curve(day: str, value: float, **more: Any) -> dict[str, Any]:
        values = [value + k / 1000 for k in range(96)]
        return {"meter_id": "m1", "date": day, "register": "import_kwh", "values": values} | more

    gap = curve("2016-01-12", 0.3)
    gap["values"][20:30] = [None] * 10
    put(tmp_path, "customers", f"customers-{SENT}.csv", customers("m1"))
    put(tmp_path, "meters", "curves-20160113T000000Z.jsonl", [gap])
    put(tmp_path, "meters", "curves-20160114T000000Z.jsonl", [curve("2016-01-05", 0.1)])  # fills the gap a week later
    run_load(spark, tmp_path)
    _, last = table(lake_of(tmp_path), "meter_day")
    assert last["import_wh"][20:30] == [120 + k for k in range(10)]
    put(tmp_path, "meters", "curves-20160115T000000Z.jsonl", [curve("2016-01-05", 0.2)])
    _, context = run_load(spark, tmp_path)
    assert context.counts["rows_superseded"] == 1
    first, last = table(lake_of(tmp_path), "meter_day")
    assert first["import_wh"][20:22] == [220, 221]
    assert set(first["import_quality"]) == {Quality.CORRECTED}
    assert last["import_wh"][20:30] == [220 + k for k in range(10)]
    assert set(last["import_quality"][20:30]) == {Quality.LAST_WEEK}

    before = table(lake_of(tmp_path), "curves")
    found = {row["table"]: row for row in maintain(spark, lake_of(tmp_path), ["curves"], 24)}
    assert found["bronze.curves"] == {"table": "bronze.curves", "files_joined": 2, "files_made": 1}
    assert table(lake_of(tmp_path), "curves") == before


def test_a_retention_that_a_run_may_outlast_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(GridsinkError, match="at least"):
        list(maintain(spark, Lake(str(tmp_path)), [], 1))
    with pytest.raises(GridsinkError, match="there is no table wishes"):
        list(maintain(spark, Lake(str(tmp_path)), ["wishes"], 24))
