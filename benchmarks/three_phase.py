"""The unbalanced power flow, one thread on one core, against power-grid-model's asymmetric batch and OpenDSS's loop
on the same grids and injections, in one run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import common
from benchmarks.kernel import REFERENCE_TOLERANCE, equal_tolerance

GRIDS = ("1-LV-rural1--0-sw", "1-LV-urban6--0-sw", "1-LV-rural3--0-sw", "1-MV-urban--0-sw", "ieee_european_lv")
PGM = "power-grid-model iterative current"
OPENDSS = "OpenDSS, yearly loop"

NOTES = (
    "Time: injections by phase in memory, in each engine's own layout (gridsink: float32 [bus][phase][snapshot] in MW; "
    "power-grid-model: columnar update of float64 [snapshot][load][phase] in W; OpenDSS: one load and load shape per "
    "bus and phase), to voltages of every phase in memory (gridsink: rectangular; power-grid-model: u_pu; OpenDSS: "
    "AllBusVolts after every solve). Building the network and factorising it are left out for all.",
    "Injections: the grid's own loads and generators, each bus's shares of phases drawn at random (Dirichlet 2), times "
    "independent noise from 0.2 to 1.0 per bus, phase and snapshot, active and reactive power.",
    "Model, the same for all three: sources stiff; transformers without magnetising branch, low-voltage ones Dyn, the "
    "others YNyn; where a grid has no zero-sequence data, lines have r0 = 4 r, x0 = 4 x, c0 = 0.6 c and transformers "
    "the positive sequence's impedance.",
    "Error: largest |V - V_reference| over all phases, buses and snapshots, complex, per unit; the reference is "
    "power-grid-model's Newton-Raphson at 1e-12, or as tight as it goes. OpenDSS's own tolerance is on |V| relative to "
    "its base.",
    "'at equal error': gridsink's tolerance made as much tighter as it takes to be as near to the reference as "
    "power-grid-model's iterative current is at the tolerance asked of both.",
)


@click.command()
@click.option("--grid", "grids", multiple=True, help="Only these SimBench codes, or ieee_european_lv.")
@click.option("--snapshots", default=3200, show_default=True, help="Of grids below 200 buses; a tenth on the others.")
@click.option("--opendss-snapshots", default=96, show_default=True, help="OpenDSS solves the first of them.")
@click.option("--repeats", default=5, show_default=True)
@click.option("--tolerance", default=1e-8, show_default=True)
def main(grids: tuple[str, ...], snapshots: int, opendss_snapshots: int, repeats: int, tolerance: float) -> None:
    common.one_core()
    speed, errors, raw = [], [], {}
    for code in grids or GRIDS:
        common.say(code)
        result = measure(code, snapshots, opendss_snapshots, repeats, tolerance)
        speed += result["speed"]
        errors.append(result["errors"])
        raw[code] = result["seconds"]
    parameters: dict[str, Any] = {"snapshots": snapshots, "opendss_snapshots": opendss_snapshots}
    parameters |= {"repeats": repeats, "tolerance": tolerance}
    tables = {"ns per bus and snapshot, one core": speed, "largest error of a phase's voltage, per unit": errors}
    common.write("three_phase", parameters, tables, NOTES, raw)


def grid(code: str) -> Any:
    """The pandapower net, reduced to what the three engines have in common."""
    from lib.grid.three_phase import assume_zero_sequence

    if code == "ieee_european_lv":
        import pandapower.networks

        net = pandapower.networks.ieee_european_lv_asymmetric("on_peak_566")
    else:
        from lib.ingest.source import simbench_net

        net = simbench_net(code)
    net.ext_grid["s_sc_max_mva"] = 1e12
    net = assume_zero_sequence(net, group_to_medium_voltage="YNyn")
    to_low = net.trafo.vn_lv_kv <= 1.0
    net.trafo = net.trafo.assign(
        i0_percent=0.0, pfe_kw=0.0, mag0_percent=1e12, vk0_percent=net.trafo.vk_percent,
        vkr0_percent=net.trafo.vkr_percent, vector_group=np.where(to_low, "Dyn", "YNyn"),
        shift_degree=np.where(to_low, 30.0, 0.0),
    )  # fmt: skip
    return net


def uneven(network: Any, net: Any, snapshots: int, seed: int = 1) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Injections (n_bus, 3, n_snapshot) in MW and Mvar between phase and neutral."""
    rng = np.random.default_rng(seed)
    given = network.injections(net)
    share = rng.dirichlet([2.0, 2.0, 2.0], network.n_bus)
    p, q = (
        ((a + delta).sum(axis=1)[:, None] * share)[..., None] * rng.uniform(0.2, 1.0, (network.n_bus, 3, snapshots))
        for a, delta in ((given.p_mw, given.p_delta_mw), (given.q_mvar, given.q_delta_mvar))
    )
    return p.astype(np.float32), q.astype(np.float32)


def measure(code: str, snapshots: int, opendss_snapshots: int, repeats: int, tolerance: float) -> dict[str, Any]:
    """Times and errors on one grid."""
    from lib.baseline.power_grid_model_three_phase import PhaseBatchModel
    from lib.grid.three_phase import PhaseNetwork, SequenceNetwork, solve_three_phase

    net = grid(code)
    network = SequenceNetwork.from_pandapower(net)
    n_bus = network.n_bus
    snapshots = snapshots if n_bus < 200 else snapshots // 10
    few = min(opendss_snapshots, snapshots)
    p, q = uneven(network, net, snapshots)
    typical = np.zeros((network.n_row, 3), dtype=complex)
    typical[:n_bus] = p.mean(axis=2, dtype=float) + 1j * q.mean(axis=2, dtype=float)
    positive = dataclasses.replace(network.positive, s_typical_mva=typical.sum(axis=1))
    network = dataclasses.replace(network, positive=positive, s_typical_mva=typical)
    wires = PhaseNetwork.from_sequence(network, {})
    loaded = np.any((p != 0) | (q != 0), axis=(1, 2))
    model = PhaseBatchModel(network, net, loaded)
    update = model.update(p, q)
    circuit, per_unit = opendss(network, net, p[..., :few], q[..., :few], tolerance)

    def polar(method: Any, tolerance: float) -> NDArray[np.complex128]:
        nodes = model.run(update, method=method, tolerance=tolerance, max_iterations=20, angles=True)
        return (nodes["u_pu"] * np.exp(1j * nodes["u_angle"]))[:, :n_bus].transpose(1, 2, 0)

    def own(tolerance: float, own: Any = network) -> NDArray[np.complex128]:
        return solve_three_phase(own, p, q, tolerance=tolerance, max_iterations=100).v_pu

    def error(v: NDArray[np.complex128]) -> float:
        difference = np.abs(v - reference[..., : v.shape[-1]])
        if np.isnan(difference).any():
            raise RuntimeError(f"{code}: some snapshots have no solution")
        return float(difference.max())

    reference, tightest = tight(polar)
    volts = np.stack([per_unit(v) for v in circuit.loop(few)], axis=-1)
    errors: dict[str, Any] = {
        "grid": code, "buses": n_bus, PGM: error(polar("iterative_current", tolerance)), "OpenDSS": error(volts),
        "gridsink": error(own(tolerance)), "gridsink, wire by wire": error(own(tolerance, wires)),
        "reference, cross-checked": error(own(REFERENCE_TOLERANCE)), "its tolerance": tightest,
    }  # fmt: skip
    equal = equal_tolerance(lambda t: error(own(t)), errors[PGM], tolerance)
    if equal is not None:
        errors["gridsink at equal error"], errors["at tolerance"] = error(own(equal)), equal

    kept: dict[int, Any] = {}

    def gridsink(tolerance: float, own: Any = network) -> None:  # a loop over days reuses the arrays of the day before
        last = kept.get(id(own))
        kept[id(own)] = solve_three_phase(own, p, q, tolerance=tolerance, max_iterations=100, out=last)

    rivals = {"gridsink": functools.partial(gridsink, tolerance), PGM: lambda: model.run(update, tolerance=tolerance)}
    if equal is not None:
        rivals["gridsink at equal error"] = functools.partial(gridsink, equal)
    rivals["gridsink, wire by wire"] = functools.partial(gridsink, tolerance, wires)
    rivals[OPENDSS] = lambda: [None for _ in circuit.loop(few)]
    seconds = common.interleaved(rivals, repeats)
    ns = {
        name: [1e9 * t / n_bus / (few if name == OPENDSS else snapshots) for t in times]
        for name, times in seconds.items()
    }
    speed = [
        {
            "grid": code, "buses": n_bus, "loaded": int(loaded.sum()), "engine": name,
            "snapshots": few if name == OPENDSS else snapshots,
            "ns": common.median(times), "lowest": min(times), "highest": max(times),
            "times faster than power-grid-model": common.median(ns[PGM]) / common.median(times),
            "times faster than OpenDSS": common.median(ns[OPENDSS]) / common.median(times),
        }
        for name, times in ns.items()
    ]  # fmt: skip
    common.say("  " + ", ".join(f"{name} {common.median(times):.0f} ns" for name, times in ns.items()))
    return {"speed": speed, "errors": errors, "seconds": seconds}


def tight(polar: Any) -> tuple[NDArray[np.complex128], float]:
    """power-grid-model's Newton-Raphson at the tightest tolerance that rounding lets it reach."""
    from power_grid_model.errors import PowerGridError

    for tolerance in (REFERENCE_TOLERANCE, 1e-11, 1e-10, 1e-9):
        with contextlib.suppress(PowerGridError):
            return polar("newton_raphson", tolerance), tolerance
    raise RuntimeError("power-grid-model's Newton-Raphson does not converge")


def opendss(
    network: Any, net: Any, p: NDArray[np.float32], q: NDArray[np.float32], tolerance: float
) -> tuple[Any, Any]:
    """OpenDSS's circuit with its load shapes, and what turns its node voltages into (n_bus, 3) per unit."""
    from lib.baseline.opendss import Circuit

    positive = network.positive
    source = int(positive.fixed_row[0])
    v = positive.fixed_v_pu[0]
    circuit = Circuit(
        float(positive.vn_kv[source]), float(abs(v)), float(np.degrees(np.angle(v))), source, float(net.f_hz)
    )
    circuit.network(network, net)
    profiles = {}
    for row, phase in zip(*np.nonzero(np.any((p != 0) | (q != 0), axis=2)), strict=True):
        name = f"l{row}_{phase}"
        circuit.load(name, f"b{row}.{phase + 1}", float(positive.vn_kv[row] / np.sqrt(3)), 0.0, 0.0)
        profiles[name] = (-1e3 * p[row, phase].astype(float), -1e3 * q[row, phase].astype(float))
    circuit.ready(tolerance)
    circuit.follow(profiles, p.shape[2])
    names = {name.lower(): k for k, name in enumerate(circuit.dss.ActiveCircuit.AllNodeNames)}
    place = np.array([[names[f"b{row}.{phase + 1}"] for phase in range(3)] for row in range(network.n_bus)])
    base = positive.vn_kv[: network.n_bus, None] * 1e3 / np.sqrt(3)
    return circuit, lambda volts: volts[place] / base


if __name__ == "__main__":
    main()
