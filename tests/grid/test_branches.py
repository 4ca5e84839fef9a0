"""Branch results: iron loss, short lines, layout."""

from __future__ import annotations

import numpy as np
import pandapower as pp
import pytest

from lib.grid.branches import branch_results
from lib.grid.from_pandapower import injections, network_from_pandapower
from lib.grid.network import Network
from tests.grid import cases
from tests.grid.reference import solve_reference


def one_transformer(**changes: float) -> pp.pandapowerNet:
    net = pp.create_empty_network()
    hv, lv = pp.create_bus(net, 20), pp.create_bus(net, 0.4)
    pp.create_ext_grid(net, hv, vm_pu=1.03)
    ratings = {
        "sn_mva": 0.63, "vn_hv_kv": 20.5, "vn_lv_kv": 0.41, "vkr_percent": 1.1, "vk_percent": 6.0, "pfe_kw": 1.2,
        "i0_percent": 0.3, "shift_degree": 150,
    }  # fmt: skip
    pp.create_transformer_from_parameters(net, hv, lv, **(ratings | changes))
    pp.create_load(net, lv, 0.4, 0.2)
    return net


def results(network: Network, v: np.ndarray, n_snapshot: int = 1):
    tiles = np.repeat(v[None, :, None], 32, axis=2).repeat(-(-n_snapshot // 32), axis=0)
    return branch_results(network, tiles.real, tiles.imag, n_snapshot)


@pytest.mark.parametrize("parallel", [1, 2])
def test_iron_loss_of_the_t_model_is_that_of_its_magnetising_branch(parallel: int) -> None:
    net = one_transformer(parallel=parallel)
    network = network_from_pandapower(net, "t")
    v = solve_reference(network, *injections(network, net))
    table = results(network, v).table("trafo", 0)

    # The T circuit from the nameplate, in ohms seen from the low-voltage side.
    z_ohm = 0.41**2 / 0.63 / 100 / parallel
    half = (1.1 + 1j * np.sqrt(6.0**2 - 1.1**2)) / 2 * z_ohm
    g, y_abs = 1.2e-3 / 0.41**2, 0.3 / 100 * 0.63 / 0.41**2
    y_m = parallel * (g - 1j * np.sqrt(y_abs**2 - g**2))
    u_hv = v[0] * 20 / 20.5 * 0.41 * np.exp(-1j * np.deg2rad(150))
    u_lv = v[1] * 0.4
    inner = (u_hv + u_lv) / (2 + half * y_m)
    np.testing.assert_allclose(table["p_iron_mw"], y_m.real * np.abs(inner) ** 2, rtol=1e-12)
    copper = (np.abs(u_hv - inner) ** 2 + np.abs(u_lv - inner) ** 2) * (1 / half).real
    np.testing.assert_allclose(table["p_copper_mw"], copper, rtol=1e-10)


def test_iron_loss_of_the_pi_model_is_half_at_each_end() -> None:
    net = one_transformer()
    network = network_from_pandapower(net, "pi")
    v = np.abs(solve_reference(network, *injections(network, net)))
    table = results(network, v.astype(complex)).table("trafo", 0)
    squares = (v[0] * 20 / 20.5) ** 2 + (v[1] * 0.4 / 0.41) ** 2
    np.testing.assert_allclose(table["p_iron_mw"], 1.2e-3 / 2 * squares, rtol=1e-12)


def test_short_lines_keep_their_digits() -> None:
    """A line of a millimetre: its flow and loss come from a voltage difference of 1e-9 per unit."""
    net = pp.create_empty_network()
    a, b = (pp.create_bus(net, 20) for _ in range(2))
    pp.create_ext_grid(net, a)
    pp.create_line_from_parameters(net, a, b, 1e-6, r_ohm_per_km=0.1, x_ohm_per_km=0.1, c_nf_per_km=300, max_i_ka=0.3)
    network = network_from_pandapower(net)
    z = 1e-7 * (1 + 1j) / 20**2
    current = 2 - 1j
    v = np.array([0, -z * current])  # around zero, where the difference is exact: what is tested is the arithmetic
    table = results(network, v).table("line", 0)
    np.testing.assert_allclose(table["pl_mw"], z.real * abs(current) ** 2, rtol=1e-9)
    np.testing.assert_allclose(table["i_from_ka"], abs(current) / np.sqrt(3) / 20, rtol=1e-9)


def test_snapshots_are_where_they_belong() -> None:
    network = network_from_pandapower(cases.load("three_winding"))
    rng = np.random.default_rng(0)
    e, f = 1 + 0.01 * rng.standard_normal((3, network.n_row, 32)), 0.01 * rng.standard_normal((3, network.n_row, 32))
    e[1, :, 7] = np.nan
    many = branch_results(network, e, f, 70)
    assert many.p_loss_mw.shape == (network.n_branch, 70)
    for snapshot in (0, 31, 32, 69):
        tile, lane = divmod(snapshot, 32)
        v = e[tile, :, lane] + 1j * f[tile, :, lane]
        i = np.einsum("bij,bj->bi", network.branch_y_pu, v[np.stack([network.branch_from, network.branch_to], axis=1)])
        np.testing.assert_allclose(
            many.p_from_mw[:, snapshot] + 1j * many.q_from_mvar[:, snapshot],
            v[network.branch_from] * i[:, 0].conj(), rtol=1e-9, atol=1e-9,
        )  # fmt: skip
        alone = branch_results(network, e[[tile]][:, :, [lane] * 32], f[[tile]][:, :, [lane] * 32], 1)
        for name in ("p_to_mw", "q_to_mvar", "i_from_ka", "loading_percent", "p_loss_mw", "p_iron_mw", "p_copper_mw"):
            np.testing.assert_array_equal(getattr(alone, name)[:, 0], getattr(many, name)[:, snapshot])
    assert np.isnan(many.p_loss_mw[:, 39]).all()
    assert np.isnan(many.loading_percent[:, 39]).all()
    assert np.isfinite(many.p_loss_mw[:, [38, 40]]).all()


def test_ends_without_a_rating() -> None:
    net = cases.load("wards_shunts_impedances")
    network = network_from_pandapower(net)
    v = solve_reference(network, *injections(network, net))
    result = results(network, v)
    assert np.isnan(result.table("impedance", 0)["loading_percent"]).all()
    net = cases.load("three_winding")
    network = network_from_pandapower(net)
    result = results(network, solve_reference(network, *injections(network, net)))
    assert np.isfinite(result.loading_percent).all()  # a leg is rated at its terminal alone
