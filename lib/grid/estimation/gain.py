"""The augmented matrix of one availability pattern at one operating point, and what it says of residuals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lib.grid.estimation import blocks, sweep
from lib.grid.estimation.measurements import V
from lib.grid.estimation.model import Linearisation
from lib.grid.factorisation import SingularNetworkError

EPSILON = 1.0
"""Weight on every step of a voltage: keeps pivots of buses that only their neighbours determine. Voltages known to 1 %
contract by 1e-4 from it; with much less, 1 / EPSILON would drown the variances of neighbours in rounding."""


@dataclass(frozen=True, eq=False)
class Gain:
    """Factors and weights of one pattern. n nodes, m measurements, k channels."""

    linearisation: Linearisation
    used: NDArray[np.bool_]
    """(m,) measurements of the pattern that count: present, and no pseudo-measurement beside a real one."""
    sigma: NDArray[np.float64]
    """(m,) standard deviation of each measurement, in the table's units."""
    share: NDArray[np.float64]
    """(m,) of each in its channel's weighted mean."""
    channel_std: NDArray[np.float64]
    """(k,) standard deviation of a channel's mean, in the equations' units; inf where it is not measured."""
    on: NDArray[np.float64]
    """(n, 4) 1 where a multiplier takes part."""
    kind: NDArray[np.int64]
    """(n,) NO_POWER, BOTH, ZERO, ONE or BRANCH_END."""
    r: NDArray[np.float64]
    """(n, 4) variance of powers (0, 1) and of a branch end's current (2)."""
    weight: NDArray[np.float64]
    """(n, 2) of magnitude and angle."""
    mask: NDArray[np.bool_]
    """(n, 4) coordinates that are unknown."""
    prior: NDArray[np.float64]
    """(n, 2) weight on steps of e and f: holds what is not determined where it is, and moves no optimum."""

    @cached_property
    def factors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(inverse (n, 4, 4), upper (nnz, 4, 4)). Raises SingularNetworkError."""
        lin = self.linearisation
        d, up = lin.diagonal.copy(), lin.upper.copy()
        add_diagonal(d, lin.model.is_bus, self.r, self.weight, self.prior)
        return factorise(lin, self.mask, d, up)

    @cached_property
    def std_dev(self) -> NDArray[np.float64]:
        """(m,) of each measurement, in the equations' units."""
        m = self.linearisation.model.measurements
        return self.sigma * np.abs(self.linearisation.scale[m.channel])

    @cached_property
    def residual_share(self) -> NDArray[np.float64]:
        """(m,) Omega / R: share of a measurement's own error that shows in its residual; NaN where it is not used."""
        m = self.linearisation.model.measurements
        with np.errstate(invalid="ignore"):
            share = 1 - self.variance[m.channel] / self.std_dev**2
        return np.where(self.used, np.clip(share, 0, 1), np.nan)

    def response(self, change: NDArray[np.float64]) -> NDArray[np.float64]:
        """(m, s) change of every residual by a change of measured values (m, s), Omega R^-1 times it, at the operating
        point; in the table's units. What is not used changes nothing and is not changed."""
        lin, model = self.linearisation, self.linearisation.model
        m, e = model.measurements, model.elimination
        node, voltage, coordinate = model.channel_node, model.channel_is_voltage, model.channel_coordinate
        used = np.flatnonzero(self.used)
        c = m.channel[used]
        mean = np.zeros((len(m.at), change.shape[1]))
        np.add.at(mean, c, change[used] * (self.share[used] * lin.scale[c])[:, None])
        k = np.unique(c)
        x = np.zeros((e.n, 4, change.shape[1]))
        x[node[k], coordinate[k]] = mean[k] * np.where(voltage[k], self.channel_std[k] ** -2.0, 1.0)[:, None]
        blocks.substitute(e.start, e.ancestor, *self.factors, x)
        moved = x[node[k], coordinate[k]]
        mean[k] = np.where(voltage[k, None], moved, mean[k] + moved * (self.channel_std[k] ** 2)[:, None])
        out = np.zeros((len(m), change.shape[1]))
        out[used] = change[used] - mean[c] / lin.scale[c][:, None]
        return out

    @cached_property
    def variance(self) -> NDArray[np.float64]:
        """(k,) variance of the estimate of each channel's quantity, in the equations' units; NaN where not measured."""
        model = self.linearisation.model
        e, node, c = model.elimination, model.channel_node, model.channel_coordinate
        diagonal = np.empty((e.n, 4, 4))
        blocks.selected_inverse(e.start, e.ancestor, *self.factors, diagonal)
        own = diagonal[node, c, c]
        with np.errstate(invalid="ignore"):
            r = self.channel_std**2
            out = np.where(model.channel_is_voltage, own, r + own * r * r)
        return np.where((node >= 0) & np.isfinite(self.channel_std), out, np.nan)


def build_gain(
    lin: Linearisation, available: NDArray[np.bool_], prior: NDArray[np.float64] | None = None,
    sigma: NDArray[np.float64] | None = None,
) -> Gain:  # fmt: skip
    """available: (m,) which measurements the pattern has. prior: (n, 2) weight on e and f, default a weak one. sigma:
    (m,) standard deviations in the table's units, default those of the table."""
    model, m = lin.model, lin.model.measurements
    n, k = model.elimination.n, len(m.at)
    used = available & (model.channel_node[m.channel] >= 0)
    if m.pseudo.any():
        real = np.bincount(m.channel[available & ~m.pseudo], minlength=k) > 0
        used &= ~(m.pseudo & real[m.channel])
    sigma = m.std_dev if sigma is None else sigma
    single = np.where(used, (sigma * np.abs(lin.scale[m.channel])) ** -2.0, 0.0)
    total = np.bincount(m.channel, weights=single, minlength=k)
    with np.errstate(divide="ignore", invalid="ignore"):
        share, channel_std = np.nan_to_num(single / total[m.channel]), np.asarray(total**-0.5, dtype=np.float64)
    measured = total > 0
    c = np.flatnonzero(measured)
    node, component, power = model.channel_node[c], m.component[c], ~model.channel_is_voltage[c]
    on, r, weight = np.zeros((n, 4)), np.zeros((n, 4)), np.zeros((n, 2))
    on[node[power], component[power]] = 1.0
    r[node[power], component[power]] = channel_std[c[power]] ** 2
    weight[node[~power], component[~power] - V] = total[c[~power]]
    on[model.zero_injection, :2], r[model.zero_injection, :2] = 1.0, 0.0

    kind = np.where(on[:, :2].all(axis=1), sweep.BOTH, np.where(on[:, :2].any(axis=1), sweep.ONE, sweep.NO_POWER))
    kind[model.zero_injection] = sweep.ZERO
    kind[~model.is_bus] = sweep.BRANCH_END
    mask = np.zeros((n, 4), dtype=bool)
    bus = model.is_bus
    mask[bus, :2] = True
    mask[model.reference, 1] = False
    mask[bus, 2:] = on[bus, :2] > 0
    mask[~bus, :3] = on[~bus, :3] > 0
    weak = np.full((n, 2), EPSILON) if prior is None else prior
    return Gain(lin, used, sigma, share, channel_std, on, kind.astype(np.int64), r, weight, mask, weak)


def add_diagonal(d: NDArray, is_bus: NDArray[np.bool_], r: NDArray, weight: NDArray, prior: NDArray) -> None:
    """Puts weights of voltages and minus the variances of equations on the diagonal of (n, 4, 4) blocks."""
    own = np.where(is_bus[:, None], np.concatenate([weight + prior, -r[:, :2]], axis=1), -r)
    d[:, range(4), range(4)] += own


def factorise(lin: Linearisation, mask: NDArray, d: NDArray, up: NDArray) -> tuple[NDArray, NDArray]:
    model = lin.model
    e = model.elimination
    inverse = np.empty_like(d)
    failed = blocks.factor(e.start, e.ancestor, mask, d, up, inverse)
    if failed >= 0 or not (np.isfinite(inverse).all() and np.isfinite(up).all()):
        row = int(e.row[max(failed, 0)])
        name = f"bus {model.network.bus_ids[row]}" if row < model.network.n_bus else f"hidden row {row}"
        raise SingularNetworkError(
            f"the estimation of {model.network.source or 'the network'} is singular at {name}: look for "
            "impedances that cancel, or zero injections that say the same twice"
        )
    return inverse, up
