"""The network of a pandapower net.

The conversion is pandapower's own (the one `pandapower.runpp` uses), so admittances are those of its power flow to the
last bit: what it accepts is accepted, with the meaning of
`runpp(net, calculate_voltage_angles=True, enforce_q_lims=True, voltage_depend_loads=True)`, and what would need more
than an admittance matrix and fixed or voltage-controlled buses is refused by name.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.grid.network import BRANCH_KINDS, Network
from lib.grid.pandapower_controllers import droop_sgens, regulators
from lib.grid.regulators import with_regulators

_REFUSED = {
    "dcline": "replace it by a load at one end and a static generator at the other",
    "svc": "replace it by a gen with Q limits or a shunt",
    "ssc": "replace it by a gen with Q limits",
    "tcsc": "replace it by an impedance of its present reactance",
    "vsc": "replace it by its AC injection (sgen) or a gen",
    "vsc_stacked": "replace it by its AC injection (sgen) or a gen",
    "vsc_bipolar": "replace it by its AC injection (sgen) or a gen",
    "b2b_vsc": "replace it by its AC injections (sgen) or gens",
    "bi_vsc": "replace it by its AC injections (sgen) or gens",
    "bus_dc": "direct current is not solved: take it out of service",
    "line_dc": "direct current is not solved: take it out of service",
    "load_dc": "direct current is not solved: take it out of service",
    "source_dc": "direct current is not solved: take it out of service",
}
_MODEL_OPTIONS = ("switch_rx_ratio", "trafo3w_losses", "neglect_open_switch_branches", "consider_line_temperature")
_OTHER_MODELS = ("distributed_slack", "tdpf")


class _Converted(NamedTuple):
    """pandapower's matrices on a base of 1 MVA and the copy of the net that holds their lookups."""

    net: Any
    bus: NDArray[np.float64]
    branch: NDArray[np.float64]
    gen: NDArray[np.float64]


def network_from_pandapower(net: Any, trafo_model: str = "t") -> Network:
    """The arrays of a pandapower net; the net itself stays as it is.

    trafo_model: "t" or "pi", as in `pandapower.runpp`. Options that pandapower keeps with the net
    (`pandapower.set_user_pf_options`) are followed where they concern the model: switch_rx_ratio, trafo3w_losses,
    neglect_open_switch_branches, consider_line_temperature.

    Constant-impedance and constant-current shares of the loads become part of the network as they are in the net now,
    with pandapower's meaning: a bus's mean share acts on the sum of everything that injects constant power there.
    Q limits of gens are kept and will be enforced. An xward's internal impedance is a branch of kind "impedance",
    side 1, with the index of the xward. Controllers of taps and of Q(V) in service become the network's regulators
    (`lib.grid.pandapower_controllers`); the reactive power of a static generator with Q(V) is then the network's.

    Raises ValueError for what cannot be represented, naming every such element, and where pandapower's own conversion
    fails.
    """
    if trafo_model not in ("t", "pi"):
        raise ValueError(f'trafo_model is {trafo_model!r}: give "t" or "pi"')
    _refuse(net)
    converted = _convert(net, trafo_model)
    own, bus, branch, gen = converted

    member_bus = np.sort(own.bus.index.to_numpy(dtype=np.int64)[own.bus.in_service.to_numpy(dtype=bool)])
    lookup = own._pd2ppc_lookups["bus"]
    visible, first = np.unique(lookup[member_bus], return_index=True)
    visible, bus_ids = visible[np.argsort(first)], np.sort(member_bus[first])
    dead = lookup[own.bus.index[~own.bus.in_service.to_numpy(dtype=bool)]]

    elements = _elements(own)
    kept = _kept(branch, visible, dead)
    branch, elements = branch[kept], elements.iloc[np.flatnonzero(kept)]
    ends = _ends(branch)
    hidden = np.setdiff1d(ends, visible)
    row = np.full(len(bus), -1)
    row[visible] = np.arange(len(visible))
    row[hidden] = np.arange(len(visible), len(visible) + len(hidden))
    rows = np.concatenate([visible, hidden])

    constant, current, admittance = _consumption(bus[rows])
    y, iron = _two_ports(branch, elements, trafo_model)
    fixed, controlled = _sources(own, bus, gen, row)
    network = Network(
        bus_ids=bus_ids,
        member_bus=member_bus,
        member_row=row[lookup[member_bus]],
        vn_kv=bus[rows, _column("BASE_KV")],
        y_shunt_pu=admittance,
        s_constant_current_mva=current,
        fixed_row=fixed.index.to_numpy(dtype=np.int64),
        fixed_v_pu=fixed.to_numpy(dtype=complex),
        pv_row=controlled.index.to_numpy(dtype=np.int64),
        pv_p_mw=controlled.p_mw.to_numpy(dtype=float),
        pv_vm_pu=controlled.vm_pu.to_numpy(dtype=float),
        pv_q_min_mvar=controlled.q_min_mvar.to_numpy(dtype=float),
        pv_q_max_mvar=controlled.q_max_mvar.to_numpy(dtype=float),
        branch_kind=elements.kind.to_numpy(dtype=np.uint8),
        branch_element=elements.element.to_numpy(dtype=np.int64),
        branch_side=elements.side.to_numpy(dtype=np.uint8),
        branch_from=row[ends[:, 0]],
        branch_to=row[ends[:, 1]],
        branch_y_pu=y,
        branch_iron_pu=iron,
        branch_rated_ka=elements[["rated_from_ka", "rated_to_ka"]].to_numpy(dtype=float),
        s_typical_mva=-np.nan_to_num(constant),
        source=str(own.name or "pandapower net"),
    )
    return with_regulators(network, *regulators(net, network))


def injections(network: Network, net: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Net constant-power injection of the net's elements, generation positive.

    network: made from this net, or from one that differs in powers only. Loads, static generators, storages, motors
    and the constant-power part of (x)wards count, asymmetric ones with the sum of their phases, all with scaling and
    in_service; voltage-controlled generators count only where an external grid holds the voltage (elsewhere the
    network has their power); neither does reactive power of those with a Q(V) controller.
    Returns p_mw, q_mvar, both (n_bus,). Raises ValueError if the buses are not the network's.
    """
    from pandapower.auxiliary import _select_is_elements_numba
    from pandapower.build_bus import _calc_pq_elements_and_add_on_ppc
    from pandapower.pypower.idx_bus import bus_cols

    own = _electrical_copy(net)
    in_service = own.bus.index.to_numpy()[own.bus.in_service.to_numpy(dtype=bool)]
    if not np.array_equal(np.sort(in_service), network.member_bus):
        raise ValueError(f"{network.source}: the net's buses in service are not the network's: make the network anew")
    _set_options(own, "t")
    lookup = np.full(own.bus.index.max() + 1, network.n_bus)  # one row more for what is out of service
    lookup[network.member_bus] = network.member_row
    own._pd2ppc_lookups = {"bus": lookup, "bus_dc": np.zeros(0, dtype=np.int64)}
    own._is_elements = _select_is_elements_numba(own)
    ppc = {"bus": np.zeros((network.n_bus + 1, bus_cols))}
    _calc_pq_elements_and_add_on_ppc(own, ppc)
    s = -_consumption(ppc["bus"][:-1])[0]

    gen = own.gen[own._is_elements["gen"] & ~own.gen.slack.to_numpy(dtype=bool)]
    gen_row = lookup[gen.bus.to_numpy(dtype=np.int64)]
    held = np.isin(gen_row, network.fixed_row)
    np.add.at(s, gen_row[held], (gen.p_mw * gen.scaling).to_numpy(dtype=float)[held])
    return s.real.copy(), s.imag.copy()


def _refuse(net: Any) -> None:
    """Raises one ValueError that names every element in service that has no place in a `Network`."""
    problems = []
    for table, remedy in _REFUSED.items():
        found = net.get(table)
        if found is not None and len(found):
            in_service = (
                found.in_service.to_numpy(dtype=bool) if "in_service" in found else np.ones(len(found), dtype=bool)
            )
            if in_service.any():
                problems.append(f"{table} {_list(found.index[in_service])}: {remedy}")
    options = net.get("user_pf_options") or {}
    problems += [
        f"user_pf_options {option}: power flow with one angle reference and fixed resistances only: unset it"
        for option in _OTHER_MODELS
        if options.get(option)
    ]
    for table, column in (("trafo", "vk_percent"), ("trafo3w", "vk_hv_percent")):
        shorted = net[table].in_service & ~(net[table][column] != 0)
        if shorted.any():
            problems.append(f"{table} {_list(net[table].index[shorted])}: {column} is zero: give its nameplate value")
    ext_grid = net.ext_grid[net.ext_grid.in_service.astype(bool)]
    slack = net.gen[net.gen.in_service.astype(bool) & net.gen.slack.astype(bool)]
    if not net.bus.in_service[[*ext_grid.bus, *slack.bus]].any():
        problems.append("bus: none in service has an external grid (ext_grid, or gen with slack=True): add one")
    if problems:
        raise ValueError("the pandapower net cannot be made a network:\n" + "\n".join(f"  - {p}" for p in problems))


def _list(index: Any) -> str:
    return ", ".join(str(i) for i in index)


def _electrical_copy(net: Any) -> Any:
    """A net of its own with the electrical tables only (profiles and results can be large), on a base of 1 MVA."""
    import pandapower

    own = pandapower.create_empty_network(name=net.get("name") or "", f_hz=net.f_hz, sn_mva=1.0)
    for name, table in net.items():
        wanted = (name in own or "characteristic" in name or "curve" in name) and name not in (*_REFUSED, "controller")
        if isinstance(table, pd.DataFrame) and wanted and not name.startswith(("_", "res_")):
            own[name] = table.copy()
    own.sgen.loc[droop_sgens(net), "q_mvar"] = 0.0
    options = net.get("user_pf_options") or {}
    own.user_pf_options = copy.deepcopy({key: options[key] for key in _MODEL_OPTIONS if key in options})
    return own


def _set_options(own: Any, trafo_model: str) -> None:
    from pandapower.auxiliary import _init_runpp_options

    # No check of connectivity: it would take islands out of service, which here stay rows without a voltage.
    chosen = dict(
        algorithm="nr",
        calculate_voltage_angles=True,
        init="flat",
        max_iteration="auto",
        tolerance_mva=1e-8,
        trafo_model=trafo_model,
        trafo_loading="current",
        enforce_p_lims=False,
        enforce_q_lims=True,
        check_connectivity=False,
        voltage_depend_loads=True,
    )
    _init_runpp_options(own, **chosen, passed_parameters=chosen)


def _convert(net: Any, trafo_model: str) -> _Converted:
    from pandapower.pd2ppc import _pd2ppc

    own = _electrical_copy(net)
    _set_options(own, trafo_model)
    own._pd2ppc_lookups = {
        name: np.zeros(0, dtype=np.int64) for name in ("bus", "bus_dc", "ext_grid", "gen", "branch", "branch_dc")
    }
    try:
        ppc, _ = _pd2ppc(own)
    except (UserWarning, ValueError, ArithmeticError, NotImplementedError) as e:
        raise ValueError(f"pandapower cannot convert the net {own.name!r}: {e}") from e
    return _Converted(own, ppc["bus"], ppc["branch"], ppc["gen"])


def _column(name: str) -> int:
    from pandapower.pypower import idx_brch, idx_bus, idx_gen

    return next(int(getattr(module, name)) for module in (idx_bus, idx_brch, idx_gen) if hasattr(module, name))


def _ends(branch: NDArray[np.float64]) -> NDArray[np.int64]:
    return branch[:, [_column("F_BUS"), _column("T_BUS")]].astype(np.int64)


def _kept(branch: NDArray[np.float64], visible: NDArray[np.int64], dead: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Branches in service whose ends are; what is open at both ends connects nothing and is left out."""
    ends = _ends(branch)
    kept = (branch[:, _column("BR_STATUS")] != 0) & ~np.isin(ends, dead).any(axis=1)
    degree = np.bincount(ends[kept].ravel(), minlength=1)
    kept[kept] = (np.isin(ends[kept], visible) | (degree[ends[kept]] > 1)).any(axis=1)
    return kept


def _consumption(bus: NDArray[np.float64]) -> tuple[NDArray[np.complex128], ...]:
    """Constant-power and constant-current consumption at 1 pu (MVA) and admittance to ground of pandapower's buses."""
    p, q, g, b, z_p, z_q, i_p, i_q = (
        bus[:, _column(name)] for name in ("PD", "QD", "GS", "BS", "CZD_P", "CZD_Q", "CID_P", "CID_Q")
    )
    admittance = (g + p * z_p) + 1j * (b - q * z_q)
    return p * (1 - z_p - i_p) + 1j * q * (1 - z_q - i_q), p * i_p + 1j * q * i_q, admittance


def _elements(own: Any) -> pd.DataFrame:
    """One line per branch of pandapower's matrix, in its order: kind, element, side, rated currents at both ends."""
    line, trafo, trafo3w = own.line, own.trafo, own.trafo3w
    switch = own.switch[np.asarray(own._impedance_bb_switches, dtype=bool)]
    line_ka = line.max_i_ka * line.df * line.parallel
    trafo_mva = trafo.sn_mva * trafo.parallel * trafo.df
    switch_ka = switch.in_ka if "in_ka" in switch else np.nan
    star_ka = {w: trafo3w[f"sn_{w}_mva"] / trafo3w[f"vn_{w}_kv"] / np.sqrt(3) for w in ("hv", "mv", "lv")}
    blocks: list[tuple[str, Any, int, Any, Any]] = [
        ("line", line.index, 0, line_ka, line_ka),
        ("trafo", trafo.index, 0, trafo_mva / trafo.vn_hv_kv / np.sqrt(3), trafo_mva / trafo.vn_lv_kv / np.sqrt(3)),
        ("trafo3w", trafo3w.index, 0, star_ka["hv"], np.nan),  # legs: hv to star point, star point to mv and to lv
        ("trafo3w", trafo3w.index, 1, np.nan, star_ka["mv"]),
        ("trafo3w", trafo3w.index, 2, np.nan, star_ka["lv"]),
        ("impedance", own.impedance.index, 0, np.nan, np.nan),
        ("impedance", own.xward.index, 1, np.nan, np.nan),
        ("switch", switch.index, 0, switch_ka, switch_ka),
    ]

    def column(values: Any, dtype: type) -> NDArray[Any]:
        return np.concatenate(
            [
                np.broadcast_to(np.asarray(v, dtype=dtype), len(block[1]))
                for v, block in zip(values, blocks, strict=True)
            ]
        )

    kinds, elements, sides, rated_from, rated_to = zip(*blocks, strict=True)
    return pd.DataFrame({
        "kind": column([BRANCH_KINDS.index(kind) for kind in kinds], int),
        "element": column(elements, int),
        "side": column(sides, int),
        "rated_from_ka": column(rated_from, float),
        "rated_to_ka": column(rated_to, float),
    })  # fmt: skip


def _two_ports(
    branch: NDArray[np.float64], elements: pd.DataFrame, trafo_model: str
) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
    """Two-port admittances (n, 2, 2) and iron loss forms (n, 4).

    Iron loss: let u = Vf/tap be the voltage behind the ideal transformer and y_f, y_s, y_t the pi circuit between u and
    Vt. In the pi model it is Re(y_f)|u|^2 + Re(y_t)|Vt|^2. The T model's pi circuit is the delta of its star, whose
    middle branch y_m = y_f + y_t + y_f y_t / y_s carries all of the current to ground: y_m V_m = y_f u + y_t Vt. So the
    inner voltage is V_m = (y_f u + y_t Vt) / y_m and the loss Re(y_m)|V_m|^2.
    """
    from pandapower.pypower.makeYbus import branch_vectors

    used = ("BR_R", "BR_X", "BR_R_ASYM", "BR_X_ASYM", "BR_G", "BR_B", "BR_G_ASYM", "BR_B_ASYM", "TAP", "SHIFT")
    r, x, r_asym, x_asym, g, b, g_asym, b_asym, ratio, shift = values = branch[:, [_column(name) for name in used]].T
    _require(np.isfinite(values).all(axis=0), elements, "a parameter is missing or infinite: give a value")
    z = np.stack([r + 1j * x, r + r_asym + 1j * (x + x_asym)])
    _require(np.all(z != 0, axis=0), elements, "impedance is zero: give a value, or join the buses by a closed switch")
    y = np.empty((len(branch), 2, 2), dtype=complex)
    y[:, 1, 1], y[:, 0, 0], y[:, 0, 1], y[:, 1, 0] = branch_vectors(branch, len(branch))

    iron = np.zeros((len(branch), 4))
    wound = elements.kind.isin([BRANCH_KINDS.index("trafo"), BRANCH_KINDS.index("trafo3w")]).to_numpy()
    y_f, y_t = (g + 1j * b) / 2, (g + g_asym + 1j * (b + b_asym)) / 2
    tap = np.where(ratio == 0, 1, ratio) * np.exp(1j * np.deg2rad(shift))
    if trafo_model == "pi":
        iron[wound, 0] = (y_f.real / np.abs(tap) ** 2)[wound]
        iron[wound, 1] = y_t.real[wound]
    else:
        wound &= y_f != 0
        y_f, y_t, tap, z_s = y_f[wound], y_t[wound], tap[wound], z[0, wound]
        y_m = y_f + y_t + y_f * y_t * z_s
        from_share, to_share = y_f / y_m / tap, y_t / y_m
        cross = y_m.real * from_share * to_share.conj()
        iron[wound] = np.stack(
            [y_m.real * np.abs(from_share) ** 2, y_m.real * np.abs(to_share) ** 2, cross.real, cross.imag], axis=1
        )
    return y, iron


def _require(good: Any, elements: pd.DataFrame, problem: str) -> None:
    if not good.all():
        bad = elements[~good].drop_duplicates(["kind", "element"])
        names = ", ".join(
            f"{BRANCH_KINDS[kind]} {element}" for kind, element in zip(bad.kind, bad.element, strict=True)
        )
        raise ValueError(f"the pandapower net cannot be made a network: {names}: {problem}")


def _sources(
    own: Any, bus: NDArray[np.float64], gen: NDArray[np.float64], row: NDArray[np.int64]
) -> tuple[pd.Series, pd.DataFrame]:
    """Voltages of the fixed rows; power, set-point and limits of the controlled ones, summed over generators."""
    unlimited = own._options["q_lim_default"]
    at = gen[:, _column("GEN_BUS")].astype(np.int64)
    columns = {"p_mw": "PG", "vm_pu": "VG", "q_min_mvar": "QMIN", "q_max_mvar": "QMAX"}
    table = pd.DataFrame({name: gen[:, _column(column)] for name, column in columns.items()})
    table["row"] = row[at]
    table["v_pu"] = table.vm_pu * np.exp(1j * np.deg2rad(bus[at, _column("VA")]))
    spans, slack = own._gen_order, np.zeros(len(gen), dtype=bool)
    slack[slice(*spans.get("ext_grid", (0, 0)))] = True
    if "gen" in spans:
        slack[slice(*spans["gen"])] = own.gen.slack.to_numpy(dtype=bool)[own._is_elements["gen"]]

    # Set-points at one row agree (pandapower refuses others); of nearly equal ones its power flow takes the last.
    held = table.row.isin(table.row[slack])
    fixed = table[held].drop_duplicates("row", keep="last").set_index("row").v_pu.sort_index()
    combined = {"p_mw": "sum", "vm_pu": "last", "q_min_mvar": "sum", "q_max_mvar": "sum"}
    controlled = table[~held].groupby("row").agg(combined)
    controlled.q_min_mvar = controlled.q_min_mvar.where(controlled.q_min_mvar > -unlimited, -np.inf)
    controlled.q_max_mvar = controlled.q_max_mvar.where(controlled.q_max_mvar < unlimited, np.inf)
    return fixed, controlled
