"""Statistics of residuals and the removal of bad data, by Monte Carlo with a fixed seed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from lib.grid.estimation import Estimator, estimate
from tests.grid.estimation_reference import measured
from tests.grid.measurement_sets import everywhere, true_voltages, voltages
from tests.grid.random_networks import random_injections, random_network

N, SNAPSHOTS = 25, 1000


@pytest.fixture(scope="module")
def clean():
    """One operating point, a thousand noisy snapshots of it, their estimates with the test for bad data."""
    network = random_network(11, N, 2)
    v = true_voltages(network, *random_injections(11, N, 1))
    table = everywhere(network, flows=1, both_ends=True, s=1e-3)
    exact = measured(network, table, v[:, 0])
    noise = np.random.default_rng(0).standard_normal((len(table), SNAPSHOTS))
    z = exact[:, None] + table.std_dev.to_numpy()[:, None] * noise
    return network, table, v[:, 0], z, estimate(network, table, z, bad_data_alpha=0.005)


def test_the_objective_follows_chi_square(clean) -> None:
    network, table, _, z, _ = clean
    plain = estimate(network, table, z)
    assert plain.degrees_of_freedom[0] == len(table) - (2 * N - 1)
    assert kstest(plain.p_value, "uniform").pvalue >= 0.001


def test_metered_voltages_are_no_worse_than_their_meters(clean) -> None:
    network, table, v, z, _ = clean
    result = estimate(network, table, z)
    error = np.sqrt(((result.vm_pu - np.abs(v)[:, None]) ** 2).mean(axis=1))
    assert (error <= 2e-3 * (1 + 3 / np.sqrt(2 * SNAPSHOTS))).all()


def test_clean_snapshots_lose_nothing(clean) -> None:
    *_, result = clean
    assert result.removed.snapshot.nunique() <= 0.01 * SNAPSHOTS


def test_single_gross_errors_are_found(clean) -> None:
    network, table, _, z, _ = clean
    estimator = Estimator(network, table)
    share = estimator.observability(np.ones(len(table), dtype=bool)).gain.residual_share
    seen = np.flatnonzero(share >= 0.3)
    rng = np.random.default_rng(1)
    wrong = rng.choice(seen, SNAPSHOTS)
    bad = z.copy()
    bad[wrong, np.arange(SNAPSHOTS)] += 10 * table.std_dev.to_numpy()[wrong] * rng.choice([-1, 1], SNAPSHOTS)
    removed = estimator.estimate(bad, bad_data_alpha=0.005).removed
    found = set(zip(removed.snapshot, removed.measurement, strict=True))
    hits = sum((s, wrong[s]) in found for s in range(SNAPSHOTS))
    assert hits >= 0.95 * SNAPSHOTS


def test_without_the_removed_is_as_if_never_measured(clean) -> None:
    network, table, _, z, _ = clean
    estimator = Estimator(network, table)
    share = estimator.observability(np.ones(len(table), dtype=bool)).gain.residual_share
    wrong = np.flatnonzero(share >= 0.5)[[1, 7, 12]]
    bad = z[:, :40].copy()
    bad[wrong, 3] += 40 * table.std_dev.to_numpy()[wrong] * [1, -1, 1]
    result = estimator.estimate(bad, bad_data_alpha=0.005)
    gone = result.removed[result.removed.snapshot == 3]
    assert set(gone.measurement) == set(wrong)
    assert (gone.normalised_residual.abs() > 4).all()
    rest = np.setdiff1d(np.arange(len(table)), wrong)
    without = estimate(network, table.iloc[rest], bad[rest][:, 3:4])
    assert np.abs(voltages(result)[:, 3] - voltages(without)[:, 0]).max() <= 1e-7
    assert result.objective[3] == pytest.approx(without.objective[0], rel=1e-6)
    assert result.degrees_of_freedom[3] == without.degrees_of_freedom[0]
