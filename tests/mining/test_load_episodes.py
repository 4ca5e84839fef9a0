"""Golden episodes: readings of a gate meter through ingest's own code, worked out by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from lib.algorithm.operator import Unusable
from lib.algorithm.operators.transformer_load import TransformerLoad
from lib.tables.tiles import day_slots, day_start
from tests.mining.days import ZONE, curve, day_of, device, episodes, finished, meter_days

DAY = date(2016, 1, 12)
SIDE = {"s_rated_kva": 200.0}  # 80 % are 160 kVA
OPERATOR = TransformerLoad(price_per_kwh=0.5)


def powers(day: date, *above: tuple[int, float], base: float = 20.0) -> list[float]:
    """kW of each slot of a day: `base`, a little different in each, except in slots named."""
    values = [base + k / 100 for k in range(day_slots(day, ZONE))]
    for slot, value in above:
        values[slot] = value
    return values


def found(days: dict[date, Any], operator: TransformerLoad = OPERATOR) -> list[dict[str, Any]]:
    return episodes(operator, days, SIDE, "load_run", "load_episode")


def of_powers(*days: tuple[date, list[float]], q: dict[date, list[float]] | None = None) -> list[dict[str, Any]]:
    rows = [curve(day, "gate", "p_kw", values) for day, values in days]
    rows += [curve(day, "gate", "q_kvar", values) for day, values in (q or {}).items()]
    return found(meter_days(rows, [day for day, _ in days]))


def utc(*at: int) -> datetime:
    return datetime(*at, tzinfo=UTC)  # type: ignore[misc]


def test_exactly_80_percent_is_not_above() -> None:
    # 128 kW and 96 kvar are 160 kVA; so are, but for the rounding to float32, 76.8 / 0.48 and 102.4 / 0.64
    exact = [(10 + k, 128.0) for k in range(4)] + [(20 + k, 76.8) for k in range(4)]
    q = [0.0] * 96
    q[10:14], q[20:24] = [96.0] * 4, [140.36025078] * 4  # sqrt(160² - 76.8²)
    assert of_powers((DAY, powers(DAY, *exact)), q={DAY: q}) == []
    q[10:14] = [96.01] * 4
    (one,) = of_powers((DAY, powers(DAY, *exact)), q={DAY: q})
    assert (one["kind"], one["points"]) == ("heavy", 4)
    assert one["worst_percent"] == pytest.approx(80.003, abs=1e-4)


def test_three_points_are_an_episode_and_two_are_none() -> None:
    three = [(40, 170.0), (41, 190.0), (42, 180.0)]
    two = [(60, 170.0), (61, 190.0)]
    (one,) = of_powers((DAY, powers(DAY, *three, *two)))
    assert (one["kind"], one["points"], one["date"]) == ("heavy", 3, DAY)
    # slot 40 is 10:00 to 10:15 civil time, an hour ahead of UTC
    assert (one["start_ts"], one["end_ts"], one["worst_ts"]) == (
        utc(2016, 1, 12, 9, 0), utc(2016, 1, 12, 9, 45), utc(2016, 1, 12, 9, 30),
    )  # fmt: skip
    assert (one["peak_kva"], one["worst_percent"], one["kvah"]) == (190.0, 95.0, 540 / 4)
    assert one["excess_kwh"] == pytest.approx((10 + 30 + 20) / 4)
    assert (one["s_rated_kva"], one["limit_percent"], one["min_points"]) == (200.0, 80.0, 3)


def test_one_point_above_the_rating_is_an_overload() -> None:
    heavy, overload = sorted(
        of_powers((DAY, powers(DAY, (50, 190.0), (51, 200.0), (52, 201.0), (53, 170.0)))), key=lambda it: it["kind"]
    )
    assert (heavy["points"], heavy["peak_kva"]) == (4, 201.0)
    assert (overload["kind"], overload["points"], overload["limit_percent"]) == ("overload", 1, 100.0)
    assert overload["start_ts"] == utc(2016, 1, 12, 12, 0)


def test_an_episode_across_midnight() -> None:
    days = [DAY + timedelta(days=k) for k in range(4)]
    last, whole, first = ([(94, 170.0), (95, 180.0)], [(k, 165.0 + k / 100) for k in range(96)], [(0, 190.0)])
    found = of_powers(
        (days[0], powers(days[0], *last)), (days[1], powers(days[1], *whole)), (days[2], powers(days[2], *first)),
        (days[3], powers(days[3], (0, 170.0), (1, 170.0))),
    )  # fmt: skip
    (one,) = found  # the last day's two points stand alone
    assert (one["date"], one["points"], one["peak_kva"]) == (days[0], 2 + 96 + 1, 190.0)
    assert (one["start_ts"], one["end_ts"]) == (utc(2016, 1, 12, 22, 30), utc(2016, 1, 13, 23, 15))
    assert one["worst_ts"] == utc(2016, 1, 13, 23, 15)


def test_two_points_and_one_over_midnight_are_three() -> None:
    after = DAY + timedelta(days=1)
    days = (DAY, powers(DAY, (94, 170.0), (95, 170.0))), (after, powers(after, (0, 170.0)))
    (one,) = of_powers(*days)
    assert (one["points"], one["date"]) == (3, DAY)
    assert of_powers(days[0]) == of_powers(days[1]) == []
    later = after + timedelta(days=1)  # a day between of which nothing is known parts them
    assert of_powers(days[0], (later, powers(later, (0, 170.0)))) == []


@pytest.mark.parametrize(
    ("day", "slots", "start", "end"),
    [
        # 92 slots: 01:45 to 03:30 summer time, of which 02:00 to 03:00 does not exist
        (date(2016, 3, 27), range(7, 10), (0, 45), (1, 30)),
        # 100 slots: 01:30 summer time to 02:30 winter time
        (date(2016, 10, 30), range(6, 14), (-1, 30), (1, 30)),
    ],
)
def test_an_episode_across_a_change_of_clocks(day: date, slots: range, start: tuple[int, int], end: Any) -> None:
    (one,) = of_powers((day, powers(day, *((k, 170.0 + k) for k in slots))))
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    assert one["start_ts"] == midnight + timedelta(hours=start[0], minutes=start[1])
    assert one["end_ts"] == midnight + timedelta(hours=end[0], minutes=end[1])
    assert one["points"] == len(slots)


@pytest.mark.parametrize("day", [date(2016, 3, 27), date(2016, 10, 30)])
def test_midnight_after_a_change_of_clocks(day: date) -> None:
    after, last = day + timedelta(days=1), day_slots(day, ZONE) - 1
    (one,) = of_powers((day, powers(day, (last - 1, 170.0), (last, 170.0))), (after, powers(after, (0, 175.0))))
    assert one["points"] == 3
    assert one["end_ts"] - one["start_ts"] == timedelta(minutes=45)
    assert one["end_ts"] == day_start(after, ZONE) + timedelta(minutes=15)


def test_an_episode_across_a_change_of_ct() -> None:
    """4.25 kW secondary at ratio 40 until noon, then 2.125 kW at ratio 80: 170 kW on the primary side throughout."""
    noon_us = int(datetime(2016, 1, 12, 11, tzinfo=UTC).timestamp()) * 1_000_000
    devices = [
        device("gate", ct_ratio=40.0, to_us=noon_us, use="gate"),
        device("gate", ct_ratio=80.0, from_us=noon_us, use="gate"),
    ]
    secondary = [0.25 + k / 1000 for k in range(96)]
    secondary[46:48], secondary[48:50] = [4.25, 4.25], [2.125, 2.1875]
    (one,) = found(meter_days([curve(DAY, "gate", "p_kw", secondary)], [DAY], devices))
    assert (one["points"], one["peak_kva"]) == (4, 2.1875 * 80)
    assert (one["start_ts"], one["end_ts"]) == (utc(2016, 1, 12, 10, 30), utc(2016, 1, 12, 11, 30))
    # with the old ratio throughout, the afternoon's points are below the limit, and two are no episode
    assert found(meter_days([curve(DAY, "gate", "p_kw", secondary)], [DAY], devices[:1])) == []


def test_energy_registers_serve_as_power() -> None:
    kwh = [value / 4 for value in powers(DAY, (40, 170.0), (41, 170.0), (42, 170.0))]
    (one,) = found(meter_days([curve(DAY, "gate", "import_kwh", kwh)], [DAY]))
    assert (one["points"], one["kvah"]) == (3, 127.5)


def test_figures_of_a_day() -> None:
    values: list[Any] = powers(DAY, (40, 170.0), (41, 210.0), (42, 170.0), (80, 165.0), base=60.0)
    values[20:40] = [None] * 20  # too long for a line, and no week before
    rows = meter_days([curve(DAY, "gate", "p_kw", values), curve(DAY, "m", "import_kwh", [1.0] * 96)], [DAY])[DAY]
    _, figures = finished(OPERATOR, rows, SIDE, day_of(DAY))
    assert (figures["gates"], figures["slots"], figures["slots_valid"]) == (1, 96, 76)
    assert (figures["slots_without_q"], figures["slots_estimated"]) == (76, 0)
    assert (figures["heavy_h"], figures["overload_h"]) == (1.0, 0.25)
    assert (figures["heavy_longest"], figures["overload_longest"]) == (3, 1)
    assert (figures["peak_kva"], figures["peak_percent"]) == (210.0, 105.0)
    excess = (10 + 50 + 10 + 5) / 4
    assert (figures["excess_kwh"], figures["at_stake"]) == (pytest.approx(excess), pytest.approx(excess / 2))


def test_no_gate_meter_several_and_no_transformer() -> None:
    rows = meter_days([curve(DAY, "m", "import_kwh", [1.0] * 96)], [DAY])[DAY]
    outputs, figures = finished(OPERATOR, rows, SIDE, day_of(DAY))
    assert outputs == {}
    assert (figures["gates"], figures["slots_valid"], figures["peak_kva"], figures["heavy_h"]) == (0, 0, None, None)
    gate = meter_days([curve(DAY, "gate", "p_kw", powers(DAY))], [DAY])[DAY]
    partial, _ = OPERATOR.map(gate, 200.0, day_of(DAY))
    other, _ = OPERATOR.map(gate.set_column(2, "meter_id", [["h"]]), 200.0, day_of(DAY))
    with pytest.raises(Unusable, match="several gate meters: gate, h"):
        OPERATOR.finish(OPERATOR.merge(other, partial), 200.0, day_of(DAY))
    assert OPERATOR.map(gate, OPERATOR.prepare({}), day_of(DAY)) == (None, [])
    with pytest.raises(Unusable, match="s_rated_kva is None"):
        OPERATOR.prepare({"s_rated_kva": None})
