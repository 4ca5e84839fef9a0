"""Huber's estimator: a residual beyond k sigma pulls no harder than one of k sigma, so few gross errors bend little.

Minimised is the sum of rho(r / sigma), rho(t) = t^2 up to k and 2 k |t| - k^2 beyond. Its Newton method takes Gauss-
Newton steps of least squares where measurements beyond k have little weight, and values that make them pull like one of
k sigma: the less weight, the better the last steps went. Along a step the sum, which is convex, is minimised exactly:
a step that leaves much of the state to few measurements would run far beyond the kinks. A step is one factorisation,
by a matrix of the snapshot's own. At the optimum every residual beyond k is known, and least squares without that
excess has the same optimum: the snapshot's result is that, by the pattern's factors. Where no residual is beyond k,
least squares is Huber's optimum.

Sources: Huber: robust estimation of a location parameter (1964); Madsen, Nielsen: finite algorithms for robust linear
regression (1990) for Newton's method with line search; Marquardt: least-squares estimation of nonlinear parameters
(1963) for the damping; Mili, Cheniae, Vichare, Rousseeuw: robust state estimation based on projection statistics
(1996); Abur, Exposito: power system state estimation (2004), ch. 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.grid.estimation.gain import Gain, build_gain
from lib.grid.estimation.measurements import VA
from lib.grid.estimation.model import Linearisation, linearise
from lib.grid.estimation.tiles import Solved, gauss_newton_step, solve_pattern, stepped
from lib.grid.sweep import LANES

_STEPS = 100
_FIRST, _FREE = 10.0, 1e6
"""So much more variance measurements beyond k have in the first step, and at last, when they hardly count."""
_FARTHEST, _ROUNDING = 64.0, 1e-9
"""Lengths of a step to look ahead; share of the sum that does not count."""
_STILL = 1e-2
"""Share of the tolerance below which a step is the last."""
_SETTLED = 1e-3
"""Share of sigma to which excesses must agree with the result's residuals."""

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bounded:
    """One measurement whose pull is bounded in one snapshot."""

    snapshot: int
    measurement: int
    residual: float
    """In the table's units."""
    weight: float
    """By which its own weight is multiplied: k over residual / sigma."""


def bound_residuals(
    gain: Gain, z: _Array, k: float, tolerance: float, max_iterations: int
) -> tuple[Solved, list[Bounded]]:
    """Huber's estimate of every snapshot of z (m, n_snapshot), all of one pattern; `objective` is the sum of rho."""
    std = gain.linearisation.model.measurements.std_dev
    solved = solve_pattern(gain, z, std, tolerance, max_iterations)
    beyond = np.flatnonzero(solved.converged & (solved.worst > k))
    if not len(beyond):
        return solved, []
    model = gain.linearisation.model
    row = model.elimination.row[model.is_bus]
    excess = np.zeros((len(z), len(beyond)))
    spent = np.zeros(len(beyond), dtype=np.int32)
    for i, s in enumerate(beyond):
        voltage = np.full(model.network.n_row, np.nan, dtype=complex)
        voltage[row] = solved.e[s // LANES, row, s % LANES] + 1j * solved.f[s // LANES, row, s % LANES]
        excess[:, i], spent[i] = _excess(gain, z[:, s : s + 1], k, tolerance, voltage)
    nothing = np.full(len(z), np.nan)
    found = solve_pattern(
        gain, z[:, beyond] - std[:, None] * excess, nothing, tolerance, max_iterations, keep_residuals=True
    )
    whole = np.nan_to_num(found.residual / std[:, None]) + excess
    off = np.abs(whole - np.clip(whole, -k, k) - excess).max(axis=0)
    found.converged &= off <= _SETTLED
    found.objective += 2 * k * np.array([np.abs(excess[:, i]).sum() for i in range(len(beyond))])
    found.objective[~found.converged] = np.nan
    found.iterations += solved.iterations[beyond] + spent
    found.refreshed[:] = True
    for tile, lane in ((i // LANES, i % LANES) for i in np.flatnonzero(~found.converged)):
        found.e[tile, :, lane] = found.f[tile, :, lane] = np.nan
    solved.put(beyond, found)
    bounded = [
        Bounded(int(beyond[i]), int(j), float(whole[j, i] * std[j]), float(k / abs(whole[j, i])))
        for i, j in np.argwhere(excess.T)
    ]
    return solved, bounded


def _excess(gain: Gain, z: _Array, k: float, tolerance: float, voltage: NDArray[np.complex128]) -> tuple[_Array, int]:
    """What residuals over sigma have beyond k at the optimum for one snapshot z (m, 1), and the steps taken.

    voltage: (n_row,) of least squares.
    """
    std = gain.linearisation.model.measurements.std_dev
    taken, free, share, length, farthest = 0, _FIRST, 1.0, np.inf, _FARTHEST
    best: tuple[float, Linearisation, _Array] | None = None
    excess = np.zeros(len(std))
    while taken < _STEPS and not (length <= _STILL * tolerance and free in (1.0, _FREE)):
        lin = linearise(gain.linearisation.model, voltage)
        t = _residuals(gain, lin, z[:, 0])
        p = np.clip(t, -k, k)
        total = float((p * (2 * t - p)).sum())
        if best is None or total <= best[0] * (1 + _ROUNDING):
            best, farthest = (total, lin, t), _FARTHEST
        else:  # it was too far for the first order
            _, lin, t = best
            free, farthest = max(free / 10, 1.0), share / 4
        p = np.clip(t, -k, k)
        slope = np.where(p == t, 1.0, free)
        own = build_gain(lin, gain.used, gain.prior, std * np.sqrt(slope))
        turn, residual = gauss_newton_step(own, z - (std * (t - slope * p))[:, None])
        taken += 1
        change = np.where(gain.used, residual / std - slope * p, 0.0)  # of t, to first order
        share = min(_lowest(t, change, k), farthest)
        if free == _FREE and share > 0.99:
            share = min(1.0, farthest)
        moved = stepped(lin, share * turn)
        if moved is None:
            break
        voltage, length = moved, share * float(np.abs(turn).max())
        t = t + share * change
        excess = t - np.clip(t, -k, k)
        if share > 0.6:
            free = min(10 * free, _FREE)
        elif share < 0.2:
            free = max(free / 4, 1.0)
    return excess, taken


def _residuals(gain: Gain, lin: Linearisation, z: _Array) -> _Array:
    """(m,) over sigma at the operating point for values z (m,); 0 where not used."""
    m = lin.model.measurements
    error = z * lin.scale[m.channel] + lin.offset[m.channel] - lin.quantity[m.channel]
    angle = lin.model.channel_is_voltage[m.channel] & (m.component[m.channel] == VA)
    error[angle] -= 2 * np.pi * np.round(error[angle] / (2 * np.pi))
    return np.where(gain.used, error / (lin.scale[m.channel] * m.std_dev), 0.0)


def _lowest(t: _Array, change: _Array, k: float) -> float:
    """How much of a change lowers Huber's sum most: its slope rises along the change."""

    def falls(share: float) -> bool:
        return bool((np.clip(t + share * change, -k, k) * change).sum() < 0)

    low, high = 0.0, 1.0
    while high < _FARTHEST and falls(high):
        low, high = high, 2 * high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if falls(middle) else (low, middle)
    return high
