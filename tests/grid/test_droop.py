"""Inverters' droop against pandapower's controllers, and the characteristics themselves under any network."""

from __future__ import annotations

import copy

import numpy as np
import pandapower as pp
import pandapower.networks as pn
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandapower.control.controller.DERController import DERController, QModelQVCurve, QVCurve

from lib.grid import Network
from lib.grid.powerflow import SlotStatus, solve
from tests.grid.random_networks import STEEP_QV, random_injections, random_network, with_inverters
from tests.grid.reference import admittance, voltages

seeds = st.integers(0, 10_000)


def realised(network: Network, p, q, vm):
    """Injection (n_bus, n) that the characteristics ask for at magnitudes vm, written down anew."""
    inverters, s = network.inverters, p.astype(float) + 1j * q
    limit = np.zeros(s.shape)
    for i, row in enumerate(inverters.row):
        s[row] += 1j * inverters.sn_mva[i] * _curve(inverters.qv_vm_pu[i], inverters.qv_q_pu[i], vm[row], 0.0)
        limit[row] += inverters.sn_mva[i] * _curve(inverters.pv_vm_pu[i], inverters.pv_p_pu[i], vm[row], np.inf)
    rows = np.unique(inverters.row)
    s.real[rows] = np.minimum(s.real[rows], limit[rows])
    return s


def _curve(vm, value, at, without):
    known = np.isfinite(vm)
    return np.interp(at, vm[known], value[known]) if known.any() else np.full(at.shape, without)


@given(seeds, st.integers(0, 6), st.booleans())
def test_droop_follows_its_characteristics(seed, loops, chord):
    network = with_inverters(random_network(seed, 40, loops, chord), seed)
    p, q = random_injections(seed, 40, 64, size=0.01)
    p[:, ::3] = np.abs(p[:, ::3])  # feeding in, where P(V) binds
    flow = solve(network, p, q, tolerance=1e-10, max_iterations=30)
    assert flow.converged.all()
    v = voltages(flow)
    wanted = realised(network, p, q, flow.vm_pu)
    free = np.setdiff1d(np.arange(40), network.fixed_row)
    mismatch = np.abs(v * np.conj(admittance(network) @ v) - wanted)[free]
    assert mismatch.max() <= 1e-8
    assert (mismatch.max(axis=0) <= flow.max_mismatch_mva + 1e-12).all()
    added = np.zeros_like(wanted)
    np.add.at(added, network.inverters.row, 1j * flow.inverter_q_mvar - flow.curtailed_mw)
    np.testing.assert_allclose(p + 1j * q + added, wanted, atol=1e-12)


@given(seeds, st.integers(0, 6))
@settings(max_examples=20)
def test_newton_and_the_sweep_agree_on_droop(seed, loops):
    network = with_inverters(random_network(seed, 30, loops), seed)
    p, q = random_injections(seed, 30, 16, size=0.01)
    swept = solve(network, p, q, tolerance=1e-10, max_iterations=40, fallback=False)
    newton = solve(network, p, q, tolerance=1e-10, max_iterations=1)
    assert (newton.status == SlotStatus.NEWTON).all()
    assert (swept.status == SlotStatus.OK).all()
    np.testing.assert_allclose(voltages(newton), voltages(swept), atol=1e-9)
    assert newton.max_mismatch_mva.max() <= 1e-8


@pytest.mark.parametrize("rated_mva", [0.2, 0.5])
def test_droop_far_stronger_than_the_network_is_solved(rated_mva):
    """Loop gains well above 1: what the sweep gives up, Newton solves, at the corners of the characteristics too."""
    for seed in range(4):
        network = with_inverters(random_network(seed, 40, seed), seed, rated_mva)
        p, q = random_injections(seed, 40, 64, size=0.01)
        p[:, ::3] = np.abs(p[:, ::3])
        flow = solve(network, p, q, max_iterations=30)
        assert flow.converged.all()
        v = voltages(flow)
        free = np.setdiff1d(np.arange(40), network.fixed_row)
        mismatch = np.abs(v * np.conj(admittance(network) @ v) - realised(network, p, q, flow.vm_pu))[free]
        assert mismatch.max() <= 1e-6


@given(seeds, st.sampled_from([1e-4, 1e-6, 1e-8]))
def test_droop_stays_within_the_tolerance(seed, tolerance):
    network = with_inverters(random_network(seed, 40), seed)
    p, q = random_injections(seed, 40, 64, size=0.01)
    flow = solve(network, p, q, tolerance=tolerance, max_iterations=30, fallback=False)
    exact = solve(network, p, q, tolerance=1e-13, max_iterations=80)
    both = flow.converged & exact.converged
    assert both.any()
    assert np.abs(voltages(flow) - voltages(exact))[:, both].max() <= tolerance


def test_droop_agrees_with_pandapower():
    net = pn.create_cigre_network_lv()
    for bus in (8, 12, 17, 30, 41):
        pp.create_sgen(net, bus, p_mw=0.03, q_mvar=0.01, sn_mva=0.04, scaling=0.9)
    curve = QVCurve(vm_points_pu=STEEP_QV[0], q_points_pu=STEEP_QV[1])
    DERController(net, net.sgen.index[:3], q_model=QModelQVCurve(curve), max_q_error=1e-12, max_p_error=1e-12)
    DERController(
        net, net.sgen.index[3:], q_model=QModelQVCurve(QVCurve((0.9, 1.0, 1.1), (0.25, 0, -0.25))), max_q_error=1e-12
    )
    network = Network.from_pandapower(net)
    assert len(network.inverters) == 5
    expected, share = copy.deepcopy(net), np.array([0.1, 1.0, 2.0])
    p, q = network.injections(net)
    flow = solve(network, p[:, None] * share, q[:, None] * share)
    for k, factor in enumerate(share):
        expected.load.scaling = net.load.scaling * factor
        expected.sgen.p_mw = net.sgen.p_mw * factor
        for control in expected.controller.object:
            control.p_mw = expected.sgen.p_mw.loc[control.element_index]
        pp.runpp(expected, run_control=True, max_iter=200, tolerance_mva=1e-9, calculate_voltage_angles=True)
        np.testing.assert_allclose(flow.vm_pu[:, k], expected.res_bus.vm_pu.loc[network.bus_ids], atol=1e-7)
        made = expected.res_sgen.q_mvar
        np.testing.assert_allclose(flow.inverter_q_mvar[:, k], made, atol=1e-6)
    assert np.ptp(flow.inverter_q_mvar) > 0.01
