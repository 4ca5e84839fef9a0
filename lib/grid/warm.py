"""Compiles every kernel into Numba's cache: `python -m lib.grid.warm`. Workers then load instead of compiling."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.grid.estimation import estimate
from lib.grid.network import Network
from lib.grid.powerflow import LANES, SlotStatus, solve
from lib.grid.regulators import IEEE_1547_PV, IEEE_1547_QV_B, Inverters, TapChangers, with_regulators
from lib.grid.summary import Limits, Summariser


def two_bus_network() -> Network:
    """One line with a rating, feeding one bus."""
    none, nowhere = np.zeros(0), np.zeros(0, dtype=np.int64)
    y = 1 / (0.02 + 0.01j)
    return Network(
        bus_ids=np.arange(2), member_bus=np.arange(2), member_row=np.arange(2), vn_kv=np.full(2, 0.4),
        y_shunt_pu=np.zeros(2, dtype=complex), s_constant_current_mva=np.zeros(2, dtype=complex),
        fixed_row=np.array([0]), fixed_v_pu=np.array([1.0 + 0j]),
        pv_row=nowhere, pv_p_mw=none, pv_vm_pu=none, pv_q_min_mvar=none, pv_q_max_mvar=none,
        branch_kind=np.zeros(1, dtype=np.uint8), branch_element=np.array([0]), branch_side=np.zeros(1, dtype=np.uint8),
        branch_from=np.array([0]), branch_to=np.array([1]), branch_y_pu=np.array([[[y, -y], [-y, y]]]),
        branch_iron_pu=np.zeros((1, 4)), branch_rated_ka=np.ones((1, 2)),
        s_typical_mva=np.array([0, -0.1 + 0j]), source="two buses",
    )  # fmt: skip


def compile_all() -> None:
    """Runs each kernel once on two buses, for every type of array that jobs hand it (the unbalanced ones: float32)."""
    for dtype in (np.float32, np.float64):
        compile_power_flow(dtype)
    _compile_three_phase()
    _compile_estimation(two_bus_network())


def compile_power_flow(dtype: type[np.floating]) -> None:
    """Runs each kernel of the power flow once, on powers of one type; loads those that are compiled already."""
    network = two_bus_network()
    summariser = Summariser(network, Limits(np.full(2, 0.9), np.full(2, 1.1)))
    p = np.zeros((2, LANES), dtype=dtype)
    p[1] = -0.1
    p[1, 0] = -20.0  # beyond what the line carries: Newton is compiled too
    for own in (network, _regulated(network)):
        flow = solve(own, p, np.zeros_like(p))
        assert flow.status[0] == SlotStatus.DIVERGED
        assert flow.converged[1:].all()
        flow.branches()
        assert flow.vm_pu.shape == p.shape
        summariser.add_tile(summariser.empty(), flow.e[0], flow.f[0], flow.converged, 0)


def _regulated(network: Network) -> Network:
    """With an inverter, and a tap changer that has to move."""
    zero, one = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64)
    changer = TapChangers(
        zero, zero, zero, -9 * one, 9 * one, zero, np.ones(1), np.zeros(1), one, np.array([1.0]), np.array([1.02])
    )
    return with_regulators(network, changer, Inverters.alike(one, np.array([0.02]), IEEE_1547_QV_B, IEEE_1547_PV))


def _compile_three_phase() -> None:
    from lib.grid.three_phase import PhaseNetwork, SequenceNetwork, solve_three_phase

    positive = two_bus_network()
    none = np.zeros((2, 3), dtype=complex)
    sequence = SequenceNetwork(
        positive=positive, branch_y0_pu=positive.branch_y_pu / 4, y0_shunt_pu=np.zeros(2, dtype=complex),
        source_y2_pu=np.array([-10j]), source_y0_pu=np.array([-10j]),
        z_wye_mva=none, i_wye_mva=none, z_delta_mva=none, i_delta_mva=none,
    )  # fmt: skip
    p = np.zeros((2, 3, LANES), dtype=np.float32)
    p[1] = -0.03
    for network in (sequence, PhaseNetwork.from_sequence(sequence, {})):
        flow = solve_three_phase(network, p, np.zeros_like(p))
        assert flow.converged.all()


def _compile_estimation(network: Network) -> None:
    columns = ["measurement_type", "element_type", "element", "side", "std_dev"]
    lines = [("v", "bus", 0, ""), ("v", "bus", 1, ""), ("p", "bus", 1, ""), ("q", "bus", 1, "")]
    lines += [("p", "line", 0, "from"), ("i", "line", 0, "to"), ("va", "bus", 1, "")]
    table = pd.DataFrame([(*line, 0.01) for line in lines], columns=columns)
    values = np.array([1.0, 1.0, 0.1, 0.0, 0.1, 0.14, 0.0])[:, None] + np.zeros(2)
    values[1, 1] = 1.5  # bad
    assert len(estimate(network, table, values, bad_data_alpha=0.01).removed)


if __name__ == "__main__":
    compile_all()
