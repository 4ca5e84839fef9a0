"""The unbalanced power flow against OpenDSS: wye and delta, constant power, impedance and current."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lib.grid.three_phase import SequenceNetwork, solve_three_phase
from tests.grid.three_phase_nets import unbalanced_net

pytest.importorskip("dss")

KINDS = ("power", "impedance", "current")


def stiff_net(group: str, shift: float):
    """The net of the tests as far as OpenDSS has the same model: stiff source, transformer without magnetising."""
    net = unbalanced_net(group, shift)
    for table in ("load", "sgen", "shunt", "asymmetric_load", "asymmetric_sgen"):
        net[table] = net[table][:0]
    net.ext_grid["s_sc_max_mva"] = 1e9
    net.trafo = net.trafo.assign(
        i0_percent=0.0, pfe_kw=0.0, mag0_percent=1e12, vk0_percent=6.0, vkr0_percent=1.4, parallel=1
    )
    return net


@pytest.mark.parametrize(("group", "shift"), [("Dyn", 30), ("YNyn", 0)])
@pytest.mark.parametrize("connection", ["wye", "delta"])
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_opendss(group, shift, connection, kind):
    from lib.baseline.opendss import Circuit

    net = stiff_net(group, shift)
    network = SequenceNetwork.from_pandapower(net)
    rng = np.random.default_rng(7)
    consumed = rng.uniform(-5, 25, (network.n_bus, 3)) + 1j * rng.uniform(-2, 8, (network.n_bus, 3))  # kVA
    consumed[0] = 0
    circuit = Circuit(20.0, 1.01, 3.0, 0, float(net.f_hz))
    circuit.network(network, net)
    for row in range(1, network.n_bus):
        for ph in range(3):
            s = consumed[row, ph]
            nodes, kv = (f"b{row}.{ph + 1}", 0.4 / np.sqrt(3)) if connection == "wye" else (
                f"b{row}.{ph + 1}.{(ph + 1) % 3 + 1}", 0.4)  # fmt: skip
            circuit.load(f"l{row}_{ph}", nodes, float(kv), float(s.real), float(s.imag), kind=kind)
    circuit.ready()
    volts = circuit.solve()
    v = np.array([[volts[f"b{r}.{ph + 1}"] for ph in range(3)] for r in range(network.n_bus)])
    expected = v / (network.positive.vn_kv[: network.n_bus, None] * 1e3 / np.sqrt(3))

    none = np.zeros((network.n_bus, 3, 1))
    p, q = -consumed.real[..., None] / 1e3, -consumed.imag[..., None] / 1e3
    if kind != "power":
        network = dataclasses.replace(
            network, **{f"{'z' if kind == 'impedance' else 'i'}_{connection}_mva": consumed / 1e3}
        )
        p, q = none, none
    powers = (p, q, none, none) if connection == "wye" else (none, none, p, q)
    flow = solve_three_phase(network, *powers[:2], p_delta_mw=powers[2], q_delta_mvar=powers[3], tolerance=1e-10)
    assert flow.converged.all()
    assert flow.unbalance_percent.max() > 0.05
    assert np.abs(flow.v_pu[..., 0] - expected).max() <= 1e-4
