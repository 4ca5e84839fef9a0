"""The example operator against the plainest calculation there is."""

from __future__ import annotations

from collections.abc import Set
from datetime import UTC, date, datetime, timedelta
from itertools import permutations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lib.algorithm.operator import Day, Unusable
from lib.algorithm.operators.network_load import NetworkLoad
from lib.tables import ARROW
from lib.tables.tiles import encode, slot_status

DAY = Day("here", date(2016, 1, 1), 86_400)
OPERATOR = NetworkLoad(high_kw=20.0)


def tiles(p_kw: np.ndarray, missing: Set[int] = frozenset(), /, **changes: Any) -> pa.Table:
    """p_kw: (buses, slots of the day)."""
    rows = []
    for first in range(0, p_kw.shape[1], 32):
        part = p_kw[:, first : first + 32]
        lost = [slot - first for slot in missing if 0 <= slot - first < part.shape[1]]
        rows.append(
            {
                "network_id": "n", "network_version": 1, "first_slot": first, "slot_count": part.shape[1],
                "interval_s": 900, "n_bus": len(p_kw), "slot_status": slot_status(part.shape[1], lost),
                "first_ts": datetime(2016, 1, 1, tzinfo=UTC) + timedelta(seconds=900 * (first + 1)),
                "p_kw": encode(part),
            } | changes
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=ARROW["snapshot_tile"]).select(list(NetworkLoad.columns))


def figures(rows: pa.Table, day: Day = DAY) -> dict[str, Any]:
    partial, rejected = OPERATOR.map(rows, None, day)
    assert not rejected
    outputs, found = OPERATOR.finish(partial, None, day)
    assert outputs == {}
    assert set(found) == set(OPERATOR.figures)
    return found


@pytest.mark.parametrize("slots", [92, 96, 100])
def test_figures_are_those_of_a_plain_loop(slots: int) -> None:
    p = np.random.default_rng(slots).normal(-2, 5, (7, slots)).astype(np.float32)
    p[3, 40], p[2, 70] = np.nan, np.inf
    missing, bad = {5, 33}, {40, 70}
    drawn = fed_back = squared = high = 0.0
    demands = []
    for slot in set(range(slots)) - missing - bad:
        column = [float(x) for x in p[:, slot]]
        drawn -= sum(x for x in column if x < 0) / 4
        fed_back += sum(x for x in column if x > 0) / 4
        demands.append(-sum(column))
        squared += demands[-1] ** 2
        high += 15 * (demands[-1] > 20)
    found = figures(tiles(p, missing), Day("here", DAY.date, slots * 900))
    assert [found[f"slots{name}"] for name in ("", "_valid", "_bad", "_missing")] == [slots, slots - 4, 2, 2]
    expected = [drawn, fed_back, max(demands), min(demands), squared, high]
    names = ("drawn_kwh", "fed_back_kwh", "demand_max_kw", "demand_min_kw", "demand_squared_kw2", "minutes_high")
    np.testing.assert_allclose([found[name] for name in names], expected, rtol=1e-12)
    assert high > 0


def test_partials_merge_to_the_same_bits_in_any_order() -> None:
    rows = tiles(np.random.default_rng(1).normal(-2, 5, (7, 96)))
    parts = [OPERATOR.map(rows.slice(i, 1), None, DAY)[0] for i in range(3)]
    whole, _ = OPERATOR.map(rows, None, DAY)
    for a, b, c in permutations(parts):
        assert OPERATOR.equivalent(OPERATOR.merge(OPERATOR.merge(a, b), c), whole)


def test_a_day_without_a_valid_slot_has_no_values() -> None:
    found = figures(tiles(np.ones((2, 96)), set(range(96))))
    assert (found["slots"], found["slots_valid"], found["slots_missing"]) == (96, 0, 96)
    assert {found[name] for name in found if not name.startswith("slots")} == {None}


def test_zero_demand_has_no_sign() -> None:
    found = figures(tiles(np.full((2, 96), -0.0)))
    assert str([found["demand_max_kw"], found["demand_min_kw"], found["drawn_kwh"]]) == "[0.0, 0.0, 0.0]"


@pytest.mark.parametrize(
    ("changes", "reason"), [({"n_bus": 8}, "8 buses"), ({"n_bus": 0, "p_kw": b""}, "n_bus is 0"),
                            ({"p_kw": None}, "p_kw is null")],
)  # fmt: skip
def test_unusable_tiles_are_rejected(changes: dict[str, Any], reason: str) -> None:
    partial, rejected = OPERATOR.map(tiles(np.ones((7, 32)), **changes), None, DAY)
    assert partial is None
    assert [reason in each.reason for each in rejected] == [True]
    assert rejected[0].key == {"network_id": "n", "network_version": 1, "first_slot": 0}


def test_intervals_must_agree() -> None:
    a, _ = OPERATOR.map(tiles(np.ones((2, 32))), None, DAY)
    other = tiles(np.ones((2, 16)), interval_s=1800, first_slot=32)
    b, _ = OPERATOR.map(other, None, DAY)
    with pytest.raises(Unusable, match="differ in interval_s") as apart:
        OPERATOR.merge(a, b)
    with pytest.raises(Unusable) as together:  # whether they come in one block or in two
        OPERATOR.map(pa.concat_tables([other, tiles(np.ones((2, 32)))]), None, DAY)
    assert str(together.value) == str(apart.value)
