"""The equations of state estimation on one network, linearised at one operating point.

A node of the elimination structure is a bus (e, f, and the multipliers of its power equations) or a measured branch end
(the multipliers of P, Q and I). Voltages are relative to the operating point, v = V / V0, and admittances are turned
likewise, y'_ij = conj(V0_i) y_ij V0_j: powers stay what they are, and the operating point is v = 1.

Keeping the multipliers of power equations beside the voltages (Hachtel's augmented matrix) keeps the pattern of the
network, on trees without any fill, takes zero injections as the same equations with R = 0, and never squares
admittances into a gain.

Sources: Gjelsvik, Aam, Holten: Hachtel's augmented matrix method (1985); Wu, Liu, Lun: observability analysis and bad
data processing for state estimation with equality constraints (1988).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lib.grid.elimination import Elimination, eliminate_in_order, elimination_order
from lib.grid.estimation.measurements import I, Measurements, P, Q, V
from lib.grid.factorisation import admittance_matrix
from lib.grid.network import Network


@dataclass(frozen=True, eq=False)
class Model:
    """Structure of one network with the branch ends that are measured; n nodes, k channels."""

    network: Network
    measurements: Measurements
    elimination: Elimination
    """`row` is the network's row of a bus, n_row + index into `measurements.end` of a branch end."""
    is_bus: NDArray[np.bool_]
    """(n,)"""
    node_of: NDArray[np.int64]
    """(n_row + n_end,) node, -1 where there is no external grid."""
    edge_start: NDArray[np.int64]
    """(n + 1,) into `edge_other`: branches from a bus to buses that are eliminated later."""
    edge_other: NDArray[np.int64]
    """(n_edge,) node."""
    edge_slot: NDArray[np.int64]
    """(n_edge,) the factors' entry of the pair."""
    end_node: NDArray[np.int64]
    """(n_end, 3) node of the end, of its bus, of the bus at the other end; -1 where there is no external grid."""
    end_start: NDArray[np.int64]
    """(n + 1,) into `end_order`: branch ends complete once this bus is reached from the root."""
    end_order: NDArray[np.int64]
    zero_injection: NDArray[np.bool_]
    """(n,) nothing is fed in or drawn."""
    reference: NDArray[np.bool_]
    """(n,) the angle is given."""

    @cached_property
    def channel_node(self) -> NDArray[np.int64]:
        """(k,) node of each channel, -1 where there is no external grid."""
        return self.node_of[self.measurements.at]

    @cached_property
    def channel_bus(self) -> NDArray[np.int64]:
        """(k,) node of its bus."""
        m, node = self.measurements, self.channel_node.copy()
        at_end = np.flatnonzero(m.at >= self.network.n_row)
        node[at_end] = self.end_node[m.at[at_end] - self.network.n_row, 1]
        return node

    @cached_property
    def channel_is_voltage(self) -> NDArray[np.bool_]:
        """(k,) magnitude or angle: in the equations by a weight; powers and currents are so by a multiplier."""
        m = self.measurements
        return (m.at < self.network.n_row) & (m.component >= V)

    @cached_property
    def channel_coordinate(self) -> NDArray[np.int64]:
        """(k,) of its node's four: e for a magnitude, f for an angle, else the multiplier."""
        m = self.measurements
        at_bus = m.at < self.network.n_row
        return np.where(self.channel_is_voltage, m.component - V, np.where(at_bus, m.component + 2, m.component))

    @cached_property
    def end_slot(self) -> NDArray[np.int64]:
        """(n_end, 2) the factors' entry of a branch end and its bus, and the other bus; -1 without an external grid."""
        e, out = self.elimination, np.full((len(self.end_node), 2), -1)
        for t, (end, *buses) in enumerate(self.end_node):
            for c in range(2 if end >= 0 else 0):
                deep, high = max(end, buses[c]), min(end, buses[c])
                ancestors = e.ancestor[e.start[deep] : e.start[deep + 1]]
                out[t, c] = e.start[deep] + np.flatnonzero(ancestors == high)[0]
        return out


def build_model(network: Network, measurements: Measurements, zero_rows: NDArray[np.int64]) -> Model:
    """zero_rows: rows where nothing is fed in or drawn; hidden rows always are."""
    live = np.flatnonzero(network.factorisation.energised)
    n_live, n_row = len(live), network.n_row
    place = np.full(n_row, -1)
    place[live] = np.arange(n_live)
    y = admittance_matrix(network)[live][:, live].tocsr()
    pattern = ((y != 0) + (y != 0).T).tolil()
    pattern.setdiag(False)
    neighbours = [sorted(r) for r in pattern.tocsr().tolil().rows]
    fixed = np.zeros(n_live, dtype=bool)
    fixed[place[network.fixed_row]] = True
    order = elimination_order(neighbours, fixed, y)

    # A branch end goes right after the bus of its branch that goes first: no fill, and never its square alone.
    position = np.argsort(order)
    after: dict[int, list[int]] = {}
    label = [*live.tolist()]
    ends = [(network.branch_from[b], network.branch_to[b])[:: 1 - 2 * side] for b, side in measurements.end]
    joined: list[tuple[int, int, int]] = []
    for t, (at, other) in enumerate(ends):
        a, o = int(place[at]), int(place[other])
        if a < 0 or o < 0:
            continue
        added = len(label)
        label.append(n_row + t)
        neighbours.append(sorted({a, o}))
        for bus in {a, o}:
            neighbours[bus] = [*neighbours[bus], added]
        after.setdefault(a if position[a] < position[o] else o, []).append(added)
        joined.append((t, a, o))
    order = [k for bus in order for k in (bus, *after.get(bus, []))]
    elimination = eliminate_in_order(neighbours, order, np.array(label, dtype=np.int64))

    node_of = np.full(n_row + len(measurements.end), -1)
    node_of[elimination.row] = np.arange(elimination.n)
    is_bus = elimination.row < n_row
    end_node = np.full((len(measurements.end), 3), -1)
    late: list[list[int]] = [[] for _ in range(elimination.n)]
    for t, a, o in joined:
        end_node[t] = node_of[n_row + t], node_of[live[a]], node_of[live[o]]
        late[max(end_node[t, 1:])].append(t)
    node, _ = elimination.pairs
    real = (elimination.ancestor < elimination.n) & is_bus[node]
    slot = np.flatnonzero(real)
    slot = slot[is_bus[elimination.ancestor[slot]]]
    here, there = place[elimination.row[node[slot]]], place[elimination.row[elimination.ancestor[slot]]]
    linked = np.asarray((y[here, there] != 0) | (y[there, here] != 0)).ravel() if len(slot) else np.zeros(0, dtype=bool)
    slot = slot[linked]
    zero = np.zeros(n_row, dtype=bool)
    zero[network.n_bus :] = True
    zero[zero_rows] = True
    zero[network.fixed_row] = False
    reference = np.zeros(n_row, dtype=bool)
    reference[network.fixed_row] = True
    own = np.where(is_bus, elimination.row, 0)
    return Model(
        network=network, measurements=measurements, elimination=elimination, is_bus=is_bus, node_of=node_of,
        edge_start=np.searchsorted(node[slot], np.arange(elimination.n + 1)), edge_other=elimination.ancestor[slot],
        edge_slot=slot, end_node=end_node,
        end_start=np.concatenate([[0], np.cumsum([len(x) for x in late])]).astype(np.int64),
        end_order=np.array([t for x in late for t in x], dtype=np.int64),
        zero_injection=zero[own] & is_bus, reference=reference[own] & is_bus,
    )  # fmt: skip


def _adjoint_free(y: NDArray[np.complex128]) -> NDArray[np.float64]:
    """(..., 2, 2) dv -> conj(y dv), real and imaginary part. Symmetric."""
    return np.stack([np.stack([y.real, -y.imag], -1), np.stack([-y.imag, -y.real], -1)], -2)


def _times(s: NDArray[np.complex128]) -> NDArray[np.float64]:
    """(..., 2, 2) dv -> s dv."""
    return np.stack([np.stack([s.real, -s.imag], -1), np.stack([s.imag, s.real], -1)], -2)


@dataclass(frozen=True, eq=False)
class Linearisation:
    """A model's numbers at one operating point."""

    model: Model
    v0: NDArray[np.complex128]
    """(n,) voltage of the operating point at buses, 1 at branch ends."""
    y_self: NDArray[np.complex128]
    """(n,) turned admittances: of a bus with itself ..."""
    y_up: NDArray[np.complex128]
    """(n_edge,) ... current at the bus by the other's voltage ..."""
    y_low: NDArray[np.complex128]
    """(n_edge,) ... and at the other by the bus's."""
    y_end: NDArray[np.complex128]
    """(n_end, 2) current into the branch by the voltage at its end and at the other."""
    current: NDArray[np.complex128]
    """(n,) what branches and shunts draw from a bus."""
    diagonal: NDArray[np.float64]
    """(n, 4, 4) of the augmented matrix, without weights."""
    upper: NDArray[np.float64]
    """(nnz, 4, 4)"""
    scale: NDArray[np.float64]
    """(k,) from a measured value in the table's units to the one here: times scale, plus offset."""
    offset: NDArray[np.float64]
    """(k,)"""

    @cached_property
    def quantity(self) -> NDArray[np.float64]:
        """(k,) what each channel would read, in the units of the equations."""
        m, n_row = self.model.measurements, self.model.network.n_row
        at_bus = m.at < n_row
        drawn = np.empty(len(m.at), dtype=complex)
        drawn[at_bus] = self.current[self.model.channel_node[at_bus]]
        drawn[~at_bus] = self.y_end[m.at[~at_bus] - n_row].sum(axis=1)
        size = np.where(at_bus, 1.0, np.abs(drawn))
        return np.choose(m.component, [drawn.real, -drawn.imag, size, np.zeros(len(size))])

    @cached_property
    def equal_rows(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(diagonal, upper) with every equation scaled to length 1."""
        e = self.model.elimination
        node, ancestor = e.pairs
        is_dual = np.ones((e.n, 4), dtype=bool)
        is_dual[self.model.is_bus, :2] = False
        length = (self.diagonal**2).sum(axis=2)
        np.add.at(length, node, (self.upper**2).sum(axis=2))
        np.add.at(length, ancestor, (self.upper**2).sum(axis=1))
        with np.errstate(divide="ignore"):
            scale = np.where(is_dual & (length > 0), length**-0.5, 1.0)
        diagonal = self.diagonal * scale[:, :, None] * scale[:, None, :]
        return diagonal, self.upper * scale[node][:, :, None] * scale[ancestor][:, None, :]


def linearise(model: Model, voltage: NDArray[np.complex128]) -> Linearisation:
    """At voltage (n_row,), NaN allowed where there is no external grid."""
    network, m, e = model.network, model.measurements, model.elimination
    n = e.n
    v0 = np.ones(n, dtype=complex)
    v0[model.is_bus] = voltage[e.row[model.is_bus]]
    y = admittance_matrix(network)
    bus = np.where(model.is_bus, e.row, 0)
    y_self = np.where(model.is_bus, y.diagonal()[bus] * np.abs(v0) ** 2, 0)
    node = np.repeat(np.arange(n), np.diff(model.edge_start))
    other = model.edge_other
    i, j = e.row[node], e.row[other]
    y_up = np.asarray(y[i, j]).ravel() * np.conj(v0[node]) * v0[other] if len(i) else np.zeros(0, dtype=complex)
    y_low = np.asarray(y[j, i]).ravel() * np.conj(v0[other]) * v0[node] if len(i) else np.zeros(0, dtype=complex)
    branch, side = m.end.T
    two_port = network.branch_y_pu[branch]
    which = np.arange(len(branch))
    live = model.end_node[:, 0] >= 0
    _, a, o = np.where(live[:, None], model.end_node, 0).T
    y_end = np.stack([two_port[which, side, side], two_port[which, side, 1 - side]], axis=1)
    y_end = y_end * np.conj(v0[a])[:, None] * np.stack([v0[a], v0[o]], axis=1) * live[:, None]

    current = y_self.copy()
    np.add.at(current, node, y_up)
    np.add.at(current, other, y_low)
    diagonal, upper = np.zeros((n, 4, 4)), np.zeros((len(e.ancestor), 4, 4))
    own = _adjoint_free(y_self) + _times(np.conj(current))
    own[model.zero_injection] = _adjoint_free(y_self[model.zero_injection])
    diagonal[:, 2:, :2] = own
    diagonal[:, :2, 2:] = own.transpose(0, 2, 1)
    upper[model.edge_slot, 2:, :2] = _adjoint_free(y_up)
    upper[model.edge_slot, :2, 2:] = _adjoint_free(y_low)
    y_live, end = y_end[live], model.end_node[live, 0]
    into = y_live.sum(axis=1)
    flows = np.abs(into) > 1e-9 * np.abs(y_live).max(axis=1, initial=0)
    unit = np.where(flows, into, 1.0) / np.where(flows, np.abs(into), 1.0)
    for c, bus_node in enumerate((a[live], o[live])):
        rows = np.zeros((len(end), 3, 2))
        rows[:, :2] = _adjoint_free(y_live[:, c]) + (_times(np.conj(into)) if c == 0 else 0.0)
        turned = np.conj(unit) * y_live[:, c]
        rows[:, I, 0], rows[:, I, 1] = turned.real, -turned.imag
        slot, below = model.end_slot[live, c], end > bus_node
        upper[slot[below], :3, :2] += rows[below]
        upper[slot[~below], :2, :3] += rows[~below].transpose(0, 2, 1)

    at_bus = m.at < network.n_row
    node_c = np.where(model.channel_node >= 0, model.channel_node, 0)
    scale, offset = m.factor.copy(), np.zeros(len(m.at))
    magnitude = np.abs(v0[node_c])
    is_v, is_va, is_i = at_bus & (m.component == 2), at_bus & (m.component == 3), ~at_bus & (m.component == I)
    scale[is_v] /= magnitude[is_v]
    offset[is_va] = -np.angle(v0[node_c[is_va]])
    scale[is_i] *= np.abs(v0[a[m.at[is_i] - network.n_row]])
    assert (P, Q) == (0, 1)
    return Linearisation(model, v0, y_self, y_up, y_low, y_end, current, diagonal, upper, scale, offset)
