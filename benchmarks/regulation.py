"""A year of a SimBench grid with an on-load tap changer at its substation and Q(V) inverters, on one core, against
power-grid-model with its tap regulator and pandapower's control loop, in one run."""

from __future__ import annotations

import copy
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import common
from lib.grid.network import Network
from lib.grid.powerflow import PowerFlow, SlotStatus
from lib.grid.regulators import IEEE_1547_QV_B, Inverters, with_regulators

GRIDS = ("1-MV-semiurb--0-sw", "1-LV-rural3--0-sw")
SET_PU = {"1-MV-semiurb--0-sw": 1.0, "1-LV-rural3--0-sw": 1.005}
"""Some snapshots are in the band at the nominal position, some have to move."""
TOLERANCE_PU = 1e-3
"""Beyond half a step to either side of the set-point, as DiscreteTapControl.from_tap_step_percent makes its band."""
PGM, PANDAPOWER = "power-grid-model, tap regulator", "pandapower, run_control"
METHODS = {PGM: "newton_raphson", f"{PGM}, iterative current": "iterative_current"}

NOTES = (
    "Grids as SimBench gives them with every load and generator on its profile of 2016 (35,136 quarter-hours), p and "
    "q float32 in memory. Tap changer: the substation's transformers regulate their low-voltage side to a set-point, "
    "half a step and 0.001 pu to either side, from the position that the data hold. Inverters: every static "
    "generator with IEEE 1547-2018's default Q(V) of category B, on top of its own reactive power.",
    "Time: injections in memory to voltages (and taps) in memory, tolerance 1e-8, network built and factorised at its "
    "own taps beforehand, as for the rivals; factorising at other taps is part of it, every run anew, and shown "
    "as a share.",
    "power-grid-model: transformers with transformer_tap_regulator, strategy any_valid_tap (binary search from the "
    "nominal position), one thread, by Newton-Raphson, its default, and by iterative current, the faster. It has no "
    "droop, so it is compared with the tap part alone. 'same tap': snapshots in which both end at the same positions; "
    "a band of a step and a bit may hold two.",
    "pandapower: run_control with DiscreteTapControl, one snapshot after the other; its year is extrapolated from a "
    "few snapshots, evenly spread.",
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A grid of the benchmark and its year."""

    net: Any
    network: Network
    p_mw: NDArray[np.float32]
    q_mvar: NDArray[np.float32]


@click.command()
@click.option("--grid", "grids", multiple=True, help="Only these SimBench codes.")
@click.option("--snapshots", default=35_136, show_default=True)
@click.option("--pandapower-snapshots", default=24, show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(grids: tuple[str, ...], snapshots: int, pandapower_snapshots: int, repeats: int) -> None:
    common.one_core()
    speed, agreement, raw = [], [], {}
    for code in grids or GRIDS:
        common.say(f"{code}, {snapshots} snapshots")
        result = measure(code, snapshots, pandapower_snapshots, repeats)
        speed += result["speed"]
        agreement += result["agreement"]
        raw[code] = result["seconds"]
    parameters = {"snapshots": snapshots, "pandapower_snapshots": pandapower_snapshots, "repeats": repeats}
    tables = {"a year of regulated power flow, one core": speed, "the same results": agreement}
    common.write("regulation", parameters, tables, NOTES, raw)


def measure(code: str, snapshots: int, pandapower_snapshots: int, repeats: int) -> dict[str, Any]:
    """Times and agreement on one grid."""
    case = load(code, snapshots)
    net, network, p, q = case.net, case.network, case.p_mw, case.q_mvar
    sgen = net.sgen[net.sgen.in_service]
    inverters = Inverters.alike(sgen.bus.map(network.row_of).to_numpy(), sgen.sn_mva.to_numpy(), IEEE_1547_QV_B)
    fixed = dataclasses.replace(network, tap_changers=type(network.tap_changers)())
    variants = {
        "gridsink, taps fixed, no droop": fixed,
        "gridsink, tap changer": network,
        "gridsink, Q(V)": with_regulators(fixed, inverters=inverters),
        "gridsink, tap changer and Q(V)": with_regulators(network, inverters=inverters),
    }
    flows: dict[str, PowerFlow] = {}
    factorising = {name: 0.0 for name in variants}

    def run(name: str, own: Network) -> Callable[[], None]:
        def once() -> None:
            fresh = dataclasses.replace(own)  # without the factorisations of other runs
            fresh.__dict__["factorisation"] = own.factorisation
            with Stopwatch() as spent:
                flows[name] = solve_year(fresh, p, q, flows.get(name))
            factorising[name] = spent[0]

        return once

    rivals = {name: run(name, own) for name, own in variants.items()}
    model = TapModel(net, network, p, q)
    rivals |= {name: functools.partial(model.run, method) for name, method in METHODS.items()}
    seconds = common.interleaved(rivals, repeats)
    picked = np.linspace(0, snapshots - 1, pandapower_snapshots).astype(int)
    pandapower_loop(net, network, p[:, :1], q[:, :1])
    begin = time.perf_counter()
    looped = pandapower_loop(net, network, p[:, picked], q[:, picked])
    per_snapshot = (time.perf_counter() - begin) / len(picked)
    seconds[PANDAPOWER] = [per_snapshot * snapshots]

    regulated = common.median(seconds["gridsink, tap changer"])
    speed = []
    for name, times in seconds.items():
        flow = flows.get(name)
        speed.append({
            "grid": code, "buses": network.n_bus, "snapshots": snapshots, "engine": name,
            "seconds": common.median(times),
            "ns per bus and snapshot": common.median(times) * 1e9 / network.n_bus / snapshots,
            "times the tap part": common.median(times) / regulated,
            "refactorising, % of time": 100 * factorising[name] / common.median(times) if flow else None,
            "tap vectors": len(np.unique(flow.tap_pos, axis=1).T) if flow and len(flow.tap_pos) else None,
            "solves per snapshot": float(flow.iterations.mean()) if flow else None,
            "by Newton": int((flow.status == SlotStatus.NEWTON).sum()) if flow else None,
            "hunting": int((flow.status == SlotStatus.HUNTING).sum()) if flow else None,
            "extrapolated from": len(picked) if name == PANDAPOWER else None,
        })  # fmt: skip
    flow = flows["gridsink, tap changer"]
    agreement = [
        compare(code, PGM, flow, np.arange(snapshots), *model.result()),
        compare(code, PANDAPOWER, flow, picked, *looped),
    ]
    return {"speed": speed, "agreement": agreement, "seconds": seconds}


def load(code: str, snapshots: int) -> Case:
    """The grid with controllers on its substation's transformers, and its year of injections per bus."""
    from pandapower.control import DiscreteTapControl

    from lib.ingest.source import SIMBENCH_START, from_net, simbench_net

    net = simbench_net(code)
    source = from_net(net, {"load": net.profiles["load"], "sgen": net.profiles["renewables"]}, SIMBENCH_START)
    p, q = (np.zeros((source.n_bus, snapshots), dtype=np.float32) for _ in range(2))
    meters = zip(source.meter_row, source.meter_profile, source.meter_p_kw, source.meter_q_kvar, strict=True)
    for row, profile, p_kw, q_kvar in meters:
        p[row] += p_kw / 1e3 * source.profile_p[profile, :snapshots]
        q[row] += q_kvar / 1e3 * source.profile_q[profile, :snapshots]
    net.trafo["tap_changer_type"] = "Ratio"
    for element in net.trafo.index:
        DiscreteTapControl.from_tap_step_percent(net, element, SET_PU[code], tol=TOLERANCE_PU)
    network = Network.from_pandapower(net, trafo_model="pi")
    typical = Network.from_bytes(source.network.tobytes()).s_typical_mva
    return Case(net, dataclasses.replace(network, s_typical_mva=typical), p, q)


def solve_year(network: Network, p: NDArray[Any], q: NDArray[Any], out: PowerFlow | None) -> PowerFlow:
    from lib.grid.powerflow import solve

    return solve(network, p, q, max_iterations=30, out=out)


class Stopwatch:
    """Seconds spent factorising at other taps while it is open."""

    def __enter__(self) -> list[float]:
        from lib.grid import regulation

        self.module, self.plain = regulation, regulation.factorise
        spent = [0.0]

        def timed(*arguments: Any) -> Any:
            begin = time.perf_counter()
            try:
                return self.plain(*arguments)
            finally:
                spent[0] += time.perf_counter() - begin

        regulation.factorise = timed
        return spent

    def __exit__(self, *_: Any) -> None:
        self.module.factorise = self.plain


class TapModel:
    """power-grid-model with the same admittances, its substation's transformers as regulated components."""

    def __init__(self, net: Any, network: Network, p: NDArray[Any], q: NDArray[Any]) -> None:
        import power_grid_model as pgm

        from lib.baseline.power_grid_model import BatchModel

        self.pgm, self.network = pgm, network
        kind, changers = pgm.ComponentType, network.tap_changers
        batch = BatchModel(
            dataclasses.replace(network, tap_changers=type(changers)()), np.any((p != 0) | (q != 0), axis=1)
        )
        self.update = batch.update(p, q)
        plain = np.ones(network.n_branch, dtype=bool)
        plain[changers.branch] = False
        given = dict(batch.input)
        given[kind.generic_branch] = given[kind.generic_branch][plain]
        first = 1 + max(int(component["id"].max(initial=0)) for component in given.values())
        t = net.trafo.loc[network.branch_element[changers.branch]]
        trafos = pgm.initialize_array(pgm.DatasetType.input, kind.transformer, len(t))
        regulators = pgm.initialize_array(pgm.DatasetType.input, kind.transformer_tap_regulator, len(t))
        clock = np.round(t.shift_degree / 30).to_numpy().astype(int) % 12
        odd = clock % 2 == 1
        columns = {
            "id": first + np.arange(len(t)), "from_node": network.branch_from[changers.branch],
            "to_node": network.branch_to[changers.branch], "from_status": 1, "to_status": 1,
            "u1": t.vn_hv_kv * 1e3, "u2": t.vn_lv_kv * 1e3, "sn": t.sn_mva * t.parallel * 1e6,
            "uk": t.vk_percent / 100, "pk": t.vkr_percent / 100 * t.sn_mva * t.parallel * 1e6,
            "i0": t.i0_percent / 100, "p0": t.pfe_kw * t.parallel * 1e3,
            "winding_from": pgm.WindingType.wye,
            "winding_to": np.where(odd, pgm.WindingType.delta, pgm.WindingType.wye), "clock": clock,
            "tap_side": changers.end, "tap_pos": changers.tap_pos, "tap_min": changers.tap_min,
            "tap_max": changers.tap_max, "tap_nom": changers.tap_neutral,
            "tap_size": changers.tap_step_percent / 100 * np.where(changers.end == 0, t.vn_hv_kv, t.vn_lv_kv) * 1e3,
        }  # fmt: skip
        for name, value in columns.items():
            trafos[name] = value
        low, high = changers.vm_lower_pu, changers.vm_upper_pu
        rated = network.vn_kv[changers.regulated_row] * 1e3
        columns = {
            "id": first + len(t) + np.arange(len(t)), "regulated_object": trafos["id"], "status": 1,
            "control_side": pgm.BranchSide.to_side, "u_set": (low + high) / 2 * rated, "u_band": (high - low) * rated,
        }  # fmt: skip
        for name, value in columns.items():
            regulators[name] = value
        given[kind.transformer], given[kind.transformer_tap_regulator] = trafos, regulators
        self.model = pgm.PowerGridModel(given)

    def run(self, method: str) -> None:
        kind = self.pgm.ComponentType
        self.last = self.model.calculate_power_flow(
            update_data=self.update, error_tolerance=1e-8, threading=-1, calculation_method=method,
            max_iterations=100,
            output_component_types={kind.node: ["u_pu"], kind.transformer_tap_regulator: ["tap_pos"]},
            tap_changing_strategy=self.pgm.TapChangingStrategy.any_valid_tap,
        )  # fmt: skip

    def result(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """vm_pu (n_bus, n_snapshot) and taps (k, n_snapshot) of the last run."""
        kind = self.pgm.ComponentType
        vm = self.last[kind.node]["u_pu"][:, : self.network.n_bus].T
        return vm, self.last[kind.transformer_tap_regulator]["tap_pos"].T.astype(np.int64)


def pandapower_loop(
    net: Any, network: Network, p: NDArray[Any], q: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """vm_pu (n_bus, n) and taps (k, n), one run_control after the other, each from the taps of the data."""
    import pandapower as pp

    own = copy.deepcopy(net)
    for table in ("load", "sgen", "storage"):
        own[table] = own[table].iloc[:0]
    pp.create_loads(own, buses=network.bus_ids, p_mw=0.0, q_mvar=0.0)
    element = network.branch_element[network.tap_changers.branch]
    vm, taps = np.empty(p.shape), np.empty((len(element), p.shape[1]), dtype=np.int64)
    for t in range(p.shape[1]):
        own.load["p_mw"], own.load["q_mvar"] = -p[:, t].astype(float), -q[:, t].astype(float)
        own.trafo["tap_pos"] = net.trafo.tap_pos
        pp.runpp(own, run_control=True, trafo_model="pi", calculate_voltage_angles=True)
        vm[:, t] = own.res_bus.vm_pu.reindex(network.bus_ids)
        taps[:, t] = own.trafo.tap_pos.loc[element]
    return vm, taps


def compare(
    code: str, name: str, flow: PowerFlow, picked: NDArray[np.int64], vm: NDArray[np.float64], taps: NDArray[np.int64]
) -> dict[str, Any]:
    own, changers = flow.tap_pos[:, picked], flow.network.tap_changers
    same = (own == taps).all(axis=0)
    at = vm[changers.regulated_row]
    inside = (at >= changers.vm_lower_pu[:, None] - 1e-6) & (at <= changers.vm_upper_pu[:, None] + 1e-6)
    ours = flow.vm_pu[changers.regulated_row][:, picked]
    own_inside = (ours >= changers.vm_lower_pu[:, None]) & (ours <= changers.vm_upper_pu[:, None])
    return {
        "grid": code, "rival": name, "snapshots": len(picked), "same tap, %": 100 * same.mean(),
        "largest difference there, pu": float(np.abs(flow.vm_pu[:, picked][:, same] - vm[:, same]).max()),
        "gridsink in band, %": 100 * own_inside.all(axis=0).mean(), "rival in band, %": 100 * inside.all(axis=0).mean(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
