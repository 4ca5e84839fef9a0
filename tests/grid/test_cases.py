"""Every case of tests/cases against pandapower's Newton: voltages, flows, losses, loading, external grids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lib.grid.branches import BranchResult
from lib.grid.from_pandapower import injections, network_from_pandapower
from lib.grid.network import Network
from lib.grid.powerflow import solve
from tests.grid import cases
from tests.grid.reference import energised, solve_reference

CASES = [(name, model) for name in cases.names() for model in cases.params(name).get("trafo_models", ["t", "pi"])]


@pytest.mark.parametrize(("name", "trafo_model"), CASES)
def test_agrees_with_pandapower(name: str, trafo_model: str) -> None:
    net = cases.load(name)
    network = network_from_pandapower(net, trafo_model)
    p, q = injections(network, net)
    # Where generators hold the voltage, their full power beside little load may have no solution.
    load = np.array([1.0, 0.98 if len(network.pv_row) else 0.6])
    result = solve(network, np.outer(p, load), np.outer(q, load), tolerance=1e-11, max_iterations=60)
    assert result.converged.all()

    assert cases.run_tightly(net, trafo_model) <= 1e-8
    v = (result.vm_pu * np.exp(1j * np.deg2rad(result.va_degree)))[network.member_row]
    expected = cases.voltages(net, network.member_bus)
    dark = ~energised(network)[network.member_row]
    np.testing.assert_array_equal(np.isnan(expected), dark)
    np.testing.assert_array_equal(np.isnan(v[:, 0]), dark)
    assert np.abs(v[:, 0] - expected)[~dark].max() <= 1e-8
    lighter = solve_reference(network, p * load[1], q * load[1])[network.member_row]
    assert np.abs(v[:, 1] - lighter)[~dark].max() <= 1e-8

    _compare_external_grids(net, network, result)
    branches = result.branches()
    compared = [_compare_branches(net, branches, kind) for kind in ("line", "trafo", "trafo3w", "impedance", "switch")]
    assert sum(compared) >= 1


def _compare_external_grids(net: Any, network: Network, result: Any) -> None:
    infeed = np.zeros(network.n_row, dtype=complex)
    slack = net.gen.slack.to_numpy(dtype=bool)
    for table, results in ((net.ext_grid, net.res_ext_grid), (net.gen[slack], net.res_gen[slack])):
        served = table.in_service.to_numpy(dtype=bool)
        row = [network.row_of[bus] for bus in table.bus[served]]
        np.add.at(infeed, row, (results.p_mw + 1j * results.q_mvar).to_numpy()[served])
    rows = network.fixed_row
    ours = result.slack_p_mw[:, 0] + 1j * result.slack_q_mvar[:, 0]
    beside = net.gen[~slack & net.gen.in_service.to_numpy(dtype=bool)]  # pandapower splits Q with gens at the same bus
    for index, bus in beside.bus.items():
        if network.row_of[bus] in rows:
            ours[rows == network.row_of[bus]] -= 1j * net.res_gen.q_mvar[index]
    assert np.abs(ours - infeed[rows]).max() <= 1e-6 * max(1, np.abs(infeed).max())


def _compare_branches(net: Any, branches: BranchResult, kind: str) -> int:
    """Compares all elements of one kind that have a voltage; returns how many."""
    table = branches.table(kind, 0)
    own = table.get("side", np.zeros(len(table["element"]))) == 0  # side 1 of an impedance: inside an xward
    lit = own & np.isfinite(table["pl_mw"])
    element = table["element"][lit]
    if not len(element):
        return 0
    expected = net[f"res_{kind}"].loc[element]
    source = net[kind].loc[element]
    rating = _rated_mva(net, kind, source)
    sides = {"trafo": ("hv", "lv"), "trafo3w": ("hv", "mv", "lv")}.get(kind, ("from", "to"))
    for side in sides:
        s = expected[f"p_{side}_mw"].to_numpy() + 1j * expected[f"q_{side}_mvar"].to_numpy()
        ours = table[f"p_{side}_mw"][lit] + 1j * table[f"q_{side}_mvar"][lit]
        allowed = 1e-6 * np.maximum(np.abs(s), 1e-3 * rating)
        assert (np.abs(ours - s) <= allowed).all(), f"{kind} {side}: {np.max(np.abs(ours - s) / allowed):.1f} x allowed"
        if kind != "switch":
            i = expected[f"i_{side}_ka"].to_numpy()
            np.testing.assert_allclose(table[f"i_{side}_ka"][lit], i, rtol=1e-6, atol=1e-6 * i.max())
    if kind != "switch":
        s = expected[f"p_{sides[0]}_mw"].to_numpy() + 1j * expected[f"q_{sides[0]}_mvar"].to_numpy()
        allowed = 1e-6 * np.maximum(np.abs(s), 1e-3 * rating)
        assert (np.abs(table["pl_mw"][lit] - expected.pl_mw) <= allowed).all()
        np.testing.assert_allclose(table["p_iron_mw"] + table["p_copper_mw"], table["pl_mw"], rtol=1e-12, atol=1e-15)
    if "loading_percent" in expected:
        np.testing.assert_allclose(table["loading_percent"][lit], expected.loading_percent, rtol=1e-6, atol=1e-6)
    return len(element)


def _rated_mva(net: Any, kind: str, source: Any) -> np.ndarray:
    if kind == "line":
        vn_kv = net.bus.vn_kv.loc[source.from_bus].to_numpy()
        rating = np.sqrt(3) * vn_kv * (source.max_i_ka * source.df * source.parallel).to_numpy(dtype=float)
        return np.nan_to_num(rating)
    if kind == "switch":
        return np.ones(len(source))
    if kind == "trafo3w":
        return source.sn_lv_mva.to_numpy()
    return source.sn_mva.to_numpy()
