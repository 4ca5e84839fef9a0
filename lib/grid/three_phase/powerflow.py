"""Unbalanced AC power flow of many snapshots of one network at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lib.grid.powerflow import LANES, STATUS, SlotStatus
from lib.grid.sweep import EJECTED
from lib.grid.three_phase import phase_sweep, sweep
from lib.grid.three_phase.fortescue import TO_SEQUENCES
from lib.grid.three_phase.network import SequenceNetwork
from lib.grid.three_phase.phase_network import NEUTRAL, PhaseNetwork

if TYPE_CHECKING:
    from lib.grid.three_phase.branches import PhaseBranchResult


@dataclass(frozen=True, eq=False)
class ThreePhasePowerFlow:
    """Solved snapshots. Voltages are rectangular, by phase, in tiles of 32 snapshots."""

    network: SequenceNetwork | PhaseNetwork
    n_snapshot: int
    e: NDArray[np.float64]
    """(n_tile, w n_row, 32) real part of each wire's voltage to earth, rows w row + wire (3 wires; 4 where the neutral
    has one of its own), per unit of nominal / sqrt(3); NaN where a snapshot or an island has no solution."""
    f: NDArray[np.float64]
    """(n_tile, w n_row, 32) imaginary part."""
    status: NDArray[np.uint8]
    """(n_snapshot,) values of SlotStatus."""
    iterations: NDArray[np.int32]
    """(n_snapshot,) linear solves spent, Newton steps included."""
    max_mismatch_mva: NDArray[np.float64]
    """(n_snapshot,) largest power mismatch of any phase of any bus at the voltages returned, NaN where there are
    none."""

    @property
    def converged(self) -> NDArray[np.bool_]:
        return self.status <= SlotStatus.NEWTON

    @cached_property
    def wire_v_pu(self) -> NDArray[np.complex128]:
        """(n_row, w, n_snapshot) complex voltage of every wire to earth."""
        w = self.network.wires
        flat = (self.e + 1j * self.f).transpose(1, 0, 2).reshape(w * self.network.n_row, len(self.e) * LANES)
        return flat[:, : self.n_snapshot].reshape(self.network.n_row, w, self.n_snapshot)

    @property
    def neutral_v_pu(self) -> NDArray[np.complex128]:
        """(n_bus, n_snapshot) voltage of the neutral to earth; zero in networks of three wires."""
        v = self.wire_v_pu[: self.network.n_bus]
        return v[:, NEUTRAL] if self.network.wires == 4 else v[:, 0] * 0

    @cached_property
    def v_pu(self) -> NDArray[np.complex128]:
        """(n_bus, 3, n_snapshot) complex voltage of each phase to neutral."""
        return self.wire_v_pu[: self.network.n_bus, :3] - self.neutral_v_pu[:, None]

    @property
    def vm_pu(self) -> NDArray[np.float64]:
        """(n_bus, 3, n_snapshot) voltage magnitude of phases a, b, c to neutral."""
        return np.abs(self.v_pu)

    @property
    def va_degree(self) -> NDArray[np.float64]:
        """(n_bus, 3, n_snapshot) its angle."""
        return np.degrees(np.angle(self.v_pu))

    @property
    def vm_line_pu(self) -> NDArray[np.float64]:
        """(n_bus, 3, n_snapshot) voltage between phases ab, bc, ca, per unit of nominal."""
        return np.asarray(np.abs(self.v_pu - self.v_pu[:, [1, 2, 0]]) / np.sqrt(3))

    @cached_property
    def v_sequence_pu(self) -> NDArray[np.complex128]:
        """(n_bus, 3, n_snapshot) zero, positive and negative sequence of the phases' voltage to earth."""
        return np.asarray(TO_SEQUENCES @ self.wire_v_pu[: self.network.n_bus, :3])

    @property
    def unbalance_percent(self) -> NDArray[np.float64]:
        """(n_bus, n_snapshot) voltage unbalance |V2| / |V1| (IEC 61000-4-30)."""
        v = np.abs(self.v_sequence_pu)
        return np.asarray(100 * v[:, 2] / v[:, 1])

    def branches(self) -> PhaseBranchResult:
        """Currents, flows, losses and loading of every branch by phase, and the neutral's current."""
        from lib.grid.three_phase.branches import branch_results

        return branch_results(self)


def solve_three_phase(
    network: SequenceNetwork | PhaseNetwork,
    p_mw: NDArray[np.floating],
    q_mvar: NDArray[np.floating],
    *,
    p_delta_mw: NDArray[np.floating] | None = None,
    q_delta_mvar: NDArray[np.floating] | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 20,
    fallback: bool = True,
    scale: float = 1.0,
    out: ThreePhasePowerFlow | None = None,
) -> ThreePhasePowerFlow:
    """Unbalanced power flow of every snapshot.

    p_mw, q_mvar: net constant-power injection between each phase and neutral, generation positive, (n_bus, 3,
    n_snapshot)
        float32 or float64, buses in `bus_ids` order, phases a, b, c; multiplied by `scale` (1e-3 lets kW in).
    p_delta_mw, q_delta_mvar: likewise between phases ab, bc, ca; None where there is none.
    tolerance: bound on the error of each phase's voltage in per unit, judged by each snapshot's own change and
        contraction.
    max_iterations: linear solves after which a snapshot that would still miss the tolerance is given up.
    fallback: try Newton's method (at most 12 steps) on snapshots given up, one by one.
    out: an earlier result that is no longer needed: its voltage arrays are written over where their shape fits.

    A snapshot's result is the same bits whatever else is in the batch. Snapshots without a result are NaN and `status`
    says why. Raises ValueError on a wrong shape, SingularNetworkError on a network that cannot be factorised.
    """
    if (p_delta_mw is None) != (q_delta_mvar is None):
        raise ValueError("give both of p_delta_mw and q_delta_mvar, or neither")
    given = {"p_mw": p_mw, "q_mvar": q_mvar}
    if p_delta_mw is not None and q_delta_mvar is not None:
        given |= {"p_delta_mw": p_delta_mw, "q_delta_mvar": q_delta_mvar}
    powers = _checked(network, given)
    n = powers[0].shape[1]
    if not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance}: give a positive number of per-unit volts, such as 1e-8")
    n_tile = -(-n // LANES)
    shape = (n_tile, network.wires * network.n_row, LANES)
    e, f = (np.empty(shape), np.empty(shape)) if out is None or out.e.shape != shape else (out.e, out.f)
    outputs = np.empty(n_tile * LANES, np.uint8), np.empty(n_tile * LANES, np.int32), np.empty(n_tile * LANES)
    _sweep(network, powers, (float(scale), float(tolerance), int(max_iterations)), n, e, f, outputs)
    status = STATUS[outputs[0][:n]]
    dead = np.flatnonzero(~np.repeat(network.factors.energised, network.wires))
    e[:, dead] = f[:, dead] = np.nan
    flow = ThreePhasePowerFlow(network, n, e, f, status, outputs[1][:n], outputs[2][:n])
    lost = np.flatnonzero(outputs[0][:n] == EJECTED)
    if len(lost) and fallback:
        from lib.grid.three_phase.newton import solve_newton

        solve_newton(flow, powers, scale, lost, tolerance)
    return flow


def _sweep(
    network: SequenceNetwork | PhaseNetwork,
    powers: list[NDArray[np.floating]],
    settings: tuple[float, float, int],
    n: int,
    e: NDArray[np.float64],
    f: NDArray[np.float64],
    outputs: tuple[NDArray[Any], ...],
) -> None:
    el = network.factors.elimination
    structure = (el.row, el.start, el.ancestor, el.accumulator, el.segment)
    with_delta, accumulators, dtype = len(powers) == 4, int(el.accumulator.max()) + 1, powers[0].dtype
    solve_tiles: Any
    if isinstance(network, PhaseNetwork):
        solve_tiles = phase_sweep.solve_tiles
        scratch = phase_sweep.scratch_arrays(el.n, accumulators, network.wires, with_delta, dtype)
    else:
        solve_tiles = sweep.solve_tiles
        scratch = sweep.scratch_arrays(el.n, accumulators, with_delta, dtype)
    fixed = (structure, network.factors.numbers, _flags(network, powers), scratch)
    whole = n // LANES
    if whole:
        arguments = powers if with_delta else powers * 2
        solve_tiles(*fixed, *arguments, *settings, whole, LANES, e, f, *outputs)
    if n > whole * LANES:
        tail = slice(whole * LANES, None)
        padded = [np.zeros((len(a), LANES), dtype=a.dtype) for a in powers]
        for a, given in zip(padded, powers, strict=True):
            a[:, : n - whole * LANES] = given[:, tail]
        arguments = padded if with_delta else padded * 2
        rest = [a[tail] for a in outputs]
        solve_tiles(*fixed, *arguments, *settings, 1, n - whole * LANES, e[whole:], f[whole:], *rest)


def _flags(network: SequenceNetwork | PhaseNetwork, powers: list[NDArray[np.floating]]) -> NDArray[np.uint8]:
    """(n,) which loads each node has in this batch: what it has not adds exactly zero, so no result hangs on it."""
    row = network.factors.elimination.row
    flags = np.zeros(network.n_row, dtype=np.uint8)
    for bit, pair in ((sweep.WYE, powers[:2]), (sweep.DELTA, powers[2:])):
        for a in pair:
            flags[: network.n_bus][(a != 0).any(axis=1).reshape(-1, 3).any(axis=1)] |= bit
    for bit, dependent in (
        (sweep.WYE_DEPENDENT, (network.z_wye_mva, network.i_wye_mva)),
        (sweep.DELTA_DEPENDENT, (network.z_delta_mva, network.i_delta_mva)),
    ):
        flags[(dependent[0] != 0).any(axis=1) | (dependent[1] != 0).any(axis=1)] |= bit
    return flags[row]


def _checked(network: SequenceNetwork | PhaseNetwork, given: dict[str, Any]) -> list[NDArray[np.floating]]:
    """The arrays as (3 n_bus, n_snapshot) of one type."""
    arrays = {name: np.asarray(a) for name, a in given.items()}
    shape = (network.n_bus, 3, np.shape(given["p_mw"])[-1] if np.ndim(given["p_mw"]) else 0)
    for name, a in arrays.items():
        if a.shape != shape:
            raise ValueError(
                f"{name} has shape {a.shape}: expected ({network.n_bus}, 3, n_snapshot), buses in bus_ids order, as "
                "many snapshots in every array"
            )
    dtype: Any = np.float32 if all(a.dtype == np.float32 for a in arrays.values()) else np.float64
    return [np.ascontiguousarray(a, dtype=dtype).reshape(3 * network.n_bus, -1) for a in arrays.values()]
