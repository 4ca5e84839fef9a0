"""Golden days, worked out by hand: one meter's readings in, a day's arrays out."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from lib.ingest.devices import DEVICES
from lib.ingest.meters import day_rows
from lib.ingest.readings import READINGS
from lib.ingest.span import Span, affected
from lib.setting_groups import RuleSettings
from lib.tables.quality import ESTIMATED, Quality
from lib.tables.tiles import day_slots, day_start

ZONE = "Europe/Berlin"
DAY = date(2016, 1, 12)
BEFORE = DAY - timedelta(days=1)
RULES = RuleSettings()
NONE = float("nan")


def curve(day: date, values: list[float], register: str = "import_kwh", **more: Any) -> dict[str, Any]:
    """A row with all values of a day, or of its first slots."""
    row = {
        "meter_id": "m", "date": day, "register": register, "phase": "ABC",
        "end_slot": int(day_start(day, ZONE).timestamp()) // 900 + 1,
        "values": [None if np.isnan(value) else value for value in values], "quality": [None],
        "received": "1", "source_file": "a", "line": 1,
    }  # fmt: skip
    return row | more


def reading(day: date, slot: int, value: float, **more: Any) -> dict[str, Any]:
    """A row with the value of one slot of the day, counted from 0."""
    it = curve(day, [value], **more)
    return it | {"end_slot": it["end_slot"] + slot}


def device(**more: Any) -> dict[str, Any]:
    row = dict.fromkeys(DEVICES.names) | {"meter_id": "m", "device_id": "d", "from_us": 0}
    return row | more


def made(
    rows: list[dict[str, Any]], devices: tuple[dict[str, Any], ...] = (), day: date = DAY, rules: Any = RULES
) -> Any:
    """The rows of kind "day" and "rejected" of one wanted day."""
    found = day_rows(
        pa.Table.from_pylist(rows, schema=READINGS), pa.Table.from_pylist(list(devices), schema=DEVICES),
        Span.around([day], ZONE), rules,
    ).to_pylist()  # fmt: skip
    return [row for row in found if row["kind"] == "day"], [row for row in found if row["kind"] == "rejected"]


def one(rows: list[dict[str, Any]], *devices: dict[str, Any], day: date = DAY, rules: Any = RULES) -> dict[str, Any]:
    (row,), _ = made(rows, devices, day, rules)
    return row


def us(day: date, hour: int) -> int:
    return int(datetime(day.year, day.month, day.day, hour, tzinfo=ZoneInfo(ZONE)).timestamp()) * 1_000_000


WAVE = [0.1 + 0.001 * k for k in range(100)]  # a different value in each slot


@pytest.mark.parametrize(("day", "slots"), [(date(2016, 3, 27), 92), (DAY, 96), (date(2016, 10, 30), 100)])
def test_days_of_all_lengths_have_each_value_in_its_slot(day: date, slots: int) -> None:
    assert day_slots(day, ZONE) == slots
    whole = one([curve(day, WAVE[:slots])], day=day)
    single = one([reading(day, k, WAVE[k], line=k) for k in range(slots)], day=day)
    assert whole["slots"] == slots
    assert whole["import_wh"] == [100 + k for k in range(slots)]
    assert set(whole["import_quality"]) == {Quality.VALID}
    assert single | {"readings": 1} == whole
    assert whole["p_kw"] == pytest.approx([4 * value for value in WAVE[:slots]])


def test_a_rollover_counts_on() -> None:
    before = reading(BEFORE, 95, 999.5, register="import_total_kwh", line=2)
    rows = [before, curve(DAY, [999.75, 0.0, 0.5], "import_total_kwh")]
    row = one(rows, device(register_digits=3.0))
    assert row["import_wh"][:4] == [250, 250, 500, None]


def test_a_register_that_falls_without_a_reason_is_not_used() -> None:
    rows = [curve(DAY, [500.0, 501.0, 400.0, 401.0], "import_total_kwh")]
    row = one(rows, device(register_digits=3.0), rules=RULES.model_copy(update={"linear_slots": 0}))
    assert row["import_wh"][:4] == [None, 1000, None, 1000]
    assert row["import_quality"][2] == Quality.MISSING | Quality.REFUSED


def test_a_swap_adds_what_both_devices_counted() -> None:
    noon = us(DAY, 12)
    old = device(to_us=noon + 300_000_000, end_import_total_kwh=110.5, ct_ratio=2.0)
    new = device(device_id="e", from_us=noon + 300_000_000, start_import_total_kwh=7.0, ct_ratio=3.0)
    # read at 12:00 (slot 47) by the old device, at 12:15 by the new one
    rows = [reading(DAY, 47, 110.0, register="import_total_kwh"), reading(DAY, 48, 7.25, register="import_total_kwh")]
    row = one([rows[0], rows[1] | {"line": 2}], old, new)
    assert row["import_wh"][48] == 1000 * (0.5 * 2 + 0.25 * 3)


def test_a_ct_that_changes_within_the_day_scales_each_part_by_its_own_ratio() -> None:
    noon = us(DAY, 12)
    devices = device(ct_ratio=40.0, to_us=noon), device(ct_ratio=60.0, pt_ratio=10.0, from_us=noon)
    row = one(
        [
            curve(DAY, WAVE[:96]),
            curve(DAY, [5.0 + k / 100 for k in range(96)], "i_a", phase="A", line=2),
            curve(DAY, [57.0 + k / 100 for k in range(96)], "u_v", phase="A", line=3),
        ],
        *devices,
    )
    assert row["import_wh"] == [(100 + k) * (40 if k < 48 else 600) for k in range(96)]
    assert row["i_a_a"] == pytest.approx([(5 + k / 100) * (40 if k < 48 else 60) for k in range(96)])
    assert row["u_a_v"] == pytest.approx([(57 + k / 100) * (1 if k < 48 else 10) for k in range(96)])


def test_a_register_counts_on_through_a_change_of_ct() -> None:
    noon = us(DAY, 12)
    devices = device(ct_ratio=40.0, to_us=noon), device(ct_ratio=60.0, from_us=noon)
    row = one([curve(DAY, [100.0 + k for k in range(96)], "import_total_kwh")], *devices)
    assert row["import_wh"] == [None] + [40_000] * 47 + [60_000] * 48


@pytest.mark.parametrize(
    ("gap", "quality"), [(1, Quality.LINEAR), (3, Quality.LINEAR), (10, Quality.LAST_WEEK), (90, Quality.MISSING)]
)
def test_gaps_by_their_length(gap: int, quality: Quality) -> None:
    values = list(WAVE[:96])
    values[3 : 3 + gap] = [NONE] * gap
    week = [2 * value for value in WAVE[:96]]
    row = one([curve(DAY - timedelta(days=7), week, line=2), curve(DAY, values)])
    found, marks = row["import_wh"][3 : 3 + gap], row["import_quality"][3 : 3 + gap]
    expected = {
        Quality.LINEAR: [100 + k for k in range(3, 3 + gap)],  # the wave is a line
        Quality.LAST_WEEK: [200 + 2 * k for k in range(3, 3 + gap)],
        Quality.MISSING: [None] * gap,
    }[quality]
    assert found == expected
    assert set(marks) == {quality}
    assert row["import_wh"][:3] == [100, 101, 102]


def test_a_gap_of_a_register_shares_out_what_was_counted() -> None:
    row = one([curve(DAY, [10.0, NONE, NONE, 10.1], "import_total_kwh")])
    assert row["import_wh"][1:4] == [33, 33, 34]
    assert set(row["import_quality"][1:4]) == {Quality.REGISTER}


def registers(*kwh: float, day: date = DAY, slot: int = 95, **more: Any) -> list[dict[str, Any]]:
    """A register read in one slot of the day before, of the day itself, and so on."""
    return [
        reading(day + timedelta(days=k - 1), slot, value, register="import_total_kwh", line=50 + k, **more)
        for k, value in enumerate(kwh)
    ]


def with_gap(first: int, end: int) -> list[float]:
    return [NONE if first <= k < end else value for k, value in enumerate(WAVE[:96])]


def test_a_daily_register_fills_gaps_of_any_length_to_the_watt_hour() -> None:
    for end in (21, 50, 96):
        measured = sum(100 + k for k in range(96) if not 20 <= k < end)
        row = one([curve(DAY, with_gap(20, end)), *registers(70.0, 70.0 + (measured + 1001) / 1000)])
        assert sum(row["import_wh"]) == measured + 1001
        assert set(row["import_quality"][20:end]) == {Quality.REGISTER}
        assert row["import_wh"][:20] == [100 + k for k in range(20)]
        assert max(row["import_wh"][20:end]) - min(row["import_wh"][20:end]) <= 1


def test_a_register_scales_the_week_before_and_replaces_what_is_refused() -> None:
    week = [0.002 * (k % 7) for k in range(96)]
    values = with_gap(30, 60)
    values[5] = 900.0
    missing = [5, *range(30, 60)]
    measured = sum(100 + k for k in range(96) if k not in missing)
    rows = [curve(DAY - timedelta(days=7), week, line=2), curve(DAY, values)]
    row = one([*rows, *registers(10.0, 10.0 + (measured + 5000) / 1000)])
    assert sum(row["import_wh"]) == measured + 5000
    assert row["import_quality"][5] == Quality.REGISTER | Quality.REFUSED
    weights = {k: 105 if k == 5 else 1000 * week[k] for k in missing}  # slot 5: on the line between its neighbours
    for k, weight in weights.items():
        assert row["import_wh"][k] == pytest.approx(5000 * weight / sum(weights.values()), abs=1)


def test_energy_of_a_register_that_belongs_to_two_days_is_estimated_for_each() -> None:
    # read at noon of each day; the gap is from 22:00 to 02:00
    before = [*WAVE[:88], *[NONE] * 8]
    rows = [curve(BEFORE, before, line=2), curve(DAY, [*[NONE] * 8, *WAVE[8:96]]), *registers(5.0, 18.2, slot=47)]
    measured = sum(100 + k for k in range(48, 88)) + sum(100 + k for k in range(8, 48))
    night = []
    for day in (BEFORE, DAY):
        row = one(rows, day=day)
        part = slice(88, 96) if day == BEFORE else slice(0, 8)
        assert set(row["import_quality"][part]) == {Quality.LINEAR}
        night += row["import_wh"][part]
    assert sum(night) == 13_200 - measured
    assert max(night) - min(night) <= 1


@pytest.mark.parametrize("kind", ["contradicts", "too long ago", "another ratio", "estimated by the source"])
def test_a_register_that_does_not_tell_the_energy_of_a_gap_is_not_used(kind: str) -> None:
    measured = sum(100 + k for k in range(96) if not 20 <= k < 60)
    rows = registers(10.0, 10.0 + (measured + (-500 if kind == "contradicts" else 500)) / 1000)
    devices: tuple[dict[str, Any], ...] = ()
    rules = RULES.model_copy(update={"register_slots": 80}) if kind == "too long ago" else RULES
    if kind == "another ratio":
        devices = device(to_us=us(DAY, 12)), device(from_us=us(DAY, 12), ct_ratio=2.0)
    if kind == "estimated by the source":
        rows[1]["quality"] = ["estimated"]
    row = one([curve(DAY, with_gap(20, 60)), *rows], *devices, rules=rules)
    if kind == "estimated by the source":  # kept, and marked as what it is
        assert set(row["import_quality"][20:60]) == {Quality.REGISTER | Quality.SUBSTITUTE}
        assert Quality.SUBSTITUTE in ESTIMATED
    else:
        assert set(row["import_quality"][20:60]) == {Quality.MISSING}


def test_a_gap_at_midnight_looks_at_the_next_day() -> None:
    rows = [curve(DAY, [*[0.1] * 94, NONE, NONE]), curve(DAY + timedelta(days=1), [0.4] * 96, line=2)]
    row = one(rows)
    assert row["import_wh"][94:] == [200, 300]


def test_a_spike_is_replaced_and_keeps_its_mark() -> None:
    values = list(WAVE[:96])
    values[50] = 900.0
    row = one([curve(DAY, values)])
    assert row["import_wh"][50] == 150
    assert row["import_quality"][50] == Quality.REFUSED | Quality.LINEAR


def test_frozen_values_are_kept_and_marked() -> None:
    row = one([curve(DAY, [230.0] * 30 + [231.0 + k / 10 for k in range(66)], "u_v", phase="B")])
    assert row["u_b_v"][:30] == [230.0] * 30
    assert list(row["u_quality"]) == [Quality.SUSPECT] * 30 + [Quality.VALID] * 66


def test_negative_values_are_replaced_except_those_of_generation() -> None:
    energy = list(WAVE[:96])
    energy[5] = -1.0
    row = one([curve(DAY, energy)])
    assert (row["import_wh"][5], row["import_quality"][5]) == (105, Quality.REFUSED | Quality.LINEAR)
    power = [1.0, -2.0, 3.0, *[1.0 + k for k in range(93)]]
    customer = one([curve(DAY, power, "p_kw")], device(use="customer"))
    generator = one([curve(DAY, power, "p_kw")], device(use="generation"))
    assert (customer["p_kw"][1], generator["p_kw"][1]) == (2.0, -2.0)
    assert (generator["import_wh"][1], generator["export_wh"][1]) == (0, 500)


def test_of_rows_for_one_slot_the_last_holds_and_the_others_are_accounted_for() -> None:
    rows = [
        curve(DAY, WAVE[:96]),
        reading(DAY, 7, 0.107, line=2),  # as the curve
        reading(DAY, 8, 0.5, source_file="b", received="2"),  # corrected
        reading(DAY, 9, 0.6, source_file="b", received="2", line=2),
        reading(DAY, 9, 0.7, source_file="b", received="2", line=3),  # contradicts its own file
        reading(DAY, 8, 0.4, source_file="c", received="0"),  # an older file that comes late
    ]
    days, rejected = made(list(reversed(rows)))
    assert days[0]["import_wh"][7:10] == [107, 500, 700]
    assert [int(it) for it in days[0]["import_quality"][7:10]] == [0, Quality.CORRECTED, Quality.CORRECTED]
    counts = {name: days[0][name] for name in ("readings", "duplicates", "superseded")}
    assert counts == {"readings": 4, "duplicates": 0, "superseded": 1}
    assert [(row["source_file"], row["line"], row["rejected"]) for row in rejected] == [("b", 2, 1)]
    assert sum(counts.values()) + sum(row["rejected"] for row in rejected) == len(rows)


def test_exact_duplicates_are_counted() -> None:
    rows = [curve(DAY, WAVE[:96]), curve(DAY, WAVE[:96], source_file="b", received="2"), curve(DAY, WAVE[:96], line=9)]
    row = one(rows)
    assert (row["readings"], row["duplicates"], row["superseded"]) == (1, 2, 0)


def test_the_sources_own_quality_is_kept() -> None:
    rows = [curve(DAY, [0.1, 0.2, 0.3, 0.4, 0.5], quality=["good", "estimated", "bad", "suspect", "odd"])]
    row = one(rows)
    assert row["import_wh"][:5] == [100, 200, 300, 400, 500]
    marks = [Quality.VALID, Quality.SUBSTITUTE, Quality.LINEAR, Quality.SUSPECT, Quality.SUSPECT]
    assert [int(it) for it in row["import_quality"][:5]] == marks


def test_phases_are_summed_and_a_sum_without_one_of_them_is_missing() -> None:
    rows = [curve(DAY, [1.0, 2.0, NONE, *[1.0] * 93], "p_kw", phase=p, line=k) for k, p in enumerate("AB")]
    rows.append(curve(DAY, [0.5] * 96, "p_kw", phase="C", line=3))
    row = one(rows, rules=RULES.model_copy(update={"linear_slots": 0}))
    assert row["p_kw"][:4] == [2.5, 4.5, None, 2.5]


def test_a_day_does_not_depend_on_which_other_days_are_made_with_it() -> None:
    rng = np.random.default_rng(5)
    rows = []
    for k in range(-10, 5):
        values = rng.uniform(0.1, 1, 96)
        values[rng.random(96) < 0.3] = NONE
        rows.append(curve(DAY + timedelta(days=k), values.tolist(), line=k + 10))
    total = np.cumsum(rng.uniform(0, 0.1, 14 * 96))
    total[rng.random(len(total)) < 0.3] = NONE
    for k in range(14):
        part = total[96 * k : 96 * k + 96].tolist()
        rows.append(curve(DAY + timedelta(days=k - 9), part, "export_total_kwh", line=30 + k))
    daily = np.cumsum(rng.uniform(40, 60, 15))
    for k in range(14):
        at = int(rng.integers(0, 96))
        rows.append(reading(DAY + timedelta(days=k - 10), at, daily[k], register="import_total_kwh", line=60 + k))
    days = [DAY + timedelta(days=k) for k in range(-1, 3)]
    span = Span.around(days, ZONE)
    inside = [row for row in rows if row["date"] in span.days]
    none = pa.Table.from_pylist([], schema=DEVICES)
    together = day_rows(pa.Table.from_pylist(inside, schema=READINGS), none, span, RULES).to_pylist()
    for day, row in zip(days, together, strict=True):
        context = [it for it in rows if it["date"] in Span.around([day], ZONE).days]
        assert one(context, day=day) == row


def test_affected_days_are_all_whose_result_a_new_day_changes() -> None:
    assert affected({DAY}) == {DAY + timedelta(days=k) for k in (-1, 0, 1, 7, 8)}
