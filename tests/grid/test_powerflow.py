"""The batched solver against a plain Newton, the power equations, and itself under any batch, order or split."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.grid.factorisation import SingularNetworkError, admittance_matrix
from lib.grid.powerflow import LANES, SlotStatus, solve
from tests.grid.random_networks import random_injections, random_network
from tests.grid.reference import solve_reference

seeds = st.integers(0, 10_000)


def voltages(flow):
    """(n_row, n_snapshot) complex."""
    v = (flow.e + 1j * flow.f).transpose(1, 0, 2)
    return v.reshape(v.shape[0], -1)[:, : flow.n_snapshot]


def same_bits(a, b) -> bool:
    return a.tobytes() == b.tobytes()


@given(seeds, st.integers(2, 60), st.integers(0, 8), st.booleans())
def test_agrees_with_newton(seed, n, loops, chord):
    network = random_network(seed, n, loops if n > 4 else 0, chord)
    p, q = random_injections(seed, n, 3)
    flow = solve(network, p, q)
    assert flow.converged.all()
    for k in range(3):
        expected = solve_reference(network, p[:, k].astype(float), q[:, k].astype(float))
        assert np.abs(voltages(flow)[:, k] - expected).max() <= 1e-8


@given(seeds, st.integers(0, 8), st.sampled_from([1e-4, 1e-6, 1e-8, 1e-10, 1e-12]))
def test_error_stays_within_the_tolerance(seed, loops, tolerance):
    network = random_network(seed, 50, loops)
    p, q = random_injections(seed, 50, 64, size=0.006)
    flow = solve(network, p, q, tolerance=tolerance, fallback=False)
    exact = solve(network, p, q, tolerance=1e-14, max_iterations=60)
    both = flow.converged & exact.converged
    assert both.any()
    assert np.abs(voltages(flow) - voltages(exact))[:, both].max() <= tolerance + 1e-14


@given(seeds, st.integers(0, 5))
def test_power_balance(seed, loops):
    """What is injected at every bus is what leaves it, and the slack covers the rest."""
    network = random_network(seed, 30, loops)
    p, q = random_injections(seed, 30, 40)
    flow = solve(network, p, q, tolerance=1e-11)
    v = voltages(flow)
    injected = v * np.conj(admittance_matrix(network) @ v)
    given_power = p.astype(float) + 1j * q
    free = np.setdiff1d(np.arange(30), network.fixed_row)
    mismatch = np.abs(injected - given_power)[free]
    assert mismatch.max() <= 1e-8
    np.testing.assert_allclose(flow.slack_p_mw, (injected - given_power)[network.fixed_row].real, atol=1e-12)
    np.testing.assert_allclose(flow.slack_q_mvar, (injected - given_power)[network.fixed_row].imag, atol=1e-12)


def test_reports_the_mismatch_it_leaves():
    network = random_network(5, 40, 2)
    p, q = random_injections(5, 40, 32)
    flow = solve(network, p, q, tolerance=1e-4)
    v = voltages(flow)
    mismatch = np.abs(v * np.conj(admittance_matrix(network) @ v) - (p.astype(float) + 1j * q))
    mismatch[network.fixed_row] = 0
    np.testing.assert_allclose(flow.max_mismatch_mva, mismatch.max(axis=0), rtol=1e-3, atol=1e-12)


@given(seeds, st.integers(0, 4), st.data())
def test_a_snapshot_has_the_same_bits_in_any_batch(seed, loops, data):
    network = random_network(seed, 35, loops)
    p, q = random_injections(seed, 35, 90, size=0.006)
    p[:, 17] *= 400  # one without a solution, one broken, one that needs Newton's help
    q[3, 40] = np.nan
    p[:, 50] *= 3
    together = solve(network, p, q)
    order = np.array(data.draw(st.permutations(range(90))))
    cut = data.draw(st.integers(1, 89))
    for part in (order[:cut], order[cut:]):
        alone = solve(network, p[:, part], q[:, part])
        assert same_bits(voltages(alone), np.ascontiguousarray(voltages(together)[:, part]))
        assert same_bits(alone.status, together.status[part])
        assert same_bits(alone.iterations, together.iterations[part])
    single = solve(network, p[:, cut : cut + 1], q[:, cut : cut + 1])
    assert same_bits(voltages(single)[:, 0], np.ascontiguousarray(voltages(together)[:, cut]))


@given(seeds, st.integers(0, 4))
def test_order_of_buses_does_not_matter(seed, loops):
    network = random_network(seed, 30, loops)
    p, q = random_injections(seed, 30, 5)
    place = np.random.default_rng(seed).permutation(30)  # new row of old row i

    def moved(a):
        out = np.empty_like(a)
        out[place] = a
        return out

    shuffled = dataclasses.replace(
        network, y_shunt_pu=moved(network.y_shunt_pu), s_constant_current_mva=moved(network.s_constant_current_mva),
        s_typical_mva=moved(network.s_typical_mva), fixed_row=place[network.fixed_row],
        branch_from=place[network.branch_from], branch_to=place[network.branch_to],
    )  # fmt: skip
    a = voltages(solve(network, p, q, tolerance=1e-12))
    b = voltages(solve(shuffled, moved(p), moved(q), tolerance=1e-12))
    np.testing.assert_allclose(b[place], a, atol=1e-11)


def test_unsolvable_snapshots_are_nan_and_leave_the_others_alone():
    network = random_network(1, 60)
    p, q = random_injections(1, 60, 100)
    clean = solve(network, p, q)
    bad_p = p.copy()
    bad_p[:, [3, 64]] *= 1000
    for fallback in (False, True):
        flow = solve(network, bad_p, q, fallback=fallback)
        assert (flow.status[[3, 64]] == SlotStatus.DIVERGED).all()
        assert np.isnan(voltages(flow)[:, [3, 64]]).all()
        assert np.isnan(flow.max_mismatch_mva[[3, 64]]).all()
        rest = np.setdiff1d(np.arange(100), [3, 64])
        assert same_bits(np.ascontiguousarray(voltages(flow)[:, rest]), np.ascontiguousarray(voltages(clean)[:, rest]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bad_values_are_a_status(value):
    network = random_network(2, 20)
    p, q = random_injections(2, 20, 40)
    p[7, 33] = value
    flow = solve(network, p, q)
    assert flow.status[33] == SlotStatus.BAD_INPUT
    assert (np.delete(flow.status, 33) == SlotStatus.OK).all()
    assert np.isnan(voltages(flow)[:, 33]).all()


def test_newton_solves_what_the_sweep_gives_up():
    """Close to the highest power a line can carry the fixed matrix contracts slowly; a solution there is."""
    network = random_network(0, 2, chord=False)
    z = 1 / network.branch_y_pu[0, 0, 0]
    limit = abs(network.fixed_v_pu[0]) ** 2 / (2 * (abs(z) + z.real))  # largest load at unity power factor
    far = 1 - int(network.fixed_row[0])
    p = np.zeros((2, 3))
    p[far] = [-0.9 * limit, -0.98 * limit, -1.1 * limit]
    flow = solve(network, p, np.zeros((2, 3)))
    assert flow.status.tolist()[1:] == [SlotStatus.NEWTON, SlotStatus.DIVERGED]
    assert solve(network, p, np.zeros((2, 3)), fallback=False).status[1] == SlotStatus.DIVERGED
    for k in (0, 1):
        expected = solve_reference(network, p[:, k], np.zeros(2))
        assert np.abs(voltages(flow)[:, k] - expected).max() <= 1e-8


def test_an_island_without_a_source_is_nan_and_the_rest_solves():
    network = random_network(4, 30)
    leaf = int(np.setdiff1d(network.branch_to, network.branch_from)[0])
    keep = network.branch_to != leaf
    cut = dataclasses.replace(
        network, branch_kind=network.branch_kind[keep], branch_element=network.branch_element[keep],
        branch_side=network.branch_side[keep], branch_from=network.branch_from[keep], branch_to=network.branch_to[keep],
        branch_y_pu=network.branch_y_pu[keep], branch_iron_pu=network.branch_iron_pu[keep],
        branch_rated_ka=network.branch_rated_ka[keep],
    )  # fmt: skip
    p, q = random_injections(4, 30, 10)
    flow = solve(cut, p, q)
    assert flow.converged.all()
    assert np.isnan(voltages(flow)[leaf]).all()
    assert np.isfinite(np.delete(voltages(flow), leaf, axis=0)).all()
    assert not cut.factorisation.energised[leaf]


def test_scale_and_precision_of_the_input():
    network = random_network(6, 25, 1)
    p, q = random_injections(6, 25, 33)
    a = solve(network, p.astype(np.float64), q.astype(np.float64))
    b = solve(network, p, q)
    np.testing.assert_allclose(voltages(a), voltages(b), atol=1e-13)
    kilo = solve(network, p * np.float32(1024), q * np.float32(1024), scale=1 / 1024)
    assert same_bits(voltages(kilo), voltages(b))


def test_tiles_are_padded():
    network = random_network(7, 12)
    p, q = random_injections(7, 12, LANES + 4)
    flow = solve(network, p, q)
    assert flow.e.shape == (2, 12, LANES)
    assert flow.vm_pu.shape == (12, LANES + 4)
    np.testing.assert_allclose(flow.vm_pu * np.exp(1j * np.radians(flow.va_degree)), voltages(flow), atol=1e-14)


def test_no_snapshots_at_all():
    flow = solve(random_network(7, 12), np.zeros((12, 0)), np.zeros((12, 0)))
    assert flow.vm_pu.shape == (12, 0)


def test_wrong_shapes_are_refused():
    network = random_network(8, 12)
    with pytest.raises(ValueError, match=r"expected \(12, n_snapshot\)"):
        solve(network, np.zeros((11, 4)), np.zeros((11, 4)))
    with pytest.raises(ValueError, match="both must be"):
        solve(network, np.zeros((12, 4)), np.zeros((12, 5)))
    with pytest.raises(ValueError, match="tolerance"):
        solve(network, np.zeros((12, 4)), np.zeros((12, 4)), tolerance=0)


def test_a_singular_network_is_refused_by_name():
    network = random_network(9, 10)
    y = network.branch_y_pu.copy()
    leaf = int(np.setdiff1d(network.branch_to, network.branch_from)[0])
    k = int(np.flatnonzero(network.branch_to == leaf)[0])
    shunt = network.y_shunt_pu.copy()
    shunt[leaf] = -y[k, 1, 1]  # cancels all that holds the leaf
    resonant = dataclasses.replace(network, y_shunt_pu=shunt)
    y[k, 1, 0] = y[k, 0, 1] = 1e-300
    resonant = dataclasses.replace(resonant, branch_y_pu=y)
    with pytest.raises(SingularNetworkError, match=f"bus {leaf}"):
        solve(resonant, np.zeros((10, 1)), np.zeros((10, 1)))
