"""Powers by phase of a pandapower net's loads and generators: what single-phase meters are mapped to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.grid.network import Network

PHASES = ("a", "b", "c")
_SIGN = {"load": -1, "sgen": 1, "storage": -1, "asymmetric_load": -1, "asymmetric_sgen": 1}


@dataclass(frozen=True, eq=False)
class PhaseInjections:
    """Net constant-power injection, generation positive, each (n_bus, 3), rows in `bus_ids` order.

    wye: of phases a, b, c to neutral. delta: between phases ab, bc, ca.
    """

    p_mw: NDArray[np.float64]
    q_mvar: NDArray[np.float64]
    p_delta_mw: NDArray[np.float64]
    q_delta_mvar: NDArray[np.float64]


def injections(network: Network, net: Any) -> PhaseInjections:
    """Sum of loads, sgens, storages (a third in each phase), asymmetric loads and sgens, with scaling and in_service.

    Elements of `type` "delta" are between phases: what asymmetric ones give for phase a is between a and b, b is
    between b and c, c between c and a. Constant-impedance and constant-current shares belong to the network and are
    left out. Raises ValueError for motors and wards in service, whose power has no phases.
    """
    s = {"wye": np.zeros((network.n_bus, 3), dtype=complex), "delta": np.zeros((network.n_bus, 3), dtype=complex)}
    for table in ("motor", "ward"):
        if len(net[table]) and net[table].in_service.any():
            raise ValueError(f"{table}: its power has no phases: replace it by a load")
    for name, sign in _SIGN.items():
        table = net[name]
        table = table[table.in_service.astype(bool) & table.bus.isin(network.row_of.keys())]
        if not len(table):
            continue
        power = _powers(name, table) * (sign * table.scaling.to_numpy(dtype=float)[:, None])
        rows = np.array([network.row_of[b] for b in table.bus])
        delta = (table.type == "delta").to_numpy() if "type" in table else np.zeros(len(table), dtype=bool)
        np.add.at(s["wye"], rows[~delta], power[~delta])
        np.add.at(s["delta"], rows[delta], power[delta])
    return PhaseInjections(s["wye"].real.copy(), s["wye"].imag.copy(), s["delta"].real.copy(), s["delta"].imag.copy())


def _powers(name: str, table: Any) -> NDArray[np.complex128]:
    if name.startswith("asymmetric"):
        parts = [table[f"p_{ph}_mw"].to_numpy(dtype=float) + 1j * table[f"q_{ph}_mvar"] for ph in PHASES]
        return np.stack(parts, axis=1)
    p, q = table.p_mw.to_numpy(dtype=float), table.q_mvar.to_numpy(dtype=float)
    if name == "load":
        shares = [
            1 - sum(table[f"const_{kind}_{x}_percent"] for kind in "zi" if f"const_{kind}_{x}_percent" in table) / 100
            for x in "pq"
        ]
        p, q = p * np.asarray(shares[0], dtype=float), q * np.asarray(shares[1], dtype=float)
    return np.repeat((p + 1j * q)[:, None] / 3, 3, axis=1)


def by_phase(
    network: Network, bus: Sequence[int], phase: Sequence[str], power: NDArray[np.floating]
) -> NDArray[np.floating]:
    """(n_bus, 3, n_snapshot) sum of what meters measure, as `solve_three_phase` takes it.

    network: the positive sequence, for its buses. bus, phase, power: per meter its bus, its phase ("a", "b", "c", or
    "abc" for one that measures all three: a third each), its series (n_meter, n_snapshot), generation positive.
    Raises ValueError for a bus that is not in the network and for another phase, naming the meter.
    """
    power = np.asarray(power)
    out = np.zeros((network.n_bus, 3, power.shape[1]), dtype=power.dtype)
    for k, (at, phases) in enumerate(zip(bus, phase, strict=True)):
        if at not in network.row_of or network.row_of[at] >= network.n_bus:
            raise ValueError(f"meter {k}: bus {at} is not in {network.source or 'the network'}")
        if phases not in (*PHASES, "abc"):
            raise ValueError(f'meter {k}: phase {phases!r} is not "a", "b", "c" or "abc"')
        for name in phases:
            out[network.row_of[at], PHASES.index(name)] += power[k] / len(phases)
    return out
