"""State estimation against power-grid-model, a general optimiser, and itself under any batch."""

from __future__ import annotations

import numpy as np
import pandapower as pp
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.grid import Network
from lib.grid.estimation import EstimateStatus, Estimator, estimate
from tests.grid.estimation_reference import least_squares_estimate
from tests.grid.measurement_sets import COLUMNS, everywhere, readings, true_voltages, voltages
from tests.grid.random_networks import random_injections, random_network

seeds = st.integers(0, 10_000)


def same_bits(a, b) -> bool:
    return np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


@settings(deadline=None, max_examples=6)
@given(seeds, st.integers(0, 3), st.booleans())
def test_agrees_with_a_general_optimiser(seed, loops, partial):
    n = 10
    network = random_network(seed, n, loops)
    v = true_voltages(network, *random_injections(seed, n, 1))
    table = everywhere(network)
    zero = []
    if partial:  # only P here, only Q there, one bus without anything, one with nothing to measure
        free = np.setdiff1d(np.arange(n), network.fixed_row)
        zero = [int(free[0])]
        gone = table.element_type == "bus"
        gone &= ((table.element == free[0]) & (table.measurement_type != "v")) | (table.element == free[1])
        gone |= (table.element_type == "bus") & (table.element == free[2]) & (table.measurement_type == "q")
        gone |= (table.element_type == "bus") & (table.element == free[3]) & (table.measurement_type == "p")
        p, q = random_injections(seed, n, 1)
        p[free[0]] = q[free[0]] = 0
        v = true_voltages(network, p, q)
        table = table[~gone].reset_index(drop=True)
        table = pd.concat(
            [table, pd.DataFrame([("va", "bus", free[1], None, 0.05)], columns=COLUMNS)], ignore_index=True
        )
    z = readings(network, table, v, seed)
    result = estimate(network, table, z, zero_injection=zero, tolerance=1e-10)
    assert result.converged.all()
    if result.observability[0].deficit:
        return
    best, objective = least_squares_estimate(network, table, z[:, 0], v[:, 0], zero)
    assert result.objective[0] == pytest.approx(objective, rel=1e-6)
    assert np.abs(voltages(result)[:, 0] - best).max() <= 1e-6


@pytest.mark.parametrize("loops", [0, 4])
def test_agrees_with_power_grid_model(loops: int) -> None:
    from lib.baseline.power_grid_model_estimation import EstimationModel

    n = 30
    network = random_network(5, n, loops)
    p, q = random_injections(5, n, 8)
    p[7:10] = q[7:10] = 0
    zero = [int(b) for b in range(7, 10) if b not in network.fixed_row]
    v = true_voltages(network, p, q)
    table = everywhere(network)
    table = table[~(table.element.isin(zero) & (table.element_type == "bus") & (table.measurement_type != "v"))]
    table = table.reset_index(drop=True)
    z = readings(network, table, v)
    ours = estimate(network, table, z, zero_injection=zero)
    theirs = EstimationModel(network, table, zero).solve(z, method="newton_raphson", tolerance=1e-10)
    expected = theirs.vm_pu * np.exp(1j * theirs.va_rad)
    turned = expected * np.exp(1j * np.angle(network.fixed_v_pu[0]) - 1j * np.angle(expected[:, network.fixed_row]))
    assert np.abs(voltages(ours) - turned.T).max() <= 1e-6


@settings(deadline=None, max_examples=5)
@given(seeds, st.integers(0, 3), st.data())
def test_a_snapshot_has_the_same_bits_in_any_batch(seed, loops, data):
    n, s = 25, 70
    network = random_network(seed, n, loops)
    table = everywhere(network, currents=5)
    z = readings(network, table, true_voltages(network, *random_injections(seed, n, s)), seed)
    z[np.random.default_rng(seed).random(z.shape) < 0.002] = np.nan
    z[3, 5] += 1.0  # a gross error
    together = estimate(network, table, z, bad_data_alpha=0.01)
    order = np.array(data.draw(st.permutations(range(s))))
    cut = data.draw(st.integers(1, s - 1))
    for part in (order[:cut], order[cut:]):
        alone = estimate(network, table, z[:, part], bad_data_alpha=0.01)
        assert same_bits(voltages(alone), voltages(together)[:, part])
        assert same_bits(alone.objective, together.objective[part])
        assert same_bits(alone.status, together.status[part])
        assert len(alone.removed) == together.removed.snapshot.isin(part).sum()


def test_missing_values_are_as_if_the_meter_were_not_there() -> None:
    n, s = 20, 40
    network = random_network(3, n, 2)
    table = everywhere(network)
    z = readings(network, table, true_voltages(network, *random_injections(3, n, s)))
    gone = table.index[(table.element == 3) & (table.element_type == "line")]
    z[np.ix_(gone, range(0, s, 2))] = np.nan
    z[2, 7] = np.nan
    mixed = estimate(network, table, z)
    assert len(mixed.observability) == 3
    less = table.drop(index=gone)
    even = estimate(network, less, z[np.setdiff1d(np.arange(len(table)), gone)][:, ::2])
    np.testing.assert_allclose(voltages(mixed)[:, ::2], voltages(even), atol=1e-8)
    np.testing.assert_allclose(mixed.objective[::2], even.objective, rtol=1e-7)
    np.testing.assert_array_equal(mixed.degrees_of_freedom[::2], even.degrees_of_freedom)


def test_pseudo_measurements_count_only_where_nothing_else_does() -> None:
    n, s = 20, 12
    network = random_network(4, n)
    table = everywhere(network, flows=0).assign(pseudo=False)
    profile = table[table.measurement_type.isin(["p", "q"])].assign(pseudo=True, std_dev=5e-3)
    both = pd.concat([table, profile], ignore_index=True)
    z = readings(network, both, true_voltages(network, *random_injections(4, n, s)))
    lost = np.zeros(z.shape, dtype=bool)
    lost[(both.element == 11) & both.measurement_type.isin(["p", "q"]) & ~both.pseudo, 5] = True
    with_gap = np.where(lost, np.nan, z)
    result = estimate(network, both, with_gap)
    plain = estimate(network, table, z[: len(table)])
    others = np.arange(s) != 5
    np.testing.assert_allclose(voltages(result)[:, others], voltages(plain)[:, others], atol=1e-9)
    used = ~lost[:, 5] & (~both.pseudo | ((both.element == 11) & both.pseudo)).to_numpy()
    alone = estimate(network, both[used].assign(pseudo=False), z[used][:, 5:6])
    np.testing.assert_allclose(voltages(result)[:, 5], voltages(alone)[:, 0], atol=1e-9)


def test_meters_of_the_same_quantity_act_as_their_weighted_mean() -> None:
    n, s = 12, 5
    network = random_network(6, n)
    table = everywhere(network)
    z = readings(network, table, true_voltages(network, *random_injections(6, n, s)))
    twice = pd.concat([table, table.assign(std_dev=2 * table.std_dev)], ignore_index=True)
    other = z + table.std_dev.to_numpy()[:, None]
    result = estimate(network, twice, np.concatenate([z, other]))
    single = estimate(network, table.assign(std_dev=table.std_dev * 0.8**0.5), 0.8 * z + 0.2 * other)
    np.testing.assert_allclose(voltages(result), voltages(single), atol=1e-9)
    between = 0.2 * len(table)  # sum of w1 w2 / (w1 + w2) (z1 - z2)^2, here 0.2 each
    np.testing.assert_allclose(result.objective, single.objective + between, rtol=1e-7)


def test_powers_at_fused_buses_add_up() -> None:
    net = pp.create_empty_network()
    a, b, c = (pp.create_bus(net, 0.4) for _ in range(3))
    pp.create_ext_grid(net, a)
    pp.create_line_from_parameters(net, a, b, 0.1, 0.3, 0.1, 0, 0.2)
    pp.create_switch(net, b, c, "b", closed=True)
    network = Network.from_pandapower(net)
    table = pd.DataFrame(
        [("v", "bus", a, None, 0.001), *((k, "bus", x, None, 1e-4) for x in (b, c) for k in "pq")], columns=COLUMNS
    )
    result = estimate(network, table, np.array([[1.0, 0.01, 0.003, 0.02, 0.004]]).T)
    one = table.iloc[:3].assign(std_dev=[0.001, 1e-4, 1e-4])
    expected = estimate(network, one, np.array([[1.0, 0.03, 0.007]]).T)
    np.testing.assert_allclose(voltages(result), voltages(expected), atol=1e-10)


def test_what_cannot_be_estimated_leaves_the_others_alone() -> None:
    n, s = 20, 40
    network = random_network(8, n)
    table = everywhere(network)
    z = readings(network, table, true_voltages(network, *random_injections(8, n, s)))
    clean = estimate(network, table, z)
    z[:, 9] *= 1e6
    z[:, 20] = np.nan
    result = estimate(network, table, z)
    assert result.status[9] == EstimateStatus.DIVERGED
    assert result.status[20] == EstimateStatus.NO_MEASUREMENT
    assert np.isnan(voltages(result)[:, [9, 20]]).all()
    rest = np.setdiff1d(np.arange(s), [9, 20])
    assert same_bits(voltages(result)[:, rest], voltages(clean)[:, rest])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"element": 99}, "not in service"),
        ({"measurement_type": "x"}, "none of p, q, v, va"),
        ({"std_dev": 0.0}, "positive standard deviation in pu"),
        ({"element_type": "line", "measurement_type": "p", "side": "hv"}, "none of from, to"),
    ],
)
def test_lines_that_cannot_be_placed_are_named(change, message) -> None:
    network = random_network(1, 5)
    table = everywhere(network)
    for column, value in change.items():
        table.loc[3, column] = value
    with pytest.raises(ValueError, match=message) as raised:
        Estimator(network, table)
    assert "- 3 (" in str(raised.value)
