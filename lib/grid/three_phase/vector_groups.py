"""Zero-sequence two-ports of two-winding transformers by vector group.

The T circuit: leakage of the high-voltage winding, leakage of the low-voltage winding, and between them the magnetising
impedance to ground. An earthed star joins its leakage to its bus (through three times the impedance of its
earthing), a delta shorts it to ground, a star that is not earthed leaves it open. A zigzag winding couples to no
other: it is its own leakage to ground.

Sources: IEC 60909-0, annex of zero-sequence circuits; pandapower's documentation of its transformer model, whose
circuits of YNyn, Dyn and Yzn these are.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

GROUPS = ("Dd", "Dy", "Dyn", "Dzn", "YNd", "YNy", "YNyn", "Yd", "Yy", "Yyn", "Yzn", "ZNd", "ZNy", "ZNyn")

_ZIGZAG_OF_STAR = 1.1547
"""pandapower's factor for a zigzag winding opposite a star, kept so that both programs solve the same network."""


def windings(group: str) -> tuple[str, str]:
    """Connection of the high- and the low-voltage winding, clock number left out. Raises ValueError if unknown."""
    name = re.sub(r"\d+$", "", str(group).strip()).lower()
    known = {g.lower(): g for g in GROUPS}
    if name not in known:
        raise ValueError(f"vector group {group!r} is not one of {', '.join(GROUPS)}")
    split = re.fullmatch(r"(yn|y|d|zn)(yn|y|d|zn)", name)
    assert split is not None
    return split[1], split[2]


def zero_sequence_two_port(
    group: str, z_hv: complex, z_lv: complex, z_magnetising: complex, z_earth: complex, tap: complex
) -> NDArray[np.complex128]:
    """(2, 2) admittance seen at the high-voltage (0) and the low-voltage (1) bus.

    Impedances per unit at the low-voltage side; z_earth is the star point's own (not yet tripled), of the earthed
    winding, the high-voltage one where both are. tap: complex ratio at the high-voltage side.
    """
    hv, lv = windings(group)
    y = np.zeros((2, 2), dtype=complex)
    hv_grounded, lv_grounded = hv in ("yn", "zn"), lv in ("yn", "zn")
    if hv_grounded:
        z_hv += 3 * z_earth
    elif lv_grounded:
        z_lv += 3 * z_earth
    size = abs(tap) ** 2

    if hv == "zn":
        y[0, 0] = 1 / z_hv / size
        if lv == "yn":
            y[1, 1] = 1 / (z_lv + z_magnetising)
    elif lv == "zn":
        y[1, 1] = _ZIGZAG_OF_STAR / (z_lv + z_magnetising) if hv == "y" else 1 / (z_lv + z_hv)
    elif hv == "yn" and lv == "yn":
        product = z_hv * z_lv + z_lv * z_magnetising + z_hv * z_magnetising
        series = z_magnetising / product
        y[0, 0] = (series + z_lv / product) / size
        y[1, 1] = series + z_hv / product
        y[0, 1] = -series / np.conj(tap)
        y[1, 0] = -series / tap
    elif hv == "yn":
        y[0, 0] = 1 / (z_hv + _behind(lv, z_lv, z_magnetising)) / size
    elif lv == "yn":
        y[1, 1] = 1 / (z_lv + _behind(hv, z_hv, z_magnetising))
    return y


def _behind(winding: str, z: complex, z_magnetising: complex) -> complex:
    """What an earthed star sees behind its own leakage, the other winding being a delta or a star that is open."""
    return z * z_magnetising / (z + z_magnetising) if winding == "d" else z_magnetising
