"""Newton's method, one snapshot at a time: for the few that the sweep gives up.

The current balance Y x = E j(D x) in the network's own coordinates x (sequences, or wires): D takes them to the
voltages of the six load branches of a node (three wye, three delta), E their currents back. Currents depend on conj(x)
too, so a step is solved in real and imaginary parts.

Source: Garcia, Pereira, Carneiro, da Costa, Martins: three-phase power flow calculations using the current injection
method (2000).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

from lib.grid.powerflow import LANES, SlotStatus
from lib.grid.three_phase.fortescue import TO_PHASES, TO_SEQUENCES
from lib.grid.three_phase.phase_network import NEUTRAL, PhaseNetwork

if TYPE_CHECKING:
    from lib.grid.three_phase.powerflow import ThreePhasePowerFlow

MAX_STEPS = 12
_STEPS_TO_SETTLE, _SETTLED_PU, _LARGEST_PU = 7, 0.1, 10.0

_BETWEEN = np.array([[1, -1, 0], [0, 1, -1], [-1, 0, 1]])
"""Voltages ab, bc, ca from a, b, c."""


def solve_newton(
    flow: ThreePhasePowerFlow,
    powers: list[NDArray[np.floating]],
    scale: float,
    snapshots: NDArray[np.int64],
    tolerance: float,
) -> None:
    """Solves the named snapshots of `flow` and writes voltages, status, iterations and mismatch into it."""
    network = flow.network
    factors = network.factors
    n, w = factors.elimination.n, network.wires
    by_wire = isinstance(network, PhaseNetwork)
    seen, back = _load_branches(w, by_wire)
    every = sp.identity(n, format="csr")
    d, e = sp.kron(every, seen, format="csr"), sp.kron(every, back, format="csr")
    free = np.flatnonzero(factors.free.ravel())
    y = factors.y[free]
    visible = np.flatnonzero(factors.elimination.row < network.n_bus)
    rows = factors.elimination.row[visible]
    load = factors.load_mva.reshape(4, n, 3, 2)
    z_wye, i_wye, z_delta, i_delta = load[..., 0] - 1j * load[..., 1]  # conjugated
    z = np.concatenate([3 * z_wye, z_delta], axis=1).ravel()
    i = np.concatenate([3 * i_wye, np.sqrt(3) * i_delta], axis=1).ravel()
    pairs = factors.start_voltage
    begin = pairs[..., 0] + 1j * pairs[..., 1]
    start = (begin if by_wire else begin.T).ravel()
    for snapshot in snapshots:
        s = np.zeros((n, 6), dtype=complex)
        for pair in range(len(powers) // 2):
            p, q = (a[:, snapshot].reshape(-1, 3)[rows].astype(float) for a in powers[2 * pair : 2 * pair + 2])
            s[visible, 3 * pair : 3 * pair + 3] = 3 * scale * (p - 1j * q)  # conjugated
        x = start.copy()
        done, steps, residual = _newton(x, y, d, e, s.ravel(), z, i, free, tolerance)
        flow.iterations[snapshot] += steps
        if not done:
            continue
        flow.status[snapshot] = SlotStatus.NEWTON
        wires, miss = x.reshape(n, w), residual.reshape(n, w)
        if not by_wire:
            wires, miss = wires @ TO_PHASES.T, miss @ TO_PHASES.T
        flow.max_mismatch_mva[snapshot] = (np.abs(miss[:, :3]) * np.abs(wires[:, :3])).max() / 3
        place = (factors.elimination.row[:, None] * w + np.arange(w)).ravel()
        flow.e[snapshot // LANES, place, snapshot % LANES] = wires.real.ravel()
        flow.f[snapshot // LANES, place, snapshot % LANES] = wires.imag.ravel()


def _load_branches(wires: int, by_wire: bool) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """D (6, w) and E (w, 6) of one node."""
    if not by_wire:
        return np.vstack([TO_PHASES, _BETWEEN @ TO_PHASES]), TO_SEQUENCES @ np.hstack([np.eye(3), _BETWEEN.T])
    to_neutral, between = np.eye(3, wires, dtype=complex), np.zeros((3, wires), dtype=complex)
    between[:, :3] = _BETWEEN
    if wires == 4:
        to_neutral[:, NEUTRAL] = -1
    seen = np.vstack([to_neutral, between])
    return seen, seen.T


def _newton(x, y, d, e, s, z, i, free, tolerance):  # type: ignore[no-untyped-def]
    """Steps x in place; (found, steps, residual current)."""
    residual = np.zeros_like(x)
    e = e[free]
    for step in range(1, MAX_STEPS + 1):
        u = d @ x
        size = np.maximum(np.abs(u), 1e-12)
        residual[free] = y @ x - e @ (s / np.conj(u) - z * u - i * u / size)
        by_u = -z - i / (2 * size)
        by_conj = -s / np.conj(u) ** 2 + i * u**2 / (2 * size**3)
        straight = (y - e @ sp.diags(by_u) @ d)[:, free]
        turned = -(e @ sp.diags(by_conj) @ d.conj())[:, free]
        plus, minus = straight + turned, straight - turned
        jacobian = sp.bmat([[plus.real, -minus.imag], [plus.imag, minus.real]], format="csc")
        try:
            change = splu(jacobian).solve(-np.concatenate([residual[free].real, residual[free].imag]))
        except RuntimeError:  # singular: at the very edge
            return False, step, residual
        change = change[: len(free)] + 1j * change[len(free) :]
        largest = np.abs(change).max(initial=0.0)
        x[free] += change
        if not np.isfinite(largest) or largest > _LARGEST_PU or (step > _STEPS_TO_SETTLE and largest > _SETTLED_PU):
            return False, step, residual
        if largest <= tolerance:
            u = d @ x
            residual[free] = y @ x - e @ (s / np.conj(u) - z * u - i * u / np.abs(u))
            return True, step, residual
    return False, MAX_STEPS, residual
