"""Day summaries against a plain numpy calculation over all slots, and their exactness under any split."""

from __future__ import annotations

import dataclasses
from itertools import permutations

import numpy as np
import pytest

from lib.grid import Network
from lib.grid.branches import branch_results
from lib.grid.powerflow import solve
from lib.grid.summary import (
    LANES,
    DaySummary,
    Limits,
    Summariser,
    day_sum,
    loading_max_percent,
    merge,
    vm_mean_pu,
    vm_p95_pu,
)
from tests.grid.random_networks import random_injections, random_network


def network_with_gaps(seed: int, n: int = 70) -> Network:
    """A random network with iron losses, unrated ends and a phase shift here and there."""
    rng = np.random.default_rng(seed)
    network = random_network(seed, n, loops=3)
    m = network.n_branch
    rated = rng.uniform(0.002, 0.05, (m, 2))
    rated[rng.random((m, 2)) < 0.2] = np.nan
    rated[5] = np.nan
    y = network.branch_y_pu.copy()
    y[7, 0, 1] *= np.exp(0.1j)
    y[7, 1, 0] *= np.exp(-0.1j)
    iron = np.where(rng.random((m, 1)) < 0.2, rng.uniform(0, 1e-3, (m, 4)), 0.0)
    return dataclasses.replace(network, branch_rated_ka=rated, branch_y_pu=y, branch_iron_pu=iron)


def tiles_of(network: Network, slots: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """(n_tile, n_row, 32) voltages; row 11 is in an island, padding is NaN."""
    rng = np.random.default_rng(seed)
    n_tile = -(-slots // LANES)
    shape = n_tile, network.n_row, LANES
    e, f = 1 + rng.normal(0, 0.04, shape), rng.normal(0, 0.04, shape)
    e[:, 11] = f[:, 11] = np.nan
    flat = np.arange(n_tile * LANES).reshape(n_tile, LANES) >= slots
    e[np.broadcast_to(flat[:, None], shape)] = np.nan
    return e, f


def summariser_of(network: Network) -> Summariser:
    return Summariser(network, Limits(np.full(network.n_bus, 0.97), np.full(network.n_bus, 1.02), 80.0, 100.0))


def summary_of(summariser: Summariser, e: np.ndarray, f: np.ndarray, used: np.ndarray, tiles: list[int]) -> DaySummary:
    day = summariser.empty()
    for k in tiles:
        summariser.add_tile(day, e[k], f[k], used[k], k * LANES)
    return day


@pytest.mark.parametrize("slots", [92, 96, 100])
@pytest.mark.parametrize("seed", [1, 2])
def test_summary_equals_numpy_over_all_slots(slots: int, seed: int) -> None:
    network = network_with_gaps(seed)
    e, f = tiles_of(network, slots)
    used = np.arange(e.shape[0] * LANES).reshape(-1, LANES) < slots
    used.ravel()[[4, 5, 40]] = False  # failed snapshots
    e.transpose(0, 2, 1)[~used] = np.nan
    day = summary_of(summariser_of(network), e, f, used, list(range(len(e))))

    n = network.n_bus
    slot = np.flatnonzero(used.ravel())
    live = np.arange(n) != 11
    vm = np.sqrt(e * e + f * f).transpose(1, 0, 2).reshape(network.n_row, -1)[:n][live][:, slot]
    np.testing.assert_array_equal(day.bus_slots, np.where(live, len(slot), 0))
    np.testing.assert_array_equal(day.vm_min_pu[live], vm.min(axis=1))
    np.testing.assert_array_equal(day.vm_max_pu[live], vm.max(axis=1))
    np.testing.assert_array_equal(day.vm_min_slot[live], slot[vm.argmin(axis=1)])
    np.testing.assert_array_equal(day.vm_max_slot[live], slot[vm.argmax(axis=1)])
    np.testing.assert_allclose(vm_mean_pu(day)[live], vm.mean(axis=1), rtol=1e-14)
    np.testing.assert_array_equal(vm_p95_pu(day)[live], np.percentile(vm, 95, axis=1))
    np.testing.assert_array_equal(day.slots_below[live], (vm < 0.97).sum(axis=1))
    np.testing.assert_array_equal(day.slots_above[live], (vm > 1.02).sum(axis=1))
    assert np.isnan(vm_mean_pu(day)[11])
    assert np.isnan(vm_p95_pu(day)[11])
    assert day.vm_min_slot[11] == -1

    full = branch_results(network, e, f, e.shape[0] * LANES)
    joined = (network.branch_from != 11) & (network.branch_to != 11)
    load = full.loading_percent[joined][:, slot]
    rated = ~np.isnan(load).all(axis=1)
    np.testing.assert_array_equal(day.branch_slots, np.where(joined, len(slot), 0))
    np.testing.assert_allclose(loading_max_percent(day)[joined][rated], load[rated].max(axis=1), rtol=1e-12)
    assert np.isnan(loading_max_percent(day)[joined][~rated]).all()
    np.testing.assert_array_equal(day.load_max_slot[joined][rated], slot[load[rated].argmax(axis=1)])
    np.testing.assert_array_equal(day.slots_heavy[joined], (load > 80).sum(axis=1))
    np.testing.assert_array_equal(day.slots_overload[joined], (load > 100).sum(axis=1))
    p, loss, iron = (a[joined][:, slot] for a in (full.p_from_mw, full.p_loss_mw, full.p_iron_mw))
    np.testing.assert_allclose(day_sum(day.energy_sum)[joined], np.abs(p).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(day_sum(day.loss_sum)[joined], loss.sum(axis=1), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(day_sum(day.iron_sum)[joined], iron.sum(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(day.reverse[joined], (p < -1e-6).any(axis=1))


@pytest.mark.parametrize("slots", [1, 2, 5, 6, 7, 20, 21, 22])
def test_percentile_of_few_slots(slots: int) -> None:
    network = network_with_gaps(4)
    e, f = tiles_of(network, slots)
    used = np.arange(LANES)[None] < slots
    day = summary_of(summariser_of(network), e, f, used, [0])
    vm = np.sqrt(e[0] ** 2 + f[0] ** 2)[: network.n_bus, :slots]
    np.testing.assert_array_equal(vm_p95_pu(day), np.percentile(vm, 95, axis=1))


def test_merge_is_exact_in_any_order_and_grouping() -> None:
    network = network_with_gaps(5)
    summariser = summariser_of(network)
    e, f = tiles_of(network, 100)
    e[1, :, 3], e[2, :, 3] = e[0, :, 3], e[0, :, 3]  # ties: the first occurrence must win
    f[1, :, 3], f[2, :, 3] = f[0, :, 3], f[0, :, 3]
    used = np.arange(4 * LANES).reshape(4, LANES) < 100
    whole = summary_of(summariser, e, f, used, [0, 1, 2, 3])
    single = [summary_of(summariser, e, f, used, [k]) for k in range(4)]
    for a, b, c, d in permutations(single):
        for merged in (
            merge(merge(merge(a, b), c), d),
            merge(merge(a, b), merge(c, d)),
            merge(a, merge(b, merge(c, d))),
        ):
            for field in dataclasses.fields(DaySummary):
                np.testing.assert_array_equal(getattr(merged, field.name), getattr(whole, field.name), field.name)
    backwards = summary_of(summariser, e, f, used, [3, 1, 0, 2])
    np.testing.assert_array_equal(vm_mean_pu(backwards), vm_mean_pu(whole))
    neutral = merge(whole, summariser.empty())
    np.testing.assert_array_equal(neutral.vm_top_pu, whole.vm_top_pu)


def test_infeed_covers_loads_and_losses() -> None:
    network = random_network(8, 50)
    p, q = random_injections(8, 50, LANES)
    flow = solve(network, p, q)
    summariser = summariser_of(network)
    infeed = summariser.infeed(flow.e[0], flow.f[0], p, q)
    np.testing.assert_allclose(infeed.real, flow.slack_p_mw.sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(infeed.imag, flow.slack_q_mvar.sum(axis=0), rtol=1e-12)


def test_refuses_what_does_not_fit() -> None:
    network = network_with_gaps(6)
    summariser = summariser_of(network)
    day = summariser.empty()
    e, f = tiles_of(network, 96)
    used = np.ones(LANES, dtype=bool)
    with pytest.raises(ValueError, match="first_slot is 16"):
        summariser.add_tile(day, e[0], f[0], used, 16)
    with pytest.raises(ValueError, match="shape"):
        summariser.add_tile(day, e[0][:-1], f[0][:-1], used, 0)
    summariser.add_tile(day, e[0], f[0], used, 0)
    with pytest.raises(ValueError, match="already"):
        summariser.add_tile(day, e[0], f[0], used, 0)
    with pytest.raises(ValueError, match="both summaries"):
        merge(day, day)
    with pytest.raises(ValueError, match="at most 100"):
        summariser.add_tile(day, e[0], f[0], used, 96)
    with pytest.raises(ValueError, match="v_min_pu"):
        Summariser(network, Limits(np.zeros(3), np.zeros(3)))
