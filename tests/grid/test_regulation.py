"""Tap changers against pandapower's controllers and power-grid-model's tap regulator; which regulators are refused."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pandapower as pp
import power_grid_model as pgm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandapower.control import ContinuousTapControl, DiscreteTapControl
from pandapower.control.controller.DERController import DERController, QModelCosphiP

from lib.grid import Network
from lib.grid.powerflow import SlotStatus, solve
from lib.grid.regulators import IEEE_1547_QV_B, Inverters, TapChangers, with_regulators
from tests.grid import cases
from tests.grid.random_networks import random_injections, random_network, tapped_network, with_inverters
from tests.grid.reference import solve_reference, voltages

seeds = st.integers(0, 10_000)


def at_taps(network: Network, tap_pos) -> Network:
    """The network without tap changers, its two-ports at these positions, written down anew."""
    y, changers = network.branch_y_pu.copy(), network.tap_changers
    for j, b in enumerate(changers.branch):
        angle = np.exp(1j * np.deg2rad(changers.tap_step_degree[j])) * changers.tap_step_percent[j] / 100
        was, now = (1 + (t - changers.tap_neutral[j]) * angle for t in (changers.tap_pos[j], tap_pos[j]))
        end = changers.end[j]
        y[b, end, :] *= np.conj(was / now)
        y[b, :, end] *= was / now
    return dataclasses.replace(network, branch_y_pu=y, tap_changers=TapChangers())


@given(seeds, st.integers(1, 4), st.integers(0, 3))
def test_every_voltage_is_in_band_or_says_why_not(seed, changers, loops):
    network = tapped_network(seed, 25, changers, 0.04, loops, range_=4)
    p, q = random_injections(seed, 25, 40, size=0.012)
    flow = solve(network, p, q)
    tc = network.tap_changers
    assert flow.converged.all()
    assert ((flow.tap_pos >= tc.tap_min[:, None]) & (flow.tap_pos <= tc.tap_max[:, None])).all()
    vm = flow.vm_pu[tc.regulated_row]
    outside = (vm < tc.vm_lower_pu[:, None]) | (vm > tc.vm_upper_pu[:, None])
    inert = np.isin(tc.regulated_row, network.fixed_row)[:, None]
    assert (~outside | flow.tap_at_limit | (flow.status == SlotStatus.HUNTING) | inert).all()
    for k in range(0, 40, 13):
        own = at_taps(network, flow.tap_pos[:, k])
        expected = solve_reference(own, p[:, k].astype(float), q[:, k].astype(float))
        np.testing.assert_allclose(voltages(flow)[:, k], expected, atol=1e-8)


@given(seeds)
@settings(max_examples=25)
def test_a_move_is_the_smallest_into_the_band(seed):
    network = tapped_network(seed, 15, 1, 0.035)
    p, q = random_injections(seed, 15, 8, size=0.02)
    flow = solve(network, p, q)
    tc = network.tap_changers
    for k in range(8):
        if flow.status[k] == SlotStatus.HUNTING or flow.tap_at_limit[0, k] or tc.regulated_row[0] in network.fixed_row:
            continue
        start, end = int(tc.tap_pos[0]), int(flow.tap_pos[0, k])
        for position in range(start, end, 1 if end > start else -1):
            own = at_taps(network, [position])
            v = solve_reference(own, p[:, k].astype(float), q[:, k].astype(float))
            assert not tc.vm_lower_pu[0] <= np.abs(v[tc.regulated_row[0]]) <= tc.vm_upper_pu[0]


@given(seeds, st.data())
@settings(max_examples=20)
def test_a_regulated_snapshot_has_the_same_bits_in_any_batch(seed, data):
    network = with_inverters(tapped_network(seed, 25, 3, 0.03), seed)
    p, q = random_injections(seed, 25, 90, size=0.012)
    p[:, 17] *= 400
    q[3, 40] = np.nan
    together = solve(network, p, q)
    order = np.array(data.draw(st.permutations(range(90))))
    cut = data.draw(st.integers(1, 89))
    for part in (order[:cut], order[cut:]):
        alone = solve(network, p[:, part], q[:, part])
        assert voltages(alone).tobytes() == np.ascontiguousarray(voltages(together)[:, part]).tobytes()
        assert (alone.tap_pos == together.tap_pos[:, part]).all()
        assert alone.status.tobytes() == together.status[part].tobytes()


def test_a_start_from_data_is_kept_where_it_is_in_band():
    network = tapped_network(3, 25, 2, 0.03)
    p, q = random_injections(3, 25, 50, size=0.012)
    first = solve(network, p, q)
    assert not (first.tap_pos == network.tap_changers.tap_pos[:, None]).all()
    again = solve(network, p, q, tap_pos=first.tap_pos)
    assert (again.tap_pos == first.tap_pos).all()
    assert voltages(again).tobytes() == voltages(first).tobytes()
    with pytest.raises(ValueError, match="tap_pos has shape"):
        solve(network, p, q, tap_pos=np.zeros((3, 50), dtype=int))


def test_a_band_narrower_than_a_step_hunts():
    network = tapped_network(3, 25, 1, 0.04)
    p, q = random_injections(3, 25, 40)
    vm = solve(network, p, q).vm_pu[network.tap_changers.regulated_row]
    tc = dataclasses.replace(
        network.tap_changers, vm_lower_pu=np.array([vm.mean() + 0.004]), vm_upper_pu=np.array([vm.mean() + 0.005])
    )
    flow = solve(with_regulators(network, tc), p, q)
    assert (flow.status == SlotStatus.HUNTING).any()
    assert flow.converged.all()
    still = (flow.vm_pu[tc.regulated_row] >= tc.vm_lower_pu) & (flow.vm_pu[tc.regulated_row] <= tc.vm_upper_pu)
    assert ((flow.status == SlotStatus.HUNTING) ^ still[0]).all()


def test_taps_agree_with_pandapower():
    net = cases.load("mv_oberrhein")
    DiscreteTapControl(net, 114, 1.0, 1.02)
    DiscreteTapControl(net, 142, 1.01, 1.03)
    network = Network.from_pandapower(net)
    share = np.array([-0.8, 0.0, 0.7, 1.0, 1.5])
    p, q = network.injections(net)
    flow = solve(network, p[:, None] * share, q[:, None] * share)
    branches = flow.branches()
    assert len(np.unique(flow.tap_pos)) > 3
    for k, factor in enumerate(share):
        expected = copy.deepcopy(net)
        expected.load.scaling *= factor
        expected.sgen.scaling *= factor
        pp.runpp(expected, run_control=True, calculate_voltage_angles=True, tolerance_mva=1e-9)
        assert flow.tap_pos[:, k].tolist() == expected.trafo.tap_pos.loc[[114, 142]].tolist()
        np.testing.assert_allclose(flow.vm_pu[:, k], expected.res_bus.vm_pu.loc[network.bus_ids], atol=1e-8)
        table = branches.table("trafo", k)
        for name in ("p_hv_mw", "q_lv_mvar", "pl_mw", "loading_percent"):
            np.testing.assert_allclose(table[name], expected.res_trafo[name].loc[table["element"]], atol=1e-5)
        order = [expected.ext_grid.index[expected.ext_grid.bus.map(network.row_of) == r][0] for r in network.fixed_row]
        np.testing.assert_allclose(flow.slack_p_mw[:, k], expected.res_ext_grid.p_mw.loc[order], atol=1e-6)
        np.testing.assert_allclose(flow.slack_q_mvar[:, k], expected.res_ext_grid.q_mvar.loc[order], atol=1e-6)


def test_simbench_taps_agree_with_pandapower():
    from lib.ingest.source import simbench_net

    net = simbench_net("1-MV-semiurb--0-sw")
    net.trafo["tap_changer_type"] = "Ratio"
    for element in net.trafo.index:
        DiscreteTapControl(net, element, 0.99, 1.01)
    network = Network.from_pandapower(net)
    share = np.array([0.1, 0.6, 1.1])
    p, q = network.injections(net)
    flow = solve(network, p[:, None] * share, q[:, None] * share)
    for k, factor in enumerate(share):
        expected = copy.deepcopy(net)
        expected.load.scaling *= factor
        expected.sgen.scaling *= factor
        pp.runpp(expected, run_control=True, calculate_voltage_angles=True, tolerance_mva=1e-9)
        assert flow.tap_pos[:, k].tolist() == expected.trafo.tap_pos.tolist()
        np.testing.assert_allclose(flow.vm_pu[:, k], expected.res_bus.vm_pu.loc[network.bus_ids], atol=1e-8)
    assert len(np.unique(flow.tap_pos)) > 1


def series_net():
    """Two transformers with taps in series, the first keeping the medium, the second the low voltage."""
    net = pp.create_empty_network(sn_mva=1.0)
    buses = [pp.create_bus(net, vn) for vn in (110.0, 20.0, 20.0, 0.4, 0.4)]
    pp.create_ext_grid(net, buses[0], vm_pu=1.02)
    pp.create_transformer(net, buses[0], buses[1], "25 MVA 110/20 kV")
    pp.create_line(net, buses[1], buses[2], 8.0, "NA2XS2Y 1x240 RM/25 12/20 kV")
    pp.create_transformer(net, buses[2], buses[3], "0.63 MVA 20/0.4 kV")
    pp.create_line(net, buses[3], buses[4], 0.2, "NAYY 4x150 SE")
    pp.create_load(net, buses[2], 9.0, 3.0)
    pp.create_load(net, buses[4], 0.1, 0.03)
    return net


def test_changers_in_series_move_from_the_source_down():
    net = series_net()
    DiscreteTapControl(net, 1, 0.99, 1.03, level=1)  # pandapower settles level 0 first
    DiscreteTapControl(net, 0, 0.99, 1.02, level=0)
    network = Network.from_pandapower(net)
    order = network.tap_changers.branch.argsort()
    share = np.linspace(-1.0, 1.6, 7)
    p, q = network.injections(net)
    flow = solve(network, p[:, None] * share, q[:, None] * share)
    for k, factor in enumerate(share):
        expected = copy.deepcopy(net)
        expected.load.scaling *= factor
        pp.runpp(expected, run_control=True, tolerance_mva=1e-9)
        assert flow.tap_pos[order, k].tolist() == expected.trafo.tap_pos.tolist()
        np.testing.assert_allclose(flow.vm_pu[:, k], expected.res_bus.vm_pu, atol=1e-8)


def test_taps_agree_with_power_grid_model():
    """Bands of barely more than a step: the two tap searches start apart and find the same position."""
    net = series_net()
    net.trafo["shift_degree"] = 0.0
    for element in (0, 1):
        DiscreteTapControl.from_tap_step_percent(net, element, 1.0, tol=1e-4)
    network = Network.from_pandapower(net, trafo_model="pi")
    share = np.linspace(-1.0, 1.6, 9)
    p, q = network.injections(net)
    flow = solve(network, p[:, None] * share, q[:, None] * share)
    result = _power_grid_model(net, share)
    vm = result["node"]["u_pu"].T
    inside = np.abs(vm[[1, 3]] - 1.0) <= net.trafo.tap_step_percent.to_numpy()[:, None] / 200 + 1e-4
    assert inside.any(axis=1).all()
    same = (flow.tap_pos == result["transformer_tap_regulator"]["tap_pos"].T).all(axis=0)
    assert same.sum() >= 7
    np.testing.assert_allclose(flow.vm_pu[:, same], vm[:, same], atol=2e-8)
    assert (np.abs(flow.vm_pu[[1, 3]] - 1.0) <= net.trafo.tap_step_percent.to_numpy()[:, None] / 200 + 1e-4).all()


def _power_grid_model(net, share):
    kind, new = pgm.ComponentType, pgm.initialize_array
    nodes = new("input", kind.node, len(net.bus))
    nodes["id"], nodes["u_rated"] = net.bus.index, net.bus.vn_kv * 1e3
    lines = new("input", kind.line, len(net.line))
    omega = 2 * np.pi * net.f_hz
    length = net.line.length_km
    for name, value in {
        "id": 10 + net.line.index, "from_node": net.line.from_bus, "to_node": net.line.to_bus, "from_status": 1,
        "to_status": 1, "r1": net.line.r_ohm_per_km * length, "x1": net.line.x_ohm_per_km * length,
        "c1": net.line.c_nf_per_km * length * 1e-9,
        "tan1": net.line.g_us_per_km * 1e-6 / (omega * net.line.c_nf_per_km * 1e-9),
    }.items():  # fmt: skip
        lines[name] = value
    trafos = new("input", kind.transformer, len(net.trafo))
    t = net.trafo
    for name, value in {
        "id": 20 + t.index, "from_node": t.hv_bus, "to_node": t.lv_bus, "from_status": 1, "to_status": 1,
        "u1": t.vn_hv_kv * 1e3, "u2": t.vn_lv_kv * 1e3, "sn": t.sn_mva * 1e6, "uk": t.vk_percent / 100,
        "pk": t.vkr_percent / 100 * t.sn_mva * 1e6, "i0": t.i0_percent / 100, "p0": t.pfe_kw * 1e3,
        "winding_from": pgm.WindingType.wye, "winding_to": pgm.WindingType.wye, "clock": 0,
        "tap_side": pgm.BranchSide.from_side, "tap_pos": t.tap_pos, "tap_min": t.tap_min, "tap_max": t.tap_max,
        "tap_nom": t.tap_neutral, "tap_size": t.tap_step_percent / 100 * t.vn_hv_kv * 1e3,
    }.items():  # fmt: skip
        trafos[name] = value
    sources = new("input", kind.source, 1)
    for name, value in {"id": 30, "node": 0, "status": 1, "u_ref": net.ext_grid.vm_pu[0], "sk": 1e18}.items():
        sources[name] = value
    loads = new("input", kind.sym_load, len(net.load))
    for name, value in {"id": 40 + net.load.index, "node": net.load.bus, "status": 1, "type": 0,
                        "p_specified": net.load.p_mw * 1e6, "q_specified": net.load.q_mvar * 1e6}.items():  # fmt: skip
        loads[name] = value
    regulators = new("input", kind.transformer_tap_regulator, len(t))
    for name, value in {
        "id": 50 + t.index, "regulated_object": 20 + t.index, "status": 1, "control_side": pgm.BranchSide.to_side,
        "u_set": t.vn_lv_kv * 1e3, "u_band": (t.tap_step_percent / 100 + 2e-4) * t.vn_lv_kv * 1e3,
    }.items():  # fmt: skip
        regulators[name] = value
    model = pgm.PowerGridModel({
        kind.node: nodes, kind.line: lines, kind.transformer: trafos, kind.source: sources, kind.sym_load: loads,
        kind.transformer_tap_regulator: regulators,
    })  # fmt: skip
    update = new("update", kind.sym_load, (len(share), len(net.load)))
    update["id"] = 40 + net.load.index.to_numpy()
    update["p_specified"] = np.outer(share, net.load.p_mw * 1e6)
    update["q_specified"] = np.outer(share, net.load.q_mvar * 1e6)
    return model.calculate_power_flow(
        update_data={kind.sym_load: update}, tap_changing_strategy=pgm.TapChangingStrategy.any_valid_tap,
        error_tolerance=1e-10,
    )  # fmt: skip


@pytest.mark.parametrize("winding", ["hv", "mv", "lv"])
def test_three_winding_taps_are_those_of_pandapower(winding):
    net = cases.load("three_winding")
    net.trafo3w[["tap_side", "tap_changer_type"]] = winding, "Ratio"
    net.trafo3w[["tap_neutral", "tap_min", "tap_max", "tap_pos", "tap_step_percent"]] = 0, -9, 9, 1, 1.25
    net.trafo3w["tap_at_star_point"] = False
    element = net.trafo3w.index[net.trafo3w.in_service][0]
    side = "lv" if winding == "lv" else "mv"
    pp.runpp(net, calculate_voltage_angles=True)
    vm = net.res_bus.vm_pu[net.trafo3w.loc[element, f"{side}_bus"]]
    DiscreteTapControl(net, element, vm + 0.02, vm + 0.035, side=side, element="trafo3w")
    network = Network.from_pandapower(net)
    p, q = network.injections(net)
    flow = solve(network, p[:, None], q[:, None])
    expected = copy.deepcopy(net)
    pp.runpp(expected, run_control=True, calculate_voltage_angles=True, tolerance_mva=1e-9, enforce_q_lims=True)
    assert flow.tap_pos[0, 0] == expected.trafo3w.tap_pos[element] != 1
    np.testing.assert_allclose(flow.vm_pu[:, 0], expected.res_bus.vm_pu.loc[network.bus_ids], atol=1e-7)


def test_a_continuous_control_becomes_a_band_of_a_step():
    net = cases.load("mv_oberrhein")
    ContinuousTapControl(net, [114, 142], 1.01, tol=1e-3)
    tc = Network.from_pandapower(net).tap_changers
    np.testing.assert_allclose(tc.vm_upper_pu - tc.vm_lower_pu, 0.015 + 2e-3)
    np.testing.assert_allclose(tc.vm_upper_pu + tc.vm_lower_pu, 2.02)


def test_networks_keep_their_regulators_and_plain_ones_their_bytes():
    plain = random_network(1, 20)
    assert b"tap_changers" not in plain.to_bytes()
    assert Network.from_bytes(plain.to_bytes()).to_bytes() == plain.to_bytes()
    network = with_inverters(tapped_network(1, 20, 2, 0.04), 1)
    again = Network.from_bytes(network.to_bytes())
    assert again.to_bytes() == network.to_bytes()
    p, q = random_injections(1, 20, 5)
    assert voltages(solve(again, p, q)).tobytes() == voltages(solve(network, p, q)).tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"branch": np.array([99])}, "branch is none"),
        ({"end": np.array([2])}, "end must be"),
        ({"tap_min": np.array([20])}, "tap_min is above"),
        ({"vm_lower_pu": np.array([np.nan])}, "vm_lower_pu is above"),
        ({"tap_step_percent": np.array([50.0])}, "ratio vanishes"),
        ({"tap_pos": np.zeros(2, dtype=int)}, "different length"),
    ],
)
def test_tap_changers_that_do_not_fit_are_refused(change, message):
    network = tapped_network(2, 20, 1, 0.04)
    with pytest.raises(ValueError, match=message):
        with_regulators(network, dataclasses.replace(network.tap_changers, **change))


def test_inverters_that_do_not_fit_are_refused():
    network = random_network(2, 20)
    for row, sn, qv, message in [
        (25, 0.1, IEEE_1547_QV_B, "row is no bus"), (3, -1.0, IEEE_1547_QV_B, "sn_mva"),
        (3, 0.1, ((1.0, 0.9), (0.0, 1.0)), "must rise"), (3, 0.1, ((1.0, 1.1), (0.0, np.nan)), "lacks a share"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            with_regulators(network, inverters=Inverters.alike(np.array([row]), np.array([sn]), qv))


def test_controllers_that_cannot_be_kept_are_refused_by_name():
    net = cases.load("mv_oberrhein")
    DiscreteTapControl(net, 114, 1.0, 1.02)
    for column, value, message in [("tap_changer_type", "Ideal", "Ideal"), ("tap_min", np.nan, "tap_min is missing")]:
        broken = copy.deepcopy(net)
        broken.trafo.loc[114, column] = value
        with pytest.raises(ValueError, match=f"DiscreteTapControl of trafo 114: .*{message}"):
            Network.from_pandapower(broken)
        broken.controller.in_service = False
        assert not len(Network.from_pandapower(broken).tap_changers)
    DERController(net, net.sgen.index, q_model=QModelCosphiP(-0.95))
    with pytest.raises(ValueError, match="DERController: q_model"):
        Network.from_pandapower(net)
