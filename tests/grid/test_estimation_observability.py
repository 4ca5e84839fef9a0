"""What measurements determine: against the rank of a Jacobian by finite differences, and against their own remedies."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lib.grid.estimation import Estimator, estimate
from tests.grid.estimation_reference import measured
from tests.grid.measurement_sets import COLUMNS, everywhere, readings, true_voltages, voltages
from tests.grid.random_networks import random_injections, random_network
from tests.grid.reference import admittance

N = 12


def jacobian(network, table, zero, v):
    """Of everything measured and of zero injections, by each voltage's parts; rows scaled to length 1."""
    angle = np.exp(1j * np.angle(network.fixed_v_pu[0]))
    directions = [
        (row, turn) for row in range(network.n_row) for turn in ((angle,) if row in network.fixed_row else (1.0, 1j))
    ]
    columns = []
    for row, turn in directions:
        step = np.zeros(network.n_row, dtype=complex)
        step[row] = 1e-6 * turn
        change = measured(network, table, v + step) - measured(network, table, v - step)
        current = (admittance(network) @ step)[zero] * 2
        columns.append(np.concatenate([change, current.real, current.imag]) / 2e-6)
    h = np.array(columns).T
    return h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-9), directions


def thinned(network, seed, share):
    table = everywhere(network, flows=2)
    rng = np.random.default_rng(seed)
    return table[rng.random(len(table)) < share].reset_index(drop=True)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.integers(0, 10_000), st.integers(0, 3), st.sampled_from([0.15, 0.3, 0.5]))
def test_observable_is_what_the_jacobian_determines(seed, loops, share):
    network = random_network(seed, N, loops)
    table = thinned(network, seed, share)
    if not len(table):
        return
    zero = [
        int(b)
        for b in range(N)
        if b not in network.fixed_row and b not in set(table.element[table.element_type == "bus"])
    ][:1]
    estimator = Estimator(network, table, zero_injection=zero)
    found = estimator.observability(np.ones(len(table), dtype=bool))
    start = estimator.linearisation.v0[estimator.model.node_of[:N]]
    h, directions = jacobian(network, table, zero, start)
    left, size, right = np.linalg.svd(h, full_matrices=True)
    assume(not ((size > 1e-9) & (size < 1e-3)).any())  # magnitudes seen through losses alone: neither here nor there
    rank = int((size > 1e-6).sum())
    null = right[rank:].T
    assert found.deficit == len(directions) - rank
    free = {row for k, (row, _) in enumerate(directions) if len(null[k]) and np.abs(null[k]).max() > 1e-6}
    np.testing.assert_array_equal(found.observable, [row not in free for row in range(N)])
    assert not (found.observable & ~found.topologically_observable).any()  # structure is necessary

    share = 1 - (left[: len(table), :rank] ** 2).sum(axis=1)  # of its own error in a residual
    assume(not ((share > 1e-9) & (share < 1e-2)).any())
    assert found.critical == np.flatnonzero(share < 1e-6).tolist()


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.integers(0, 2))
def test_remedies_mend(seed, loops):
    network = random_network(seed, N, loops)
    table = thinned(network, seed, 0.3)
    if not len(table):
        return
    found = Estimator(network, table).observability(np.ones(len(table), dtype=bool))
    remedies = [r.split(" at bus ") for island in found.islands for r in island.remedies]
    assert len(remedies) == found.deficit
    more = pd.DataFrame([(kind, "bus", int(bus), None, 1e-3) for kind, bus in remedies], columns=COLUMNS)
    mended = pd.concat([table, more], ignore_index=True) if len(more) else table
    assert Estimator(network, mended).observability(np.ones(len(mended), dtype=bool)).deficit == 0
    islands = [set(island.buses.tolist()) for island in found.islands]
    assert set().union(*islands) == set(np.flatnonzero(~found.observable).tolist())


def test_the_observable_part_is_estimated_and_the_rest_marked() -> None:
    network = random_network(3, 25)
    v = true_voltages(network, *random_injections(3, 25, 4))
    table = everywhere(network, flows=0)
    leaf = next(
        int(b) for b in range(25)
        if ((network.branch_from == b) | (network.branch_to == b)).sum() == 1 and b not in network.fixed_row
    )  # fmt: skip
    (branch,) = np.flatnonzero((network.branch_from == leaf) | (network.branch_to == leaf))
    parent = int(network.branch_from[branch] + network.branch_to[branch] - leaf)
    cut = table[~((table.element == leaf) | ((table.element == parent) & (table.measurement_type != "v")))]
    z = readings(network, cut, v)
    result = estimate(network, cut, z)
    assert result.converged.all()
    assert np.flatnonzero(np.isnan(voltages(result)).any(axis=1)).tolist() == [leaf]
    (island,) = result.observability[0].islands
    assert island.buses.tolist() == [leaf]
    assert len(island.remedies) == 2
    # With the leaf made known by whatever value, the others come out the same.
    extra = pd.DataFrame([(k, "bus", leaf, None, 1e-3) for k in "pq"], columns=COLUMNS)
    whole = estimate(network, pd.concat([cut, extra]), np.concatenate([z, np.full((2, 4), 0.002)]))
    others = np.arange(25) != leaf
    np.testing.assert_allclose(voltages(result)[others], voltages(whole)[others], atol=1e-7)
    np.testing.assert_allclose(result.objective, whole.objective, rtol=1e-5)
    np.testing.assert_array_equal(result.degrees_of_freedom, whole.degrees_of_freedom)


def test_without_any_magnitude_structure_is_enough_but_numbers_are_not() -> None:
    network = random_network(2, 10)
    table = everywhere(network, flows=1)
    table = table[(table.measurement_type != "v") & (table.element_type != "bus")]
    found = Estimator(network, table).observability(np.ones(len(table), dtype=bool))
    if found.deficit == 0:
        pytest.skip("flows with losses see the magnitude")
    assert not found.observable.all()
