"""AC power flow of many snapshots of one network at once."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lib.grid import sweep
from lib.grid.factorisation import admittance_matrix
from lib.grid.network import Network
from lib.grid.sweep import LANES
from lib.grid.voltages import Voltages

__all__ = ["LANES", "PowerFlow", "SlotStatus", "solve"]


class SlotStatus(enum.IntEnum):
    """What became of one snapshot."""

    OK = 0
    NEWTON = 1
    """Converged, by the Newton fallback (always so where a network has voltage-controlled generators)."""
    DIVERGED = 2
    """No solution found: voltages are NaN."""
    BAD_INPUT = 3
    """An injection is NaN or infinite: voltages are NaN."""


_STATUS = np.full(sweep.PADDING + 1, SlotStatus.DIVERGED, dtype=np.uint8)
_STATUS[sweep.CONVERGED], _STATUS[sweep.BAD_INPUT] = SlotStatus.OK, SlotStatus.BAD_INPUT


@dataclass(frozen=True, eq=False)
class PowerFlow(Voltages):
    """Solved snapshots. Voltages are rectangular, in tiles of 32 snapshots: as the sweep writes and summaries read."""

    network: Network
    n_snapshot: int
    e: NDArray[np.float64]
    f: NDArray[np.float64]
    status: NDArray[np.uint8]
    """(n_snapshot,) values of SlotStatus."""
    iterations: NDArray[np.int32]
    """(n_snapshot,) linear solves spent, Newton steps included."""
    max_mismatch_mva: NDArray[np.float64]
    """(n_snapshot,) largest power mismatch of any bus at the voltages returned, NaN where there are none."""
    injected_mva: tuple[NDArray[np.floating], NDArray[np.floating], float]
    """(p, q, scale) as given."""

    @property
    def converged(self) -> NDArray[np.bool_]:
        return self.status <= SlotStatus.NEWTON

    @cached_property
    def _slack(self) -> NDArray[np.complex128]:
        rows = self.network.fixed_row
        y = admittance_matrix(self.network)[rows]
        n_tile = len(self.e)
        s = np.empty((len(rows), n_tile * LANES), dtype=complex)
        for t in range(n_tile):
            v = np.nan_to_num(self.e[t]) + 1j * np.nan_to_num(self.f[t])  # a dead island has no branch to a fixed row
            drawn = self.network.s_constant_current_mva[rows, None] * abs(v[rows])
            s[:, t * LANES : (t + 1) * LANES] = v[rows] * np.conj(y @ v) + drawn
        s = s[:, : self.n_snapshot]
        p, q, scale = self.injected_mva
        visible = rows < self.network.n_bus
        s[visible] -= (p[rows[visible]] * np.float64(scale)) + 1j * (q[rows[visible]] * np.float64(scale))
        s[:, ~self.converged] = complex(np.nan, np.nan)
        return s

    @property
    def slack_p_mw(self) -> NDArray[np.float64]:
        """(k, n_snapshot) active power fed in by each external grid, in `network.fixed_row` order."""
        return self._slack.real

    @property
    def slack_q_mvar(self) -> NDArray[np.float64]:
        """(k, n_snapshot) reactive power fed in by each external grid."""
        return self._slack.imag


def solve(
    network: Network,
    p_mw: NDArray[np.floating],
    q_mvar: NDArray[np.floating],
    *,
    tolerance: float = 1e-8,
    max_iterations: int = 12,
    fallback: bool = True,
    scale: float = 1.0,
    out: PowerFlow | None = None,
) -> PowerFlow:
    """Power flow of every snapshot.

    p_mw, q_mvar: net constant-power injection, generation positive, (n_bus, n_snapshot) float32 or float64, rows in
        `network.bus_ids` order; multiplied by `scale` (1e-3 lets kW in).
    tolerance: bound on the voltage error in per unit, judged by each snapshot's own change and contraction.
    max_iterations: linear solves after which a snapshot that would still miss the tolerance is given up.
    out: an earlier result that is no longer needed: its voltage arrays are written over where their shape fits, which
        saves fetching fresh memory from the system.
    fallback: try Newton's method (at most 12 steps) on snapshots given up.

    A snapshot's result is the same bits whatever else is in the batch. Snapshots without a result are NaN and `status`
    says why. Raises ValueError on a wrong shape, SingularNetworkError on a network that cannot be factorised.
    """
    p, q = _checked(network, p_mw, "p_mw"), _checked(network, q_mvar, "q_mvar")
    if p.shape != q.shape:
        raise ValueError(f"p_mw is {p.shape}, q_mvar is {q.shape}: both must be (n_bus, n_snapshot)")
    if q.dtype != p.dtype:
        p, q = p.astype(np.float64), q.astype(np.float64)
    if not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance}: give a positive number of per-unit volts, such as 1e-8")
    n = p.shape[1]
    n_tile = -(-n // LANES)
    shape = (n_tile, network.n_row, LANES)
    e, f = (np.empty(shape), np.empty(shape)) if out is None or out.e.shape != shape else (out.e, out.f)
    state = np.empty(n_tile * LANES, dtype=np.uint8)
    iterations = np.empty(n_tile * LANES, dtype=np.int32)
    mismatch = np.empty(n_tile * LANES)
    factors = network.factorisation
    if len(network.pv_row):
        state[:], iterations[:], mismatch[:] = sweep.EJECTED, 0, np.nan
    else:
        arguments = (float(scale), float(tolerance), int(max_iterations))
        outputs = (state, iterations, mismatch)
        whole = n // LANES
        elimination, numbers = factors.kernel_view
        el = factors.elimination
        scratch = sweep.scratch_arrays(el.n, int(el.depth.max()) + 1, int(el.accumulator.max()) + 1, p.dtype)
        if whole:
            sweep.solve_tiles(elimination, numbers, scratch, p, q, *arguments, 0, whole, LANES, e, f, *outputs)
        if n_tile > whole:
            tail = slice(whole * LANES, None)
            pt, qt = (np.zeros((network.n_bus, LANES), dtype=p.dtype) for _ in range(2))
            pt[:, : n - whole * LANES], qt[:, : n - whole * LANES] = p[:, tail], q[:, tail]
            rest = [a[tail] for a in outputs]
            sweep.solve_tiles(
                elimination, numbers, scratch, pt, qt, *arguments, 0, 1, n - whole * LANES, e[whole:], f[whole:], *rest
            )
    result = PowerFlow(network, n, e, f, _STATUS[state[:n]], iterations[:n], mismatch[:n], (p, q, scale))
    lost = np.flatnonzero(state[:n] == sweep.EJECTED)
    e[:, network.fixed_row] = network.fixed_v_pu.real[:, None]
    f[:, network.fixed_row] = network.fixed_v_pu.imag[:, None]
    e[:, ~factors.energised] = f[:, ~factors.energised] = np.nan
    if len(lost) and (fallback or len(network.pv_row)):
        from lib.grid.newton import solve_newton

        solve_newton(result, lost, tolerance)
    failed = np.flatnonzero(~result.converged)
    e[failed // LANES, :, failed % LANES] = np.nan
    f[failed // LANES, :, failed % LANES] = np.nan
    return result


def _checked(network: Network, a: NDArray[np.floating], name: str) -> NDArray[np.floating]:
    a = np.asarray(a)
    if a.ndim != 2 or a.shape[0] != network.n_bus:
        raise ValueError(
            f"{name} has shape {a.shape}: expected ({network.n_bus}, n_snapshot), rows in network.bus_ids order"
        )
    if a.dtype not in (np.float32, np.float64):
        a = a.astype(np.float64)
    return np.ascontiguousarray(a)
