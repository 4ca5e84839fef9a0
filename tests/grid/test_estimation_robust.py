"""Huber's estimator against general optimisers, and what it is for: states that gross errors hardly move."""

from __future__ import annotations

import copy

import numpy as np
import pandapower as pp
import pandapower.estimation
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandapower.estimation.algorithm.estimator import BaseEstimatorIRWLS

from lib.grid import Network
from lib.grid.estimation import Estimator, estimate
from tests.grid import estimation_networks as nets
from tests.grid.estimation_reference import least_squares_estimate
from tests.grid.measurement_sets import everywhere, readings, true_voltages, voltages
from tests.grid.random_networks import random_injections, random_network


class HuberEstimatorIRWLS(BaseEstimatorIRWLS):
    """Weights for pandapower's reweighted least squares; it finds the class by its name."""

    def __init__(self, eppci, a, **_):
        super().__init__(eppci)
        self.a = a

    def create_phi(self, E):
        pull = np.abs(self.create_rx(E)) / self.sigma
        return np.diagflat(np.minimum(1, self.a / np.maximum(pull, 1e-9)) / self.sigma**2)


def with_gross_errors(table, z, seed, share=0.05, size=20):
    """z with so many of its values wrong by this many sigmas either way."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(z.shape) < share
    return z + wrong * rng.choice([-size, size], z.shape) * table.std_dev.to_numpy()[:, None]


@settings(deadline=None, max_examples=6)
@given(st.integers(0, 10_000), st.integers(0, 3), st.sampled_from([1.0, 1.5, 3.0]))
def test_agrees_with_a_general_optimiser(seed, loops, k):
    n = 8
    network = random_network(seed, n, loops)
    v = true_voltages(network, *random_injections(seed, n, 1))
    table = everywhere(network, flows=2)
    z = with_gross_errors(table, readings(network, table, v, seed), seed)
    result = estimate(network, table, z, tolerance=1e-10, huber=k)
    assert result.converged.all()
    best, objective = least_squares_estimate(network, table, z[:, 0], voltages(result)[:, 0] * 1.001, huber=k)
    assert result.objective[0] == pytest.approx(objective, rel=1e-6)
    assert np.abs(voltages(result)[:, 0] - best).max() <= 1e-6


@pytest.mark.parametrize("k", [1.5, 3.0])
def test_agrees_with_pandapower(k) -> None:
    net = nets.cigre()
    table = net.measurement
    table.loc[table.index[table.measurement_type == "v"][[2, 7, 11]], "value"] += [0.2, -0.15, 0.25]
    network = Network.from_pandapower(net)
    result = estimate(network, table, table.value.to_numpy()[:, None], huber=k)
    assert len(result.bounded) > 2
    net = copy.deepcopy(net)
    assert pp.estimation.estimate(
        net, algorithm="irwls", estimator="huber", a=k, tolerance=1e-10, maximum_iterations=500
    )
    theirs = net.res_bus_est.vm_pu * np.exp(1j * np.deg2rad(net.res_bus_est.va_degree))
    assert np.abs(voltages(result)[network.member_row, 0] - theirs.loc[network.member_bus]).max() <= 1e-6


def test_gross_errors_hardly_move_the_state() -> None:
    n, s = 25, 64
    network = random_network(11, n, 2)
    v = true_voltages(network, *random_injections(11, n, s))
    table = everywhere(network, flows=1, both_ends=True, s=1e-3)
    z = readings(network, table, v)
    bad = with_gross_errors(table, z, 0, size=30)
    estimator = Estimator(network, table)

    def error(result):
        assert result.converged.all()
        return np.sqrt((np.abs(voltages(result) - v) ** 2).mean())

    clean, least_squares = error(estimator.estimate(z)), error(estimator.estimate(bad))
    robust = estimator.estimate(bad, huber=1.5)
    assert error(robust) < 0.3 * least_squares
    assert error(robust) < 2 * clean
    # Every gross error is among those listed, with little weight.
    light = robust.bounded[robust.bounded.weight < 0.3]
    found = set(zip(light.snapshot, light.measurement, strict=True))
    wrong = {(i, m) for m, i in np.argwhere(np.abs(bad - z) > 0)}
    assert len(wrong & found) >= 0.9 * len(wrong)


def test_without_large_residuals_it_is_least_squares() -> None:
    n, s = 20, 40
    network = random_network(4, n, 2)
    table = everywhere(network)
    z = readings(network, table, true_voltages(network, *random_injections(4, n, s)))
    plain, bounded = estimate(network, table, z), estimate(network, table, z, huber=10)
    np.testing.assert_array_equal(voltages(plain), voltages(bounded))
    np.testing.assert_array_equal(plain.objective, bounded.objective)
    assert not len(bounded.bounded)
    assert np.isnan(bounded.p_value).all()


@settings(deadline=None, max_examples=3)
@given(st.integers(0, 10_000), st.data())
def test_a_snapshot_has_the_same_bits_in_any_batch(seed, data):
    n, s = 15, 40
    network = random_network(seed, n, 2)
    table = everywhere(network)
    z = readings(network, table, true_voltages(network, *random_injections(seed, n, s)), seed)
    z = with_gross_errors(table, z, seed, share=0.02)
    z[3, 7] = np.nan
    together = estimate(network, table, z, huber=2)
    order = np.array(data.draw(st.permutations(range(s))))
    cut = data.draw(st.integers(1, s - 1))
    for part in (order[:cut], order[cut:]):
        alone = estimate(network, table, z[:, part], huber=2)
        assert voltages(alone).tobytes() == voltages(together)[:, part].tobytes()
        assert alone.objective.tobytes() == together.objective[part].tobytes()
        assert len(alone.bounded) == together.bounded.snapshot.isin(part).sum()


def test_it_replaces_the_removal_of_bad_data() -> None:
    network = random_network(1, 5)
    table = everywhere(network)
    with pytest.raises(ValueError, match="no bad_data_alpha"):
        estimate(network, table, np.ones((len(table), 1)), huber=1.5, bad_data_alpha=0.01)
