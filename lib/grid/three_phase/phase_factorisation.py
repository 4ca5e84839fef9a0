"""Factors of a wire-by-wire network: one complex block of wires per entry, on the network's elimination structure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from lib.grid.elimination import Elimination, eliminate
from lib.grid.factorisation import SingularNetworkError, energised_rows
from lib.grid.three_phase.fortescue import TO_PHASES
from lib.grid.three_phase.phase_network import PhaseNetwork

_RESIDUAL_LIMIT = 1e-6
_CONDITION_LIMIT = 1e12


@dataclass(frozen=True, eq=False)
class PhaseFactors:
    """Shapes: n nodes, nnz ancestor entries (`Elimination`), w wires; complex numbers as pairs."""

    elimination: Elimination
    energised: NDArray[np.bool_]
    """(n_row,) False on islands without an external grid."""
    diagonal_inverse: NDArray[np.float64]
    """(n, w, w, 2); zero where a voltage is held (external grids, wires a row has not)."""
    lower: NDArray[np.float64]
    """(nnz, w, w, 2)"""
    upper: NDArray[np.float64]
    """(nnz, w, w, 2)"""
    source_current: NDArray[np.float64]
    """(n, w, 2) current from external grids at their voltage."""
    held_voltage: NDArray[np.float64]
    """(n, w, 2) voltage of external grids, 0 elsewhere."""
    start_voltage: NDArray[np.float64]
    """(n, w, 2) voltage at no load."""
    load_mva: NDArray[np.float64]
    """(4, 3 n, 2) z_wye, i_wye, z_delta, i_delta consumption at nominal voltage, by node and phase."""
    free: NDArray[np.bool_]
    """(n, w) wires whose voltage is not held."""
    y: sp.csr_matrix
    """(n w, n w) admittance matrix: for Newton."""

    @property
    def numbers(self) -> tuple[NDArray[np.float64], ...]:
        """`factors` as `lib.grid.three_phase.phase_sweep.solve_tiles` takes them."""
        return (
            self.diagonal_inverse, self.lower, self.upper, self.source_current, self.held_voltage, self.start_voltage,
            self.load_mva,
        )  # fmt: skip


def factorise(network: PhaseNetwork) -> PhaseFactors:
    """Factors of `network`. Raises SingularNetworkError where they do not solve the system they came from."""
    positive, w = network.positive, network.wires
    energised = energised_rows(positive)
    rows = np.flatnonzero(energised)
    is_fixed = np.isin(rows, positive.fixed_row)
    graph = _graph(network)[rows][:, rows].tocsr()
    el = eliminate(graph, rows, touches_source=is_fixed)
    node = np.full(network.n_row, -1)
    node[el.row] = np.arange(el.n)

    held = np.zeros((el.n, w), dtype=complex)
    held[node[positive.fixed_row], :3] = positive.fixed_v_pu[:, None] * TO_PHASES[:, 1]
    free = network.present[el.row].copy()
    free[node[positive.fixed_row]] = False
    diagonal, lower, upper, matrix = _assemble(network, el, node)
    source = -(matrix @ held.ravel()).reshape(el.n, w) * free

    for i in range(el.n):
        diagonal[i] *= np.outer(free[i], free[i])
        diagonal[i] += np.diag(~free[i])
        for k in range(el.start[i], el.start[i + 1]):
            if (j := el.ancestor[k]) < el.n:
                lower[k] *= np.outer(free[j], free[i])
                upper[k] *= np.outer(free[i], free[j])
    inverse = _factor(el, diagonal, lower, upper, network)
    inverse *= free[:, :, None] * free[:, None, :]
    start = _solve(el, inverse, lower, upper, source) + held
    # The matrix at these voltages must give the source currents back.
    drawn = (matrix @ start.ravel()).reshape(el.n, w)
    size = (abs(matrix) @ np.abs(start).ravel()).reshape(el.n, w) + 1e-300
    bad = free & ~(np.abs(drawn) <= _RESIDUAL_LIMIT * size)
    if bad.any():
        raise SingularNetworkError(_singular(network, int(el.row[np.flatnonzero(bad.any(axis=1))[-1]])))
    loads = (network.z_wye_mva, network.i_wye_mva, network.z_delta_mva, network.i_delta_mva)
    return PhaseFactors(
        elimination=el, energised=energised, diagonal_inverse=_pairs(inverse), lower=_pairs(lower), upper=_pairs(upper),
        source_current=_pairs(source), held_voltage=_pairs(held), start_voltage=_pairs(start),
        load_mva=np.stack([_pairs(s[el.row].ravel()) for s in loads]), free=free, y=matrix,
    )  # fmt: skip


def _graph(network: PhaseNetwork) -> sp.csr_matrix:
    f, t = network.positive.branch_from, network.positive.branch_to
    every = np.arange(network.n_row)
    at = (np.concatenate([f, t, every]), np.concatenate([t, f, every]))
    return sp.csr_matrix((np.ones(len(at[0])), at), shape=(network.n_row, network.n_row))


def _assemble(
    network: PhaseNetwork, el: Elimination, node: NDArray[np.int64]
) -> tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.complex128], sp.csr_matrix]:
    """Diagonal, lower and upper blocks on the factors' pattern, and the whole matrix (n w, n w) in node order."""
    w, positive = network.wires, network.positive
    diagonal = network.y_shunt_pu[el.row].copy()
    lower, upper = (np.zeros((len(el.ancestor), w, w), dtype=complex) for _ in range(2))
    for b in range(network.n_branch):
        f, t = node[positive.branch_from[b]], node[positive.branch_to[b]]
        if f < 0 or t < 0:
            continue
        y = network.branch_y_pu[b]
        diagonal[f] += y[:w, :w]
        diagonal[t] += y[w:, w:]
        deep, high = max(f, t), min(f, t)
        k = el.start[deep] + int(np.flatnonzero(el.ancestor[el.start[deep] : el.start[deep + 1]] == high)[0])
        up, low = (y[:w, w:], y[w:, :w]) if deep == f else (y[w:, :w], y[:w, w:])
        upper[k] += up
        lower[k] += low
    deep, high = el.pairs
    real = el.ancestor < el.n
    deep, high = deep[real], high[real]
    every = np.arange(el.n)
    at_row, at_column = np.concatenate([every, deep, high]), np.concatenate([every, high, deep])
    blocks = np.concatenate([diagonal, upper[real], lower[real]])
    wire = np.arange(w)
    rows = (at_row[:, None, None] * w + wire[:, None]) + 0 * wire
    columns = (at_column[:, None, None] * w + wire) + 0 * wire[:, None]
    matrix = sp.csr_matrix((blocks.ravel(), (rows.ravel(), columns.ravel())), shape=(el.n * w, el.n * w))
    return diagonal, lower, upper, matrix


def _factor(el: Elimination, diagonal, lower, upper, network: PhaseNetwork):  # type: ignore[no-untyped-def]
    """Inverses of the pivots; `upper` becomes inverse times upper, and what is eliminated goes into the ancestors."""
    inverse = np.zeros_like(diagonal)
    size = np.abs(diagonal).max(axis=(1, 2))
    place = {(int(el.ancestor[k]), i): k for i in range(el.n) for k in range(el.start[i], el.start[i + 1])}
    for i in range(el.n - 1, -1, -1):
        try:
            inverse[i] = np.linalg.inv(diagonal[i])
        except np.linalg.LinAlgError as e:
            raise SingularNetworkError(_singular(network, int(el.row[i]))) from e
        if not np.abs(inverse[i]).max() * size[i] <= _CONDITION_LIMIT:
            raise SingularNetworkError(_singular(network, int(el.row[i])))
        span = range(el.start[i], el.start[i + 1])
        if el.ancestor[span[0]] == el.n:
            continue
        for m in span:
            upper[m] = inverse[i] @ upper[m]
        for k in span:
            for m in span:
                j, jj, product = int(el.ancestor[k]), int(el.ancestor[m]), lower[k] @ upper[m]
                if j == jj:
                    diagonal[j] -= product
                elif j > jj:
                    upper[place[jj, j]] -= product
                else:
                    lower[place[j, jj]] -= product
    return inverse


def _solve(el: Elimination, inverse, lower, upper, rhs):  # type: ignore[no-untyped-def]
    x = rhs.copy()
    for i in range(el.n - 1, -1, -1):
        x[i] = inverse[i] @ x[i]
        for k in range(el.start[i], el.start[i + 1]):
            if (j := el.ancestor[k]) < el.n:
                x[j] -= lower[k] @ x[i]
    for i in range(el.n):
        for k in range(el.start[i], el.start[i + 1]):
            if (j := el.ancestor[k]) < el.n:
                x[i] -= upper[k] @ x[j]
    return x


def _singular(network: PhaseNetwork, row: int) -> str:
    name = f"bus {network.positive.bus_ids[row]}" if row < network.n_bus else f"hidden row {row}"
    return (
        f"the admittance matrix of {network.source or 'the network'} is singular at {name}: look for wires tied to "
        "nothing (a neutral without earthing, phases behind a delta without capacitance)"
    )


def _pairs(z: NDArray[np.complex128]) -> NDArray[np.float64]:
    return np.ascontiguousarray(z, dtype=np.complex128).view(np.float64).reshape(*z.shape, 2)
