"""State estimation, one thread on one core, against power-grid-model's on the same measurements, in one run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from power_grid_model.errors import PowerGridError

from benchmarks import common
from benchmarks.kernel import LARGE, SMALL, mean_load, noisy
from lib.grid.network import BRANCH_KINDS, Network

LINEAR, NEWTON = "power-grid-model iterative linear", "power-grid-model Newton-Raphson"
V_STD, POWER_STD = 0.005, 0.02

NOTES = (
    "Measurements: magnitude (0.5 %), P and Q (2 % of the typical load) at every bus with a load or generator, P and Q "
    "into every transformer; buses without load are exact zero injections. Loads as in the kernel benchmark, noise as "
    "the sigmas say.",
    "The networks are linearised about the snapshots' mean load, as in the kernel benchmark.",
    "Time: measured values in memory, in each engine's own layout, to voltages in memory; gridsink's includes the "
    "objective of every snapshot. What is done once per network (structure, factors, observability) is left out.",
    "'patterns': the same snapshots in up to 20 parts of at least 96, each with a set of missing meters; time includes "
    "factorising and judging the observability of every set anew. power-grid-model is given NaN for a missing sensor.",
    "Optimum: largest |V - V_NR| over all buses and snapshots, V_NR power-grid-model's Newton-Raphson at the same "
    "tolerance. Its iterative linear method has another optimum than weighted least squares. Where its Newton-Raphson "
    "gives no result, it has no row.",
)


@click.command()
@click.option("--grid", "grids", multiple=True, help="Only these SimBench codes.")
@click.option("--small-snapshots", default=4800, show_default=True, help="Snapshots on low- and medium-voltage grids.")
@click.option("--large-snapshots", default=192, show_default=True, help="Snapshots on the MVLV networks.")
@click.option("--repeats", default=5, show_default=True)
@click.option("--tolerance", default=1e-8, show_default=True)
def main(grids: tuple[str, ...], small_snapshots: int, large_snapshots: int, repeats: int, tolerance: float) -> None:
    common.one_core()
    speed, optimum, raw = [], [], {}
    for code in grids or SMALL + LARGE:
        snapshots = large_snapshots if "MVLV" in code else small_snapshots
        common.say(f"{code}, {snapshots} snapshots")
        result = measure(code, snapshots, repeats, tolerance)
        speed += result["speed"]
        optimum.append(result["optimum"])
        raw[code] = result["seconds"]
    parameters: dict[str, Any] = {"small_snapshots": small_snapshots, "large_snapshots": large_snapshots}
    parameters |= {"repeats": repeats, "tolerance": tolerance}
    tables = {"ns per bus and snapshot, one core": speed, "distance of the optimum, per unit": optimum}
    common.write("estimation", parameters, tables, NOTES, raw)


def measure(code: str, snapshots: int, repeats: int, tolerance: float) -> dict[str, Any]:
    """Times and optima on one grid."""
    from lib.baseline.power_grid_model_estimation import EstimationModel
    from lib.grid.estimation import Estimator
    from lib.ingest.source import simbench_net

    net = simbench_net(code)
    network = Network.from_pandapower(net)
    network = replace(network, s_typical_mva=mean_load(network, *noisy(network, net, snapshots)))
    table, values, zero = measurements(network, net, snapshots)
    estimator = Estimator(network, table, zero_injection=zero)
    rival = EstimationModel(network, table, zero)
    update = rival.update(values)
    gaps = with_gaps(values)
    gap_update = rival.update(gaps)

    first = min(snapshots, 96)
    ours = estimator.estimate(values[:, :first], tolerance=tolerance)
    v = ((ours.e + 1j * ours.f)[:, : network.n_bus]).transpose(0, 2, 1).reshape(-1, network.n_bus)[:first]
    linear = complex_voltage(rival.solve(values[:, :first], method="iterative_linear", tolerance=tolerance))
    reference = None
    try:
        reference = complex_voltage(rival.solve(values[:, :first], method="newton_raphson", tolerance=tolerance))
    except PowerGridError as e:
        common.say(f"  {NEWTON} gives no result: {str(e).strip().splitlines()[0]}")
    optimum = {
        "grid": code,
        "buses": network.n_bus,
        "measurements": len(table),
        "gridsink": None if reference is None else float(np.abs(v - reference).max()),
        LINEAR: None if reference is None else float(np.abs(linear - reference).max()),
        "gridsink, linear solves": float(ours.iterations.mean()),
    }

    def anew() -> Any:
        estimator.forget_patterns()
        return estimator.estimate(gaps, tolerance=tolerance)

    rivals = {
        "gridsink": lambda: estimator.estimate(values, tolerance=tolerance),
        "gridsink, bad data tested": lambda: estimator.estimate(values, tolerance=tolerance, bad_data_alpha=0.005),
        LINEAR: lambda: rival.run(update, method="iterative_linear", tolerance=tolerance),
        NEWTON: lambda: rival.run(update, method="newton_raphson", tolerance=tolerance),
        "gridsink, patterns": anew,
        f"{LINEAR}, patterns": lambda: rival.run(gap_update, method="iterative_linear", tolerance=tolerance),
    }
    if reference is None:
        del rivals[NEWTON]
    seconds = common.interleaved(rivals, repeats)
    median = {name: common.median(times) for name, times in seconds.items()}
    per = 1e9 / (network.n_bus * snapshots)
    speed = [
        {
            "grid": code,
            "buses": network.n_bus,
            "snapshots": snapshots,
            "engine": name,
            "ns": median[name] * per,
            "lowest": min(times) * per,
            "highest": max(times) * per,
            "gridsink is faster by": median[name] / median["gridsink, patterns" if "patterns" in name else "gridsink"],
        }
        for name, times in seconds.items()
    ]
    common.say(
        f"  {median['gridsink'] * per:.1f} ns, linear {median[LINEAR] / median['gridsink']:.1f}x, Newton "
        f"{median.get(NEWTON, np.nan) / median['gridsink']:.1f}x, patterns "
        f"{median[f'{LINEAR}, patterns'] / median['gridsink, patterns']:.1f}x"
    )
    return {"speed": speed, "optimum": optimum, "seconds": seconds}


def complex_voltage(voltages: Any) -> NDArray[np.complex128]:
    return np.asarray(voltages.vm_pu * np.exp(1j * voltages.va_rad))


def measurements(
    network: Network, net: Any, snapshots: int, seed: int = 2
) -> tuple[pd.DataFrame, NDArray[np.float64], list[int]]:
    """Meters at loads and transformers, what they read, and the buses of zero injection."""
    from lib.grid.powerflow import solve

    p, q = (x.astype(np.float64) for x in noisy(network, net, snapshots))
    flow = solve(network, p, q, tolerance=1e-10)
    if not flow.converged.all():
        raise RuntimeError(f"{network.source}: {(~flow.converged).sum()} snapshots have no solution")
    branches = flow.branches()
    busy = np.setdiff1d(np.flatnonzero(((p != 0) | (q != 0)).any(axis=1)), network.fixed_row)
    size = np.maximum(np.hypot(p[busy], q[busy]).mean(axis=1), 1e-4) * POWER_STD
    lines: list[tuple[Any, ...]] = []
    readings = []
    for kind, deviation, what in (("v", np.full(len(busy), V_STD), flow.vm_pu), ("p", size, -p), ("q", size, -q)):
        lines += [(kind, "bus", int(bus), None, s) for bus, s in zip(network.bus_ids[busy], deviation, strict=True)]
        readings.append(what[busy])
    trafos = np.flatnonzero(network.branch_kind == BRANCH_KINDS.index("trafo"))
    through = np.maximum(np.hypot(branches.p_from_mw, branches.q_from_mvar)[trafos].mean(axis=1), 1e-3) * POWER_STD
    for kind, what in (("p", branches.p_from_mw), ("q", branches.q_from_mvar)):
        elements = network.branch_element[trafos]
        lines += [(kind, "trafo", int(e), "hv", s) for e, s in zip(elements, through, strict=True)]
        readings.append(what[trafos])
    columns = ["measurement_type", "element_type", "element", "side", "std_dev"]
    table = pd.DataFrame(lines, columns=columns)
    values = np.concatenate(readings)
    values += table.std_dev.to_numpy()[:, None] * np.random.default_rng(seed).standard_normal(values.shape)
    idle = np.setdiff1d(np.arange(network.n_bus), np.concatenate([busy, network.fixed_row]))
    return table, values, network.member_bus[np.isin(network.member_row, idle)].tolist()


def with_gaps(values: NDArray[np.float64], share: float = 0.02) -> NDArray[np.float64]:
    """Values with NaN for the magnitudes of some meters, another set in every part of the snapshots."""
    patterns = min(20, max(1, values.shape[1] // 96))
    rng = np.random.default_rng(3)
    out = values.copy()
    n_magnitude = len(values) // 4
    for part in np.array_split(np.arange(values.shape[1]), patterns):
        missing = rng.choice(n_magnitude, max(1, int(share * len(values))), replace=False)
        out[np.ix_(missing, part)] = np.nan
    return out


if __name__ == "__main__":
    main()
