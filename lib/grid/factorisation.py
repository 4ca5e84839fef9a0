"""Factorises a network's admittance matrix once, in the order in which the sweeps will read it.

The matrix is Y + diag(c) conj(.), written in real 2x2 blocks, where c = conj(s)/conj(v)^2 linearises the constant-power
current conj(s/v) at one load of the network's own (`Network.s_typical_mva`; zero gives the plain admittance matrix).
The elimination tree is numbered in preorder, so every subtree is a run of rows and a sweep over it stays in cache;
on a radial network there is no fill and the sweep is the classical backward/forward sweep.

Sources: Gilbert, Liu: elimination structures for sparse LU factors (1993); Shirmohammadi et al.: a compensation-based
power flow method (1988); chord Newton as in Kelley: Iterative methods for linear and nonlinear equations (1995), ch. 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from numba import njit
from numpy.typing import NDArray
from scipy.sparse.csgraph import breadth_first_order
from scipy.sparse.linalg import spsolve

from lib.grid.elimination import Elimination, eliminate
from lib.grid.network import Network
from lib.grid.regulators import Droop

_RESIDUAL_LIMIT = 1e-6
_TYPICAL_ITERATIONS = 40
_LARGEST_CONTRACTION = 0.9
_TYPICAL_DROOP_PU = 0.3
"""Inverters move a network's voltage by less than this, or the search for its typical state has gone astray."""


class SingularNetworkError(ValueError):
    """The admittance matrix has no usable factorisation."""


@dataclass(frozen=True, eq=False)
class Factorisation:
    """Factors of one network. Shapes: n nodes, nnz ancestor entries (`Elimination`); blocks flattened row by row."""

    elimination: Elimination
    energised: NDArray[np.bool_]
    """(n_row,) False on islands without an external grid."""
    diagonal_inverse: NDArray[np.float64]
    """(n, 4)"""
    lower: NDArray[np.float64]
    """(nnz, 4) coupling ancestor <- node."""
    upper: NDArray[np.float64]
    """(nnz, 4) diagonal_inverse times coupling node <- ancestor."""
    chord: NDArray[np.float64]
    """(n, 2) c of each node."""
    source_current: NDArray[np.float64]
    """(n, 2) current from the fixed rows at their voltage."""
    start_voltage: NDArray[np.float64]
    """(n, 2) voltage at the typical load: where every snapshot starts."""
    constant_current: NDArray[np.float64]
    """(n, 2) power consumed at 1 pu by constant-current loads."""
    droop: tuple[Any, ...] | None
    """Characteristics of the inverters' nodes as `lib.grid.sweep.solve_tiles` takes them; None without inverters."""
    y_diagonal: NDArray[np.complex128]
    """(n,) admittances in node order, for Newton."""
    y_lower: NDArray[np.complex128]
    """(nnz,) Y[ancestor, node]"""
    y_upper: NDArray[np.complex128]
    """(nnz,) Y[node, ancestor]"""

    @cached_property
    def kernel_view(self) -> tuple[tuple[NDArray, ...], tuple[NDArray, ...]]:
        """(elimination, factors) as `lib.grid.sweep.solve_tiles` takes them."""
        e = self.elimination
        w = 1.0 / np.conj(_complex(self.start_voltage))
        # All of the first right-hand side that does not depend on the snapshot.
        constant = _complex(self.source_current) + _complex(self.chord) / w
        constant -= np.conj(_complex(self.constant_current)) * np.abs(w) / np.conj(w)
        if self.droop is not None:
            of, base, start, ramp, _, slope, _ = self.droop
            node = np.argsort(of)[-len(base) :]
            q, _ = Droop(node, base, start, ramp).at(1 / np.abs(w[node]))
            constant[node] += _complex(slope) / np.conj(w[node]) - 1j * q * w[node]
        numbers = (
            self.diagonal_inverse, self.lower, self.upper, self.chord, self.source_current, self.constant_current,
            self.start_voltage, _pairs(w), _pairs(constant),
        )  # fmt: skip
        return (e.row, e.start, e.ancestor, e.depth, e.accumulator, e.segment), numbers

    def solve(self, current: NDArray[np.complex128]) -> NDArray[np.complex128]:
        """(n,) change of voltage that a change of current (n,), both in node order, makes about the typical load."""
        return solve_complex((self.diagonal_inverse, self.lower, self.upper), self.elimination, current)


def admittance_matrix(network: Network) -> sp.csr_matrix:
    """Bus admittance matrix (n_row, n_row) in per unit on 1 MVA, with shunts and constant-impedance loads."""
    f, t, y = network.branch_from, network.branch_to, network.branch_y_pu
    every = np.arange(network.n_row)
    rows = np.concatenate([f, f, t, t, every])
    columns = np.concatenate([f, t, f, t, every])
    values = np.concatenate([y[:, 0, 0], y[:, 0, 1], y[:, 1, 0], y[:, 1, 1], network.y_shunt_pu])
    return sp.csr_matrix((values, (rows, columns)), shape=(network.n_row, network.n_row))


def energised_rows(network: Network) -> NDArray[np.bool_]:
    """(n_row,) True where a path of branches leads to a fixed row."""
    coupled = (network.branch_y_pu[:, 0, 1] != 0) | (network.branch_y_pu[:, 1, 0] != 0)
    f, t = network.branch_from[coupled], network.branch_to[coupled]
    n = network.n_row
    # One extra node stands for the earth: joined to every fixed row, so one search reaches all sources.
    f = np.concatenate([f, np.full(len(network.fixed_row), n)])
    t = np.concatenate([t, network.fixed_row])
    graph = sp.csr_matrix((np.ones(len(f)), (f, t)), shape=(n + 1, n + 1))
    reached = breadth_first_order(graph, n, directed=False, return_predecessors=False)
    mask = np.zeros(n + 1, dtype=bool)
    mask[reached] = True
    return mask[:n]


def factorise(network: Network, elimination: Elimination | None = None) -> Factorisation:
    """Factors of `network`, linearised at its typical load.

    elimination: of a network that differs in its numbers only, which saves working out the structure again.
    Raises SingularNetworkError where a pivot vanishes or the factors do not solve the system they came from.
    """
    energised = energised_rows(network)
    unknown = energised.copy()
    unknown[network.fixed_row] = False
    rows = np.flatnonzero(unknown)
    y = admittance_matrix(network)
    if not np.isfinite(y.data).all():
        bad = int(np.flatnonzero(~np.isfinite(y.tocoo().data))[0])
        raise SingularNetworkError(
            f"admittance of row {int(y.tocoo().row[bad])} is not finite: check its branches' impedances"
        )
    inner = y[rows][:, rows].tocsr()
    fixed_v = np.zeros(network.n_row, dtype=complex)
    fixed_v[network.fixed_row] = network.fixed_v_pu
    source = -(y @ fixed_v)[rows]

    if elimination is None:
        touches_source = np.asarray(abs(y[rows][:, network.fixed_row]).sum(axis=1)).ravel() > 0
        elimination = eliminate(inner, rows, touches_source)
    order = np.searchsorted(rows, elimination.row)
    inner = inner[order][:, order].tocsr()
    source = source[order]
    diagonal, lower, upper = coupling(inner, elimination)

    s = network.s_typical_mva[elimination.row] if len(network.s_typical_mva) else np.zeros(elimination.n, dtype=complex)
    plain = numeric(elimination, diagonal, lower, upper, np.zeros(elimination.n, dtype=complex))
    check(plain, elimination, inner, source, network)
    voltage = _typical_voltage(plain, elimination, s, source)
    if len(network.pv_row):  # Newton's start: what generators hold, at angles from active power alone
        voltage, s = linear_start(network, elimination.row, loaded=True), np.zeros_like(s)
    elif voltage is None:  # no solution at the typical load: start from no load instead
        voltage, s = solve_complex(plain, elimination, source), np.zeros_like(s)
    node, droop, mean_slope = _droop_at(network, elimination)
    slope = np.zeros_like(s)
    if droop is not None and not len(network.pv_row):
        voltage, s = _with_droop(plain, elimination, s, source, voltage, node, droop)
        slope[node] = 0.5j * mean_slope / np.abs(voltage[node])
    # The slope k of Q(V): d conj(jQ/V) = -(A dV + B conj(dV)) with A = jk / 2|V| and B = A V/conj(V), k falling.
    chord = np.conj(s) / np.conj(voltage) ** 2 + slope * voltage / np.conj(voltage)
    inverse, low, up = numeric(elimination, diagonal + slope, lower, upper, chord)
    if not all(np.isfinite(a).all() for a in (inverse, low, up)):
        inverse, low, up = plain
        chord, slope = np.zeros_like(chord), np.zeros_like(slope)

    factors = (inverse, low, up)
    return Factorisation(
        elimination=elimination, energised=energised, diagonal_inverse=inverse, lower=low, upper=up,
        chord=_pairs(chord), source_current=_pairs(source), start_voltage=_pairs(voltage),
        constant_current=_pairs(network.s_constant_current_mva[elimination.row]),
        droop=None if droop is None else _droop_arrays(droop, node, slope, voltage, factors, elimination),
        y_diagonal=diagonal, y_lower=lower, y_upper=upper,
    )  # fmt: skip


def _pairs(z: NDArray) -> NDArray[np.float64]:
    """(n, 2) real and imaginary parts."""
    return np.ascontiguousarray(z, dtype=np.complex128).view(np.float64).reshape(-1, 2)


def _complex(pairs: NDArray[np.float64]) -> NDArray[np.complex128]:
    return pairs[:, 0] + 1j * pairs[:, 1]


def coupling(y: sp.csr_matrix, e: Elimination):
    """Diagonal and the entries of Y on the factors' pattern (zero where fill will come)."""
    node = np.repeat(np.arange(e.n), np.diff(e.start))
    real = e.ancestor < e.n
    upper = np.zeros(len(e.ancestor), dtype=complex)
    lower = np.zeros(len(e.ancestor), dtype=complex)
    if real.any():
        upper[real] = np.asarray(y[node[real], e.ancestor[real]]).ravel()
        lower[real] = np.asarray(y[e.ancestor[real], node[real]]).ravel()
    return np.asarray(y.diagonal(), dtype=complex), lower, upper


def _blocks(z: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Multiplication by z as real 2x2 blocks, flattened."""
    return np.stack([z.real, -z.imag, z.imag, z.real], axis=-1)


def numeric(e: Elimination, diagonal, lower, upper, chord):
    d = _blocks(diagonal) + np.stack([chord.real, chord.imag, chord.imag, -chord.real], axis=-1)
    low, up = _blocks(lower), _blocks(upper)
    inverse = np.empty_like(d)
    _factor(e.start, e.ancestor, d, low, up, inverse)
    return inverse, low, up


@njit(cache=True, error_model="numpy")
def _factor(start, ancestor, d, low, up, inverse):
    n = len(d)
    for i in range(n - 1, -1, -1):
        a, b, c, e = d[i, 0], d[i, 1], d[i, 2], d[i, 3]
        det = a * e - b * c
        w0, w1, w2, w3 = e / det, -b / det, -c / det, a / det
        inverse[i, 0], inverse[i, 1], inverse[i, 2], inverse[i, 3] = w0, w1, w2, w3
        if ancestor[start[i]] == n:
            continue
        for k in range(start[i], start[i + 1]):
            u0, u1, u2, u3 = up[k, 0], up[k, 1], up[k, 2], up[k, 3]
            up[k, 0], up[k, 1] = w0 * u0 + w1 * u2, w0 * u1 + w1 * u3
            up[k, 2], up[k, 3] = w2 * u0 + w3 * u2, w2 * u1 + w3 * u3
        for k in range(start[i], start[i + 1]):
            j = ancestor[k]
            for m in range(start[i], start[i + 1]):
                jj = ancestor[m]
                x0 = low[k, 0] * up[m, 0] + low[k, 1] * up[m, 2]
                x1 = low[k, 0] * up[m, 1] + low[k, 1] * up[m, 3]
                x2 = low[k, 2] * up[m, 0] + low[k, 3] * up[m, 2]
                x3 = low[k, 2] * up[m, 1] + low[k, 3] * up[m, 3]
                if j == jj:
                    d[j, 0] -= x0
                    d[j, 1] -= x1
                    d[j, 2] -= x2
                    d[j, 3] -= x3
                    continue
                deep, high = max(j, jj), min(j, jj)
                at = start[deep]
                while ancestor[at] != high:
                    at += 1
                target = up if j > jj else low
                target[at, 0] -= x0
                target[at, 1] -= x1
                target[at, 2] -= x2
                target[at, 3] -= x3


@njit(cache=True, error_model="numpy")
def _substitute(start, ancestor, inverse, low, up, x):
    """Solves in place for one right-hand side x (n + 1, 2); the last row is the dummy's."""
    n = len(inverse)
    for i in range(n - 1, -1, -1):
        re, im = x[i, 0], x[i, 1]
        x[i, 0] = inverse[i, 0] * re + inverse[i, 1] * im
        x[i, 1] = inverse[i, 2] * re + inverse[i, 3] * im
        for k in range(start[i], start[i + 1]):
            j = ancestor[k]
            x[j, 0] -= low[k, 0] * x[i, 0] + low[k, 1] * x[i, 1]
            x[j, 1] -= low[k, 2] * x[i, 0] + low[k, 3] * x[i, 1]
    x[n] = 0.0
    for i in range(n):
        for k in range(start[i], start[i + 1]):
            j = ancestor[k]
            x[i, 0] -= up[k, 0] * x[j, 0] + up[k, 1] * x[j, 1]
            x[i, 1] -= up[k, 2] * x[j, 0] + up[k, 3] * x[j, 1]


def solve_complex(factors, e: Elimination, rhs: NDArray[np.complex128]) -> NDArray[np.complex128]:
    x = np.zeros((e.n + 1, 2))
    x[: e.n, 0], x[: e.n, 1] = rhs.real, rhs.imag
    inverse, low, up = factors
    _substitute(e.start, e.ancestor, inverse, low, up, x)
    return x[: e.n, 0] + 1j * x[: e.n, 1]


def _typical_voltage(factors, e: Elimination, s, source) -> NDArray[np.complex128] | None:
    v = solve_complex(factors, e, source)
    for _ in range(_TYPICAL_ITERATIONS):
        new = solve_complex(factors, e, source + np.conj(s / v))
        change = np.abs(new - v).max(initial=0.0)
        v = new
        if change < 1e-9:
            return v
    return None


def _droop_at(network: Network, e: Elimination) -> tuple[NDArray[np.int64], Droop | None, NDArray[np.float64]]:
    """Nodes that inverters feed, their characteristics and the middle of their slopes; inverters at fixed rows and in
    dead islands move nothing."""
    node_of = np.full(network.n_row, -1)
    node_of[e.row] = np.arange(e.n)
    droop = network.inverters.droop
    live = node_of[droop.row] >= 0
    if not live.any():
        return np.zeros(0, dtype=np.int64), None, np.zeros(0)
    own = Droop(droop.row[live], droop.base[live], droop.start[live], droop.ramp)
    return node_of[own.row], own, droop.mean_slope[live]


def _with_droop(factors, e: Elimination, s, source, voltage, node, droop: Droop):
    """Voltage at the typical load and with what the inverters then do, roughly; and the load with that in it."""
    with_q, q = s, np.zeros(len(node))
    v = voltage
    for _ in range(_TYPICAL_ITERATIONS):
        made, limit = droop.at(np.abs(v[node]))
        q = (q + made) / 2  # halved, so that steep characteristics settle too
        with_q = s.copy()
        with_q[node] = np.minimum(s[node].real, limit) + 1j * (s[node].imag + q)
        v = solve_complex(factors, e, source + np.conj(with_q / v))
        if not (np.abs(v - voltage) < _TYPICAL_DROOP_PU).all():
            return voltage, s
    return v, with_q


def _droop_arrays(droop: Droop, node, slope, voltage, factors, e: Elimination) -> tuple[Any, ...]:
    of, limit = np.full(e.n, -1), np.full(e.n, np.inf)
    of[node], limit[node] = np.arange(len(node)), droop.at(np.abs(voltage[node]))[1]
    # All inverters on the steepest or the flattest part of Q(V), and their voltages 1 pu off: what a step leaves of it.
    change = solve_complex(factors, e, -2 * slope * voltage)
    left = np.abs((voltage.conj() * change).real / np.abs(voltage)).max()
    return of, droop.base, droop.start, droop.ramp, limit, _pairs(slope[node]), float(min(left, _LARGEST_CONTRACTION))


def linear_start(network: Network, rows: NDArray[np.int64], *, loaded: bool) -> NDArray[np.complex128]:
    """(len(rows),) set-points at generators, elsewhere the mean of the external grids; angles of the linear ("DC")
    power flow, of the typical load or of none (phase shifts alone)."""
    f, t, y = network.branch_from, network.branch_to, network.branch_y_pu
    turn = np.angle(y[:, 0, 1] * np.conj(y[:, 1, 0])) / 2
    series = -y[:, 0, 1] * np.exp(-1j * turn)
    # A turn is known up to half a circle; with any turn at all the branch is a transformer, and those are inductive.
    series_is_negative = (np.abs(turn) > 1e-9) & (series.imag > 0)
    turn = np.where(series_is_negative, turn + np.pi, turn)
    reactance = (1.0 / np.where(series == 0, 1.0, series)).imag
    coupled = (series != 0) & (reactance != 0)
    b = np.where(coupled, np.where(series_is_negative, -1.0, 1.0) / np.where(coupled, reactance, 1.0), 0.0)
    n = network.n_row
    matrix = sp.csr_matrix((np.concatenate([b, -b, b, -b]), (np.r_[f, f, t, t], np.r_[f, t, t, f])), shape=(n, n))
    power = network.s_typical_mva.real.copy() if len(network.s_typical_mva) else np.zeros(n)
    np.add.at(power, network.pv_row, network.pv_p_mw)
    power *= loaded
    np.add.at(power, f, b * turn)
    np.add.at(power, t, -b * turn)
    angle = np.zeros(n)
    angle[network.fixed_row] = np.angle(network.fixed_v_pu)
    angle[rows] = spsolve(matrix[rows][:, rows].tocsc(), (power - matrix @ angle)[rows])
    magnitude = np.full(n, np.abs(network.fixed_v_pu).mean())
    magnitude[network.pv_row] = network.pv_vm_pu
    return (magnitude * np.exp(1j * np.nan_to_num(angle)))[rows]


def check(factors, e: Elimination, y: sp.csr_matrix, source, network: Network) -> None:
    """Elimination is not pivoted, so what it yields is held against the matrix."""
    if not e.n:
        return
    x = solve_complex(factors, e, source)
    residual = np.abs(y @ x - source) / (abs(y) @ np.abs(x) + np.abs(source) + 1e-300)
    broken = ~np.isfinite(factors[0]).all(axis=1)
    bad = broken if broken.any() else ~(residual <= _RESIDUAL_LIMIT)
    if bad.any():
        row = int(e.row[np.flatnonzero(bad)[-1]])  # the one eliminated first: the others caught it from there
        name = f"bus {network.bus_ids[row]}" if row < network.n_bus else f"hidden row {row}"
        raise SingularNetworkError(
            f"the admittance matrix of {network.source or 'the network'} is singular at {name}: look for "
            "impedances that cancel (series capacitors, negative reactances) or parts tied to nothing but each other"
        )
