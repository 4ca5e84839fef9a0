from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa

from lib.ingest.devices import DEVICES
from lib.ingest.meters import day_rows
from lib.ingest.places import PLACES, placed_rows
from lib.ingest.readings import READINGS
from lib.ingest.span import Span
from lib.setting_groups import RuleSettings
from tests.ingest.test_meters import ZONE, curve, reading

DAY = date(2016, 10, 29)
NEXT = DAY + timedelta(days=1)  # of 100 slots


def place(meter: str, transformer: str | None, since: date, until: date | None = None, **more: Any) -> dict[str, Any]:
    row = {"meter_id": meter, "network_id": "n", "transformer_id": transformer, "phase": "A", "is_gate": False}
    return row | {"valid_from": since, "valid_to": until} | more


def placed(rows: list[dict[str, Any]], places: list[dict[str, Any]], devices: tuple[str, ...] = ()) -> dict[Any, Any]:
    """Rows of DAY and NEXT by meter and day."""
    readings, span = pa.Table.from_pylist(rows, schema=READINGS), Span.around([DAY, NEXT], ZONE)
    hung = pa.Table.from_pylist([{"meter_id": meter, "from_us": 0} for meter in devices], schema=DEVICES)
    made = day_rows(readings, hung, span, RuleSettings())
    found = placed_rows(made, readings, hung, pa.Table.from_pylist(places, schema=PLACES), span).to_pylist()
    assert len({(row["meter_id"], row["date"], row["kind"]) for row in found}) == len(found)
    return {(row["meter_id"], row["date"]): row for row in found if row["kind"] == "day"}


def test_a_meter_is_where_the_record_of_the_day_says() -> None:
    values = [0.5] * 100
    rows = [curve(DAY, values[:96]), curve(NEXT, values, line=2)]
    always = date(2015, 1, 1)
    moved = placed(rows, [place("m", "t1", always, NEXT), place("m", "t2", NEXT)])
    assert [moved["m", day]["transformer_id"] for day in (DAY, NEXT)] == ["t1", "t2"]
    both = [place("m", "t1", always), place("m", "t2", DAY), place("m", "t0", always, is_gate=True, phase="ABC")]
    gate = placed(rows, both)["m", DAY]
    assert (gate["transformer_id"], gate["is_gate"], gate["phase"]) == ("t0", True, "ABC")
    assert placed(rows, both[:2])["m", DAY]["transformer_id"] == "t2"  # the latest
    infeed = placed(rows, [place("m", None, always, is_gate=True)])["m", DAY]
    assert (infeed["network_id"], infeed["transformer_id"], infeed["is_gate"]) == ("n", None, True)


def test_a_connected_meter_has_a_row_of_each_day_and_others_only_with_readings() -> None:
    rows = [curve(DAY, [0.5] * 96)]
    found = placed(rows, [place("silent", "t1", NEXT), place("gone", "t1", DAY - timedelta(days=9), DAY)])
    assert set(found) == {("m", DAY), ("silent", NEXT)}
    row = found["silent", NEXT]
    told = {"known": True, "readings": 0, "slots": 100, "interval_s": 900, "import_wh": None, "transformer_id": "t1"}
    assert {name: row[name] for name in told} == told
    stranger = found["m", DAY]
    assert (stranger["known"], stranger["transformer_id"], stranger["is_gate"]) == (False, None, False)
    assert placed(rows, [], devices=("m",))["m", DAY]["known"]
    assert placed(rows, [place("m", "t1", NEXT)])["m", DAY]["known"]  # though not on that day
    assert set(placed([], [place("silent", "t1", DAY)])) == {("silent", DAY), ("silent", NEXT)}


def test_last_gasps_are_told_once_and_in_order() -> None:
    instants = [datetime(2016, 10, 29, hour, tzinfo=UTC) for hour in (15, 9, 15)]
    empty = {"values": [], "quality": []}
    rows = [
        reading(DAY, 0, 0.0, register="event", phase="last_gasp", line=k)
        | empty
        | {"end_slot": int(at.timestamp()) * 1_000_000}
        for k, at in enumerate(instants)
    ]
    rows.append(rows[0] | {"phase": "power_restored", "line": 9})
    found = placed(rows, [place("m", "t1", DAY)])
    assert found["m", DAY]["last_gasps"] == [instants[1], instants[0]]
    assert found["m", NEXT]["last_gasps"] is None
