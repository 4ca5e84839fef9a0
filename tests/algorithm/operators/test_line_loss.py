"""Line loss against sums worked out by hand."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from lib.algorithm.operator import Day
from lib.algorithm.operators import _meter
from lib.algorithm.operators.line_loss import LineLoss
from lib.tables.quality import Quality

DAY = Day("here", date(2016, 1, 1), 86_400)
URBAN = {"area_type": "urban", "gate_meter_id": "g"}
OPERATOR = LineLoss(price_per_kwh=0.5)


def area(*meters: dict[str, Any], side: dict[str, Any] = URBAN, day: Day = DAY) -> dict[str, Any]:
    """Figures of one area's day."""
    state = OPERATOR.prepare(side)
    partial, rejected = OPERATOR.map(_meter.example_rows(day, meters), state, day)
    assert not rejected
    outputs, figures = OPERATOR.finish(partial, state, day)
    assert outputs == {}
    assert set(figures) == set(OPERATOR.figures)
    return figures


def gate(forward: int, reverse: int = 0, slots: int = 96) -> dict[str, Any]:
    """A gate meter with so many Wh in the day's first slot and none in the others."""
    return {"is_gate": True, "import_wh": [forward] + [0] * (slots - 1), "export_wh": [reverse] + [0] * (slots - 1)}


def customer(wh: int, slots: int = 96, **more: Any) -> dict[str, Any]:
    return {"import_wh": [0] * (slots - 1) + [wh]} | more


def generator(wh: int) -> dict[str, Any]:
    return {"export_wh": [wh] + [0] * 95}


def test_energies_in_and_out() -> None:
    found = area(gate(10_000, 1_500), customer(6_000), customer(2_400), generator(800))
    assert (found["meters"], found["meters_covered"], found["gates"], found["days_assessed"]) == (3, 3, 1, 1)
    assert (found["in_wh"], found["out_wh"]) == (10_800, 9_900)
    # 8.33 %, 1.33 percentage points above 7: 144 Wh
    assert (found["days_high"], found["days_negative"], found["stake_wh"]) == (1, 0, 144)
    assert found["at_stake"] == pytest.approx(0.072)


@pytest.mark.parametrize(
    ("drawn", "high", "negative"), [(93_000, 0, 0), (92_999, 1, 0), (101_000, 0, 0), (101_001, 0, 1)]
)
def test_exactly_at_a_limit_is_normal(drawn: int, high: int, negative: int) -> None:
    found = area(gate(100_000), customer(drawn))
    assert (found["days_high"], found["days_negative"]) == (high, negative)


def test_limits_by_area() -> None:
    rural, unknown = ({"area_type": it, "gate_meter_id": "g"} for it in ("rural", None))
    for side, high in ((URBAN, 1), (rural, 0), (unknown, 0)):
        assert area(gate(100_000), customer(91_000), side=side)["days_high"] == high


@pytest.mark.parametrize("slots", [92, 100])
def test_days_on_which_clocks_change(slots: int) -> None:
    found = area(gate(100, slots=slots), customer(97, slots), day=Day("here", DAY.date, slots * 900))
    assert (found["in_wh"], found["out_wh"]) == (100, 97)


HOLE = {"import_wh": [1] * 95 + [None]}
GATE = gate(100_000)


@pytest.mark.parametrize(
    ("meters", "covered"),
    [
        ([customer(90_000)], 1),  # no gate meter, though one is recorded
        ([GATE | HOLE, customer(90_000)], 1),
        ([GATE, *[customer(2_000)] * 48, HOLE, HOLE], 48),
        ([GATE, *[customer(2_000)] * 47, {}], 47),  # a meter without any reading
        ([GATE], 0),  # no customers
        ([gate(0), customer(0)], 1),
    ],
)
def test_what_cannot_be_judged_has_no_loss(meters: list[dict[str, Any]], covered: int) -> None:
    found = area(*meters)
    assert (found["gates"], found["days"], found["days_assessed"], found["meters_covered"]) == (1, 1, 0, covered)
    assert {found[it] for it in ("in_wh", "out_wh", "stake_wh", "at_stake", "days_high", "days_negative")} == {None}


def test_a_fiftieth_may_be_missing() -> None:
    found = area(GATE, *[customer(2_000)] * 49, HOLE)
    assert (found["meters"], found["meters_covered"], found["days_assessed"]) == (50, 49, 1)


@pytest.mark.parametrize(
    ("flag", "assessed"), [(Quality.LINEAR, 0), (Quality.SUBSTITUTE, 0), (Quality.SUSPECT, 1), (Quality.REGISTER, 1)]
)
def test_estimates_above_a_fiftieth(flag: Quality, assessed: int) -> None:
    marked = bytes([0] * 95 + [flag])
    found = area(GATE, customer(96_000), customer(2_001, import_quality=marked))
    assert found["days_assessed"] == assessed
    assert found["estimated_wh"] == 2_001 * (1 - assessed)
    assert area(GATE, customer(96_000), customer(2_000, import_quality=marked))["days_assessed"] == 1


def test_meters_without_a_transformer_are_the_networks() -> None:
    found = area(gate(5_000, 20), customer(900), side={})
    assert (found["network_gates"], found["network_gates_covered"]) == (1, 1)
    assert (found["network_forward_wh"], found["network_reverse_wh"], found["import_wh"]) == (5_000, 20, 900)
    assert found["days"] is found["gates"] is found["forward_wh"] is None


def test_rows_that_do_not_fit_the_day_are_refused() -> None:
    rows = _meter.example_rows(DAY, [GATE, {"import_wh": [1] * 95}, {"slots": 92}, {"import_quality": b"12"}])
    partial, rejected = OPERATOR.map(rows, OPERATOR.prepare(URBAN), DAY)
    assert partial is not None
    assert (partial.gates, partial.meters) == (1, 0)
    assert [it.key for it in rejected] == [
        {"network_id": "n", "transformer_id": "t", "meter_id": f"m{k}"} for k in (1, 2, 3)
    ]
    assert OPERATOR.map(rows.slice(1), None, DAY)[0] is None
