"""Voltage quality: golden days through ingest's own code, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from lib.algorithm.operators import _meter
from lib.algorithm.operators.voltage_quality import VoltageQuality
from lib.tables.quality import Quality
from lib.tables.tiles import day_slots, day_start
from tests.mining.days import ZONE, curve, day_of, episodes, finished, meter_days

DAY = date(2016, 1, 12)
OPERATOR = VoltageQuality(nominal_v=220.0, price_per_kwh=0.5)  # single-phase 198 to 235.4 V, three-phase 204.6 to 235.4
SIDE = {"s_rated_kva": 66.0}  # 100 A a phase


def volts(*named: tuple[int, float], day: date = DAY, base: float = 220.0) -> list[float]:
    """V of each slot: `base`, a little different in each, except in slots named."""
    values = [base + k / 100 for k in range(day_slots(day, ZONE))]
    for slot, value in named:
        values[slot] = value
    return values


def row(found: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    (one,) = found[0]["voltage_day"].to_pylist()
    return one


def of_meter(*meters: dict[str, Any], side: dict[str, Any] = SIDE) -> tuple[dict[str, Any], dict[str, Any]]:
    day = day_of(DAY)
    return finished(OPERATOR, _meter.example_rows(day, meters), side, day)


def test_exactly_at_a_limit_is_within() -> None:
    values = volts((10, 198.0), (20, 197.9), (30, 235.4), (40, 235.5))
    outputs, figures = of_meter({"u_b_v": values, "import_wh": [100] * 96})
    one = row((outputs, figures))
    assert (one["phases"], one["low_v"], one["high_v"]) == (1, 198.0, pytest.approx(235.4))
    assert (one["slots_valid"], one["slots_low"], one["slots_high"]) == (96, 1, 1)
    assert one["pass_percent"] == pytest.approx(100 * 94 / 96)
    assert (one["low_h"], one["high_h"], one["outside_wh"]) == (0.25, 0.25, 200)
    assert (figures["meters"], figures["meters_covered"], figures["meters_outside"]) == (1, 1, 1)
    assert figures["at_stake"] == pytest.approx(0.1)
    assert (figures["u_min_v"], figures["u_max_v"]) == (pytest.approx(197.9), 235.5)


@pytest.mark.parametrize("meter", [{"u_a_v": volts((5, 204.6), (6, 204.5)), "phase": "ABC"},
                                   {"u_a_v": volts((5, 204.6), (6, 204.5)), "u_c_v": volts()}])  # fmt: skip
def test_three_phase_supply_has_closer_limits(meter: dict[str, Any]) -> None:
    one = row(of_meter(meter))
    assert one["low_v"] == pytest.approx(204.6)
    assert (one["slots_low"], one["slots_high"]) == (1, 0)


@pytest.mark.parametrize("kv", [10.0, 20.0])
def test_medium_voltage_is_judged_by_its_own_nominal(kv: float) -> None:
    operator = VoltageQuality(medium_nominal_kv=(10.0, 20.0))
    phase_v = kv * 1000 / np.sqrt(3)
    values = [phase_v * factor for factor in [1.0] * 94 + [0.92, 1.08]]
    rows = _meter.example_rows(day_of(DAY), [{"transformer_id": None, "u_a_v": values}])
    one = row(finished(operator, rows, {}, day_of(DAY)))
    assert one["nominal_v"] == pytest.approx(phase_v)
    assert (one["slots_low"], one["slots_high"]) == (1, 1)


def test_an_outage_is_left_out() -> None:
    # no supply in slots 20 to 23; the means of 19 and 24 are partly of it
    values = volts((19, 120.0), *((k, 0.0) for k in range(20, 24)), (24, 150.0), (60, 190.0))
    one = row(of_meter({"u_a_v": values}))
    assert (one["slots_outage"], one["slots_valid"], one["slots_low"]) == (6, 90, 1)
    assert one["pass_percent"] == pytest.approx(100 * 89 / 90)
    assert one["u_min_v"] == 190.0


@pytest.mark.parametrize(("slots", "low"), [(1, 0), (2, 0), (3, 3)])
def test_a_last_gasp_marks_a_short_interruption(slots: int, low: int) -> None:
    values = volts(*((50 + k, 100.0) for k in range(slots)))
    gasp = {"last_gasps": [datetime(2016, 1, 12, 11, 35, tzinfo=UTC)]}
    one = row(of_meter({"u_a_v": values} | gasp))
    assert (one["slots_low"], one["slots_outage"]) == (low, slots - low)
    assert row(of_meter({"u_a_v": values}))["slots_low"] == slots


def test_estimated_and_frozen_values_are_not_valid() -> None:
    marks = [0] * 96
    marks[3], marks[4], marks[5] = Quality.LINEAR, Quality.SUSPECT, Quality.CORRECTED
    one = row(of_meter({"u_a_v": volts((3, 100.0), (4, 100.0)), "u_quality": bytes(marks)}))
    assert (one["slots_valid"], one["slots_low"]) == (94, 0)


def test_coverage_counts_meters_without_a_voltage() -> None:
    outputs, figures = of_meter({"u_a_v": volts()}, {}, {"u_a_v": [None] * 96}, {"is_gate": True, "u_a_v": volts()})
    assert (figures["meters"], figures["meters_covered"]) == (3, 1)
    assert {it["meter_id"] for it in outputs["voltage_day"].to_pylist()} == {"m0", "m2", "m3"}
    nothing, figures = of_meter({})
    assert nothing == {}
    assert (figures["meters"], figures["meters_covered"], figures["slots_valid"]) == (1, 0, None)


def gate(a: Sequence[float], b: Sequence[float], c: Sequence[float], name: str = "i_{}_a") -> dict[str, Any]:
    return {"is_gate": True} | {name.format(p): list(it) for p, it in zip("abc", (a, b, c), strict=True)}


def test_currents_are_judged_above_30_percent_load() -> None:
    flat = [60.0] * 96
    # 100, 85: exactly 15 %; 84.9: above; mean 30 A of 100: not judged, 30.1: judged and far off
    a, b, c = flat.copy(), flat.copy(), flat.copy()
    a[0], b[0], c[0] = 100.0, 85.0, 90.0
    a[1], b[1], c[1] = 100.0, 84.9, 90.0
    a[2:], b[2:], c[2:] = [10.0] * 94, [10.0] * 94, [10.0] * 94
    a[5], b[5], c[5] = 40.0, 25.0, 25.0
    a[6], b[6], c[6] = 40.3, 25.0, 25.0
    one = row(of_meter(gate(a, b, c) | {"u_a_v": volts()}))
    assert (one["imbalance_slots"], one["imbalance_above"]) == (3, 2)
    assert one["imbalance_max_percent"] == pytest.approx(100 * 15.3 / 40.3, rel=1e-6)
    customer = row(of_meter(gate(a, b, c) | {"u_a_v": volts(), "is_gate": False}))
    assert (customer["imbalance_slots"], customer["imbalance_max_percent"]) == (0, None)
    assert row(of_meter(gate(a, b, c) | {"u_a_v": volts()}, side={}))["imbalance_slots"] == 0


def test_unbalance_of_voltages_is_the_largest_deviation_from_their_mean() -> None:
    a, b, c = [220.0] * 96, [220.0] * 96, [220.0] * 96
    a[7], b[7], c[7] = 224.4, 220.0, 215.6  # 2 %
    a[8], b[8], c[8] = 224.6, 220.0, 215.4
    outputs, figures = of_meter(gate(a, b, c, "u_{}_v"))
    one = row((outputs, figures))
    assert (one["unbalance_slots"], one["unbalance_above"]) == (96, 1)
    assert one["unbalance_max_percent"] == pytest.approx(100 * 4.6 / 220, rel=1e-5)
    assert figures["unbalance_above"] == 1


def test_episodes_across_midnight_and_a_change_of_clocks() -> None:
    days = [date(2016, 10, 29), date(2016, 10, 30), date(2016, 10, 31)]
    rows = [
        curve(days[0], "m", "u_v", volts((94, 190.0), (95, 185.0), day=days[0]), "A"),
        curve(days[1], "m", "u_v", volts((0, 188.0), (98, 240.0), (99, 241.0), day=days[1]), "A"),
        curve(days[2], "m", "u_v", volts((0, 239.0), (50, 180.0), day=days[2]), "A"),
        curve(days[2], "m", "u_v", volts((50, 180.0), day=days[2]), "B"),
    ]
    found = episodes(OPERATOR, meter_days(rows, days), SIDE, "voltage_run", "voltage_episode")
    assert [(it["date"], it["phase"], it["kind"], it["points"]) for it in found] == [
        (days[0], "A", "low", 3), (days[1], "A", "high", 3), (days[2], "A", "low", 1), (days[2], "B", "low", 1),
    ]  # fmt: skip
    low, high = found[:2]
    assert (low["u_min_v"], low["u_max_v"], low["limit_v"]) == (185.0, 190.0, 198.0)
    assert low["worst_percent"] == pytest.approx(100 * 35 / 220)
    midnight = day_start(days[1], ZONE)
    assert (low["start_ts"], low["end_ts"]) == (midnight - timedelta(minutes=30), midnight + timedelta(minutes=15))
    assert low["worst_ts"] == midnight
    assert high["start_ts"] == midnight + timedelta(hours=24, minutes=30)  # a day of 25 h
    assert high["end_ts"] == day_start(days[2], ZONE) + timedelta(minutes=15)
