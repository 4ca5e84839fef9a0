"""Weighted least squares of one snapshot by a general optimiser: slow, independent of the estimator."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from lib.grid import Network
from lib.grid.network import BRANCH_KINDS
from tests.grid.reference import admittance

_LEGS = {"mv": (1, 1), "lv": (2, 1)}
"""Leg of a three-winding transformer, and the end of it that is not the star point."""


def measured(network: Network, table: pd.DataFrame, v: NDArray[np.complex128]) -> NDArray[np.float64]:
    """What the table's meters would read at voltages v (n_row,), in its units."""
    s = -v * np.conj(admittance(network) @ v)
    base_ka = 1 / (np.sqrt(3) * network.vn_kv)
    out = []
    for kind, where, element, side in table[["measurement_type", "element_type", "element", "side"]].itertuples(
        index=False
    ):
        if where == "bus":
            row = network.row_of[element]
            out.append({"v": abs(v[row]), "va": np.degrees(np.angle(v[row])), "p": s[row].real, "q": s[row].imag}[kind])
            continue
        leg, end = _LEGS.get(side, (0, 0)) if where == "trafo3w" else (0, int(side in ("to", "lv")))
        (branch,) = np.flatnonzero(
            (network.branch_kind == BRANCH_KINDS.index(where))
            & (network.branch_element == element)
            & (network.branch_side == leg)
        )
        ends = network.branch_from[branch], network.branch_to[branch]
        i = network.branch_y_pu[branch, end] @ v[list(ends)]
        power = v[ends[end]] * np.conj(i)
        out.append({"p": power.real, "q": power.imag, "i": abs(i) * base_ka[ends[end]]}[kind])
    return np.array(out)


def least_squares_estimate(
    network: Network, table: pd.DataFrame, z: NDArray[np.float64], start: NDArray[np.complex128], zero_rows=(),
    *, huber: float | None = None,
) -> tuple[NDArray[np.complex128], float]:  # fmt: skip
    """Voltages (n_row,) and the objective. Zero injections are held by a weight that leaves 1e-7 of them.

    huber: bound beyond which residuals over sigma count linearly.
    """
    y = admittance(network)
    fixed = network.fixed_row
    angle = np.exp(1j * np.angle(network.fixed_v_pu))
    free = np.setdiff1d(np.arange(network.n_row), fixed)
    std = table.std_dev.to_numpy()

    def voltage(x):
        v = np.empty(network.n_row, dtype=complex)
        v[free] = x[: len(free)] + 1j * x[len(free) : 2 * len(free)]
        v[fixed] = x[2 * len(free) :] * angle
        return v

    def residual(x):
        v = voltage(x)
        current = (y @ v)[list(zero_rows)] * 1e9
        return np.concatenate([(z - measured(network, table, v)) / std, current.real, current.imag])

    x0 = np.concatenate([start[free].real, start[free].imag, np.abs(start[fixed])])
    options = {"method": "lm"}
    if huber is not None:
        options = {"method": "trf", "loss": "huber", "f_scale": huber, "max_nfev": 2000}
    found = least_squares(residual, x0, xtol=1e-15, ftol=1e-15, gtol=1e-15, x_scale="jac", **options)
    return voltage(found.x), 2 * found.cost
