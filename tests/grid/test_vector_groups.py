"""Zero-sequence two-ports against the circuit they stand for, solved node by node."""

from __future__ import annotations

import numpy as np
import pytest

from lib.grid.three_phase.vector_groups import GROUPS, windings, zero_sequence_two_port

Z_HV, Z_LV, Z_M, Z_EARTH = 0.02 + 0.05j, 0.01 + 0.03j, 0.5 + 4j, 0.1 + 0.2j
TAP = 1.05


def circuit(group: str) -> np.ndarray:
    """The T circuit with its windings as switches: node 0 hv bus, 1 lv bus, 2 star point, all else ground."""
    hv, lv = windings(group)
    y = np.zeros((3, 3), dtype=complex)

    def branch(i: int, j: int | None, z: complex) -> None:
        y[i, i] += 1 / z
        if j is not None:
            y[j, j] += 1 / z
            y[i, j] -= 1 / z
            y[j, i] -= 1 / z

    earthed_hv = hv == "yn"
    branch(2, None, Z_M)
    for node, winding, z, earth in ((0, hv, Z_HV, earthed_hv), (1, lv, Z_LV, not earthed_hv)):
        if winding == "yn":
            branch(2, node, z + (3 * Z_EARTH if earth else 0))
        elif winding == "d":
            branch(2, None, z)
    reduced = y[:2, :2] - np.outer(y[:2, 2], y[2, :2]) / y[2, 2]
    ratio = np.diag([1 / TAP, 1.0])
    return ratio @ reduced @ ratio


@pytest.mark.parametrize("group", [g for g in GROUPS if "z" not in g.lower()])
def test_two_port_is_the_circuits(group):
    assert np.allclose(zero_sequence_two_port(group, Z_HV, Z_LV, Z_M, Z_EARTH, TAP), circuit(group), rtol=1e-12)


def test_a_zigzag_couples_nothing():
    y = zero_sequence_two_port("ZNyn", Z_HV, Z_LV, Z_M, Z_EARTH, 1.0)
    assert y[0, 1] == y[1, 0] == 0
    assert np.isclose(y[0, 0], 1 / (Z_HV + 3 * Z_EARTH))


def test_unknown_groups_are_refused():
    with pytest.raises(ValueError, match="'Iin'"):
        windings("Iin")
