"""Factors of the three sequences on one elimination structure.

The positive sequence is Y1 + diag(c) conj(.) as in `lib.grid.factorisation`, the other two are plain admittance
matrices. External grids are nodes too: they hold the positive sequence and are admittances to ground in the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from lib.grid import factorisation as balanced
from lib.grid.elimination import Elimination, eliminate
from lib.grid.three_phase.fortescue import TO_PHASES, TO_SEQUENCES
from lib.grid.three_phase.network import SequenceNetwork

_TYPICAL_ITERATIONS = 40
_GROUND = 1e-9
"""An island whose admittance to ground is below this share of its branches' admittance is isolated."""


@dataclass(frozen=True, eq=False)
class SequenceFactors:
    """Sequences are 0, 1, 2 in the first axis of 3. Shapes: n nodes, nnz ancestor entries (`Elimination`)."""

    elimination: Elimination
    energised: NDArray[np.bool_]
    """(n_row,) False on islands without an external grid."""
    isolated: NDArray[np.bool_]
    """(n_row,) True where nothing ties the zero sequence to ground."""
    diagonal_inverse: NDArray[np.float64]
    """(3, n, 4) real 2x2 blocks; zero where a voltage is held (external grids, isolated zero sequence)."""
    lower: NDArray[np.float64]
    """(3, nnz, 4)"""
    upper: NDArray[np.float64]
    """(3, nnz, 4)"""
    chord: NDArray[np.float64]
    """(n, 2) c of the positive sequence."""
    source_current: NDArray[np.float64]
    """(n, 2) positive-sequence current from external grids at their voltage."""
    held_voltage: NDArray[np.float64]
    """(n, 2) positive-sequence voltage of external grids, 0 elsewhere."""
    start_voltage: NDArray[np.float64]
    """(3, n, 2) voltage at the typical load."""
    load_mva: NDArray[np.float64]
    """(4, 3 n, 2) z_wye, i_wye, z_delta, i_delta consumption at nominal voltage, by node and phase."""
    free: NDArray[np.bool_]
    """(n, 3) sequences whose voltage is not held."""
    y: sp.csr_matrix
    """(3 n, 3 n) admittance matrix of all sequences, external grids' own admittance in 0 and 2: for Newton."""

    @property
    def numbers(self) -> tuple[NDArray[np.float64], ...]:
        """`factors` as `lib.grid.three_phase.sweep.solve_tiles` takes them."""
        return (
            self.diagonal_inverse, self.lower, self.upper, self.chord, self.source_current, self.held_voltage,
            self.start_voltage, self.load_mva,
        )  # fmt: skip


def sequence_matrices(network: SequenceNetwork) -> tuple[sp.csr_matrix, sp.csr_matrix, sp.csr_matrix]:
    """(n_row, n_row) admittance matrices of sequences 0, 1, 2, external grids' impedance in 0 and 2."""
    positive = network.positive
    fixed2, fixed0 = (np.zeros(network.n_row, dtype=complex) for _ in range(2))
    fixed2[positive.fixed_row], fixed0[positive.fixed_row] = network.source_y2_pu, network.source_y0_pu
    return (
        _matrix(network, network.branch_y0_pu, network.y0_shunt_pu + fixed0),
        _matrix(network, positive.branch_y_pu, positive.y_shunt_pu),
        _matrix(network, network.branch_y2_pu, positive.y_shunt_pu + fixed2),
    )


def _matrix(network: SequenceNetwork, y: NDArray[np.complex128], shunt: NDArray[np.complex128]) -> sp.csr_matrix:
    f, t, every = network.positive.branch_from, network.positive.branch_to, np.arange(network.n_row)
    at = (np.concatenate([f, f, t, t, every]), np.concatenate([f, t, f, t, every]))
    values = np.concatenate([y[:, 0, 0], y[:, 0, 1], y[:, 1, 0], y[:, 1, 1], shunt])
    return sp.csr_matrix((values, at), shape=(network.n_row, network.n_row))


def factorise(network: SequenceNetwork) -> SequenceFactors:
    """Factors of `network`, the positive sequence linearised at its typical load.

    Raises SingularNetworkError where a pivot vanishes or the factors do not solve the system they came from.
    """
    positive = network.positive
    if len(positive.pv_row):
        raise ValueError(f"{network.source}: voltage-controlled generators have no unbalanced model")
    if len(positive.tap_changers) or len(positive.inverters):
        raise ValueError(f"{network.source}: regulators have no unbalanced model: make the network without them")
    base = positive.factorisation
    rows = np.flatnonzero(base.energised)
    y0, y1, y2 = (y[rows][:, rows].tocsr() for y in sequence_matrices(network))
    is_fixed = np.isin(rows, positive.fixed_row)
    el = eliminate(y1, rows, touches_source=is_fixed)
    order = np.searchsorted(rows, el.row)
    y0, y1, y2 = (y[order][:, order].tocsr() for y in (y0, y1, y2))
    fixed = is_fixed[order]

    held = np.zeros(network.n_row, dtype=complex)
    held[positive.fixed_row] = positive.fixed_v_pu
    held = held[el.row]
    source = np.where(fixed, 0, -(y1 @ held))
    chord, start = held * 0, held.copy()
    at = np.searchsorted(el.row[~fixed], base.elimination.row, sorter=np.argsort(el.row[~fixed]))
    free = np.flatnonzero(~fixed)[np.argsort(el.row[~fixed])][at]
    chord[free], start[free] = _complex(base.chord), _complex(base.start_voltage)

    isolated = _isolated(y0)
    none = np.zeros(el.n, dtype=complex)
    sets = [
        _factors(el, y0, isolated, none, network),
        _factors(el, y1, fixed, chord, network),
        _factors(el, y2, np.zeros(el.n, dtype=bool), none, network),
    ]
    isolated_row = np.zeros(network.n_row, dtype=bool)
    isolated_row[el.row] = isolated
    starts = np.stack([none, start, none])
    if len(network.s_typical_mva):

        def solve(k: int, current: NDArray[np.complex128]) -> NDArray[np.complex128]:
            return balanced.solve_complex(sets[k], el, current)

        starts = _start(network.s_typical_mva[el.row], start, chord, source, held, solve)
    together = sum(
        sp.kron(y, np.diag(np.arange(3) == k).astype(float), format="csr") for k, y in enumerate((y0, y1, y2))
    )
    loads = (network.z_wye_mva, network.i_wye_mva, network.z_delta_mva, network.i_delta_mva)
    return SequenceFactors(
        elimination=el, energised=base.energised, isolated=isolated_row,
        diagonal_inverse=np.stack([s[0] for s in sets]), lower=np.stack([s[1] for s in sets]),
        upper=np.stack([s[2] for s in sets]),
        chord=_pairs(chord), source_current=_pairs(source), held_voltage=_pairs(held),
        start_voltage=np.stack([_pairs(v) for v in starts]),
        load_mva=np.stack([_pairs(s[el.row].ravel()) for s in loads]),
        free=~np.stack([isolated, fixed, np.zeros(el.n, dtype=bool)], axis=1), y=together,
    )  # fmt: skip


def _factors(
    el: Elimination, y: sp.csr_matrix, held: NDArray[np.bool_], chord: NDArray[np.complex128], network: SequenceNetwork
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(diagonal_inverse, lower, upper); held nodes couple to nothing and their inverse is zero."""
    free = sp.diags((~held).astype(float)).tocsr()
    y = (free @ y @ free + sp.diags(held.astype(complex))).tocsr()
    diagonal, lower, upper = balanced.coupling(y, el)
    factors = balanced.numeric(el, diagonal, lower, upper, np.zeros(el.n, dtype=complex))
    balanced.check(factors, el, y, np.ones(el.n, dtype=complex), network.positive)
    if chord.any():
        chorded = balanced.numeric(el, diagonal, lower, upper, chord * ~held)
        if all(np.isfinite(a).all() for a in chorded):
            factors = chorded
        else:
            chord[:] = 0
    inverse, low, up = factors
    inverse[held] = 0
    return inverse, low, up


def _start(
    s: NDArray[np.complex128],
    positive: NDArray[np.complex128],
    chord: NDArray[np.complex128],
    source: NDArray[np.complex128],
    held: NDArray[np.complex128],
    solve: Callable[[int, NDArray[np.complex128]], NDArray[np.complex128]],
) -> NDArray[np.complex128]:
    """(3, n) voltages of the sequences with s (n, 3) injected, or `positive` alone where that does not settle."""
    begin = np.stack([0 * positive, positive, 0 * positive])
    v = begin
    for _ in range(_TYPICAL_ITERATIONS):
        current = TO_SEQUENCES @ (3 * np.conj(s.T / (TO_PHASES @ v)))
        current[1] += source + chord * np.conj(v[1])
        new = np.stack([solve(k, current[k]) for k in range(3)])
        new[1] += held
        change, v = np.abs(new - v).max(initial=0.0), new
        if change < 1e-9:
            return v
    return begin


def _isolated(y0: sp.csr_matrix) -> NDArray[np.bool_]:
    """(n,) nodes of islands of the zero sequence that nothing ties to ground."""
    off = abs(y0 - sp.diags(y0.diagonal()))
    off.eliminate_zeros()
    count, island = connected_components(off, directed=False)
    to_ground, size = np.zeros(count), np.zeros(count)
    np.maximum.at(to_ground, island, np.abs(np.asarray(y0.sum(axis=1)).ravel()))
    np.maximum.at(size, island, np.abs(y0.diagonal()))
    return np.asarray((to_ground <= _GROUND * size)[island])


def _pairs(z: NDArray[np.complex128]) -> NDArray[np.float64]:
    return np.ascontiguousarray(z, dtype=np.complex128).view(np.float64).reshape(-1, 2)


def _complex(pairs: NDArray[np.float64]) -> NDArray[np.complex128]:
    return np.asarray(pairs[:, 0] + 1j * pairs[:, 1])
