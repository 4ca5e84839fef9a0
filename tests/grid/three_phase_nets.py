"""Unbalanced networks for the tests: small pandapower nets with zero-sequence data, and random ones as plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandapower as pp

from lib.grid.three_phase import SequenceNetwork
from tests.grid.random_networks import random_network


def unbalanced_net(group: str = "Dyn", shift_degree: float = 150.0, sn_mva: float = 1.0) -> Any:
    """20 kV grid, transformer with a tap, four low-voltage buses; wye and delta, single-phase and symmetric powers."""
    net = pp.create_empty_network(sn_mva=sn_mva, name=f"unbalanced {group}")
    hv = pp.create_bus(net, 20.0)
    lv = [pp.create_bus(net, 0.4) for _ in range(5)]
    pp.create_ext_grid(net, hv, vm_pu=1.01, va_degree=3.0, s_sc_max_mva=500.0, rx_max=0.2, x0x_max=1.5, r0x0_max=0.1)
    pp.create_transformer_from_parameters(
        net, hv, lv[0], sn_mva=0.4, vn_hv_kv=20.0, vn_lv_kv=0.41, vkr_percent=1.4, vk_percent=6.0, pfe_kw=1.0,
        i0_percent=0.3, shift_degree=shift_degree, vector_group=group, vk0_percent=5.5, vkr0_percent=1.2,
        mag0_percent=100.0, mag0_rx=0.1, si0_hv_partial=0.8, tap_side="hv", tap_neutral=0, tap_min=-2, tap_max=2,
        tap_step_percent=2.5, tap_step_degree=0.0, tap_pos=1, tap_changer_type="Ratio", parallel=2,
    )  # fmt: skip
    for f, t, km in ((0, 1, 0.1), (1, 2, 0.2), (1, 3, 0.15), (3, 4, 0.05)):
        pp.create_line_from_parameters(
            net, lv[f], lv[t], km, r_ohm_per_km=0.2, x_ohm_per_km=0.08, c_nf_per_km=200.0, max_i_ka=0.3,
            r0_ohm_per_km=0.8, x0_ohm_per_km=0.3, c0_nf_per_km=120.0, parallel=1,
        )  # fmt: skip
    pp.create_asymmetric_load(net, lv[2], p_a_mw=0.02, p_b_mw=0.005, p_c_mw=0.011, q_a_mvar=0.004, q_c_mvar=0.002)
    pp.create_asymmetric_load(
        net, lv[3], p_a_mw=0.002, p_b_mw=0.015, p_c_mw=0.001, q_a_mvar=0.004, q_c_mvar=0.002, type="delta"
    )
    pp.create_asymmetric_sgen(net, lv[3], p_c_mw=0.008)
    pp.create_load(net, lv[1], p_mw=0.03, q_mvar=0.01, scaling=1.2)
    pp.create_load(net, lv[4], p_mw=0.01, q_mvar=0.002, type="delta")
    pp.create_sgen(net, lv[4], p_mw=0.004, q_mvar=-0.001, type="wye")
    pp.create_load(net, hv, p_mw=0.3, q_mvar=0.01)
    pp.create_asymmetric_load(net, hv, p_a_mw=0.2, p_b_mw=0.05)
    pp.create_shunt(net, lv[2], q_mvar=-0.004)
    return net


def solved_by_pandapower(net: Any, restarts: int = 0) -> np.ndarray:
    """Complex phase voltages (n_bus, 3). It stops at a fixed 3e-8 MVA; started from its own results it goes on."""
    from pandapower.pf.runpp_3ph import runpp_3ph

    runpp_3ph(net, tolerance_mva=1e-10)
    for _ in range(restarts):
        runpp_3ph(net, tolerance_mva=1e-10, init="results")
    r = net.res_bus_3ph
    return np.stack([r[f"vm_{ph}_pu"] * np.exp(1j * np.deg2rad(r[f"va_{ph}_degree"])) for ph in "abc"], axis=1)


def random_sequence_network(seed: int, n: int = 40, loops: int = 0) -> SequenceNetwork:
    """`random_network` with a zero sequence of its own, dependent loads and a source that is not stiff."""
    rng = np.random.default_rng(seed + 1)
    positive = random_network(seed, n, loops)
    y = positive.branch_y_pu
    series = -y[:, 0, 1] / (rng.uniform(2, 4, len(y)) + 0.5j)
    y0 = np.empty_like(y)
    y0[:, 0, 1] = y0[:, 1, 0] = -series
    y0[:, 0, 0] = y0[:, 1, 1] = series + 0.5 * (y[:, 0, 0] + y[:, 0, 1])

    def some(size: float) -> np.ndarray:
        return np.where(rng.random((n, 1)) < 0.1, rng.uniform(0, size, (n, 3)) * (1 + 0.3j), 0)

    return SequenceNetwork(
        positive=positive, branch_y0_pu=y0, y0_shunt_pu=0.5 * positive.y_shunt_pu,
        source_y2_pu=np.array([5 - 20j]), source_y0_pu=np.array([3 - 10j]),
        z_wye_mva=some(0.003), i_wye_mva=some(0.003), z_delta_mva=some(0.003), i_delta_mva=some(0.003),
        s_typical_mva=some(0.002) if seed % 2 else np.zeros(0, dtype=complex),
    )  # fmt: skip


def random_phase_powers(seed: int, n: int, snapshots: int, size: float = 0.0015) -> tuple[np.ndarray, ...]:
    """(p, q, p_delta, q_delta), float32 (n, 3, snapshots); some buses without load, few with delta."""
    rng = np.random.default_rng(seed)
    some, few = rng.random((n, 1, 1)) < 0.7, rng.random((n, 1, 1)) < 0.2
    shape = (n, 3, snapshots)
    parts = [
        np.where(chosen, rng.uniform(low, high, shape) * size, 0)
        for chosen, low, high in ((some, -1, 0.4), (some, -0.4, 0.2), (few, -1, 0.4), (few, -0.4, 0.2))
    ]
    return tuple(a.astype(np.float32) for a in parts)
