"""The solver alone, one thread on one core, against power-grid-model on the same grids and injections, in one run."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import common
from lib.grid.network import Network

SMALL = ("1-LV-rural1--0-sw", "1-LV-urban6--0-sw", "1-LV-rural3--0-sw", "1-MV-urban--0-sw")
LARGE = tuple(f"1-MVLV-{kind}-all-0-sw" for kind in ("rural", "semiurb", "urban", "comm"))
RIVAL = "power-grid-model iterative current"
TIGHTER = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
REFERENCE_TOLERANCE = 1e-12

NOTES = (
    "Time: injections in memory, in each engine's own layout (gridsink: float32 [bus][snapshot] in MW, as its tables "
    "hold them; power-grid-model: columnar update of float64 [snapshot][load] in W, the same values), to voltages in "
    "memory. Building the network "
    "and factorising it once, about its mean load, is left out for both, as is checking the result.",
    "Output: gridsink's solver gives rectangular voltages of every snapshot; vm_pu and va_degree are computed where "
    "asked. power-grid-model gives u_pu, and u_angle where asked; nothing else is asked of it.",
    "Injections: the grid's own loads and generators times independent noise, uniform from 0.2 to 1.0, per bus, "
    "snapshot, active and reactive power. Sources are stiff (1e18 VA).",
    "Error: largest |V - V_reference| over all buses and snapshots, complex, per unit. The reference is "
    "power-grid-model's Newton-Raphson at 1e-12; 'reference, cross-checked' is how far gridsink at 1e-12 is from it.",
    "'at equal error': gridsink's tolerance made as much tighter as it takes to be as near to the reference as "
    "power-grid-model's iterative current is at the tolerance asked of both.",
)


@click.command()
@click.option("--grid", "grids", multiple=True, help="Only these SimBench codes.")
@click.option(
    "--small-snapshots", default=9600, show_default=True, help="Snapshots on the low- and medium-voltage grids."
)
@click.option("--large-snapshots", default=384, show_default=True, help="Snapshots on the MVLV networks.")
@click.option("--repeats", default=5, show_default=True)
@click.option("--tolerance", default=1e-8, show_default=True)
def main(grids: tuple[str, ...], small_snapshots: int, large_snapshots: int, repeats: int, tolerance: float) -> None:
    common.one_core()
    speed, errors, raw = [], [], {}
    for code in grids or SMALL + LARGE:
        snapshots = large_snapshots if "MVLV" in code else small_snapshots
        common.say(f"{code}, {snapshots} snapshots")
        result = measure(code, snapshots, repeats, tolerance)
        speed += result["speed"]
        errors.append(result["errors"])
        raw[code] = result["seconds"]
    parameters: dict[str, Any] = {"small_snapshots": small_snapshots, "large_snapshots": large_snapshots}
    parameters |= {"repeats": repeats, "tolerance": tolerance}
    tables = {"ns per bus and snapshot, one core": speed, "largest error of a voltage, per unit": errors}
    common.write("kernel", parameters, tables, NOTES, raw)


def measure(code: str, snapshots: int, repeats: int, tolerance: float) -> dict[str, Any]:
    """Times and errors on one grid."""
    from lib.baseline.power_grid_model import BatchModel
    from lib.grid.powerflow import solve
    from lib.ingest.source import simbench_net

    net = simbench_net(code)
    network = Network.from_pandapower(net)
    p, q = noisy(network, net, snapshots)
    network = dataclasses.replace(network, s_typical_mva=mean_load(network, p, q))
    model = BatchModel(network, np.any((p != 0) | (q != 0), axis=1))
    update = model.update(p, q)

    def rectangular(tolerance: float) -> NDArray[np.complex128]:
        result = solve(network, p, q, tolerance=tolerance, max_iterations=100)
        v = (result.e + 1j * result.f)[:, : network.n_bus]
        return v.transpose(0, 2, 1).reshape(-1, network.n_bus)[:snapshots]

    def polar(method: Any, tolerance: float) -> NDArray[np.complex128]:
        nodes = model.run(update, method=method, tolerance=tolerance, angles=True)
        return (nodes["u_pu"] * np.exp(1j * nodes["u_angle"]))[:, : network.n_bus]

    def error(v: NDArray[np.complex128]) -> float:
        difference = np.abs(v - reference)
        if np.isnan(difference).any():
            raise RuntimeError(f"{code}: {np.isnan(difference).any(axis=1).sum()} snapshots have no solution")
        return float(difference.max())

    reference = polar("newton_raphson", REFERENCE_TOLERANCE)
    errors: dict[str, Any] = {
        "grid": code,
        "buses": network.n_bus,
        RIVAL: error(polar("iterative_current", tolerance)),
        "power-grid-model Newton-Raphson": error(polar("newton_raphson", tolerance)),
        "gridsink": error(rectangular(tolerance)),
        "reference, cross-checked": error(rectangular(REFERENCE_TOLERANCE)),
    }
    equal = equal_tolerance(lambda t: error(rectangular(t)), errors[RIVAL], tolerance)
    if equal is not None:
        errors["gridsink at equal error"] = error(rectangular(equal))
        errors["its tolerance"] = equal

    kept = None

    def gridsink(tolerance: float) -> Any:
        nonlocal kept  # a loop over days reuses the arrays of the day before
        kept = solve(network, p, q, tolerance=tolerance, max_iterations=100, out=kept)
        return kept

    rivals = {
        "gridsink": lambda: gridsink(tolerance),
        RIVAL: lambda: model.run(update, tolerance=tolerance),
        "gridsink, magnitudes": lambda: gridsink(tolerance).vm_pu,
        f"{RIVAL}, angles": lambda: model.run(update, tolerance=tolerance, angles=True),
        "gridsink, magnitudes and angles": lambda: (r := gridsink(tolerance)).vm_pu[0, 0] + r.va_degree[0, 0],
        "power-grid-model Newton-Raphson": lambda: model.run(update, method="newton_raphson", tolerance=tolerance),
    }
    if equal is not None:
        rivals["gridsink at equal error"] = functools.partial(gridsink, equal)
    seconds = common.interleaved(rivals, repeats)
    per = 1e9 / (network.n_bus * snapshots)
    own, rival = (common.median(seconds[name]) for name in ("gridsink", RIVAL))
    speed = [
        {
            "grid": code,
            "buses": network.n_bus,
            "snapshots": snapshots,
            "engine": name,
            "ns": common.median(times) * per,
            "lowest": min(times) * per,
            "highest": max(times) * per,
            f"times faster than {RIVAL}": rival / common.median(times),
        }
        for name, times in seconds.items()
    ]
    common.say(f"  {own * per:.1f} ns against {rival * per:.0f} ns: {rival / own:.1f} times")
    return {"speed": speed, "errors": errors, "seconds": seconds}


def noisy(network: Network, net: Any, snapshots: int, seed: int = 1) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Injections (n_bus, n_snapshot) in MW and Mvar as tables hold them, noise independent per bus and snapshot."""
    rng = np.random.default_rng(seed)
    p, q = (x[:, None] * rng.uniform(0.2, 1.0, (network.n_bus, snapshots)) for x in network.injections(net))
    return p.astype(np.float32), q.astype(np.float32)


def mean_load(network: Network, p: NDArray[np.float32], q: NDArray[np.float32]) -> NDArray[np.complex128]:
    """(n_row,) mean injection, about which the network is linearised, as those of the demo lake are."""
    s = np.zeros(network.n_row, dtype=complex)
    s[: network.n_bus] = p.mean(axis=1, dtype=float) + 1j * q.mean(axis=1, dtype=float)
    return s


def equal_tolerance(error_at: Any, error: float, tolerance: float) -> float | None:
    """The loosest tolerance up to `tolerance` that keeps the error; None if none of those tried does."""
    return next((tolerance * share for share in TIGHTER if error_at(tolerance * share) <= error), None)


if __name__ == "__main__":
    main()
