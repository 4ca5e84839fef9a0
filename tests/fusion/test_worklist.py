"""Ranking of a list's rows."""

from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa

from lib.fusion.worklist import classes, ranked


def row(day: int, transformer: str | None, kind: str, stake: float | None, at_stake: float | None) -> dict[str, Any]:
    return {
        "region": "north", "date": date(2016, 1, day), "transformer_id": transformer, "class": kind, "stake_kwh": stake,
        "at_stake": at_stake, "reason": f"{kind} on day {day}", "action": f"act on {kind}",
    }  # fmt: skip


ROWS = pa.Table.from_pylist(
    [
        row(1, "a", "high", 10.0, 3.0), row(2, "a", "normal", 0.0, 0.0), row(3, "a", "negative", 20.0, 6.0),
        row(1, "b", "not assessable", None, None), row(2, "b", "not assessable", None, None),
        row(1, "c", "high", 100.0, 30.0), row(1, "d", "normal", 0.0, 0.0), row(1, None, "no area", None, None),
        row(1, None, "high", 1.0, 0.3),
    ]
)  # fmt: skip


def test_areas_are_ranked_by_what_is_at_stake_over_their_days() -> None:
    found = ranked(ROWS, ["transformer_id"], ["stake_kwh", "at_stake"])
    assert [it["transformer_id"] for it in found] == ["c", "a", None, "b"]
    assert found[1] == {
        "region": "north", "transformer_id": "a", "days": 2, "worst_day": date(2016, 1, 3), "class": "negative",
        "stake_kwh": 30.0, "at_stake": 9.0, "reason": "negative on day 3", "action": "act on negative",
    }  # fmt: skip
    assert (found[3]["days"], found[3]["at_stake"], found[3]["class"]) == (2, None, "not assessable")


def test_classes_with_their_sums() -> None:
    found = {it["class"]: it for it in classes(ROWS, ["at_stake"])}
    assert found["high"] == {"class": "high", "rows": 3, "at_stake": 33.3}
    assert found["not assessable"] == {"class": "not assessable", "rows": 2, "at_stake": None}


def test_no_rows() -> None:
    assert ranked(ROWS.slice(0, 0), ["transformer_id"], ["at_stake"]) == []
    assert classes(ROWS.slice(0, 0), ["at_stake"]) == []
