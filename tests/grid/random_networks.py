"""Random networks as plain arrays: trees or meshes, with everything the solver distinguishes."""

from __future__ import annotations

import numpy as np

from lib.grid import Network


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
