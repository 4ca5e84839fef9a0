"""Bad data: measurements whose normalised residual is too large to be chance, and estimates without them.

Removing a measurement is moving its value until its residual is zero: then it pulls at nothing, and the estimate is the
one without it. How far follows from the residual's own sensitivity, Omega R^-1, whose column is one back-solve; so the
pattern and its factors stay, and further removals need a small system of the removed alone.

Sources: Handschin, Schweppe, Kohlas, Fiechter: bad data analysis for power system state estimation (1975); Monticelli,
Garcia: reliable bad data processing (1983); Abur, Exposito: power system state estimation (2004), ch. 5.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from lib.grid.estimation.gain import Gain
from lib.grid.estimation.observability import CRITICAL
from lib.grid.estimation.tiles import Solved, solve_pattern

_SHIFTS = 8
_SETTLED = 1e-7
"""Residuals are zero to this share of sigma."""


@dataclass(frozen=True)
class Removal:
    """One measurement taken out of one snapshot."""

    snapshot: int
    measurement: int
    residual: float
    """In the table's units, when it was found."""
    normalised_residual: float


@dataclass
class _Lane:
    """A snapshot whose measurements are being shifted."""

    snapshot: int
    shifted: list[int] = field(default_factory=list)


class Shifter:
    """Estimates of some snapshots of one pattern with chosen residuals brought to zero."""

    def __init__(self, gain: Gain, tolerance: float, max_iterations: int) -> None:
        self.gain, self.tolerance, self.max_iterations = gain, tolerance, max_iterations
        m = gain.linearisation.model.measurements
        self.std = m.std_dev
        self.share = gain.residual_share
        self._columns: dict[int, NDArray[np.float64]] = {}

    def columns(self, which: list[int]) -> NDArray[np.float64]:
        """(m, len(which)) change of residuals by these measurements; kept."""
        new = [k for k in dict.fromkeys(which) if k not in self._columns]
        if new:
            unit = np.zeros((len(self.std), len(new)))
            unit[new, range(len(new))] = 1.0
            for k, column in zip(new, self.gain.response(unit).T, strict=True):
                self._columns[k] = column
        return np.stack([self._columns[k] for k in which], axis=1)

    def solve(self, z: NDArray[np.float64]) -> Solved:
        return solve_pattern(
            self.gain, z, np.full(len(z), np.nan), self.tolerance, self.max_iterations, keep_residuals=True
        )

    def hold(self, z: NDArray[np.float64], lanes: list[_Lane], solved: Solved) -> tuple[NDArray[np.float64], Solved]:
        """z (m, len(lanes)) moved until each lane's shifted residuals are zero, and its estimate.

        solved: the estimate of z. The sensitivities are those of the operating point; Broyden's update makes them the
        lane's own.
        """
        self.columns([k for lane in lanes for k in lane.shifted])
        small = [self.columns(lane.shifted)[lane.shifted] if lane.shifted else np.zeros((0, 0)) for lane in lanes]
        z = z.copy()
        todo = np.arange(len(lanes))
        for _ in range(_SHIFTS):
            steps, going = {}, []
            for i in todo:
                k = lanes[i].shifted
                miss = -solved.residual[k, i]
                if len(k) and solved.converged[i] and (np.abs(miss) > _SETTLED * self.std[k]).any():
                    steps[i] = np.linalg.lstsq(small[i], miss, rcond=1e-9)[0]
                    z[k, i] += steps[i]
                    going.append(i)
            if not going:
                break
            todo = np.array(going)
            before = solved.residual.copy()
            solved.put(todo, self.solve(z[:, todo]))
            for i in todo:
                k, step = lanes[i].shifted, steps[i]
                change = solved.residual[k, i] - before[k, i]
                if np.isfinite(change).all():
                    small[i] = small[i] + np.outer(change - small[i] @ step, step) / (step @ step)
        return z, solved

    def omega_share(self, lane: _Lane) -> NDArray[np.float64]:
        """(m,) Omega / R of what is left once the lane's shifted measurements are out."""
        if not lane.shifted:
            return self.share
        a = self.columns(lane.shifted)  # Omega_lk / R_k
        r = self.std**2
        omega = a * r[lane.shifted]
        inner = omega[lane.shifted]
        out = self.share - np.einsum("lk,kl->l", omega, np.linalg.lstsq(inner, omega.T, rcond=1e-12)[0]) / r
        out[lane.shifted] = 0.0
        return np.asarray(out)


def threshold(gain: Gain, alpha: float) -> float:
    """Bound of normalised residuals that clean data exceed anywhere in a snapshot with probability alpha at most."""
    with np.errstate(invalid="ignore"):
        tested = int((gain.residual_share > CRITICAL).sum())
    return float(-ndtri(alpha / (2 * max(tested, 1))))


def residual_std(gain: Gain) -> NDArray[np.float64]:
    """(m,) standard deviation of residuals in the table's units, NaN where an error cannot be seen."""
    with np.errstate(invalid="ignore"):
        share = np.where(gain.residual_share > CRITICAL, gain.residual_share, np.nan)
    return np.asarray(np.sqrt(share) * gain.linearisation.model.measurements.std_dev)


def remove_bad_data(
    gain: Gain, z: NDArray[np.float64], solved: Solved, alpha: float, tolerance: float, max_iterations: int,
    spare: int,
) -> list[Removal]:  # fmt: skip
    """Takes out, one after the other, what is beyond the threshold; rewrites `solved` there and lists what went.

    Of several beyond it the largest goes first, and the rest is judged anew without it. spare: measurements beyond what
    the voltages need, of which at least one is left.
    """
    bound = threshold(gain, alpha)
    flagged = np.flatnonzero(solved.converged & (solved.worst > bound))
    if not len(flagged) or spare < 2:
        return []
    shifter = Shifter(gain, tolerance, max_iterations)
    lanes = [_Lane(int(s)) for s in flagged]
    moved = z[:, flagged].copy()
    found = shifter.solve(moved)
    removals: list[Removal] = []
    open_ = np.arange(len(lanes))
    while len(open_):
        worse = []
        for i in open_:
            lane = lanes[i]
            share = shifter.omega_share(lane)
            with np.errstate(invalid="ignore", divide="ignore"):
                deviation = np.where(share > CRITICAL, np.sqrt(share), np.nan) * shifter.std
                normalised = np.nan_to_num(np.abs(found.residual[:, i]) / deviation)
            k = int(np.argmax(normalised))
            if found.converged[i] and normalised[k] > bound and len(lane.shifted) < spare - 1:
                removals.append(Removal(lane.snapshot, k, float(found.residual[k, i]), float(normalised[k])))
                lane.shifted.append(k)
                worse.append(i)
        open_ = np.array(worse, dtype=np.int64)
        if len(open_):
            part = found.take(open_)
            moved[:, open_], part = shifter.hold(moved[:, open_], [lanes[i] for i in open_], part)
            found.put(open_, part)
    solved.put(flagged, found)
    return removals
