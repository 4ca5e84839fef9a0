"""Which voltages a set of measurements determines, which it does not, and what would."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components, maximum_bipartite_matching

from lib.grid.estimation import blocks
from lib.grid.estimation.gain import EPSILON, Gain, add_diagonal, factorise

_WEAK, _POWER = 1e-8, 1e-2
"""Weight of the prior on every voltage and variance of equations scaled to length 1. What is not determined comes out
with the prior's variance 1e8; what is, by singular values down to 1e-4, with 1e6 at most."""
_FREE = 1e7
_SURE = 1e-2
_PROBES = 8
_TOUCHED = 1e-5
_MENDING_WEIGHT = 1e4
CRITICAL = 1e-5
"""Share of its own error in a measurement's residual below which it counts as critical."""


@dataclass(frozen=True, eq=False)
class Island:
    """Buses that hang together and whose voltages the measurements leave open."""

    buses: NDArray[np.int64]
    """Bus ids."""
    remedies: list[str]
    """Measurements that together would determine them, in words."""


@dataclass(frozen=True, eq=False)
class Observability:
    """What one set of available measurements determines."""

    gain: Gain
    """With a prior just where voltages are free, so that it determines everything."""
    observable: NDArray[np.bool_]
    """(n_row,) voltage is determined, magnitude and angle."""
    deficit: int
    """Independent measurements that are missing."""
    islands: list[Island]

    @property
    def degrees_of_freedom(self) -> int:
        """Measurements and zero injections beyond what determines the voltages: of the objective's chi-square law."""
        gain = self.gain
        model = gain.linearisation.model
        unknown = int(gain.mask[model.is_bus, :2].sum())
        return int(gain.used.sum()) + 2 * int(model.zero_injection.sum()) - (unknown - self.deficit)

    @cached_property
    def critical(self) -> list[int]:
        """Lines of the measurement table whose errors cannot be seen: without one of them something is unobservable."""
        with np.errstate(invalid="ignore"):
            found = np.flatnonzero(_error_share(self.gain) < CRITICAL)
        return self.gain.linearisation.model.measurements.position[found].tolist()

    @cached_property
    def topologically_observable(self) -> NDArray[np.bool_]:
        """(n_row,) the measurements could determine the voltage, going by which quantity involves which voltage alone.

        Where it is False no values of impedances help; where it is True but `observable` is False, the numbers are
        against it (flows that say the same twice, or no magnitude anywhere).
        Source: structural rank by matching; Dulmage, Mendelsohn: coverings of bipartite graphs (1958).
        """
        model = self.gain.linearisation.model
        h, unknown = _equations(self.gain)
        pattern = sp.csr_matrix(h != 0)
        equation = maximum_bipartite_matching(pattern, perm_type="row")  # of each unknown
        by_unknown = pattern.T.tocsr()
        unknown_of = np.full(pattern.shape[0], -1)
        matched = np.flatnonzero(equation >= 0)
        unknown_of[equation[matched]] = matched
        open_ = np.zeros(pattern.shape[1], dtype=bool)
        stack = np.flatnonzero(equation < 0).tolist()
        open_[stack] = True
        while stack:
            j = stack.pop()
            for i in by_unknown.indices[by_unknown.indptr[j] : by_unknown.indptr[j + 1]]:
                other = unknown_of[i]
                if other >= 0 and not open_[other]:
                    open_[other] = True
                    stack.append(int(other))
        out = np.zeros(model.network.n_row, dtype=bool)
        out[model.elimination.row[model.is_bus]] = True
        out[model.elimination.row[unknown[open_, 0]]] = False
        return out


def _equations(gain: Gain) -> tuple[sp.csr_matrix, NDArray[np.int64]]:
    """Jacobian of everything measured and of zero injections; (n_unknown, 2) node and coordinate of its columns."""
    lin = gain.linearisation
    e, is_bus = lin.model.elimination, lin.model.is_bus
    unknown = np.argwhere(gain.mask[:, :2] & is_bus[:, None])
    column = np.full((e.n, 2), -1)
    column[tuple(unknown.T)] = np.arange(len(unknown))
    is_dual = _duals(gain)
    row = np.full((e.n, 4), -1)
    row[is_dual & gain.mask] = np.arange(int((is_dual & gain.mask).sum()))
    n_equation = int((is_dual & gain.mask).sum())
    node, ancestor = e.pairs
    data, i, j = [], [], []
    for block, a, b in (
        (lin.diagonal, np.arange(e.n), np.arange(e.n)),
        (lin.upper, node, ancestor),
    ):
        for r in range(4):
            for c in range(4):
                for equation, voltage, er, vc in ((a, b, r, c), (b, a, c, r)):
                    if vc > 1 or (block is lin.diagonal and equation is b):
                        continue
                    keep = np.flatnonzero(
                        (row[equation, er] >= 0) & is_bus[voltage] & (column[voltage, vc] >= 0) & (block[:, r, c] != 0)
                    )
                    data.append(block[keep, r, c])
                    i.append(row[equation[keep], er])
                    j.append(column[voltage[keep], vc])
    local = np.argwhere((gain.weight > 0) & gain.mask[:, :2])
    data.append(np.ones(len(local)))
    i.append(n_equation + np.arange(len(local)))
    j.append(column[tuple(local.T)])
    shape = (n_equation + len(local), len(unknown))
    return sp.csr_matrix((np.concatenate(data), (np.concatenate(i), np.concatenate(j))), shape=shape), unknown


def _duals(gain: Gain) -> NDArray[np.bool_]:
    """(n, 4) coordinates that are multipliers."""
    out = np.ones((len(gain.mask), 4), dtype=bool)
    out[gain.linearisation.model.is_bus, :2] = False
    return out


def _equal_factors(gain: Gain) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the equations scaled to length 1, all with the same weight."""
    lin = gain.linearisation
    own, equation = lin.equal_rows
    d, up = own.copy(), equation.copy()
    weight = (gain.weight > 0).astype(float)
    add_diagonal(d, lin.model.is_bus, (gain.r > 0) * _POWER, weight, np.full((lin.model.elimination.n, 2), _WEAK))
    return factorise(lin, gain.mask, d, up)


def _determined(gain: Gain) -> bool:
    """Whether every voltage's variance is far below what its prior alone would leave, so that there is no null space.

    By the factors that solve, which are needed anyway. Random vectors that all miss a direction by so much are as good
    as impossible.
    """
    model = gain.linearisation.model
    e = model.elimination
    x = np.zeros((e.n, 4, _PROBES))
    x[:, :2] = _random(e.n) * (gain.mask[:, :2] & model.is_bus[:, None])[:, :, None]
    blocks.substitute(e.start, e.ancestor, *gain.factors, x)
    return bool(np.abs(x[model.is_bus, :2]).max() < _SURE / EPSILON)


@lru_cache(maxsize=4)
def _random(n: int) -> NDArray[np.float64]:
    return np.random.default_rng(0).standard_normal((n, 2, _PROBES))


def observe(gain: Gain) -> Observability:
    """Observability by the null space of the equations, found as what a weak prior leaves at its own variance.

    Source: Castillo et al.: observability analysis and measurement placement, by the null space of the Jacobian (2006);
    the null space itself by inverse iteration on random vectors (Halko, Martinsson, Tropp 2011).
    """
    lin = gain.linearisation
    model = lin.model
    e, network = model.elimination, model.network
    everywhere = np.zeros(network.n_row, dtype=bool)
    everywhere[e.row[model.is_bus]] = True
    if _determined(gain):
        return Observability(gain, everywhere, 0, [])
    factors = _equal_factors(gain)
    rng = np.random.default_rng(0)
    voltage = gain.mask[:, :2] & model.is_bus[:, None]
    n_unknown = int(voltage.sum())
    probes = min(_PROBES, n_unknown)
    while True:
        x = np.zeros((e.n, 4, probes))
        x[:, :2][voltage] = rng.standard_normal((n_unknown, probes)) if probes < n_unknown else np.eye(n_unknown)
        blocks.substitute(e.start, e.ancestor, *factors, x)
        found = x[:, :2][voltage]
        values, vectors = np.linalg.eigh(found.T @ found)
        free = values > _FREE**2
        if 2 * free.sum() <= probes or probes == n_unknown:  # twice as many: random vectors may nearly coincide
            break
        probes = min(4 * probes, n_unknown)
    if not free.any():
        return Observability(gain, everywhere, 0, [])
    null = np.zeros((e.n, 2, int(free.sum())))
    null[voltage] = found @ (vectors[:, free] / np.sqrt(values[free]))
    open_node = np.flatnonzero((np.abs(null).max(axis=(1, 2)) > _TOUCHED) & model.is_bus)

    at = _pivots(null.reshape(2 * e.n, -1), np.ones(2 * e.n))
    prior = gain.prior.copy()
    prior.reshape(-1)[at] += _MENDING_WEIGHT
    mended = replace(gain, prior=prior)
    observable = everywhere.copy()
    observable[e.row[open_node]] = False
    islands = _islands(gain, observable & everywhere, open_node, null, *lin.equal_rows)
    return Observability(mended, observable, int(free.sum()), islands)


def _error_share(gain: Gain) -> NDArray[np.float64]:
    """(m,) Omega / R of the equations scaled to length 1, all with the same weight; NaN where not used."""
    model = gain.linearisation.model
    m, e, c = model.measurements, model.elimination, model.channel_coordinate
    diagonal = np.empty((e.n, 4, 4))
    blocks.selected_inverse(e.start, e.ancestor, *_equal_factors(gain), diagonal)
    own = diagonal[model.channel_node, c, c]
    share = np.where(model.channel_is_voltage, 1 - own, -own * _POWER)
    several = np.bincount(m.channel[gain.used], minlength=len(m.at)) > 1
    return np.where(gain.used, np.where(several, 1.0, share)[m.channel], np.nan)


def _pivots(rows: NDArray[np.float64], preference: NDArray[np.float64]) -> list[int]:
    """Indices of rows (n, d) that span as much as all, largest (times preference) first: complete pivoting."""
    left, chosen = rows.copy(), []
    for _ in range(rows.shape[1]):
        size = np.abs(left).max(axis=1) * preference
        i = int(np.argmax(size))
        if not (size[i] > 0 and np.abs(left[i]).max() > 1e-9):
            break
        chosen.append(i)
        c = int(np.argmax(np.abs(left[i])))
        left -= np.outer(left[:, c] / left[i, c], left[i])
        left[:, c] = 0.0
    return chosen


def _islands(gain, observable, open_node, null, own, equation) -> list[Island]:  # type: ignore[no-untyped-def]
    """The open buses, connected by branches, each with the measurements that would close it."""
    model = gain.linearisation.model
    network, e = model.network, model.elimination
    f, t = network.branch_from, network.branch_to
    row = e.row[open_node]
    inside = np.zeros(network.n_row, dtype=bool)
    inside[row] = True
    linked = inside[f] & inside[t]
    graph = sp.csr_matrix((np.ones(linked.sum()), (f[linked], t[linked])), shape=(network.n_row, network.n_row))
    _, label = connected_components(graph, directed=False)

    # What P and Q at each bus, its magnitude and angle would see of the free directions.
    seen = np.einsum("nrc,ncd->nrd", own[:, 2:, :2], null)
    node, _ = e.pairs
    real = np.flatnonzero((e.ancestor < e.n) & model.is_bus[node])
    real = real[model.is_bus[e.ancestor[real]]]
    i, j = node[real], e.ancestor[real]
    np.add.at(seen, i, np.einsum("nrc,ncd->nrd", equation[real][:, 2:, :2], null[j]))
    np.add.at(seen, j, np.einsum("nrc,nrd->ncd", equation[real][:, :2, 2:], null[i]))
    candidate = open_node[e.row[open_node] < network.n_bus]
    rows = np.concatenate([seen[candidate], null[candidate]], axis=1).reshape(4 * len(candidate), -1)
    taken = np.concatenate([gain.on[candidate, :2] > 0, gain.weight[candidate] > 0], axis=1).reshape(-1)
    taken |= np.repeat(model.zero_injection[candidate], 4) & np.tile([True, True, False, False], len(candidate))
    preference = np.where(taken, 0.0, np.tile([1.0, 1.0, 0.1, 1e-4], len(candidate)))
    names: dict[int, list[str]] = {}
    for k in _pivots(rows, preference):
        bus_row = int(e.row[candidate[k // 4]])
        what = ("p", "q", "v", "va")[k % 4]
        names.setdefault(int(label[bus_row]), []).append(f"{what} at bus {network.bus_ids[bus_row]}")
    islands = []
    for which in np.unique(label[row]):
        members = row[label[row] == which]
        buses = network.bus_ids[members[members < network.n_bus]]
        islands.append(Island(np.sort(buses), names.get(int(which), [])))
    return islands
