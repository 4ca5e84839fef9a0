"""The three-phase network of a pandapower net: positive sequence as for `Network`, zero sequence from its own columns.

Where `pandapower.runpp_3ph` has a model (YNyn, Dyn, Yzn), this is the same model; its columns keep their names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.grid.network import BRANCH_KINDS, Network
from lib.grid.three_phase.injections import injections
from lib.grid.three_phase.network import SequenceNetwork
from lib.grid.three_phase.vector_groups import windings, zero_sequence_two_port

_NEEDED = {
    "line": ("r0_ohm_per_km", "x0_ohm_per_km", "c0_nf_per_km"),
    "trafo": ("vector_group", "vk0_percent", "vkr0_percent", "mag0_percent", "mag0_rx", "si0_hv_partial"),
    "ext_grid": ("s_sc_max_mva", "rx_max", "x0x_max", "r0x0_max"),
    "impedance": ("rft0_pu", "xft0_pu", "rtf0_pu", "xtf0_pu", "gf0_pu", "bf0_pu", "gt0_pu", "bt0_pu"),
}
_REFUSED = {
    "gen": "a voltage-controlled generator has no unbalanced model: replace it by an sgen or asymmetric_sgen",
    "trafo3w": "three-winding transformers have no zero-sequence model here: replace it by two-winding ones",
    "xward": "its inner voltage source has no unbalanced model: replace it by a ward or a load",
}
_VOLTAGE_FACTOR = 1.1
"""c of IEC 60909, with which an external grid's impedance follows from its short-circuit power."""


def network_from_pandapower(net: Any) -> SequenceNetwork:
    """The arrays of a pandapower net with zero-sequence data; the net itself stays as it is.

    Columns beyond those of `pandapower.runpp`: line r0/x0_ohm_per_km, c0_nf_per_km; trafo vector_group,
    vk0/vkr0_percent (zero means the positive sequence's), mag0_percent, mag0_rx, si0_hv_partial, optionally rn_ohm
    and xn_ohm; ext_grid s_sc_max_mva, rx_max, x0x_max, r0x0_max; impedance rft0_pu and its like.
    `assume_zero_sequence` fills what is missing. Transformers are T circuits. Loads' const_z/const_i shares count
    load by load, their `type` "delta" is between phases, anything else between phase and neutral. Controllers are
    left out: taps stay where they are.

    Raises ValueError for what cannot be represented, naming every such element.
    """
    _refuse(net)
    plain, z, i = _shares_apart(net)
    positive = Network.from_pandapower(plain, trafo_model="t")
    y0, y0_shunt = _branches(positive, net), positive.y_shunt_pu.copy()
    source_y2, source_y0 = _sources(positive, net)
    typical = np.zeros((positive.n_row, 3), dtype=complex)
    given = injections(positive, net)
    typical[: positive.n_bus] = given.p_mw + given.p_delta_mw + 1j * (given.q_mvar + given.q_delta_mvar)
    return SequenceNetwork(
        positive=positive, branch_y0_pu=y0, y0_shunt_pu=y0_shunt, source_y2_pu=source_y2, source_y0_pu=source_y0,
        z_wye_mva=_by_phase(positive, z[z.type != "delta"]), i_wye_mva=_by_phase(positive, i[i.type != "delta"]),
        z_delta_mva=_by_phase(positive, z[z.type == "delta"]), i_delta_mva=_by_phase(positive, i[i.type == "delta"]),
        s_typical_mva=np.nan_to_num(typical),
    )  # fmt: skip


def _refuse(net: Any) -> None:
    problems = []
    for table, remedy in _REFUSED.items():
        used = net[table].index[net[table].in_service.astype(bool)]
        if len(used):
            problems.append(f"{table} {_list(used)}: {remedy}")
    for table, columns in _NEEDED.items():
        used = net[table][net[table].in_service.astype(bool)]
        for column in columns:
            missing = used.index if column not in used else used.index[used[column].isna()]
            if len(missing):
                problems.append(f"{table} {_list(missing)}: {column} is missing")
    if "vector_group" in net.trafo:
        for index, group in net.trafo.vector_group[net.trafo.in_service.astype(bool)].dropna().items():
            try:
                windings(group)
            except ValueError as e:
                problems.append(f"trafo {index}: {e}")
    if problems:
        raise ValueError(
            "the pandapower net cannot be made a three-phase network:\n" + "\n".join(f"  - {p}" for p in problems)
        )


def _list(index: Any) -> str:
    shown = [str(i) for i in index[:20]]
    return ", ".join(shown) + (f" and {len(index) - 20} more" if len(index) > 20 else "")


def _shares_apart(net: Any) -> tuple[Any, pd.DataFrame, pd.DataFrame]:
    """The net with constant-power loads, without controllers; what loads take at 1 pu as impedances and as currents."""
    load = net.load.copy()
    active = load.in_service.astype(bool) * load.scaling
    parts = []
    for share in ("z", "i"):
        p, q = (load.get(f"const_{share}_{x}_percent", 0.0) for x in ("p", "q"))
        s = active * (load.p_mw * p + 1j * load.q_mvar * q) / 100
        parts.append(pd.DataFrame({"bus": load.bus, "type": load.type, "s_mva": s}))
    plain = type(net)(net)  # shallow: only two tables are others
    for column in ("const_z_p_percent", "const_i_p_percent", "const_z_q_percent", "const_i_q_percent"):
        load[column] = 0.0
    plain["load"], plain["controller"] = load, net.controller[:0]
    return plain, parts[0], parts[1]


def _by_phase(positive: Network, part: pd.DataFrame) -> NDArray[np.complex128]:
    """(n_row, 3) a third of each load in each phase."""
    out = np.zeros((positive.n_row, 3), dtype=complex)
    part = part[part.bus.isin(positive.row_of.keys())]
    np.add.at(out, [positive.row_of[b] for b in part.bus], part.s_mva.to_numpy(dtype=complex)[:, None] / 3)
    return out


def _sources(positive: Network, net: Any) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    grid = net.ext_grid[net.ext_grid.in_service.astype(bool)]
    x = _VOLTAGE_FACTOR / grid.s_sc_max_mva / np.sqrt(grid.rx_max**2 + 1)
    x0 = grid.x0x_max * x
    place = {row: k for k, row in enumerate(positive.fixed_row.tolist())}
    y2, y0 = (np.zeros(len(place), dtype=complex) for _ in range(2))
    for bus, z2, z0 in zip(grid.bus, x * (grid.rx_max + 1j), x0 * (grid.r0x0_max + 1j), strict=True):
        if bus in positive.row_of:
            y2[place[positive.row_of[bus]]] += 1 / z2
            y0[place[positive.row_of[bus]]] += 1 / z0
    return y2, y0


def _branches(positive: Network, net: Any) -> NDArray[np.complex128]:
    """(n_branch, 2, 2) zero-sequence two-ports in the order of the network's branches."""
    y = np.zeros((positive.n_branch, 2, 2), dtype=complex)
    makers = {"line": _lines, "trafo": _transformers, "impedance": _impedances}
    for kind in np.unique(positive.branch_kind):
        chosen = np.flatnonzero(positive.branch_kind == kind)
        name = BRANCH_KINDS[kind]
        if name in makers:
            table = net[name].loc[positive.branch_element[chosen]]
            vn = positive.vn_kv[positive.branch_from[chosen]], positive.vn_kv[positive.branch_to[chosen]]
            y[chosen] = makers[name](net, table, *vn)
        else:  # a switch has one impedance
            y[chosen] = positive.branch_y_pu[chosen]
    return y


def _pi(series: Any, shunt_from: Any, shunt_to: Any) -> NDArray[np.complex128]:
    y = np.empty((len(series), 2, 2), dtype=complex)
    y[:, 0, 0], y[:, 1, 1] = series + shunt_from, series + shunt_to
    y[:, 0, 1] = y[:, 1, 0] = -series
    return y


def _lines(net: Any, line: pd.DataFrame, vn_from: Any, vn_to: Any) -> NDArray[np.complex128]:
    base_ohm = vn_from**2
    length, parallel = line.length_km.to_numpy(), line.parallel.to_numpy()
    z = (line.r0_ohm_per_km.to_numpy() + 1j * line.x0_ohm_per_km.to_numpy()) * length / base_ohm / parallel
    b = 2 * np.pi * net.f_hz * line.c0_nf_per_km.to_numpy() * 1e-9 * base_ohm * length * parallel
    if not (z != 0).all():
        raise ValueError(f"line {_list(line.index[z == 0])}: zero-sequence impedance is zero: give a value")
    return _pi(1 / z, 0.5j * b, 0.5j * b)


def _impedances(net: Any, table: pd.DataFrame, vn_from: Any, vn_to: Any) -> NDArray[np.complex128]:
    sn = table.sn_mva.to_numpy()
    ft, tf = (table[f"r{way}0_pu"].to_numpy() + 1j * table[f"x{way}0_pu"].to_numpy() for way in ("ft", "tf"))
    f, t = (table[f"g{end}0_pu"].to_numpy() + 1j * table[f"b{end}0_pu"].to_numpy() for end in ("f", "t"))
    y = _pi(sn / ft, f * sn, t * sn)
    y[:, 1, 0] = -sn / tf
    y[:, 1, 1] += sn / tf - sn / ft
    return y


def _transformers(net: Any, trafo: pd.DataFrame, vn_hv: Any, vn_lv: Any) -> NDArray[np.complex128]:
    tapped_hv, tapped_lv, shift = tapped(net, trafo)
    tap = tapped_hv / tapped_lv / (vn_hv / vn_lv) * np.exp(1j * np.deg2rad(shift))

    def zero_or_positive(column: str) -> Any:
        zero = trafo[f"{column}0_percent"].to_numpy(dtype=float)
        return np.where(np.abs(zero) > 1e-8, zero, trafo[f"{column}_percent"].to_numpy(dtype=float))

    percent = (tapped_lv / vn_lv) ** 2 / 100 / trafo.sn_mva.to_numpy(dtype=float) / trafo.parallel.to_numpy(dtype=float)
    z, r = zero_or_positive("vk") * percent, zero_or_positive("vkr") * percent
    leakage = r + 1j * np.sign(z) * np.sqrt(z**2 - r**2)
    rx = trafo.mag0_rx.to_numpy(dtype=float)
    magnetising = z * trafo.mag0_percent.to_numpy(dtype=float) / 100 / np.sqrt(rx**2 + 1) * (rx + 1j)
    share = trafo.si0_hv_partial.to_numpy(dtype=float)
    earth_ohm = sum(
        (trafo[c].fillna(0).to_numpy(dtype=float) if c in trafo else 0.0) * unit
        for c, unit in (("rn_ohm", 1), ("xn_ohm", 1j))
    )
    earth_ohm = np.broadcast_to(np.asarray(earth_ohm, dtype=complex), len(trafo))
    y = np.empty((len(trafo), 2, 2), dtype=complex)
    for k, group in enumerate(trafo.vector_group):
        at_hv = windings(group)[0] in ("yn", "zn")
        earth = earth_ohm[k] / (vn_hv[k] ** 2 * abs(tap[k]) ** 2 if at_hv else vn_lv[k] ** 2)
        y[k] = zero_sequence_two_port(
            group, share[k] * leakage[k], (1 - share[k]) * leakage[k], magnetising[k], earth, tap[k]
        )
    return y


def tapped(net: Any, trafo: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Rated voltages in kV at high and low voltage with the taps where they are, and phase shift in degrees."""
    from pandapower.build_branch import _calc_tap_from_dataframe

    view = type(net)(net)
    view["_options"] = {"calculate_voltage_angles": True, "mode": "pf"}
    hv, lv, shift = _calc_tap_from_dataframe(view, trafo.copy())
    return np.asarray(hv, dtype=float), np.asarray(lv, dtype=float), np.asarray(shift, dtype=float)
