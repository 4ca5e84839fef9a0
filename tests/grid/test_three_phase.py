"""The unbalanced power flow against pandapower, the power equations, the balanced one, and itself in any batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.grid.powerflow import LANES, SlotStatus, solve
from lib.grid.three_phase import PhaseNetwork, SequenceNetwork, assume_zero_sequence, by_phase, solve_three_phase
from tests.grid.three_phase_nets import (
    random_phase_powers,
    random_sequence_network,
    solved_by_pandapower,
    unbalanced_net,
)

seeds = st.integers(0, 10_000)
A = np.exp(2j * np.pi / 3)
TO_PHASES = np.array([[1, 1, 1], [1, A**2, A], [1, A, A**2]])


def solved(network, powers, **options):
    p, q, p_delta, q_delta = powers
    return solve_three_phase(network, p, q, p_delta_mw=p_delta, q_delta_mvar=q_delta, **options)


def solved_net(net, **options):
    network = SequenceNetwork.from_pandapower(net)
    i = network.injections(net)
    powers = (a[..., None] for a in (i.p_mw, i.q_mvar, i.p_delta_mw, i.q_delta_mvar))
    return solved(network, powers, tolerance=1e-10, **options)


@pytest.mark.parametrize(
    ("group", "shift", "sn_mva"), [("Dyn5", 150, 1.0), ("YNyn", 0, 1.0), ("Yzn", 150, 1.0), ("Dyn", 30, 10.0)]
)
def test_agrees_with_pandapower(group, shift, sn_mva):
    net = unbalanced_net(group.rstrip("5"), shift, sn_mva)
    expected = solved_by_pandapower(net)
    net.trafo["vector_group"] = group
    flow = solved_net(net)
    assert flow.converged.all()
    assert np.abs(flow.v_pu[..., 0] - expected).max() <= 1e-6
    assert np.abs(np.abs(expected) - flow.vm_pu[..., 0]).max() <= 1e-6
    assert np.abs(net.res_bus_3ph.unbalance_percent - flow.unbalance_percent[:, 0]).max() <= 1e-4

    branches, n_line = flow.branches(), len(net.line)
    line, trafo = net.res_line_3ph, net.res_trafo_3ph
    for k, ph in enumerate("abc"):
        assert np.abs(line[f"p_{ph}_from_mw"] - branches.p_from_mw[:n_line, k, 0]).max() <= 1e-6
        assert np.abs(line[f"q_{ph}_to_mvar"] - branches.q_to_mvar[:n_line, k, 0]).max() <= 1e-6
        assert np.abs(line[f"i_{ph}_from_ka"] - branches.i_from_ka[:n_line, k, 0]).max() <= 1e-6
        assert np.abs(trafo[f"p_{ph}_lv_mw"] - branches.p_to_mw[n_line:, k, 0]).max() <= 1e-6
        assert np.abs(trafo[f"q_{ph}_hv_mvar"] - branches.q_from_mvar[n_line:, k, 0]).max() <= 1e-6
    assert np.abs(line.i_n_from_ka - branches.i_neutral_from_ka[:n_line, 0]).max() <= 1e-6
    assert np.abs(line.loading_percent - branches.loading_percent[:n_line, 0]).max() <= 1e-3
    lost = (branches.p_from_mw + branches.p_to_mw).sum(axis=1)
    assert np.abs(branches.p_loss_mw - lost).max() <= 1e-9


def test_open_line_ends_and_switches_agree_with_pandapower():
    import pandapower as pp

    net = unbalanced_net()
    pp.create_switch(net, 4, 3, et="l", closed=False)
    pp.create_line_from_parameters(
        net, 3, 5, 0.3, r_ohm_per_km=0.3, x_ohm_per_km=0.1, c_nf_per_km=300.0, max_i_ka=0.2, r0_ohm_per_km=1.0,
        x0_ohm_per_km=0.4, c0_nf_per_km=100.0,
    )  # fmt: skip
    expected = solved_by_pandapower(net)
    assert np.abs(solved_net(net).v_pu[..., 0] - expected).max() <= 1e-6


def test_two_external_grids_and_an_island():
    import pandapower as pp

    net = unbalanced_net()
    far, lone = pp.create_bus(net, 20.0), pp.create_bus(net, 0.4)
    pp.create_line_from_parameters(
        net, 0, far, 2.0, r_ohm_per_km=0.2, x_ohm_per_km=0.3, c_nf_per_km=250.0, max_i_ka=0.3, r0_ohm_per_km=0.6,
        x0_ohm_per_km=1.0, c0_nf_per_km=150.0,
    )  # fmt: skip
    pp.create_ext_grid(net, far, vm_pu=1.012, va_degree=3.1, s_sc_max_mva=300.0, rx_max=0.3, x0x_max=1.0, r0x0_max=0.2)
    pp.create_asymmetric_load(net, far, p_a_mw=0.1, p_c_mw=0.3, q_c_mvar=0.1)
    pp.create_load(net, lone, p_mw=0.01)
    expected = solved_by_pandapower(net)
    flow = solved_net(net)
    assert flow.converged.all()
    assert np.isnan(flow.v_pu[lone]).all()
    assert np.abs(np.delete(flow.v_pu[..., 0] - expected, lone, axis=0)).max() <= 1e-6


def test_the_european_feeder_agrees_with_pandapower():
    """907 buses, 55 single-phase customers of a kW: 3e-8 MVA, where pandapower stops, is not near enough there."""
    import pandapower.networks

    net = pandapower.networks.ieee_european_lv_asymmetric("on_peak_566")
    expected = solved_by_pandapower(net, restarts=2)
    flow = solved_net(net)
    assert flow.converged.all()
    assert flow.unbalance_percent.max() > 0.2
    assert np.abs(flow.v_pu[..., 0] - expected).max() <= 1e-6


def test_assumed_zero_sequence_data_fill_gaps_only():
    net = unbalanced_net()
    net.line.loc[0, "r0_ohm_per_km"] = np.nan
    net.trafo = net.trafo.drop(columns=["vector_group", "mag0_percent"])
    filled = assume_zero_sequence(net)
    assert np.allclose(filled.line.r0_ohm_per_km, [0.8, 0.8, 0.8, 0.8])
    assert np.allclose(filled.line.x0_ohm_per_km, net.line.x0_ohm_per_km)
    assert filled.trafo.vector_group.tolist() == ["Dyn"]
    assert np.isnan(net.line.r0_ohm_per_km[0])
    assert "vector_group" not in net.trafo
    given = unbalanced_net()
    assert np.allclose(solved_net(filled).v_pu, solved_net(given).v_pu)


def injected_current(network, v, s_wye, s_delta):
    """(n, 3) current of loads at phase voltages v (n, 3), by their definition, phase by phase."""
    out = np.zeros_like(v)
    for p in range(3):
        consumed = network.z_wye_mva[:, p] * abs(v[:, p]) ** 2 + network.i_wye_mva[:, p] * abs(v[:, p])
        out[:, p] += np.conj(3 * (s_wye[:, p] - consumed) / v[:, p])
        between = v[:, p] - v[:, (p + 1) % 3]
        size = abs(between) / np.sqrt(3)
        consumed = network.z_delta_mva[:, p] * size**2 + network.i_delta_mva[:, p] * size
        i = np.conj(3 * (s_delta[:, p] - consumed) / between)
        out[:, p] += i
        out[:, (p + 1) % 3] -= i
    return out


@given(seeds, st.integers(0, 6))
def test_currents_balance_at_every_phase(seed, loops):
    """Admittances of the sequences, taken to phases, times the voltages are the currents of the loads."""
    network = random_sequence_network(seed, 30, loops)
    powers = random_phase_powers(seed, 30, 3)
    flow = solved(network, powers, tolerance=1e-12, max_iterations=60)
    assert flow.converged.all()
    positive = network.positive
    y = np.zeros((3, 30, 30), dtype=complex)
    blocks = (network.branch_y0_pu, positive.branch_y_pu, positive.branch_y_pu)  # no transformers: negative is positive
    for k, block in enumerate(blocks):
        for b, (f, t) in enumerate(zip(positive.branch_from, positive.branch_to, strict=True)):
            y[k][np.ix_([f, t], [f, t])] += block[b]
        y[k] += np.diag(network.y0_shunt_pu if k == 0 else positive.y_shunt_pu)
    fixed = positive.fixed_row[0]
    y[0][fixed, fixed] += network.source_y0_pu[0]
    y[2][fixed, fixed] += network.source_y2_pu[0]
    p, q, p_delta, q_delta = (a.astype(float) for a in powers)
    for snapshot in range(3):
        v = flow.v_pu[..., snapshot]
        sequences = np.linalg.solve(TO_PHASES, v.T)
        drawn = np.stack([y[k] @ sequences[k] for k in range(3)])
        wye, delta = p[..., snapshot] + 1j * q[..., snapshot], p_delta[..., snapshot] + 1j * q_delta[..., snapshot]
        given_by_loads = np.linalg.solve(TO_PHASES, injected_current(network, v, wye, delta).T)
        rest = np.abs(drawn - given_by_loads)
        rest[1, fixed] = 0  # the external grid gives what is needed
        assert rest.max() <= 1e-9
        assert np.abs(sequences[1, fixed] - positive.fixed_v_pu[0]) <= 1e-12
        assert flow.max_mismatch_mva[snapshot] <= 1e-9


@given(seeds, st.sampled_from([1e-4, 1e-6, 1e-8, 1e-10]))
def test_error_stays_within_the_tolerance(seed, tolerance):
    network = random_sequence_network(seed, 50, 2)
    powers = random_phase_powers(seed, 50, LANES, size=0.002)
    flow = solved(network, powers, tolerance=tolerance)
    exact = solved(network, powers, tolerance=1e-13, max_iterations=100)
    both = flow.converged & exact.converged
    assert both.any()
    assert np.abs(flow.v_pu - exact.v_pu)[..., both].max() <= tolerance + 1e-13


@given(seeds, st.integers(1, 70), st.integers(0, 4))
def test_same_bits_in_any_batch(seed, snapshots, loops):
    network = random_sequence_network(seed, 25, loops)
    powers = random_phase_powers(seed, 25, snapshots)
    together = solved(network, powers)
    order = np.random.default_rng(seed).permutation(snapshots)
    shuffled = solved(network, tuple(np.ascontiguousarray(a[..., order]) for a in powers))
    alone = solved(network, tuple(a[..., :1] for a in powers))
    for name in ("v_pu", "iterations", "max_mismatch_mva", "status"):
        whole = getattr(together, name)
        assert np.array_equal(whole[..., order], getattr(shuffled, name), equal_nan=True), name
        assert np.array_equal(whole[..., :1], getattr(alone, name), equal_nan=True), name


def test_balanced_powers_give_the_balanced_power_flow():
    net = unbalanced_net()
    net.asymmetric_load = net.asymmetric_load[:0]
    net.asymmetric_sgen = net.asymmetric_sgen[:0]
    flow = solved_net(net)
    p, q = flow.network.positive.injections(net)
    expected = solve(flow.network.positive, p[:, None], q[:, None], tolerance=1e-12)
    assert np.abs(flow.vm_pu[:, 0] - expected.vm_pu).max() <= 1e-9
    assert np.abs(flow.va_degree[:, 0] - expected.va_degree).max() <= 1e-7
    assert flow.unbalance_percent.max() <= 1e-9


def test_bad_and_impossible_snapshots_leave_the_others_alone():
    network = random_sequence_network(3, 20)
    powers = random_phase_powers(3, 20, 40)
    good = solved(network, powers)
    p = powers[0].copy()
    p[5, 1, 7] = np.nan
    p[:, 2, 9] = -5.0
    flow = solved(network, (p, *powers[1:]))
    assert flow.status[7] == SlotStatus.BAD_INPUT
    assert flow.status[9] == SlotStatus.DIVERGED
    assert np.isnan(flow.v_pu[..., [7, 9]]).all()
    rest = np.setdiff1d(np.arange(40), [7, 9])
    assert np.array_equal(flow.v_pu[..., rest], good.v_pu[..., rest])


@pytest.mark.parametrize("by_wire", [False, True])
def test_newton_finds_what_the_sweep_gives_up(by_wire):
    """Near the largest load the line carries; the equations are checked by the sweep's own mismatch and by halving."""
    network = random_sequence_network(11, 12)
    network = dataclasses.replace(network, source_y2_pu=np.array([1e9j]), source_y0_pu=np.array([1e9j]))
    powers = random_phase_powers(11, 12, 1)
    if by_wire:
        network = PhaseNetwork.from_sequence(network, {})
    growth, sweep_alone = 1.0, None
    while True:  # the largest load for which there is a solution, to a tenth
        flow = solved(network, powers, scale=growth, tolerance=1e-9)
        if not flow.converged[0]:
            break
        sweep_alone, growth = flow, growth * 1.1
    assert sweep_alone is not None
    assert sweep_alone.status[0] == SlotStatus.NEWTON
    assert sweep_alone.max_mismatch_mva[0] <= 1e-7
    slow = solved(network, powers, scale=growth / 1.1, tolerance=1e-9, max_iterations=10_000, fallback=False)
    if slow.converged[0]:
        assert np.abs(slow.v_pu - sweep_alone.v_pu).max() <= 1e-6
    easy = solved(network, powers, tolerance=1e-10)
    forced = solved(network, powers, tolerance=1e-10, max_iterations=2)
    assert forced.status[0] == SlotStatus.NEWTON
    assert np.abs(forced.v_pu - easy.v_pu).max() <= 1e-9


def test_an_isolated_neutral_is_reported_and_keeps_the_power():
    """Delta primary and secondary, no capacitance: no zero sequence anywhere, the total power of each load as given."""
    net = unbalanced_net("Dd", 0)
    net.line["c0_nf_per_km"] = 0.0
    net.shunt = net.shunt[:0]
    flow = solved_net(net)
    assert flow.converged.all()
    assert flow.network.isolated_neutral.tolist() == [False, True, True, True, True, True]
    assert np.abs(flow.v_sequence_pu[1:, 0]).max() <= 1e-15
    branches = flow.branches()
    i = flow.network.injections(net)
    at_2 = branches.p_to_mw[1].sum()  # line 1 feeds bus 3 alone
    assert abs(at_2 - i.p_mw[3].sum()) <= 1e-8


def test_meters_go_to_their_phases():
    """Single-phase meters and one of all three phases give what the same net's elements give."""
    net = unbalanced_net()
    network = SequenceNetwork.from_pandapower(net)
    meters = [
        (3, "a", -0.02),
        (3, "b", -0.005),
        (3, "c", -0.011),
        (4, "c", 0.008),
        (2, "abc", -0.036),
        (5, "abc", 0.004),
    ]
    bus, phase, p_mw = zip(*meters, strict=True)
    series = np.array(p_mw)[:, None] * [1.0, 0.5]
    given = network.injections(net).p_mw
    given[0] = 0
    assert np.allclose(by_phase(network.positive, bus, phase, series), given[..., None] * [1.0, 0.5])
    with pytest.raises(ValueError, match="meter 0: bus 99"):
        by_phase(network.positive, [99], ["a"], series[:1])
    with pytest.raises(ValueError, match="meter 0: phase 'd'"):
        by_phase(network.positive, [3], ["d"], series[:1])


def test_bytes_round_trip():
    network = SequenceNetwork.from_pandapower(unbalanced_net())
    again = SequenceNetwork.from_bytes(network.to_bytes())
    assert again.to_bytes() == network.to_bytes()
    for f in dataclasses.fields(network):
        if f.name != "positive":
            assert np.array_equal(getattr(again, f.name), getattr(network, f.name))
    with pytest.raises(ValueError, match="not a three-phase network"):
        SequenceNetwork.from_bytes(b"nothing")


def test_what_is_missing_is_named():
    net = unbalanced_net()
    net.line = net.line.drop(columns="r0_ohm_per_km")
    net.trafo["vector_group"] = "Dz"
    with pytest.raises(ValueError, match=r"(?s)line 0, 1, 2, 3: r0_ohm_per_km.*trafo 0: vector group 'Dz'"):
        SequenceNetwork.from_pandapower(net)


def test_wrong_shapes_are_refused():
    network = random_sequence_network(1, 5)
    with pytest.raises(ValueError, match=r"p_mw has shape \(5, 2\)"):
        solve_three_phase(network, np.zeros((5, 2)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="both"):
        solve_three_phase(network, np.zeros((5, 3, 1)), np.zeros((5, 3, 1)), p_delta_mw=np.zeros((5, 3, 1)))
