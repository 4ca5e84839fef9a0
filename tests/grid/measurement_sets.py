"""Sets of measurements for the tests of state estimation: what meters would read, with noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.grid import Network
from lib.grid.powerflow import solve
from tests.grid.estimation_reference import measured

COLUMNS = ["measurement_type", "element_type", "element", "side", "std_dev"]


def everywhere(
    network: Network, *, flows: int = 3, both_ends: bool = False, currents: int = 0, v: float = 2e-3, s: float = 1e-4
) -> pd.DataFrame:
    """Magnitude everywhere, powers at all buses but the external grids, flows at every so many branches of a network of
    lines."""
    rows: list[tuple[Any, ...]] = []
    for bus in network.bus_ids:
        rows.append(("v", "bus", bus, None, v))
        if network.row_of[bus] not in network.fixed_row:
            rows += [(kind, "bus", bus, None, s) for kind in "pq"]
    for branch in network.branch_element[::flows] if flows else ():
        rows += [(kind, "line", branch, side, s) for side in ("from", "to")[: 1 + both_ends] for kind in "pq"]
    for branch in network.branch_element[1::currents] if currents else ():
        rows.append(("i", "line", branch, "to", s))
    return pd.DataFrame(rows, columns=COLUMNS)


def true_voltages(network: Network, p: NDArray, q: NDArray) -> NDArray[np.complex128]:
    """(n_row, n_snapshot)"""
    flow = solve(network, p, q, tolerance=1e-12)
    assert flow.converged.all()
    return voltages(flow)


def voltages(result: Any) -> NDArray[np.complex128]:
    """(n_row, n_snapshot) of a result in tiles."""
    v = (result.e + 1j * result.f).transpose(1, 0, 2)
    return v.reshape(v.shape[0], -1)[:, : result.n_snapshot]


def readings(
    network: Network, table: pd.DataFrame, v: NDArray[np.complex128], seed: int | None = 0
) -> NDArray[np.float64]:
    """(n_measurement, n_snapshot) of voltages (n_row, n_snapshot), with noise as the table says, or none."""
    z = np.stack([measured(network, table, v[:, s]) for s in range(v.shape[1])], axis=1)
    if seed is None:
        return z
    return z + table.std_dev.to_numpy()[:, None] * np.random.default_rng(seed).standard_normal(z.shape)


def of_pandapower(net: Any, seed: int = 0, *, currents: bool = False) -> tuple[pd.DataFrame, list[int]]:
    """Meters on a solved net, two per cent, with values; and the buses where nothing is fed in or drawn."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = []
    sources = {*net.ext_grid.bus, *net.gen.bus}
    busy = sources | {bus for table in ("load", "sgen", "shunt", "ward", "storage") for bus in net[table].bus}
    zero = [bus for bus in net.bus.index[net.bus.in_service] if bus not in busy]
    for bus in net.bus.index[net.bus.in_service].difference(zero):
        rows.append(("v", "bus", bus, None, net.res_bus.vm_pu[bus], 0.002))
        if bus not in sources:
            p, q = net.res_bus.p_mw[bus], net.res_bus.q_mvar[bus]
            rows += [(kind, "bus", bus, None, x, 0.02 * max(np.hypot(p, q), 1e-4)) for kind, x in (("p", p), ("q", q))]
    sides = {"line": ("from", "to"), "trafo": ("hv", "lv"), "trafo3w": ("mv", "hv")}
    for kind, (first, second) in sides.items():
        for element in net[kind].index[net[kind].in_service][:: 3 if kind == "line" else 1]:
            r = net[f"res_{kind}"].loc[element]
            for name, side in (("p", first), ("q", second)):
                x = r[f"{name}_{side}_{'mw' if name == 'p' else 'mvar'}"]
                rows.append((name, kind, element, side, x, 0.02 * max(abs(x), 1e-3)))
            if currents:
                x = r[f"i_{first}_ka"]
                rows.append(("i", kind, element, first, x, 0.02 * max(x, 1e-4)))
    table = pd.DataFrame(rows, columns=["measurement_type", "element_type", "element", "side", "value", "std_dev"])
    table["value"] += table.std_dev * rng.standard_normal(len(table))
    return table, zero
