"""Episode tables: sewn from all runs of a region, written where they changed, chosen by day."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st

from lib.fusion.episodes import between, sew, update
from lib.fusion.result import replace_days
from lib.tables import ARROW, TABLES, Lake

ZONES = {"north": "Europe/Berlin"}
FIRST = date(2016, 3, 25)
SLOTS = (96, 96, 92, 96)  # clocks go forward on the third day


def run(day: int, first: int, points: int, **more: Any) -> dict[str, Any]:
    return {
        "region": "north", "date": date(2016, 3, 25 + day), "network_id": "n", "transformer_id": "t", "kind": "heavy",
        "first_slot": first, "slots": SLOTS[day], "worst_slot": first, "points": points, "points_estimated": 0,
        "worst_percent": 90.0, "peak_kva": 90.0, "kvah": 22.5 * points, "excess_kwh": 1.0, "s_rated_kva": 100.0,
        "limit_percent": 80.0, "min_points": 3,
    } | more  # fmt: skip


def table(*runs: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(runs), ARROW["load_run"])


@given(st.lists(st.booleans(), min_size=sum(SLOTS), max_size=sum(SLOTS)), st.randoms())
def test_days_sewn_are_the_runs_of_the_whole_time(above: list[bool], random: Any) -> None:
    """Cut at midnights, shuffled and sewn, runs are those that one who sees all days at once would find."""
    runs, begin = [], 0
    for day, slots in enumerate(SLOTS):
        text = "".join("x" if it else " " for it in above[begin : begin + slots])
        at = 0
        for part in text.split(" "):
            if part:
                runs.append(run(day, at, len(part)))
            at += len(part) + 1
        begin += slots
    random.shuffle(runs)
    expected = [len(it) for it in "".join("x" if it else " " for it in above).split() if len(it) >= 3]
    found = sew(table(*runs), TABLES["load_episode"], ZONES["north"]).to_pylist()
    assert [it["points"] for it in found] == expected
    assert all((it["end_ts"] - it["start_ts"]).total_seconds() == 900 * it["points"] for it in found)


def test_others_runs_are_not_sewn() -> None:
    last, first = run(0, 94, 2), run(1, 0, 2)
    assert sew(table(last, first), TABLES["load_episode"], ZONES["north"])["points"].to_pylist() == [4]
    for other in ({"kind": "overload"}, {"transformer_id": "u"}, {"network_id": None}):
        assert not sew(table(last, first | other), TABLES["load_episode"], ZONES["north"]).num_rows


def test_the_worst_of_equal_values_is_the_first() -> None:
    runs = run(0, 94, 2, worst_slot=95, worst_percent=95.0), run(1, 0, 2, worst_percent=95.0, peak_kva=97.0)
    (one,) = sew(table(*runs), TABLES["load_episode"], ZONES["north"]).to_pylist()
    assert (one["worst_ts"], one["worst_percent"], one["peak_kva"]) == (
        datetime(2016, 3, 25, 23, tzinfo=UTC),
        95.0,
        97.0,
    )
    assert (one["kvah"], one["excess_kwh"]) == (90.0, 2.0)


def test_the_table_follows_the_runs_and_is_not_written_again(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))

    def go(*runs: dict[str, Any]) -> tuple[list[int], int]:
        replace_days(lake, TABLES["load_run"], table(*runs), "north")
        found = update(lake, "load_run", "load_episode", ZONES, ["north"], "run")
        held = DeltaTable(lake.path("load_episode"))
        rows = pa.table(held.to_pyarrow_table()).sort_by("start_ts")
        assert rows.select(found.column_names).to_pylist() == found.sort_by("start_ts").to_pylist()
        return rows["points"].to_pylist(), held.version()

    first = run(0, 10, 5), run(1, 94, 2)
    assert go(*first)[0] == [5]
    points, version = go(*first)
    assert go(*first) == (points, version)
    assert go(*first, run(2, 0, 1))[0] == [5, 3]  # a day arrives, and an episode of the day before comes to be
    assert go(run(2, 0, 1))[0] == []


def test_episodes_of_some_days() -> None:
    found = sew(table(run(0, 10, 5), run(1, 94, 2), run(2, 0, 1), run(3, 5, 3)), TABLES["load_episode"], ZONES["north"])

    def days(first: int | None, last: int | None) -> list[int]:
        chosen = (None if it is None else date(2016, 3, 25 + it) for it in (first, last))
        return [it.day - 25 for it in between(found, ZONES, *chosen)["date"].to_pylist()]

    assert days(None, None) == [0, 1, 3]
    assert days(2, 2) == [1]  # over midnight
    assert days(0, 0) == [0]
    assert days(3, None) == [3]
