"""power-grid-model gets the same equations: it agrees with pandapower, and what it is not given is refused."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandapower as pp
import pandapower.networks as nets
import pytest
import simbench

from lib.baseline.power_grid_model import BatchModel, UnsupportedNetworkError
from lib.grid.network import Network

NETS: dict[str, Callable[[], Any]] = {
    "SimBench LV, 15 buses": lambda: simbench.get_simbench_net("1-LV-rural1--0-sw"),
    "SimBench MV, two transformers, open lines": lambda: simbench.get_simbench_net("1-MV-rural--0-sw"),
    "CIGRE MV, three voltage levels": nets.create_cigre_network_mv,
    "CIGRE LV, three feeders, phase shift": nets.create_cigre_network_lv,
}


@functools.cache  # SimBench reads its profiles for seconds
def _made(name: str) -> Any:
    return NETS[name]()


def make(name: str) -> Any:
    return copy.deepcopy(_made(name))


@pytest.mark.parametrize("trafo_model", ["pi", "t"])
@pytest.mark.parametrize("method", ["iterative_current", "newton_raphson"])
@pytest.mark.parametrize("name", NETS)
def test_agrees_with_pandapower(name: str, method: str, trafo_model: str) -> None:
    net = make(name)
    network = Network.from_pandapower(net, trafo_model=trafo_model)
    p, q = network.injections(net)
    pp.runpp(net, trafo_model=trafo_model, tolerance_mva=1e-10, calculate_voltage_angles=True, init="dc")
    result = BatchModel(network).solve(p[:, None], q[:, None], method=method, tolerance=1e-12, angles=True)
    expected = net.res_bus.loc[network.bus_ids]
    assert result.converged.all()
    np.testing.assert_allclose(result.vm_pu[0], expected.vm_pu, atol=1e-8, rtol=0)
    turn = np.exp(1j * result.va_rad[0]) * np.exp(-1j * np.radians(expected.va_degree.to_numpy()))
    np.testing.assert_allclose(np.angle(turn), 0, atol=1e-8)


def small() -> tuple[Network, np.ndarray, np.ndarray]:
    net = make("SimBench LV, 15 buses")
    network = Network.from_pandapower(net)
    p, q = network.injections(net)
    factor = np.random.default_rng(3).uniform(0, 1.5, (network.n_bus, 40))
    return network, p[:, None] * factor, q[:, None] * factor


def test_a_batch_is_its_snapshots() -> None:
    network, p, q = small()
    loaded = np.any((p != 0) | (q != 0), axis=1)
    batch = BatchModel(network, loaded).solve(p, q, tolerance=1e-12, threads=0)
    for t in (0, 17, 39):
        alone = BatchModel(network).solve(p[:, t : t + 1], q[:, t : t + 1], tolerance=1e-12)
        np.testing.assert_allclose(batch.vm_pu[t], alone.vm_pu[0], atol=1e-11, rtol=0)


def test_a_snapshot_without_solution_is_nan_and_leaves_the_others() -> None:
    network, p, q = small()
    p[:, 5] = -1e3
    result = BatchModel(network).solve(p, q)
    assert result.converged.tolist() == [t != 5 for t in range(40)]
    assert np.isnan(result.vm_pu[5]).all()
    assert np.isfinite(np.delete(result.vm_pu, 5, axis=0)).all()


def test_an_island_without_source_is_nan() -> None:
    net = make("SimBench LV, 15 buses")
    bus = pp.create_buses(net, 2, vn_kv=0.4)
    pp.create_line_from_parameters(net, bus[0], bus[1], 0.1, 0.2, 0.1, 0.0, 0.1)
    network = Network.from_pandapower(net)
    p, q = network.injections(net)
    result = BatchModel(network).solve(p[:, None], q[:, None])
    dead = np.isin(network.bus_ids, bus)
    assert dead.sum() == 2
    assert np.array_equal(np.isnan(result.vm_pu[0]), dead)


def test_what_it_is_not_given_is_refused() -> None:
    network, p, q = small()
    one = np.array([3])
    controlled = dataclasses.replace(
        network, pv_row=one, pv_p_mw=one * 0.1, pv_vm_pu=one * 1.0, pv_q_min_mvar=-one * 1.0, pv_q_max_mvar=one * 1.0
    )
    with pytest.raises(UnsupportedNetworkError, match="voltage-controlled generator at row 3"):
        BatchModel(controlled)
    current = np.zeros(network.n_row, complex)
    current[4] = 0.1
    with pytest.raises(UnsupportedNetworkError, match="constant-current load at row 4"):
        BatchModel(dataclasses.replace(network, s_constant_current_mva=current))
    with pytest.raises(ValueError, match="declared without load"):
        BatchModel(network, np.zeros(network.n_bus, bool)).update(p, q)
    odd = network.branch_y_pu.copy()
    odd[2, 0, 1] *= 2
    with pytest.raises(UnsupportedNetworkError, match="branch 2"):
        BatchModel(dataclasses.replace(network, branch_y_pu=odd))
