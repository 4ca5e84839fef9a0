"""What one snapshot in a hundred without a solution costs, with and without fallback; the others keep their bits."""

from __future__ import annotations

from typing import Any

import click
import numpy as np

from benchmarks import common
from benchmarks.kernel import noisy
from lib.grid.network import Network
from lib.grid.powerflow import SlotStatus, solve

OVERLOAD = 50.0

NOTES = (
    "Every hundredth snapshot has its injections multiplied by 50, far beyond what the network can carry.",
    "One thread on one core, injections in memory to voltages in memory; the four runs take turns.",
    "'others unchanged': every bit of every voltage of the solvable snapshots is as without the unsolvable ones.",
)


@click.command()
@click.option("--grid", default="1-MVLV-rural-all-0-sw", show_default=True, help="SimBench code.")
@click.option("--snapshots", default=1600, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--tolerance", default=1e-8, show_default=True)
def main(grid: str, snapshots: int, repeats: int, tolerance: float) -> None:
    from lib.ingest.source import simbench_net

    common.one_core()
    net = simbench_net(grid)
    network = Network.from_pandapower(net)
    p, q = noisy(network, net, snapshots)
    bad = np.arange(snapshots) % 100 == 50
    p_bad, q_bad = p.copy(), q.copy()
    p_bad[:, bad] *= OVERLOAD
    q_bad[:, bad] *= OVERLOAD

    def run(mixed: bool, fallback: bool) -> Any:
        injections = (p_bad, q_bad) if mixed else (p, q)
        return solve(network, *injections, tolerance=tolerance, fallback=fallback)

    clean = run(False, False)
    if not clean.converged.all():
        raise click.ClickException(f"{(~clean.converged).sum()} snapshots of {grid} have no solution to begin with")
    checks = []
    for fallback in (False, True):
        mixed = run(True, fallback)
        unsolved = mixed.status == SlotStatus.DIVERGED
        if not np.array_equal(unsolved, bad):
            raise click.ClickException(f"{unsolved.sum()} snapshots diverged, {bad.sum()} were made to")
        same = np.array_equal(mixed.vm_pu[:, ~bad], clean.vm_pu[:, ~bad]) and np.array_equal(
            mixed.va_degree[:, ~bad], clean.va_degree[:, ~bad]
        )
        checks.append({"fallback": fallback, "unsolvable": int(bad.sum()), "others unchanged": same})
    rivals = {
        f"{'1 % unsolvable' if mixed else 'all solvable'}, {'with' if fallback else 'without'} fallback": (
            lambda mixed=mixed, fallback=fallback: run(mixed, fallback)
        )
        for fallback in (False, True)
        for mixed in (False, True)
    }
    seconds = common.interleaved(rivals, repeats)
    medians = {name: common.median(times) for name, times in seconds.items()}
    rows = []
    for name, time in medians.items():
        base = medians["all solvable, " + name.split(", ")[1]]
        rows.append(
            {"run": name, "ns per bus and snapshot": time * 1e9 / p.size, "time over all solvable": time / base}
        )
    parameters = {"grid": grid, "snapshots": snapshots, "repeats": repeats, "tolerance": tolerance}
    common.write("unsolvable", parameters, {"time": rows, "results": checks}, NOTES, seconds)


if __name__ == "__main__":
    main()
