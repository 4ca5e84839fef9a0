"""One availability pattern's snapshots through the sweep: measured values in, voltages and residuals out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.grid.estimation import residuals, sweep
from lib.grid.estimation.gain import Gain, build_gain
from lib.grid.estimation.measurements import VA, I, V
from lib.grid.estimation.model import Linearisation, linearise
from lib.grid.estimation.residuals import Readings
from lib.grid.sweep import CONVERGED, LANES, PADDING

MAX_REFRESHES = 12


@dataclass(eq=False)
class Solved:
    """Estimates of n_snapshot snapshots of one pattern; tiles of 32."""

    e: NDArray[np.float64]
    """(n_tile, n_row, 32) NaN where not converged."""
    f: NDArray[np.float64]
    converged: NDArray[np.bool_]
    """(n_snapshot,)"""
    refreshed: NDArray[np.bool_]
    """(n_snapshot,) converged by a matrix of its own."""
    iterations: NDArray[np.int32]
    """(n_snapshot,)"""
    objective: NDArray[np.float64]
    """(n_snapshot,)"""
    worst: NDArray[np.float64]
    """(n_snapshot,) largest normalised residual ..."""
    which: NDArray[np.int64]
    """(n_snapshot,) ... and its measurement, -1 for none."""
    residual: NDArray[np.float64]
    """(m, n_snapshot) in the table's units, NaN where not used; (0, 0) where not asked for."""

    def take(self, which: NDArray[np.int64]) -> Solved:
        """Some snapshots, copied."""
        e, f = (np.full((-(-len(which) // LANES), a.shape[1], LANES), np.nan) for a in (self.e, self.f))
        residual = self.residual[:, which] if self.residual.size else self.residual
        out = Solved(e=e, f=f, residual=residual, **{name: getattr(self, name)[which] for name in _PER_SNAPSHOT})
        new = np.arange(len(which))
        for array, of in ((out.e, self.e), (out.f, self.f)):
            array[new // LANES, :, new % LANES] = of[which // LANES, :, which % LANES]
        return out

    def put(self, which: NDArray[np.int64], of: Solved) -> None:
        """Overwrites some snapshots by those of another result; residuals where both have them."""
        new = np.arange(len(which))
        for array, other in ((self.e, of.e), (self.f, of.f)):
            array[which // LANES, :, which % LANES] = other[new // LANES, :, new % LANES]
        for name in _PER_SNAPSHOT:
            getattr(self, name)[which] = getattr(of, name)
        if self.residual.size:
            self.residual[:, which] = of.residual


_PER_SNAPSHOT = ("converged", "refreshed", "iterations", "objective", "worst", "which")


@dataclass(frozen=True, eq=False)
class _Inputs:
    z: NDArray[np.float64]
    """(n, 32 n_tile) measured values, then means of channels and angles, padded."""
    zrow: NDArray[np.int64]
    zscale: NDArray[np.float64]
    zoffset: NDArray[np.float64]
    own: NDArray[np.int64]
    """(m,) row of each measurement"""
    mean: NDArray[np.int64]
    """(k,) row of each channel"""
    scale: NDArray[np.float64]
    """(k,)"""
    offset: NDArray[np.float64]


def _inputs(gain: Gain, z: NDArray[np.float64]) -> _Inputs:
    """Rows of values as the sweep reads them: as they are where a channel has one measurement, else its mean."""
    lin, model = gain.linearisation, gain.linearisation.model
    m = model.measurements
    n, k = model.elimination.n, len(m.at)
    used = np.flatnonzero(gain.used)
    count = np.bincount(m.channel[used], minlength=k)
    own, mean = np.arange(len(z)), np.zeros(k, dtype=np.int64)
    mean[m.channel[used]] = used
    scale, offset = lin.scale.copy(), lin.offset.copy()
    turned = (m.at < model.network.n_row) & (m.component == VA)
    extra: list[NDArray[np.float64]] = []
    for c in np.flatnonzero((count > 1) | (turned & (count > 0))):
        members = used[m.channel[used] == c]
        values = z[members]
        if turned[c]:  # angles may differ by whole turns
            values = values * scale[c] + offset[c]
            values -= 2 * np.pi * np.round(values / (2 * np.pi))
            scale[c], offset[c] = 1.0, 0.0
            own[members] = len(z) + len(extra) + np.arange(len(members))
            extra.extend(values)
        mean[c] = own[members[0]]
        if len(members) > 1:
            mean[c] = len(z) + len(extra)
            extra.append((gain.share[members, None] * values).sum(axis=0))
    zc = np.concatenate([z, np.stack(extra)]) if extra else z
    pad = -z.shape[1] % LANES
    if pad:
        zc = np.concatenate([zc, np.zeros((len(zc), pad))], axis=1)
    zrow, zscale, zoffset = np.zeros((n, 4), np.int64), np.zeros((n, 4)), np.zeros((n, 4))
    measured = np.flatnonzero(count)
    at = (model.channel_node[measured], m.component[measured])
    zrow[at], zscale[at], zoffset[at] = mean[measured], scale[measured], offset[measured]
    return _Inputs(np.ascontiguousarray(zc), zrow, zscale, zoffset, own, mean, scale, offset)


def _readings(gain: Gain, inputs: _Inputs, residual_std: NDArray[np.float64]) -> Readings:
    """residual_std: (m,) in the table's units, NaN where a residual is not to be tested."""
    model = gain.linearisation.model
    m = model.measurements
    used = np.flatnonzero(gain.used)
    c = m.channel[used]
    scale = np.abs(gain.linearisation.scale[c])
    with np.errstate(divide="ignore"):
        inverse = np.nan_to_num(1 / (residual_std[used] * scale), nan=0.0, posinf=0.0)
    return Readings(
        row=inputs.own[used], mean_row=inputs.mean[c], scale=inputs.scale[c], offset=inputs.offset[c],
        quantity=np.where(model.channel_is_voltage, m.component - V + residuals.MAGNITUDE, m.component)[c],
        at=4 * model.channel_node[c] + model.channel_coordinate[c], bus=4 * model.channel_bus[c],
        variance=gain.channel_std[c] ** 2, inverse_std=1 / gain.std_dev[used], inverse_residual_std=inverse,
    )  # fmt: skip


def solve_pattern(
    gain: Gain, z: NDArray[np.float64], residual_std: NDArray[np.float64], tolerance: float, max_iterations: int,
    *, keep_residuals: bool = False,
) -> Solved:  # fmt: skip
    """Estimates every snapshot of z (m, n_snapshot), all of one pattern. Lanes that lag get a matrix of their own."""
    out = _solve(gain, z, residual_std, tolerance, max_iterations, keep_residuals)[0]
    for s in np.flatnonzero(~out.converged):
        own = _refresh(gain, z[:, s : s + 1], residual_std, tolerance, max_iterations, keep_residuals)
        if own is None:
            continue
        tile, lane = s // LANES, s % LANES
        out.e[tile, :, lane], out.f[tile, :, lane] = own.e[0, :, 0], own.f[0, :, 0]
        out.converged[s] = out.refreshed[s] = True
        out.iterations[s] += own.iterations[0]
        out.objective[s], out.worst[s], out.which[s] = own.objective[0], own.worst[0], own.which[0]
        if keep_residuals:
            out.residual[:, s] = own.residual[:, 0]
    failed = ~out.converged
    out.objective[failed] = out.worst[failed] = np.nan
    out.which[failed] = -1
    return out


def _solve(
    gain: Gain, z: NDArray[np.float64], residual_std: NDArray[np.float64], tolerance: float, max_iterations: int,
    keep_residuals: bool,
) -> tuple[Solved, NDArray[np.float64]]:  # fmt: skip
    lin, model = gain.linearisation, gain.linearisation.model
    e = model.elimination
    n_snapshot = z.shape[1]
    n_tile = -(-n_snapshot // LANES)
    inputs = _inputs(gain, z)
    v_e, v_f = (np.full((n_tile, model.network.n_row, LANES), np.nan) for _ in range(2))
    x = np.empty((n_tile, 4 * e.n, LANES))
    state, iterations = np.empty(n_tile * LANES, np.uint8), np.empty(n_tile * LANES, np.int32)
    inverse, upper = gain.factors
    sweep.estimate_tiles(
        (e.start, e.ancestor, e.depth, e.segment), (inverse.reshape(-1, 16), upper.reshape(-1, 16)),
        (gain.kind, gain.on, lin.y_self, gain.r, gain.weight, inputs.zrow, inputs.zscale, inputs.zoffset),
        (model.edge_start, model.edge_other, lin.y_up, lin.y_low),
        (model.end_start, model.end_order, model.end_node, lin.y_end), lin.v0, inputs.z, tolerance, max_iterations,
        n_snapshot - (n_tile - 1) * LANES, e.row, v_e, v_f, x, state, iterations,
    )  # fmt: skip
    n_lane = n_tile * LANES
    objective, worst, which = np.empty((1, n_lane)), np.empty((1, n_lane)), np.empty((1, n_lane))
    readings = _readings(gain, inputs, residual_std)
    kept = np.empty((len(readings.row), n_lane)) if keep_residuals else np.empty((0, 0))
    residuals.residuals(readings, inputs.z, x, objective, worst, which, kept)
    used = np.append(np.flatnonzero(gain.used), -1)
    residual = np.empty((0, 0))
    if keep_residuals:
        residual = np.full((len(z), n_snapshot), np.nan)
        scale = gain.linearisation.scale[model.measurements.channel[used[:-1]]]
        residual[used[:-1]] = kept[:, :n_snapshot] / scale[:, None]
    solved = Solved(
        v_e, v_f, state[:n_snapshot] == CONVERGED, np.zeros(n_snapshot, dtype=bool), iterations[:n_snapshot],
        objective[0, :n_snapshot], worst[0, :n_snapshot], used[which[0, :n_snapshot].astype(np.int64)], residual,
    )  # fmt: skip
    assert (state[n_snapshot:] == PADDING).all()
    return solved, x


def gauss_newton_step(gain: Gain, z: NDArray[np.float64]) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
    """Change of the relative voltages of the structure's buses, from the gain's operating point, for the snapshot z
    (m, 1); and the residuals (m,) after it to first order, in the table's units, NaN where not used."""
    lin, model = gain.linearisation, gain.linearisation.model
    m = model.measurements
    _, x = _solve(gain, z, np.full(len(z), np.nan), 1.0, 1, False)
    step = x[0, :, 0].reshape(-1, 4)
    used = np.flatnonzero(gain.used)
    c = m.channel[used]
    value = z[used, 0] * lin.scale[c] + lin.offset[c]
    turned = model.channel_is_voltage[c] & (m.component[c] == VA)
    value[turned] -= 2 * np.pi * np.round(value[turned] / (2 * np.pi))
    mean = np.bincount(c, weights=gain.share[used] * value, minlength=len(m.at))
    own = step[model.channel_node, model.channel_coordinate]
    with np.errstate(invalid="ignore"):
        left = np.where(model.channel_is_voltage, mean - own, -(gain.channel_std**2) * own)
    residual = np.full(len(z), np.nan)
    residual[used] = (value - mean[c] + left[c]) / lin.scale[c]
    return (step[:, 0] + 1j * step[:, 1] - 1)[model.is_bus], residual


def stepped(lin: Linearisation, step: NDArray[np.complex128]) -> NDArray[np.complex128] | None:
    """Voltages (n_row,) after a step from the operating point, NaN without an external grid; None if they are none."""
    model = lin.model
    v = lin.v0[model.is_bus] * (1 + step)
    if not (np.isfinite(v).all() and np.abs(v).max() < 10 and np.abs(v).min() > 0.01):
        return None
    voltage = np.full(model.network.n_row, np.nan, dtype=complex)
    voltage[model.elimination.row[model.is_bus]] = v
    return voltage


def _refresh(
    gain: Gain, z: NDArray[np.float64], residual_std: NDArray[np.float64], tolerance: float, max_iterations: int,
    keep_residuals: bool,
) -> Solved | None:  # fmt: skip
    """One snapshot by Gauss-Newton: the matrix is made anew at its own voltages until it serves.

    The first step leaves out current magnitudes: they tell nothing of a direction, and mislead where it is wrong.
    """
    model = gain.linearisation.model
    m = model.measurements
    full = gain
    current = ((m.at >= model.network.n_row) & (m.component == I))[m.channel]
    gain = build_gain(gain.linearisation, gain.used & ~current, gain.prior)
    for step in range(MAX_REFRESHES):
        voltage = stepped(gain.linearisation, gauss_newton_step(gain, z)[0])
        if voltage is None:
            return None
        gain = build_gain(linearise(model, voltage), full.used, full.prior)
        solved, _ = _solve(gain, z, residual_std, tolerance, max_iterations, keep_residuals)
        if solved.converged[0]:
            solved.iterations += step + 1
            return solved
    return None
