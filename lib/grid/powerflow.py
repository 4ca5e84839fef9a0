"""AC power flow of many snapshots of one network at once."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lib.grid import sweep
from lib.grid.factorisation import admittance_matrix
from lib.grid.network import Network
from lib.grid.sweep import LANES
from lib.grid.voltages import Voltages

if TYPE_CHECKING:
    from lib.grid.branches import BranchResult

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
    HUNTING = 4
    """Converged at the taps given, but tap changers move in a circle: no position of theirs lies in every band."""


STATUS = np.full(sweep.PADDING + 1, SlotStatus.DIVERGED, dtype=np.uint8)
STATUS[sweep.CONVERGED], STATUS[sweep.BAD_INPUT] = SlotStatus.OK, SlotStatus.BAD_INPUT


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
    tap_pos: NDArray[np.int64]
    """(k, n_snapshot) positions of `network.tap_changers`."""

    @property
    def converged(self) -> NDArray[np.bool_]:
        return (self.status <= SlotStatus.NEWTON) | (self.status == SlotStatus.HUNTING)

    def branches(self) -> BranchResult:
        """Flows, losses and loading of every branch, at each snapshot's own taps."""
        result = super().branches()
        if len(self.network.tap_changers):
            from lib.grid.regulation import retap

            retap(result, self)
        return result

    def _complex_at(self, rows: NDArray[np.int64]) -> NDArray[np.complex128]:
        """(len(rows), n_snapshot) voltages."""
        v = self.e[:, rows] + 1j * self.f[:, rows]
        return v.transpose(1, 0, 2).reshape(len(rows), -1)[:, : self.n_snapshot]

    def regulated_vm_pu(self, snapshots: NDArray[np.int64]) -> NDArray[np.float64]:
        """(k, len(snapshots)) voltage at the tap changers' regulated rows."""
        place = (snapshots // LANES, self.network.tap_changers.regulated_row[:, None], snapshots % LANES)
        return np.hypot(self.e[place], self.f[place])

    @cached_property
    def tap_at_limit(self) -> NDArray[np.bool_]:
        """(k, n_snapshot) tap changers at an end of their range with a voltage that is still outside the band."""
        changers = self.network.tap_changers
        vm = self.regulated_vm_pu(np.arange(self.n_snapshot))
        outside = (vm < changers.vm_lower_pu[:, None]) | (vm > changers.vm_upper_pu[:, None])
        at_end = (self.tap_pos == changers.tap_min[:, None]) | (self.tap_pos == changers.tap_max[:, None])
        return outside & at_end

    @cached_property
    def _inverter_vm_pu(self) -> NDArray[np.float64]:
        return self.vm_pu[self.network.inverters.row]

    @property
    def inverter_q_mvar(self) -> NDArray[np.float64]:
        """(m, n_snapshot) reactive power of each inverter, generation positive; NaN without a voltage."""
        return self.network.inverters.reactive_mvar(self._inverter_vm_pu)

    @property
    def curtailed_mw(self) -> NDArray[np.float64]:
        """(m, n_snapshot) active power that P(V) takes from each inverter; those of one row share it by rating."""
        inverters = self.network.inverters
        p, _, scale = self.injected_mva
        limit = inverters.limit_mw(self._inverter_vm_pu)
        at_row = np.zeros((self.network.n_bus, self.n_snapshot))
        np.add.at(at_row, inverters.row, limit)
        with np.errstate(invalid="ignore", divide="ignore"):
            over = np.fmax(p[inverters.row] * np.float64(scale) - at_row[inverters.row], 0.0)
            share = inverters.sn_mva / np.bincount(inverters.row, inverters.sn_mva, self.network.n_bus)[inverters.row]
        return np.where(np.isnan(self._inverter_vm_pu), np.nan, over * share[:, None])

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
        place = np.full(self.network.n_row, -1)
        place[rows] = np.arange(len(rows))
        if len(self.network.tap_changers):
            from lib.grid.regulation import extra_current

            at, current = extra_current(self)
            held = place[at] >= 0
            np.add.at(s, place[at[held]], self._complex_at(at[held]) * current[held].conj())
        held = place[self.network.inverters.row] >= 0
        if held.any():
            fed = self.inverter_q_mvar[held] * 1j - self.curtailed_mw[held]
            np.subtract.at(s, place[self.network.inverters.row[held]], fed)
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
    tap_pos: NDArray[np.integer] | None = None,
    out: PowerFlow | None = None,
) -> PowerFlow:
    """Power flow of every snapshot, regulated where the network has tap changers or inverters.

    p_mw, q_mvar: net constant-power injection, generation positive, (n_bus, n_snapshot) float32 or float64, rows in
        `network.bus_ids` order; multiplied by `scale` (1e-3 lets kW in).
    tolerance: bound on the voltage error in per unit, judged by each snapshot's own change and contraction.
    max_iterations: linear solves after which a snapshot that would still miss the tolerance is given up.
    fallback: try Newton's method (at most 12 steps) on snapshots given up.
    tap_pos: positions that the tap changers start from, (k,) or (k, n_snapshot); the network's own by default.
    out: an earlier result that is no longer needed: its voltage arrays are written over where their shape fits, which
        saves fetching fresh memory from the system.

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
    start = _start(network, tap_pos, p.shape[1])
    options = (float(tolerance), int(max_iterations), fallback, float(scale))
    if not len(network.tap_changers):
        return _solve(network, p, q, *options, out)

    from lib.grid.regulation import regulate

    result = _empty(network, p, q, float(scale), out)
    largest: PowerFlow | None = None

    def solve_at(own: Network, lanes: NDArray[np.int64] | None) -> PowerFlow:
        nonlocal largest
        if lanes is None:
            return _solve(own, p, q, *options, result)
        part = _solve(own, p.take(lanes, axis=1), q.take(lanes, axis=1), *options, largest)
        largest = part if largest is None or len(part.e) > len(largest.e) else largest
        return part

    hunting = regulate(network, start, result, solve_at)
    result.status[hunting & result.converged] = SlotStatus.HUNTING
    return result


def _empty(
    network: Network, p: NDArray[np.floating], q: NDArray[np.floating], scale: float, out: PowerFlow | None
) -> PowerFlow:
    n = p.shape[1]
    shape = (-(-n // LANES), network.n_row, LANES)
    if out is not None and out.e.shape[1:] == shape[1:] and len(out.e) >= shape[0]:
        e, f = out.e[: shape[0]], out.f[: shape[0]]
    else:
        e, f = np.empty(shape), np.empty(shape)
    status, iterations = np.zeros(n, dtype=np.uint8), np.zeros(n, dtype=np.int32)
    tap_pos = np.tile(network.tap_changers.tap_pos[:, None], n)
    return PowerFlow(network, n, e, f, status, iterations, np.full(n, np.nan), (p, q, scale), tap_pos)


def _solve(
    network: Network,
    p: NDArray[np.floating],
    q: NDArray[np.floating],
    tolerance: float,
    max_iterations: int,
    fallback: bool,
    scale: float,
    out: PowerFlow | None,
) -> PowerFlow:
    """At the taps that the network's admittances hold."""
    n = p.shape[1]
    n_tile = -(-n // LANES)
    result = _empty(network, p, q, scale, out)
    e, f = result.e, result.f
    state = np.empty(n_tile * LANES, dtype=np.uint8)
    iterations = np.empty(n_tile * LANES, dtype=np.int32)
    mismatch = np.empty(n_tile * LANES)
    factors = network.factorisation
    if len(network.pv_row):
        state[:], iterations[:], mismatch[:] = sweep.EJECTED, 0, np.nan
    else:
        arguments = (scale, tolerance, max_iterations)
        outputs = (state, iterations, mismatch)
        whole = n // LANES
        elimination, numbers = factors.kernel_view
        el = factors.elimination
        scratch = sweep.scratch_arrays(el.n, int(el.depth.max()) + 1, int(el.accumulator.max()) + 1, p.dtype)
        given = (elimination, numbers, factors.droop, scratch)
        if whole:
            sweep.solve_tiles(*given, p, q, *arguments, 0, whole, LANES, e, f, *outputs)
        if n_tile > whole:
            tail = slice(whole * LANES, None)
            pt, qt = (np.zeros((network.n_bus, LANES), dtype=p.dtype) for _ in range(2))
            pt[:, : n - whole * LANES], qt[:, : n - whole * LANES] = p[:, tail], q[:, tail]
            rest = [a[tail] for a in outputs]
            sweep.solve_tiles(*given, pt, qt, *arguments, 0, 1, n - whole * LANES, e[whole:], f[whole:], *rest)
    result.status[:], result.iterations[:] = STATUS[state[:n]], iterations[:n]
    result.max_mismatch_mva[:] = mismatch[:n]
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


def _start(network: Network, tap_pos: NDArray[np.integer] | None, n: int) -> NDArray[np.int64]:
    """(k, n) positions to start from, kept within the changers' ends."""
    changers = network.tap_changers
    given = changers.tap_pos if tap_pos is None else np.asarray(tap_pos)
    if given.ndim == 1:
        given = given[:, None]
    if given.ndim != 2 or given.shape[0] != len(changers) or given.shape[1] not in (1, n):
        raise ValueError(f"tap_pos has shape {given.shape}: expected ({len(changers)},) or ({len(changers)}, {n})")
    within = np.clip(given, changers.tap_min[:, None], changers.tap_max[:, None])
    return np.broadcast_to(within, (len(changers), n)).astype(np.int64)


def _checked(network: Network, a: NDArray[np.floating], name: str) -> NDArray[np.floating]:
    a = np.asarray(a)
    if a.ndim != 2 or a.shape[0] != network.n_bus:
        raise ValueError(
            f"{name} has shape {a.shape}: expected ({network.n_bus}, n_snapshot), rows in network.bus_ids order"
        )
    if a.dtype not in (np.float32, np.float64):
        a = a.astype(np.float64)
    return np.ascontiguousarray(a)
