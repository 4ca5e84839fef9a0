"""Days of meters as ingest makes them of readings, and what an operator makes of these."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import pyarrow as pa

from lib.algorithm.operator import Day
from lib.fusion.episodes import sew
from lib.ingest.devices import DEVICES
from lib.ingest.meters import day_rows
from lib.ingest.readings import READINGS
from lib.ingest.span import Span
from lib.setting_groups import RuleSettings
from lib.tables import ARROW, TABLES
from lib.tables.tiles import day_slots, day_start

ZONE = "Europe/Berlin"


def day_of(day: date) -> Day:
    return Day("north", day, day_slots(day, ZONE) * 900)


def curve(
    day: date, meter_id: str, register: str, values: Sequence[float | None], phase: str = "ABC"
) -> dict[str, Any]:
    """A reading row with all values of a day."""
    return {
        "meter_id": meter_id, "date": day, "register": register, "phase": phase,
        "end_slot": int(day_start(day, ZONE).timestamp()) // 900 + 1, "values": list(values), "quality": [None],
        "received": "1", "source_file": "a", "line": 1,
    }  # fmt: skip


def device(meter_id: str, **more: Any) -> dict[str, Any]:
    return dict.fromkeys(DEVICES.names) | {"meter_id": meter_id, "device_id": "d", "from_us": 0} | more


def meter_days(
    readings: Sequence[dict[str, Any]], days: Sequence[date], devices: Sequence[dict[str, Any]] = (), **places: Any
) -> dict[date, pa.Table]:
    """Rows of meter_day by day, made by ingest's own code. places: of all meters; those called "gate" are gates."""
    made = day_rows(
        pa.Table.from_pylist(list(readings), READINGS), pa.Table.from_pylist(list(devices), DEVICES),
        Span.around(list(days), ZONE), RuleSettings(),
    )  # fmt: skip
    found: dict[date, pa.Table] = {}
    for day in days:
        rows = [row for row in made.to_pylist() if row["date"] == day and row["kind"] == "day"]
        place = {"region": "north", "network_id": "n", "transformer_id": "t"} | places
        rows = [row | place | {"is_gate": row["meter_id"] == "gate"} for row in rows]
        found[day] = pa.Table.from_pylist(rows, ARROW["meter_day"])
    return found


def finished(operator: Any, rows: pa.Table, side: dict[str, Any], day: Day) -> tuple[dict[str, Any], dict[str, Any]]:
    """Output tables and figures of one day, its rows handed over one by one."""
    state, partial = operator.prepare(side), None
    for i in range(rows.num_rows):
        some, rejected = operator.map(rows.slice(i, 1), state, day)
        assert not rejected
        partial = some if partial is None else operator.merge(partial, some)
    return operator.finish(partial, state, day)


def episodes(
    operator: Any, days: dict[date, pa.Table], side: dict[str, Any], runs: str, table: str
) -> list[dict[str, Any]]:
    """The episodes of some days, each day calculated alone."""
    tables = [ARROW[runs].empty_table()]
    for day, rows in days.items():
        outputs, _ = finished(operator, rows, side, day_of(day))
        if runs in outputs:
            constant = {"region": "north", "date": day, "network_id": "n", "transformer_id": "t"}
            made = [constant | row for row in outputs[runs].to_pylist()]
            tables.append(pa.Table.from_pylist(made, ARROW[runs]))
    return sew(pa.concat_tables(tables[::-1]), TABLES[table], ZONE).to_pylist()
