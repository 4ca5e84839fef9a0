"""Random networks as plain arrays: trees or meshes, with everything the solver distinguishes."""

from __future__ import annotations

import numpy as np

from lib.grid import Network
from lib.grid.regulators import IEEE_1547_PV, IEEE_1547_QV_A, IEEE_1547_QV_B, Inverters, TapChangers, with_regulators

STEEP_QV = ((0.96, 0.98, 1.02, 1.04), (0.44, 0.0, 0.0, -0.44))  # the steepest that IEEE 1547-2018 allows


def random_network(seed: int, n: int = 40, loops: int = 0, chord: bool = True) -> Network:
    """A network of n buses fed at bus 0: a random tree of lines of 0.4 kV size, with `loops` branches closing loops."""
    rng = np.random.default_rng(seed)
    parent = np.array([rng.integers(max(0, i - 6), i) for i in range(1, n)])
    f, t = parent, np.arange(1, n)
    if loops:
        f = np.concatenate([f, rng.integers(0, n // 2, loops)])
        t = np.concatenate([t, rng.integers(n // 2, n, loops)])
    label = rng.permutation(n)
    f, t = label[f], label[t]
    m = len(f)
    z = rng.uniform(0.01, 0.1, m) * (1 + 1j * rng.uniform(0.2, 2.0, m))
    y = np.empty((m, 2, 2), dtype=complex)
    y[:, 0, 0] = y[:, 1, 1] = 1 / z + 1j * rng.uniform(0, 1e-3, m)
    y[:, 0, 1] = y[:, 1, 0] = -1 / z
    none, nowhere = np.zeros(0), np.zeros(0, dtype=np.int64)
    return Network(
        bus_ids=np.arange(n), member_bus=np.arange(n), member_row=np.arange(n), vn_kv=np.full(n, 0.4),
        y_shunt_pu=np.where(rng.random(n) < 0.1, 0.01 - 0.02j, 0), s_constant_current_mva=np.zeros(n, dtype=complex),
        fixed_row=label[:1], fixed_v_pu=np.array([1.02 * np.exp(0.1j)]),
        pv_row=nowhere, pv_p_mw=none, pv_vm_pu=none, pv_q_min_mvar=none, pv_q_max_mvar=none,
        branch_kind=np.zeros(m, dtype=np.uint8), branch_element=np.arange(m), branch_side=np.zeros(m, dtype=np.uint8),
        branch_from=f, branch_to=t, branch_y_pu=y, branch_iron_pu=np.zeros((m, 4)), branch_rated_ka=np.ones((m, 2)),
        s_typical_mva=np.full(n, -(0.001 + 0.0003j)) if chord else np.zeros(0, dtype=complex),
        source=f"random network {seed}",
    )  # fmt: skip


def random_injections(seed: int, n: int, snapshots: int, size: float = 0.004):
    """(p_mw, q_mvar), float32 (n, snapshots), loads and generation."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(-1.0, 0.4, (n, snapshots)) * size
    return p.astype(np.float32), (0.3 * p + rng.uniform(-0.1, 0.1, p.shape) * size).astype(np.float32)


def with_inverters(network: Network, seed: int, rated_mva: float = 0.01) -> Network:
    """A third of the buses with one inverter of some kind, some with two."""
    rng = np.random.default_rng(seed)
    free = np.setdiff1d(np.arange(network.n_bus), network.fixed_row)
    row = rng.choice(free, len(free) // 3 + 1)
    curves = [(IEEE_1547_QV_A, None), (IEEE_1547_QV_B, IEEE_1547_PV), (STEEP_QV, ((1.0, 1.05), (1.0, 0.0)))]
    padded = np.full((4, len(row), 4), np.nan)
    for i in range(len(row)):
        qv, pv = curves[rng.integers(3)]
        for at, points in zip(padded, (*qv, *(pv or ((), ()))), strict=True):
            at[i, : len(points)] = points
    return with_regulators(network, inverters=Inverters(row, rng.uniform(0.2, 1, len(row)) * rated_mva, *padded))


def tapped_network(seed: int, n: int, changers: int, band: float, loops: int = 0, range_: int = 9) -> Network:
    """Branches of a random network as transformers with taps of 1.5 %, at either end, each keeping the far side."""
    network = random_network(seed, n, loops)
    rng = np.random.default_rng(seed)
    branch = rng.choice(network.n_branch, changers, replace=False)
    centre = rng.uniform(0.97, 1.03, changers)
    return with_regulators(network, TapChangers(
        branch=branch, end=rng.integers(0, 2, changers), tap_neutral=np.full(changers, 1),
        tap_min=np.full(changers, 1 - range_), tap_max=np.full(changers, 1 + range_),
        tap_pos=rng.integers(-1, 3, changers), tap_step_percent=np.where(rng.random(changers) < 0.3, -1.5, 1.5),
        tap_step_degree=np.where(rng.random(changers) < 0.3, 30.0, 0.0), regulated_row=network.branch_to[branch],
        vm_lower_pu=centre - band / 2, vm_upper_pu=centre + band / 2,
    ))  # fmt: skip
