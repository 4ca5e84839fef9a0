"""What `network_from_pandapower` promises beyond agreement of results (see test_cases)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pandapower as pp
import pandapower.networks as pn
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lib.grid.from_pandapower import injections, network_from_pandapower
from lib.grid.network import Network
from tests.grid import cases
from tests.grid.reference import solve_reference

CABLE = {"r_ohm_per_km": 0.2, "x_ohm_per_km": 0.12, "c_nf_per_km": 250, "max_i_ka": 0.3}


def solved(net: Any) -> tuple[Network, np.ndarray]:
    network = network_from_pandapower(net)
    return network, solve_reference(network, *injections(network, net))


def test_net_is_left_alone() -> None:
    net = cases.load("example_multivoltage")
    net.user_pf_options = {"switch_rx_ratio": 1.5, "algorithm": "bfsw"}
    before = copy.deepcopy(net)
    injections(network_from_pandapower(net), net)
    assert set(net) == set(before)
    assert pp.toolbox.nets_equal(net, before)
    assert net.user_pf_options == before.user_pf_options


def test_fused_buses_share_the_row_of_the_lowest() -> None:
    network = network_from_pandapower(cases.load("switches"))
    assert network.bus_ids.tolist() == [1, 3, 5, 11]
    assert network.row_of[9] == network.row_of[7] == network.row_of[1] == 0
    assert network.row_of[11] == 3
    assert 2 not in network.row_of  # out of service


def test_hidden_rows_follow_the_visible_ones() -> None:
    network = network_from_pandapower(cases.load("three_winding"))
    assert network.n_row == network.n_bus + 4  # three star points and one open winding
    assert network.member_row.max() == network.n_bus - 1
    assert network.vn_kv[network.n_bus :].tolist() == [110, 110, 110, 10]


def test_what_is_open_at_both_ends_is_left_out() -> None:
    net = cases.load("open_ends")
    network = network_from_pandapower(net)
    lines = network.branch_element[network.branch_kind == 0]
    assert set(net.line.index) - set(lines) == {int(net.line.index[-2])}


def test_bytes_round_trip() -> None:
    network = network_from_pandapower(cases.load("example_multivoltage"))
    data = network.to_bytes()
    again = Network.from_bytes(data)
    assert again.to_bytes() == data
    for name in ("branch_y_pu", "branch_iron_pu", "pv_q_max_mvar", "member_row", "fixed_v_pu"):
        np.testing.assert_array_equal(getattr(again, name), getattr(network, name))
    with pytest.raises(ValueError, match="not a network"):
        Network.from_bytes(data[:100])


def test_a_net_without_branches() -> None:
    net = pp.create_empty_network()
    a, b, c = (pp.create_bus(net, 20) for _ in range(3))
    pp.create_ext_grid(net, a, vm_pu=1.02)
    pp.create_switch(net, a, b, et="b")
    pp.create_load(net, b, 1)
    network, v = solved(net)
    assert network.bus_ids.tolist() == [a, c]
    np.testing.assert_allclose(v, [1.02, np.nan])


def add_unsupported(net: Any) -> None:
    svc = {"x_l_ohm": 1, "x_cvar_ohm": -10, "set_vm_pu": 1, "thyristor_firing_angle_degree": 120}
    pp.create_dcline(net, 3, 8, p_mw=1, loss_percent=1, loss_mw=0.01, vm_from_pu=1, vm_to_pu=1, index=5)
    pp.create_svc(net, 4, **svc, index=2)
    pp.create_svc(net, 5, **svc, index=9)
    pp.create_bus_dc(net, 20, index=3)


def make_lines_impossible(net: Any) -> None:
    net.line.loc[[4, 6], ["r_ohm_per_km", "x_ohm_per_km"]] = 0.0


def lose_a_reactance(net: Any) -> None:
    net.line.loc[7, "x_ohm_per_km"] = np.nan


def short_a_transformer(net: Any) -> None:
    net.trafo.loc[1, ["vk_percent", "vkr_percent"]] = 0.0


def switch_off_the_grid(net: Any) -> None:
    net.ext_grid["in_service"] = False


def distribute_the_slack(net: Any) -> None:
    pp.set_user_pf_options(net, distributed_slack=True)


def control_one_voltage_twice(net: Any) -> None:
    pp.create_gen(net, 0, p_mw=1, vm_pu=1.1)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (add_unsupported, ["dcline 5", "svc 2, 9", "bus_dc 3"]),
        (make_lines_impossible, ["line 4, line 6: impedance is zero"]),
        (lose_a_reactance, ["line 7: a parameter is missing"]),
        (short_a_transformer, ["trafo 1"]),
        (switch_off_the_grid, ["external grid"]),
        (distribute_the_slack, ["distributed_slack"]),
        (control_one_voltage_twice, ["different setpoints"]),
    ],
)
def test_refused_by_name(spoil: Callable[[Any], None], named: list[str]) -> None:
    net = cases.load("cigre_mv")
    spoil(net)
    with pytest.raises(ValueError, match=named[0]) as refusal:
        network_from_pandapower(net)
    assert all(text in str(refusal.value) for text in named)


def test_out_of_service_elements_are_not_refused() -> None:
    net = cases.load("cigre_mv")
    expected = network_from_pandapower(net)
    pp.create_dcline(net, 3, 8, p_mw=1, loss_percent=1, loss_mw=0.01, vm_from_pu=1, vm_to_pu=1, in_service=False)
    pp.create_line_from_parameters(net, 3, 8, 0.0, in_service=False, **CABLE)
    assert network_from_pandapower(net).to_bytes() == expected.to_bytes()


def test_unknown_trafo_model() -> None:
    with pytest.raises(ValueError, match="trafo_model"):
        network_from_pandapower(pn.case4gs(), trafo_model="gamma")


def test_injections_of_another_net_are_refused() -> None:
    network = network_from_pandapower(pn.case4gs())
    with pytest.raises(ValueError, match="make the network anew"):
        injections(network, pn.case9())


def test_injections_sum_every_kind() -> None:
    net = pp.create_empty_network()
    a, b, c = (pp.create_bus(net, 20) for _ in range(3))
    pp.create_ext_grid(net, a)
    pp.create_line_from_parameters(net, a, b, 1, **CABLE)
    pp.create_switch(net, b, c, et="b")
    pp.create_load(net, b, 1, 0.5, scaling=2)
    pp.create_load(net, b, 9, 9, in_service=False)
    pp.create_load(net, b, 1, 1, const_z_p_percent=0)
    pp.create_sgen(net, c, 4, 0.25, scaling=0.5)
    pp.create_storage(net, c, 0.125, max_e_mwh=1)
    pp.create_ward(net, c, ps_mw=0.5, qs_mvar=0.25, pz_mw=7, qz_mvar=7)
    pp.create_motor(net, b, pn_mech_mw=0.8, cos_phi=0.8, efficiency_percent=80, loading_percent=50)
    pp.create_asymmetric_load(net, b, p_a_mw=0.25, p_b_mw=0.5, p_c_mw=0.25, q_a_mvar=0.5)
    network = network_from_pandapower(net)
    p, q = injections(network, net)
    np.testing.assert_allclose(p, [0, -2 - 1 + 2 - 0.125 - 0.5 - 0.5 - 1], atol=1e-12)
    np.testing.assert_allclose(q, [0, -1 - 1 + 0.125 - 0.25 - 0.375 - 0.5], atol=1e-12)


def test_options_kept_with_the_net_are_followed() -> None:
    net = cases.load("switches")
    plain = network_from_pandapower(net)
    pp.set_user_pf_options(net, switch_rx_ratio=0.5)
    other = network_from_pandapower(net)
    z, z_other = (1 / -n.branch_y_pu[n.branch_kind == 4, 0, 1] for n in (plain, other))
    np.testing.assert_allclose(z.real / z.imag, 2)
    np.testing.assert_allclose(z_other.real / z_other.imag, 0.5)


PERMUTED = ("cigre_mv_all_der", "switches", "three_winding", "wards_shunts_impedances", "external_grids")


@settings(max_examples=8, phases=[Phase.explicit, Phase.generate])
@given(name=st.sampled_from(PERMUTED), seed=st.integers(0, 2**32 - 1))
def test_renumbering_buses_changes_nothing(name: str, seed: int) -> None:
    net = cases.load(name)
    network, v = solved(net)
    new = np.random.default_rng(seed).permutation(2 * len(net.bus))[: len(net.bus)]
    renamed = dict(zip(net.bus.index.tolist(), new.tolist(), strict=True))
    pp.toolbox.reindex_buses(net, renamed)
    net.bus = net.bus.sort_index()
    network_2, v_2 = solved(net)
    assert sorted(renamed[bus] for bus in network.row_of) == sorted(network_2.row_of)
    for bus, row in network.row_of.items():
        np.testing.assert_allclose(v_2[network_2.row_of[renamed[bus]]], v[row], rtol=0, atol=1e-11)


@settings(max_examples=8, phases=[Phase.explicit, Phase.generate])
@given(
    name=st.sampled_from(("cigre_lv", "open_ends", "taps_and_phase_shift", "voltage_dependent_loads", "islands")),
    factor=st.floats(-1, 1.2),
)
def test_power_balance(name: str, factor: float) -> None:
    """What external grids feed in, plus injections, is what branches and admittances to ground consume."""
    from lib.grid.branches import branch_results

    net = cases.load(name)
    network = network_from_pandapower(net)
    p, q = (factor * x for x in injections(network, net))
    v = solve_reference(network, p, q)
    lanes = np.repeat(v[None, :, None], 32, axis=2)
    result = branch_results(network, lanes.real, lanes.imag, 1)
    live = np.isfinite(v)
    drawn = np.zeros(network.n_row, dtype=complex)
    np.add.at(drawn, network.branch_from, result.p_from_mw[:, 0] + 1j * result.q_from_mvar[:, 0])
    np.add.at(drawn, network.branch_to, result.p_to_mw[:, 0] + 1j * result.q_to_mvar[:, 0])
    drawn += np.abs(v) ** 2 * network.y_shunt_pu.conj() + np.abs(v) * network.s_constant_current_mva
    given_to = np.zeros(network.n_row, dtype=complex)
    given_to[: network.n_bus] = p + 1j * q
    free = live.copy()
    free[network.fixed_row] = False
    np.testing.assert_allclose(drawn[free], given_to[free], atol=1e-8)
    loss = np.nansum(result.p_loss_mw[:, 0])
    np.testing.assert_allclose(np.nansum(result.p_from_mw + result.p_to_mw), loss, atol=1e-8)
