"""A network wire by wire: for untransposed lines, and for four-wire networks whose neutral has a voltage of its own.

Per unit as in `SequenceNetwork`: every wire's voltage to earth per unit of nominal / sqrt(3), power on 1 MVA for all
phases.

Sources: Carson, Wave propagation in overhead wires with ground return (1926), for the impedance matrices; Kron's
reduction as in Kersting, Distribution system modeling and analysis, ch. 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lib.grid.network import BRANCH_KINDS, Network
from lib.grid.three_phase.fortescue import TO_PHASES, TO_SEQUENCES
from lib.grid.three_phase.network import SequenceNetwork

if TYPE_CHECKING:
    from lib.grid.three_phase.injections import PhaseInjections
    from lib.grid.three_phase.phase_factorisation import PhaseFactors

NEUTRAL = 3


@dataclass(frozen=True, eq=False)
class PhaseNetwork:
    """Arrays of one topology, rows and branches those of `positive`; w wires: a, b, c and, where w is 4, the
    neutral."""

    positive: Network
    """Buses, ends of branches, ratings and external grids; its impedances are not used."""
    wires: int
    branch_y_pu: NDArray[np.complex128]
    """(n_branch, 2 w, 2 w) currents into the branch (wires at from, then at to) by the voltages of those wires."""
    y_shunt_pu: NDArray[np.complex128]
    """(n_row, w, w) admittance to earth."""
    present: NDArray[np.bool_]
    """(n_row, w) wires a row has; the voltage of the others is zero."""
    z_wye_mva: NDArray[np.complex128]
    """(n_row, 3) and so on: as in `SequenceNetwork`."""
    i_wye_mva: NDArray[np.complex128]
    z_delta_mva: NDArray[np.complex128]
    i_delta_mva: NDArray[np.complex128]

    @property
    def n_bus(self) -> int:
        return self.positive.n_bus

    @property
    def n_row(self) -> int:
        return self.positive.n_row

    @property
    def n_branch(self) -> int:
        return self.positive.n_branch

    @property
    def source(self) -> str:
        return self.positive.source

    @cached_property
    def factors(self) -> PhaseFactors:
        """The admittance matrix factorised once; kept with the network."""
        from lib.grid.three_phase.phase_factorisation import factorise

        return factorise(self)

    def injections(self, net: Any) -> PhaseInjections:
        """Net constant-power injection by phase of a net's loads and generators: see `PhaseInjections`."""
        from lib.grid.three_phase.injections import injections

        return injections(self.positive, net)

    @classmethod
    def from_sequence(
        cls,
        network: SequenceNetwork,
        line_ohm: Mapping[int, NDArray[np.complex128]],
        line_siemens: Mapping[int, NDArray[np.complex128]] | None = None,
        earthing_ohm: Mapping[int, complex] | None = None,
    ) -> PhaseNetwork:
        """The network with lines of their own impedance matrices.

        line_ohm: by line index, the whole line's series impedance matrix, 3x3 (phases; see `kron_reduced`) or 4x4
            (phases and neutral). Lines that are not named keep their sequence data. One 4x4 makes the network
            four-wire: loads are then between phase and neutral wire, and so are the windings of transformers ending
            in yn or zn.
        line_siemens: likewise the shunt admittance matrix to earth, half of which is at each end; default none.
        earthing_ohm: by bus, what ties its neutral to earth; a four-wire network needs at least one.

        External grids hold all three phases. Raises ValueError on a matrix of another shape or an unknown line or bus.
        """
        positive, line_siemens, earthing_ohm = network.positive, line_siemens or {}, earthing_ohm or {}
        wires = 4 if any(np.shape(z) == (4, 4) for z in line_ohm.values()) else 3
        at = {
            int(element): b
            for b, (kind, element) in enumerate(zip(positive.branch_kind, positive.branch_element, strict=True))
            if BRANCH_KINDS[kind] == "line"
        }
        y = _by_fortescue(network, wires)
        present = np.zeros((network.n_row, wires), dtype=bool)
        present[:, :3] = True
        for line, ohm in line_ohm.items():
            if line not in at:
                raise ValueError(f"line {line} is not in {network.source or 'the network'}, or out of service")
            b = at[line]
            n = np.shape(ohm)[0] if np.shape(ohm) in ((3, 3), (4, 4)) else 0
            shunt = np.asarray(line_siemens.get(line, np.zeros((n, n))), dtype=complex)
            if not n or shunt.shape != (n, n):
                raise ValueError(f"line {line}: impedance {np.shape(ohm)}, admittance {shunt.shape}: give 3x3 or 4x4")
            f, t = int(positive.branch_from[b]), int(positive.branch_to[b])
            base = positive.vn_kv[f] ** 2
            series, half = np.linalg.inv(np.asarray(ohm, dtype=complex)) * base, shunt * base / 2
            y[b] = 0
            ends = np.ix_([*range(n), *range(wires, wires + n)], [*range(n), *range(wires, wires + n)])
            y[b][ends] = np.block([[series + half, -series], [-series, series + half]])
            if n == 4:
                present[[f, t], NEUTRAL] = True
        shunt = np.zeros((network.n_row, wires, wires), dtype=complex)
        shunt[:, :3, :3] = _phases(np.stack([network.y0_shunt_pu, positive.y_shunt_pu, positive.y_shunt_pu]).T)
        for bus, z in earthing_ohm.items():
            row = positive.row_of.get(bus)
            if row is None or wires == 3 or not present[row, NEUTRAL]:
                raise ValueError(f"earthing_ohm: bus {bus} has no neutral wire")
            shunt[row, NEUTRAL, NEUTRAL] += positive.vn_kv[row] ** 2 / z
        return cls(
            positive, wires, y, shunt, present, network.z_wye_mva, network.i_wye_mva, network.z_delta_mva,
            network.i_delta_mva,
        )  # fmt: skip


def kron_reduced(ohm: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """(3, 3) impedance matrix of the phases of a line whose neutral (last row) is earthed at both ends and often."""
    z = np.asarray(ohm, dtype=complex)
    return z[:3, :3] - np.outer(z[:3, NEUTRAL], z[NEUTRAL, :3]) / z[NEUTRAL, NEUTRAL]


def _phases(sequences: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """(..., 3, 3) phase matrix of admittances (..., 3) of sequences 0, 1, 2."""
    return np.asarray(TO_PHASES @ (sequences[..., :, None] * TO_SEQUENCES))


def _by_fortescue(network: SequenceNetwork, wires: int) -> NDArray[np.complex128]:
    """(n_branch, 2 w, 2 w); an earthed winding towards a neutral wire stands between phases and that wire."""
    positive = network.positive
    two_ports = np.stack([network.branch_y0_pu, positive.branch_y_pu, network.branch_y2_pu], axis=-1)
    y = _phases(two_ports)  # (n_branch, 2, 2, 3, 3)
    out = np.zeros((network.n_branch, 2 * wires, 2 * wires), dtype=complex)
    wound = positive.branch_kind == BRANCH_KINDS.index("trafo")
    to_earth = np.eye(3, wires)
    to_neutral = to_earth.copy()
    if wires == 4:
        to_neutral[:, NEUTRAL] = -1
    for b in range(network.n_branch):
        star = wound[b] and network.branch_y0_pu[b, 1, 1] != 0
        ends = (to_earth, to_neutral if star else to_earth)
        for i in range(2):
            for j in range(2):
                out[b, i * wires : (i + 1) * wires, j * wires : (j + 1) * wires] = ends[i].T @ y[b, i, j] @ ends[j]
    return out
