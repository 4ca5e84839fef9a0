"""The power-flow operator on arrays and Arrow alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from itertools import permutations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lib.algorithm.operator import Day, Unusable
from lib.algorithm.operators._powerflow_rows import State
from lib.algorithm.operators.powerflow import PowerFlowOperator
from lib.grid.powerflow import SlotStatus, solve
from lib.tables import ARROW
from lib.tables.tiles import encode, slot_status
from tests.grid.random_networks import random_injections, random_network, tapped_network, with_inverters

DAY = Day("here", date(2016, 1, 1), 86_400)
NETWORK = random_network(3, 40)


def tiles(slots: int = 96, **changes: Any) -> pa.Table:
    p, q = random_injections(5, 40, slots)
    rows = []
    for first in range(0, slots, 32):
        count = min(32, slots - first)
        rows.append(
            {
                "region": "here", "date": DAY.date, "network_id": "n", "network_version": 1, "first_slot": first,
                "slot_count": count, "interval_s": 900, "n_bus": 40, "slot_status": slot_status(count),
                "first_ts": datetime(2016, 1, 1, tzinfo=UTC) + timedelta(seconds=900 * (first + 1)),
                "p_kw": encode(p[:, first : first + count] * 1e3), "q_kvar": encode(q[:, first : first + count] * 1e3),
            } | changes
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=ARROW["snapshot_tile"]).select(list(PowerFlowOperator.columns))


@pytest.fixture(scope="module")
def operator() -> PowerFlowOperator:
    return PowerFlowOperator(full_voltages=True)


@pytest.fixture(scope="module")
def state(operator: PowerFlowOperator) -> State:
    return operator.prepare({"content": NETWORK.to_bytes()})


def test_partials_merge_to_the_same_bits_in_any_order(operator: PowerFlowOperator, state: State) -> None:
    rows = tiles()
    whole, rejected = operator.map(rows, state, DAY)
    assert not rejected
    expected, figures = operator.finish(whole, state, DAY)
    for a, b, c in permutations([rows.slice(i, 1) for i in range(3)]):
        x, y, z = (operator.map(part, state, DAY)[0] for part in (a, b, c))
        for merged in (operator.merge(operator.merge(x, y), z), operator.merge(x, operator.merge(y, z))):
            actual, again = operator.finish(merged, state, DAY)
            assert again == figures
            for name in operator.outputs:
                assert actual[name].equals(expected[name]), name


def test_threads_may_share_a_state(operator: PowerFlowOperator, state: State) -> None:
    """The kernels release Python's lock, and a thread reuses the arrays of its last tile: never those of another's."""
    rows = [tiles(96, p_kw=encode(random_injections(seed, 40, 32)[0] * 1e3)) for seed in range(4)]

    def run(part: pa.Table) -> Any:
        partial, _ = operator.map(part, state, DAY)
        return operator.finish(partial, state, DAY)

    expected = [run(part) for part in rows]
    with ThreadPoolExecutor(4) as pool:
        for (outputs, figures), (wanted, known) in zip(pool.map(run, rows * 50), expected * 50, strict=True):
            assert figures == known
            assert all(outputs[name].equals(wanted[name]) for name in wanted)


def test_rows_have_the_tables_columns_and_types(operator: PowerFlowOperator, state: State) -> None:
    outputs, figures = operator.finish(operator.map(tiles(), state, DAY)[0], state, DAY)
    assert set(outputs) == set(operator.outputs)
    for name, batch in outputs.items():
        expected = {f.name: f.type for f in ARROW[name]}
        left = set(expected) - {"region", "date", "network_id", "network_version"}
        assert {f.name: f.type for f in batch.schema} == {n: t for n, t in expected.items() if n in left}, name
    assert set(figures) == set(operator.figures)


def test_energy_balances(operator: PowerFlowOperator, state: State) -> None:
    p, _ = random_injections(5, 40, 96)
    outputs, _ = operator.finish(operator.map(tiles(), state, DAY)[0], state, DAY)
    result = outputs["network_result"].to_pylist()[0]
    consumed = -p.astype(float).sum() * 250
    shunts = state.network.y_shunt_pu.real @ (_squared_voltages(outputs) / 4 * 1e3)
    np.testing.assert_allclose(result["infeed_p_kwh"], consumed + shunts + result["loss_kwh"], rtol=1e-6)


def _squared_voltages(outputs: dict[str, pa.RecordBatch]) -> np.ndarray:
    tiles = outputs["state_tile"].column("vm_pu").to_pylist()
    return sum((np.frombuffer(t, "<f4").reshape(40, 32).astype(float) ** 2).sum(axis=1) for t in tiles)


def test_regulated_networks_are_summed_at_each_slots_own_taps() -> None:
    network = with_inverters(tapped_network(3, 40, 3, 0.03), 3)
    operator = PowerFlowOperator(max_iterations=30, full_voltages=True)
    state = operator.prepare({"content": network.to_bytes()})
    outputs, figures = operator.finish(operator.map(tiles(), state, DAY)[0], state, DAY)
    p, q = random_injections(5, 40, 96)
    flow = solve(network, p, q, max_iterations=30)
    assert (np.ptp(flow.tap_pos, axis=1) > 0).any()
    branches, rows = flow.branches(), outputs["branch_day"]
    np.testing.assert_allclose(rows["loss_kwh"], branches.p_loss_mw.sum(axis=1) * 250, rtol=1e-5)
    np.testing.assert_allclose(rows["energy_kwh"], np.abs(branches.p_from_mw).sum(axis=1) * 250, rtol=1e-5)
    np.testing.assert_allclose(rows["loading_max_percent"], branches.loading_percent.max(axis=1), rtol=1e-5)
    infeed = (flow.slack_p_mw.sum() + 1j * flow.slack_q_mvar.sum()) * 250
    result = outputs["network_result"].to_pylist()[0]
    np.testing.assert_allclose(
        [result["infeed_p_kwh"], result["infeed_q_kvarh"]], [infeed.real, infeed.imag], rtol=1e-6
    )
    shunts = network.y_shunt_pu.real @ (flow.vm_pu**2).sum(axis=1) * 250
    fed = (p.sum() - flow.curtailed_mw.sum()) * 250
    np.testing.assert_allclose(result["infeed_p_kwh"], shunts + result["loss_kwh"] - fed, rtol=1e-5)
    assert figures["hunting"] == (flow.status == SlotStatus.HUNTING).sum()
    assert figures["converged"] == 96


def test_lost_slots_leave_the_others_alone(operator: PowerFlowOperator, state: State) -> None:
    rows = tiles().to_pylist()
    p = np.frombuffer(rows[1]["p_kw"], "<f4").reshape(40, 32).copy()
    p[2, 9] = np.nan
    rows[1]["p_kw"] = encode(p)
    rows[2]["slot_status"] = slot_status(32, [0])
    partial, _ = operator.map(pa.Table.from_pylist(rows, schema=tiles().schema), state, DAY)
    outputs, figures = operator.finish(partial, state, DAY)
    assert (figures["converged"], figures["bad"], figures["missing"]) == (94, 1, 1)
    vm = np.concatenate(
        [np.frombuffer(t, "<f4").reshape(40, 32) for t in outputs["state_tile"].column("vm_pu").to_pylist()], axis=1
    )
    assert np.flatnonzero(np.isnan(vm).any(axis=0)).tolist() == [41, 64]


def test_nothing_solved_is_null_not_zero(operator: PowerFlowOperator, state: State) -> None:
    partial, _ = operator.map(tiles(32, slot_status=slot_status(32, range(32))), state, DAY)
    outputs, figures = operator.finish(partial, state, DAY)
    row = outputs["network_result"].to_pylist()[0]
    assert (row["slots"], row["slots_converged"], row["loss_kwh"], row["cos_phi"]) == (96, 0, None, None)
    assert outputs["bus_day"].column("vm_min_pu").null_count == 40
    assert outputs["branch_day"].column("loading_max_percent").null_count == NETWORK.n_branch
    assert figures["missing"] == 96


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"interval_s": 0}, "interval_s is 0"), ({"interval_s": 1000}, "does not divide"),
        ({"slot_status": b"123"}, "slot_status has 32 bytes"), ({"slot_count": 0}, "slot_count is 0"),
        ({"first_slot": -32}, "first_slot is -32"), ({"first_ts": None}, "first_ts is null"),
    ],
)  # fmt: skip
def test_unusable_tiles_are_rejected(operator: PowerFlowOperator, state: State, changes: Any, reason: str) -> None:
    partial, rejected = operator.map(tiles(32, **changes), state, DAY)
    assert partial is None
    assert [reason in r.reason for r in rejected] == [True]


def test_intervals_must_agree(operator: PowerFlowOperator, state: State) -> None:
    a, _ = operator.map(tiles(32), state, DAY)
    b, _ = operator.map(tiles(32, first_slot=32, interval_s=1800, slot_count=16), state, DAY)
    with pytest.raises(Unusable, match="differ in interval_s"):
        operator.merge(a, b)
