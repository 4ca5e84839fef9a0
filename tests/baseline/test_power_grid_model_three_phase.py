"""power-grid-model's asymmetric batch and the unbalanced power flow solve the same network alike."""

from __future__ import annotations

import numpy as np
import pytest

from lib.baseline.power_grid_model import UnsupportedNetworkError
from lib.baseline.power_grid_model_three_phase import PhaseBatchModel
from lib.grid.three_phase import SequenceNetwork, solve_three_phase
from tests.grid.three_phase_nets import unbalanced_net


def common_net(group: str, shift: float):
    net = unbalanced_net(group, shift)
    net.ext_grid["s_sc_max_mva"] = 1e12
    net.trafo = net.trafo.assign(
        i0_percent=0.0, pfe_kw=0.0, mag0_percent=1e12, vk0_percent=6.0, vkr0_percent=1.4, parallel=1
    )
    return net


@pytest.mark.parametrize(("group", "shift"), [("Dyn", 150), ("YNyn", 0)])
def test_voltages_of_every_phase_agree(group, shift):
    net = common_net(group, shift)
    network = SequenceNetwork.from_pandapower(net)
    rng = np.random.default_rng(2)
    shape = (network.n_bus, 3, 40)
    p, q = rng.uniform(-0.02, 0.005, shape), rng.uniform(-0.006, 0.002, shape)
    flow = solve_three_phase(network, p, q, tolerance=1e-10)
    assert flow.converged.all()
    model = PhaseBatchModel(network, net)
    for method in ("iterative_current", "newton_raphson"):
        nodes = model.run(model.update(p, q), method=method, tolerance=1e-11, angles=True)
        v = (nodes["u_pu"] * np.exp(1j * nodes["u_angle"]))[:, : network.n_bus].transpose(1, 2, 0)
        assert np.abs(v - flow.v_pu).max() <= 1e-8


def test_what_it_cannot_hold_is_refused():
    net = common_net("Dyn", 150)
    net.load["const_i_p_percent"] = 50.0
    with pytest.raises(UnsupportedNetworkError, match="constant power only"):
        PhaseBatchModel(SequenceNetwork.from_pandapower(net), net)
    net = unbalanced_net()
    with pytest.raises(UnsupportedNetworkError, match="magnetising"):
        PhaseBatchModel(SequenceNetwork.from_pandapower(net), net)
