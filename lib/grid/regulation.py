"""Tap changers in the batched power flow: every snapshot's taps moved into their bands, without a loop over snapshots.

Static: each snapshot starts from the given positions, as if it were alone. All are solved there; where a regulated
voltage is outside its band, the changers nearest to the source move first, each by the smallest number of steps that
brings its voltage into the band; snapshots are grouped by their tap vectors, each vector is factorised once, and only
what moved is solved again. Who comes back to a tap vector it has left is hunting.

Sources: the order is that of the time grading of tap changers in series, as in power-grid-model's tap optimiser and in
Kundur: Power System Stability and Control (1994), ch. 11.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from lib.grid.branches import FIELDS, BranchResult, branch_results
from lib.grid.factorisation import factorise
from lib.grid.network import Network
from lib.grid.sweep import scatter

if TYPE_CHECKING:
    from lib.grid.powerflow import PowerFlow

GAIN_PU = 1.25
"""A step moves the voltage by no more than this multiple of what the linearised network says; what is taken at once is
then never more than the smallest move."""
INERT_PU = 1e-6
"""A changer that moves its regulated voltage by less per step has nothing to regulate."""
MOST_ROUNDS = 200
_KEPT_NETWORKS = 256


@dataclass(frozen=True, eq=False)
class Order:
    """How a network's tap changers act on each other."""

    rank: NDArray[np.int64]
    """(k,) tap changers between the source and this one."""
    step_pu: NDArray[np.float64]
    """(k,) change of the regulated voltage per step up, with all changers of the same rank that pull the same way; 0
    where there is nothing to regulate."""


def network_at(network: Network, tap_pos: NDArray[np.int64]) -> Network:
    """The network with its tap changers at positions (k,), factorised on the structure it already has.

    The last few hundred of a network are kept with it.
    """
    if np.array_equal(tap_pos, network.tap_changers.tap_pos):
        return network
    kept: dict[bytes, Network] = network.__dict__.setdefault("_at_taps", {})
    key = np.ascontiguousarray(tap_pos, dtype=np.int64).tobytes()
    if key in kept:
        return kept[key]
    y, iron = two_ports(network, tap_pos)
    branch = network.tap_changers.branch
    branch_y, branch_iron = network.branch_y_pu.copy(), network.branch_iron_pu.copy()
    branch_y[branch], branch_iron[branch] = y, iron
    changers = dataclasses.replace(network.tap_changers, tap_pos=tap_pos.astype(np.int64))
    own = dataclasses.replace(network, branch_y_pu=branch_y, branch_iron_pu=branch_iron, tap_changers=changers)
    own.__dict__["factorisation"] = factorise(own, network.factorisation.elimination)
    if len(kept) >= _KEPT_NETWORKS:
        kept.pop(next(iter(kept)), None)  # another thread may have been quicker
    kept[key] = own
    return own


def turns(network: Network, tap_pos: NDArray[np.integer]) -> NDArray[np.complex128]:
    """(..., k) what positions (..., k) make of a tapped winding's voltage, against the position the network holds."""
    changers = network.tap_changers
    return changers.ratio(changers.tap_pos) / changers.ratio(tap_pos)


def two_ports(network: Network, tap_pos: NDArray[np.integer]) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
    """Admittance (..., k, 2, 2) and iron loss form (..., k, 4) of the tap changers' branches at positions (..., k).

    A tap changer is an ideal transformer at the winding it is on, so its two-port is D^H Y D with D = diag(1/ratio, 1),
    or diag(1, 1/ratio): the short-circuit impedance is that of the nominal winding, as in pandapower.
    """
    changers = network.tap_changers
    turn = turns(network, tap_pos)
    d = np.ones((*turn.shape, 2), dtype=complex)
    np.put_along_axis(d, np.broadcast_to(changers.end, turn.shape)[..., None], turn[..., None], axis=-1)
    y = d.conj()[..., :, None] * network.branch_y_pu[changers.branch] * d[..., None, :]
    iron = network.branch_iron_pu[changers.branch]
    cross = (iron[:, 2] + 1j * iron[:, 3]) * d[..., 0] * d[..., 1].conj()
    squares = iron[:, :2] * (d.real**2 + d.imag**2)
    return y, np.concatenate([squares, cross.real[..., None], cross.imag[..., None]], axis=-1)


def order_of(network: Network) -> Order:
    """Ranks and effects of the network's tap changers, kept with it."""
    if "_tap_order" not in network.__dict__:
        rank = _ranks(network)
        effect = _effects(network)
        own = np.diag(effect)
        alike = rank[:, None] == rank[None, :]
        joint = own + np.sign(own) * (np.abs(effect) * alike).sum(axis=1) - np.sign(own) * np.abs(own)
        network.__dict__["_tap_order"] = Order(rank, np.where(np.abs(own) < INERT_PU, 0.0, joint))
    order: Order = network.__dict__["_tap_order"]
    return order


def _ranks(network: Network) -> NDArray[np.int64]:
    """Tap changers on the way from the nearest external grid, counted over the parts they divide the network in."""
    changers, n = network.tap_changers, network.n_row
    plain = np.ones(network.n_branch, dtype=bool)
    plain[changers.branch] = False
    f, t = network.branch_from[plain], network.branch_to[plain]
    links = sp.csr_array((np.ones(len(f)), (f, t)), shape=(n, n))
    count, part = sp.csgraph.connected_components(links, directed=False)
    at_from, at_to = part[network.branch_from[changers.branch]], part[network.branch_to[changers.branch]]
    source = np.unique(part[network.fixed_row])
    distance = np.full(count, np.iinfo(np.int64).max)
    distance[source] = 0
    for far in range(count):  # breadth first, one ring of parts a turn
        ring = distance == far
        reached = np.concatenate([at_to[ring[at_from]], at_from[ring[at_to]]])
        fresh = reached[distance[reached] > far + 1]
        if not len(fresh):
            break
        distance[fresh] = far + 1
    return np.minimum(distance[at_from], distance[at_to])


def _effects(network: Network) -> NDArray[np.float64]:
    """(k, k) change of the magnitude at each regulated row by one step up of each changer, at the typical load."""
    changers, factors = network.tap_changers, network.factorisation
    k, rows = len(changers), factors.elimination.row
    v = np.zeros(network.n_row, dtype=complex)
    v[network.fixed_row] = network.fixed_v_pu
    v[rows] = factors.start_voltage[:, 0] + 1j * factors.start_voltage[:, 1]
    up = np.where(changers.tap_pos < changers.tap_max, 1, -1)
    ends = np.stack([network.branch_from, network.branch_to], axis=1)[changers.branch]
    moved = two_ports(network, changers.tap_pos + up)[0] - network.branch_y_pu[changers.branch]
    regulated = v[changers.regulated_row]
    effect = np.zeros((k, k))
    for j in range(k):
        current = np.zeros(network.n_row, dtype=complex)
        np.add.at(current, ends[j], -up[j] * moved[j] @ v[ends[j]])
        change = np.zeros(network.n_row, dtype=complex)
        change[rows] = factors.solve(current[rows])
        with np.errstate(invalid="ignore", divide="ignore"):
            effect[:, j] = (regulated.conj() * change[changers.regulated_row]).real / np.abs(regulated)
    return np.nan_to_num(effect)


def regulate(
    network: Network,
    start: NDArray[np.int64],
    flow: PowerFlow,
    solve_at: Callable[[Network, NDArray[np.int64] | None], PowerFlow],
) -> NDArray[np.bool_]:
    """Moves the taps of every snapshot and writes voltages, status and `tap_pos` into `flow`; which snapshots hunt.

    start: (k, n) positions to start from. flow: empty, its arrays are written. solve_at: solves the snapshots of these
    numbers (None for all, which then is written to `flow`'s own arrays) at the taps of a network.
    """
    n = flow.n_snapshot
    tap = flow.tap_pos
    tap[:] = start
    pending = np.arange(n)
    hunting = np.zeros(n, dtype=bool)
    visited: list[NDArray[np.int64]] = []
    while len(pending):
        for lanes in _groups(tap, pending):
            own = network_at(network, tap[:, lanes[0]])
            if len(lanes) == n:
                solved = solve_at(own, None)
                lanes = np.arange(n)
            else:
                solved = solve_at(own, lanes)
                scatter(solved.e, solved.f, lanes, flow.e, flow.f)
            flow.status[lanes] = solved.status
            flow.iterations[lanes] += solved.iterations
            flow.max_mismatch_mva[lanes] = solved.max_mismatch_mva
        moved = tap[:, pending] + moves(network, tap[:, pending], flow.regulated_vm_pu(pending))
        visited.append(tap.copy())
        going = (moved != tap[:, pending]).any(axis=0)
        pending, moved = pending[going], moved[:, going]
        again = np.zeros(len(pending), dtype=bool)
        for earlier in visited:
            again |= (earlier[:, pending] == moved).all(axis=0)
        again |= len(visited) >= MOST_ROUNDS
        hunting[pending[again]] = True
        pending, moved = pending[~again], moved[:, ~again]
        tap[:, pending] = moved
    return hunting


def moves(network: Network, tap_pos: NDArray[np.int64], vm_pu: NDArray[np.float64]) -> NDArray[np.int64]:
    """(k, n) steps that each changer takes next, from positions and regulated voltages (k, n); 0 where it rests.

    A changer rests while one of lower rank still has to move, inside its band, at its end, and without a voltage.
    """
    changers, order = network.tap_changers, order_of(network)
    missing = np.fmax(changers.vm_lower_pu[:, None] - vm_pu, 0) + np.fmin(changers.vm_upper_pu[:, None] - vm_pu, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        steps = missing / (order.step_pu[:, None] * GAIN_PU)
    steps = np.where(np.isfinite(steps), steps, 0.0)
    wanted = np.copysign(np.ceil(np.abs(steps)), steps).clip(-1e6, 1e6).astype(np.int64)
    wanted = np.clip(tap_pos + wanted, changers.tap_min[:, None], changers.tap_max[:, None]) - tap_pos
    turn = np.where(wanted != 0, order.rank[:, None], np.iinfo(np.int64).max)
    return np.where(turn == turn.min(axis=0), wanted, 0)


def extra_current(flow: PowerFlow) -> tuple[NDArray[np.int64], NDArray[np.complex128]]:
    """Rows (2k,) at the tap changers' ends, and the currents (2k, n) into their branches beyond those of
    `network.branch_y_pu`, because of taps elsewhere."""
    network = flow.network
    changers = network.tap_changers
    f, t = network.branch_from[changers.branch], network.branch_to[changers.branch]
    y = two_ports(network, flow.tap_pos.T)[0] - network.branch_y_pu[changers.branch]  # (n, k, 2, 2)
    v = np.stack([flow._complex_at(f), flow._complex_at(t)], axis=-1).transpose(1, 0, 2)
    current = (y @ np.nan_to_num(v)[..., None])[..., 0]
    return np.concatenate([f, t]), current.transpose(2, 1, 0).reshape(-1, flow.n_snapshot)


def retap(result: BranchResult, flow: PowerFlow) -> None:
    """Writes the results of the tap changers' branches anew, at each snapshot's own position."""
    network = flow.network
    changers = network.tap_changers
    every = [f.name for f in dataclasses.fields(network) if f.name.startswith("branch_")]
    for j, b in enumerate(changers.branch):
        for position in np.unique(flow.tap_pos[j]):
            if position == changers.tap_pos[j]:
                continue
            vector = changers.tap_pos.copy()
            vector[j] = position
            y, iron = two_ports(network, vector)
            alone = dataclasses.replace(network, **{name: getattr(network, name)[[b]] for name in every})
            alone = dataclasses.replace(alone, branch_y_pu=y[[j]], branch_iron_pu=iron[[j]])
            there = flow.tap_pos[j] == position
            there_result = branch_results(alone, flow.e, flow.f, flow.n_snapshot)
            for name in FIELDS:
                getattr(result, name)[b, there] = getattr(there_result, name)[0, there]


def _groups(tap: NDArray[np.int64], pending: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Snapshots of equal tap vectors, rising within each."""
    columns = tap[:, pending]
    order = np.lexsort(columns[::-1])
    columns = columns[:, order]
    cuts = np.flatnonzero((columns[:, 1:] != columns[:, :-1]).any(axis=0)) + 1
    yield from np.split(pending[order], cuts)
