"""Where meters are on each day, as the records say: with every connected meter, read or not. No Spark."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.ingest.meters import DAY_ROWS
from lib.ingest.readings import EVENT
from lib.ingest.span import Span

_PLACE = ("network_id", "transformer_id", "phase", "is_gate")
_ORDER = ("is_gate", "valid_from", "transformer_id", "network_id", "phase")

PLACES = pa.schema(
    [
        ("meter_id", pa.string()),
        ("network_id", pa.string()),
        ("transformer_id", pa.string()),
        ("phase", pa.string()),
        ("is_gate", pa.bool_()),
        ("valid_from", pa.date32()),
        ("valid_to", pa.date32()),  # null: open
    ]
)
PLACED_ROWS = pa.schema(
    [
        *DAY_ROWS,
        *(PLACES.field(name) for name in _PLACE),
        ("known", pa.bool_()),  # whether any record names the meter, on whatever day
        ("last_gasps", pa.list_(pa.timestamp("us", tz="UTC"))),
    ]
)


def placed_rows(made: pa.Table, readings: pa.Table, devices: pa.Table, places: pa.Table, span: Span) -> pa.Table:
    """The rows (DAY_ROWS) with where their meters are, and a row without values of each connected meter without one.

    readings, devices, places: READINGS, DEVICES and PLACES of the same meters. Of several places on a day a gate's
    holds, then the latest. Returns PLACED_ROWS.
    """
    order = pc.sort_indices(places, [(name, "ascending") for name in _ORDER], null_placement="at_start")
    places = places.take(order)
    named = places["meter_id"].unique()
    meter = pc.index_in(places["meter_id"], value_set=named).to_numpy()
    begin, end = (places[name].to_numpy().astype("datetime64[D]") for name in ("valid_from", "valid_to"))
    number = pc.fill_null(pc.index_in(made["meter_id"], value_set=named), -1).to_numpy()
    day_of_row = made["date"].to_numpy().astype("datetime64[D]")
    is_day = pc.equal(made["kind"], "day").to_numpy()
    place = np.full(made.num_rows, -1)
    silent, place_of_silent = [], []
    for day in sorted(span.wanted):
        it = np.datetime64(day, "D")
        valid = np.flatnonzero((begin <= it) & (np.isnat(end) | (it < end)))
        holds = np.full(len(named), -1)
        holds[meter[valid]] = valid  # of one meter's the last stands
        here = (day_of_row == it) & (number >= 0)
        place[here] = holds[number[here]]
        without = holds >= 0
        without[number[here & is_day]] = False
        silent.append(_silent(named.take(pa.array(np.flatnonzero(without))), day, span))
        place_of_silent.append(holds[without])
    rows = pa.concat_tables([made, *silent])
    known = pc.or_(
        pc.is_in(rows["meter_id"], value_set=named), pc.is_in(rows["meter_id"], devices["meter_id"].unique())
    )
    chosen = np.concatenate([place, *place_of_silent])
    found = places.select(_PLACE).take(pa.array(chosen, mask=chosen < 0))
    found = found.set_column(len(_PLACE) - 1, "is_gate", pc.fill_null(found["is_gate"], False))
    columns = [*rows.columns, *found.columns, known, _last_gasps(rows, readings)]
    return pa.table(columns, schema=PLACED_ROWS)


def _silent(meters: pa.Array, day: date, span: Span) -> pa.Table:
    first, end = span.bounds[span.days.index(day)]
    values: dict[str, Any] = {
        "kind": "day", "date": day, "interval_s": span.interval_s, "slots": end - first, "readings": 0,
        "duplicates": 0, "superseded": 0,
    }  # fmt: skip
    columns = [
        meters if f.name == "meter_id" else pa.repeat(pa.scalar(values.get(f.name), f.type), len(meters))
        for f in DAY_ROWS
    ]
    return pa.table(columns, schema=DAY_ROWS)


def _last_gasps(rows: pa.Table, readings: pa.Table) -> pa.Array:
    """Instants of each row's meter and day, ascending, null where there is none; they stand in `end_slot` of events."""
    events = readings.filter(pc.and_(pc.equal(readings["register"], EVENT), pc.equal(readings["phase"], "last_gasp")))
    found: dict[tuple[str, date], set[int]] = {}
    columns = (events[name].to_pylist() for name in ("meter_id", "date", "end_slot"))
    for meter, day, at in zip(*columns, strict=True):
        found.setdefault((meter, day), set()).add(at)
    if not found:
        return pa.nulls(rows.num_rows, PLACED_ROWS.field("last_gasps").type)
    keys = zip(rows["meter_id"].to_pylist(), rows["date"].to_pylist(), strict=True)
    lists = [sorted(found[key]) if key in found else None for key in keys]
    return pa.array(lists, pa.list_(pa.int64())).cast(PLACED_ROWS.field("last_gasps").type)
