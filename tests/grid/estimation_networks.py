"""The networks and measurement sets by which pandapower tests its own state estimation, and SimBench's own meters.

Parameters, sigmas and seeds are those of pandapower 3.5 (pandapower/test/estimation). Every function returns a net with
`net.measurement` filled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandapower as pp
import pandapower.estimation.util
import pandapower.networks

Gauss = Callable[[float, float], float]


def _grid(vn_kv: Iterable[float], lines: Iterable[tuple[int, int, float, float, float]], slack: int = 0) -> Any:
    """Buses, and lines (from, to, r_ohm, x_ohm, c_nf) of 1 km."""
    net = pp.create_empty_network()
    for kv in vn_kv:
        pp.create_bus(net, kv)
    pp.create_ext_grid(net, slack)
    for a, b, r, x, c in lines:
        pp.create_line_from_parameters(net, a, b, 1, r, x, c, 1)
    return net


def _meter(net: Any, kind: str, where: str, element: int, value: float, sigma: float, side: str | None = None) -> None:
    pp.create_measurement(net, kind, where, value, sigma, element, side)


def _relative(rng: np.random.RandomState) -> Callable[..., float]:
    """Factors around 1."""
    return lambda sigma=0.03: rng.normal(1.0, sigma)


def two_buses() -> Any:
    net = _grid((1, 1), [(0, 1, 1, 0.5, 0)])
    _meter(net, "p", "line", 0, 0.0111, 0.05, "from")
    _meter(net, "q", "line", 0, 0.06, 0.05, "from")
    _meter(net, "v", "bus", 0, 1.019, 0.01)
    _meter(net, "v", "bus", 1, 1.04, 0.01)
    return net


def three_buses(*, wrong: bool = False) -> Any:
    """wrong: with the magnitude that is no good."""
    net = _grid((1, 1, 1), [(0, 1, 0.7, 0.2, 0), (0, 2, 0.8, 0.8, 0), (1, 2, 1, 0.6, 0)])
    for kind, flow, load in (("p", -0.0011, -0.018), ("q", 0.024, 0.1)):
        _meter(net, kind, "line", 0, flow, 0.01, "from")
        _meter(net, kind, "bus", 2, load, 0.01)
    _meter(net, "v", "bus", 0, 1.08, 0.05)
    _meter(net, "v", "bus", 2, 1.015, 0.05)
    if wrong:
        _meter(net, "v", "bus", 1, 1.3, 0.01)
    return net


def textbook(*, twice: bool = False) -> Any:
    """Abur, Exposito: power system state estimation, p. 20; with a bus out of service, as pandapower has it.

    twice: with a second external grid that feeds the same again.
    """
    sections = [(0, 1, 0.01, 0.03, 0), (0, 2, 0.02, 0.05, 0), (1, 2, 0.03, 0.08, 0)]
    net = _grid((1, 1, 1, 1), sections)
    net.bus.loc[3, "in_service"] = False
    starts = [(0, 0)]
    if twice:
        for _ in range(3):
            pp.create_bus(net, 1.0, index=len(net.bus) + 1)
        pp.create_ext_grid(net, 5)
        for a, b, r, x, c in sections:
            pp.create_line_from_parameters(net, 5 + a, 5 + b, 1, r, x, c, 1)
        starts.append((5, 3))
    for bus, line in starts:
        _meter(net, "v", "bus", bus, 1.006, 0.004)
        _meter(net, "v", "bus", bus + 1, 0.968, 0.004)
        for kind, load, flows in (("p", 0.501, (0.888, 1.173)), ("q", 0.286, (0.568, 0.663))):
            _meter(net, kind, "bus", bus + 1, load, 0.01)
            for k in range(2):
                _meter(net, kind, "line", line + k, flows[k], 0.008, "from")
    return net


def three_buses_and_transformer() -> Any:
    gauss = np.random.RandomState(12).normal
    net = _grid((10, 10, 10, 110), [(0, 1, 0.01, 0.03, 0), (0, 2, 0.02, 0.05, 0), (1, 2, 0.03, 0.08, 0)], slack=3)
    net.ext_grid.vm_pu = 1.01
    _old_transformer(net, 3, 0, 25, 10.04, 0.276, 28.51, 0.073)
    pp.create_load(net, 1, 0.45, 0.3)
    pp.create_load(net, 2, 0.35, 0.2)
    pp.runpp(net, calculate_voltage_angles=True)
    for bus in (0, 1, 3):
        _meter(net, "v", "bus", bus, gauss(net.res_bus.vm_pu[bus], 0.004), 0.004)
    for bus in (1, 2):
        _meter(net, "p", "bus", bus, gauss(net.res_bus.p_mw[bus], 0.01), 0.01)
        _meter(net, "q", "bus", bus, gauss(net.res_bus.q_mvar[bus], 0.01), 0.01)
    for kind in "pq":
        _meter(net, kind, "bus", 0, 0.0, 0.001)
    for line in (0, 1):
        _meter(net, "p", "line", line, gauss(net.res_line.p_from_mw[line], 0.008), 0.008, "from")
    _meter(net, "p", "trafo", 0, gauss(net.res_trafo.p_hv_mw[0], 0.01), 0.01, "hv")
    _meter(net, "q", "trafo", 0, gauss(net.res_trafo.q_hv_mvar[0], 0.01), 0.01, "hv")
    return net


def _old_transformer(
    net: Any, hv: int, lv: int, sn_mva: float, vk: float, vkr: float, pfe_kw: float, i0: float, **more: Any
) -> None:
    pp.create_transformer_from_parameters(
        net, hv, lv, sn_mva, 110, 10, vkr, vk, pfe_kw, i0, shift_degree=150, tap_side="hv", tap_neutral=0, tap_min=-9,
        tap_max=9, tap_step_degree=0, tap_step_percent=1.5, tap_pos=0, tap_changer_type="Ratio", **more,
    )  # fmt: skip


def three_buses_with_flows(*, currents: bool) -> Any:
    """Flows at both ends of a line, or currents: these read amperes for kiloamperes, in pandapower's test too."""
    net = textbook()
    net.measurement = net.measurement.iloc[:0]
    factor = _relative(np.random.RandomState(1 if currents else 2017))
    pp.create_load(net, 1, 0.495974966, 0.297749528)
    pp.create_load(net, 2, 1.514220983, 0.787528929)
    pp.runpp(net)

    def power(where: str, element: int, value: float, kind: str, side: str | None = None) -> None:
        _meter(net, kind, where, element, value * factor(), max(1e-3, abs(0.03 * value)), side)

    for bus, at in ((0, 0), (2, 1)):
        _meter(net, "v", "bus", at, net.res_bus.vm_pu[bus] * factor(0.01), 0.01)
    for bus in (0, 2):
        power("bus", bus, net.res_bus.p_mw[bus], "p")
        power("bus", bus, net.res_bus.q_mvar[bus], "q")
    for side in ("from",) if currents else ("from", "to"):
        power("line", 0, net.res_line[f"p_{side}_mw"][0], "p", side)
        power("line", 0, net.res_line[f"q_{side}_mvar"][0], "q", side)
    for line in (0, 1) if currents else ():
        i = net.res_line.i_from_ka[line]
        _meter(net, "i", "line", line, i * 1e3 * factor(), max(1.0, abs(30 * i)), "from")
    return net


def cigre(*, wrong: bool = False) -> Any:
    """wrong: no meter at bus 2, and a magnitude at bus 6 that is no good."""
    rng = np.random.RandomState(123456)
    factor = _relative(rng)
    net = pandapower.networks.create_cigre_network_mv(with_der=False)
    if wrong:
        net.load.q_mvar = [p * np.tan(np.arccos(rng.choice([0.95, 0.9, 0.97]))) for p in net.load.p_mw]
    pp.runpp(net)
    for bus, row in net.res_bus.drop(index=[2] if wrong else []).iterrows():
        if not (wrong and bus == 6):
            _meter(net, "v", "bus", bus, row.vm_pu * factor(0.01), 0.01)
        _meter(net, "p", "bus", bus, row.p_mw * factor(), max(0.001, abs(0.03 * row.p_mw)))
        _meter(net, "q", "bus", bus, row.q_mvar * factor(), max(0.001, abs(0.03 * row.q_mvar)))
    if wrong:
        _meter(net, "v", "bus", 6, 0.85, 0.01)
    return net


def several_transformers() -> Any:
    factor = _relative(np.random.RandomState(123))
    net = _grid((220, 110, 110, 110, 10, 10, 10, 10), [])
    net.bus.loc[7, "in_service"] = False
    net.ext_grid.loc[0, ["vm_pu", "va_degree"]] = 1.04, 10.0
    _old_transformer(net, 3, 7, 63, 10.04, 0.31, 31.51, 0.078, in_service=False)
    _old_transformer(net, 3, 4, 63, 10.04, 0.31, 31.51, 0.078)
    pp.create_transformer(net, 0, 1, "100 MVA 220/110 kV")
    for a, b in ((1, 2), (1, 3)):
        pp.create_line(net, a, b, 2.0, "N2XS(FL)2Y 1x120 RM/35 64/110 kV")
    for a, b in ((4, 5), (5, 6)):
        pp.create_line(net, a, b, 2.0, "NA2XS2Y 1x95 RM/25 12/20 kV")
    for bus, p, q in ((2, 5, 3.3), (5, 0.9, 0.5), (6, 0.7, 0.3)):
        pp.create_load(net, bus, p, q)
    pp.runpp(net, calculate_voltage_angles=True)
    for bus, row in net.res_bus[net.bus.in_service].iterrows():
        _meter(net, "v", "bus", bus, row.vm_pu * factor(0.01), 0.01)
        if np.isclose(row.p_mw, 0.0):
            _meter(net, "p", "bus", bus, row.p_mw * factor(), max(0.001, abs(0.03 * row.p_mw)))
            _meter(net, "q", "bus", bus, row.q_mvar * factor(), max(0.0001, abs(0.03 * row.q_mvar)))
    for line in (0, 2, 3):
        _meter(net, "p", "line", line, net.res_line.p_from_mw[line], 0.01, "from")
        _meter(net, "q", "line", line, net.res_line.q_from_mvar[line], 0.01, "from")
    return net


def three_windings(*, synchrophasors: bool = False) -> Any:
    net = _grid((110, 20, 10, 10), [])
    pp.create_sgen(net, 1, 0.03, 0.02)
    pp.create_sgen(net, 2, 0.02, 0.02)
    pp.create_load(net, 3, 0.06, 0.01)
    pp.create_line(net, 2, 3, 2, "149-AL1/24-ST1A 10.0")
    pp.create_transformer3w(net, 0, 1, 2, "63/25/38 MVA 110/20/10 kV")
    pp.runpp(net)
    if synchrophasors:  # without its currents, which are near zero: no direction
        pandapower.estimation.util.add_virtual_pmu_meas_from_loadflow(net, with_random_error=False)
        net.measurement = net.measurement[~net.measurement.measurement_type.isin(["i", "ia"])]
        return net
    sides = [("line", "from", 0.001), ("line", "to", 0.001)]
    sides += [("trafo3w", "hv", 0.001), ("trafo3w", "mv", 0.002), ("trafo3w", "lv", 0.001)]
    for table, side, sigma in sides:
        result = net[f"res_{table}"]
        _meter(net, "p", table, 0, result[f"p_{side}_mw"][0], sigma, side)
        _meter(net, "q", table, 0, result[f"q_{side}_mvar"][0], sigma, side)
    for bus in (0, 1):
        _meter(net, "v", "bus", bus, net.res_bus.vm_pu[bus], 0.01)
    return net


def busbars() -> Any:
    """Loads at buses that switches join."""
    gauss = np.random.RandomState(5).normal
    net = _grid((10, 10, 10, 10, 110), [], slack=4)
    pp.create_line_from_parameters(net, 0, 1, 10, 0.59, 0.35, 10.1, 1)
    pp.create_transformer(net, 4, 0, "40 MVA 110/10 kV")
    for bus, p in enumerate((0.35, 0.45, 0.25, 0.15)):
        pp.create_load(net, bus, p, 0.1)
    pp.create_switch(net, 1, 2, "b")
    pp.create_switch(net, 0, 3, "b")
    pp.runpp(net, calculate_voltage_angles=True)
    for bus in (0, 2, 4):
        _meter(net, "v", "bus", bus, gauss(net.res_bus.vm_pu[bus], 0.002), 0.002)
    for bus, sigma in ((4, 0.002), (3, 0.002), (2, 0.001), (1, 0.001), (0, 0.001)):
        _meter(net, "p", "bus", bus, gauss(net.res_bus.p_mw[bus], sigma), sigma)
        _meter(net, "q", "bus", bus, gauss(net.res_bus.q_mvar[bus], sigma), sigma)
    _flows_of_the_feed(net, gauss)
    return net


def _flows_of_the_feed(net: Any, gauss: Gauss) -> None:
    _meter(net, "p", "line", 0, gauss(net.res_line.p_from_mw[0], 0.002), 0.002, "from")
    _meter(net, "q", "line", 0, gauss(net.res_line.q_from_mvar[0], 0.002), 0.002, "from")
    _meter(net, "p", "trafo", 0, gauss(net.res_trafo.p_hv_mw[0], 0.001), 0.01, "hv")
    _meter(net, "q", "trafo", 0, gauss(net.res_trafo.q_hv_mvar[0], 0.001), 0.01, "hv")


def zero_injection() -> Any:
    """Nothing is fed in or drawn at bus 1."""
    z, c = 48.4, 1e9 / (48.4 * 2 * np.pi * 50)
    sections = [(0, 1, 0.0221, 0.1603, 0.00274), (1, 2, 0.0428, 0.242, 0.00384), (1, 3, 0.002, 0.0111, 0.00018)]
    net = _grid((220,) * 4, [(a, b, r * z, x * z, y * c) for a, b, r, x, y in sections])
    for bus, v in ((0, 1.063548), (2, 1.068342), (3, 1.069861)):
        _meter(net, "v", "bus", bus, v, 0.001)
    for bus, p, q in ((0, 40.0, 9.2), (2, -10.0, -1.0), (3, -30.0, 0.1)):
        _meter(net, "p", "bus", bus, p, 1)
        _meter(net, "q", "bus", bus, q, 1)
    _meter(net, "p", "line", 2, 30.1, 1, "to")
    _meter(net, "q", "line", 2, -0.099, 1, "to")
    return net


def open_end() -> Any:
    """A line whose far bus is out of service."""
    gauss = np.random.RandomState(7).normal
    net = _grid((10, 10, 10, 110), [], slack=3)
    for a, b in ((0, 1), (1, 2)):
        pp.create_line_from_parameters(net, a, b, 10, 0.59, 0.35, 10.1, 1)
    pp.create_transformer(net, 3, 0, "40 MVA 110/10 kV")
    for bus, p in enumerate((0.35, 0.45, 0.25)):
        pp.create_load(net, bus, p, 0.1)
    net.bus.loc[2, "in_service"] = False
    pp.runpp(net, calculate_voltage_angles=True)
    for bus in (0, 3):
        _meter(net, "v", "bus", bus, gauss(net.res_bus.vm_pu[bus], 0.002), 0.002)
    for bus, sigma in ((3, 0.002), (1, 0.001), (0, 0.001)):
        _meter(net, "p", "bus", bus, gauss(net.res_bus.p_mw[bus], sigma), sigma)
        _meter(net, "q", "bus", bus, gauss(net.res_bus.q_mvar[bus], sigma), sigma)
    _flows_of_the_feed(net, gauss)
    return net


def line_out_of_service() -> Any:
    net = pandapower.networks.case9()
    net.line.loc[net.line.index[4], "in_service"] = False
    pp.runpp(net)
    for line, row in net.res_line[net.line.in_service].iterrows():
        _meter(net, "p", "line", line, row.p_from_mw, 0.01, "from")
        _meter(net, "q", "line", line, row.q_from_mvar, 0.01, "from")
    for bus, row in net.res_bus.iterrows():
        _meter(net, "v", "bus", bus, row.vm_pu, 0.01)
    return net


def metered_everywhere(case: str, *, synchrophasors: bool = False) -> Any:
    """One of MATPOWER's cases with pandapower's own meters at every bus and branch, with their errors."""
    net = getattr(pandapower.networks, case)()
    pp.runpp(net)
    if synchrophasors:
        pandapower.estimation.util.add_virtual_pmu_meas_from_loadflow(net)
        net.measurement = net.measurement[net.measurement.measurement_type != "ia"]
    else:
        pandapower.estimation.util.add_virtual_meas_from_loadflow(net, with_random_error=True)
    return net


def simbench_net(code: str) -> Any:
    import simbench

    return simbench.get_simbench_net(code)


def simbench(code: str) -> tuple[Any, list[int]]:
    """A SimBench net with the meters it comes with, which stand at substations and feeders, read with 1 % of noise, and
    a pseudo-measurement of 30 % for every other bus with a load or generator; and the buses without."""
    net = simbench_net(code)
    pp.runpp(net, calculate_voltage_angles=True, tolerance_mva=1e-9)
    gauss = np.random.RandomState(1).normal
    own = net.measurement
    assert len(own)
    net.measurement = own.iloc[:0]
    column = {"p": "p_{}_mw", "q": "q_{}_mvar", "i": "i_{}_ka"}
    at_bus = {"p": "p_mw", "q": "q_mvar", "v": "vm_pu"}
    for kind, where, element, side in zip(own.measurement_type, own.element_type, own.element, own.side, strict=True):
        if where != "bus" and not net[where].in_service[element]:
            continue
        name = at_bus[kind] if where == "bus" else column[kind].format(side)
        value = net[f"res_{where}"][name][element]
        sigma = 0.002 if kind == "v" else 0.01 * max(abs(value), 0.01 if kind == "i" else 0.1)
        _meter(net, kind, where, element, gauss(value, sigma), sigma, side)
    sources = {*net.ext_grid.bus, *net.gen.bus}
    busy = {*net.load.bus, *net.sgen.bus, *net.storage.bus, *sources}
    metered = set(own.element[(own.element_type == "bus") & (own.measurement_type == "p")])
    for bus in sorted(busy - sources - metered):
        p, q = net.res_bus.p_mw[bus], net.res_bus.q_mvar[bus]
        sigma = 0.3 * max(np.hypot(p, q), 1e-3)
        _meter(net, "p", "bus", bus, gauss(p, sigma), sigma)
        _meter(net, "q", "bus", bus, gauss(q, sigma), sigma)
    return net, [bus for bus in net.bus.index[net.bus.in_service] if bus not in busy | metered]
