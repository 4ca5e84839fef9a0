"""The comparison as a page: what was measured, what it says, and where it speaks against sinking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lib.report.machine import one_line
from lib.report.page import Section, render
from lib.report.plots import bars

MIB = 2**20


def table(sides: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per side, as the terminal and the page show it."""
    return [
        {
            "side": side["title"],
            "seconds": side["seconds"],
            "scaled": f"from {side['solved_snapshots']} snapshots" if side["scaled"] else "no",
            "bus-snapshots/s": round(side["bus_snapshots_per_s"]),
            "MiB to the driver": side["bytes_to_driver"] / MIB,
            "driver JVM, MiB": round(side["driver_jvm_bytes"] / MIB),
            "driver Python, MiB": round(side["driver_python_bytes"] / MIB),
            "workers, MiB": round(side["worker_bytes"] / MIB),
        }
        for side in sides
    ]


def verdicts(gains: Mapping[str, float]) -> list[str]:
    """The gains in words, the losses too."""
    sinking = gains["sinking"]
    if sinking >= 1:
        said = f"Sinking: the sunk run is {sinking:.2f} times as fast as the same calculation after a collect (c)."
    else:
        said = (
            "Sinking: on this machine, driver and data on one box, the same calculation after a collect (c) is "
            f"{1 / sinking:.2f} times as fast as the sunk run. (c) writes no tables and its driver holds every row."
        )
    return [
        f"Kernel: (c) is {gains['kernel']:.2f} times as fast as power-grid-model (b) with the collect counted, "
        f"{gains['kernel_calculation_alone']:.2f} times in the calculation alone. (c) makes the rows of the tables, "
        "(b) voltages and their minimum, mean and maximum.",
        said,
        f"Both together: the sunk run is {gains['sunk_over_power_grid_model']:.2f} times as fast as (b) and "
        f"{gains['sunk_over_pandapower_scaled']:.0f} times as fast as (a), whose time is scaled from a sample.",
    ]


def page(result: Mapping[str, Any]) -> str:
    """The whole result (compare's JSON) as one HTML file."""
    sides = result["sides"]
    scaled = [side["title"] for side in sides if side["scaled"]]
    seconds = {side["title"]: side["seconds"] for side in sides}
    memory = {side["title"]: (side["driver_jvm_bytes"] + side["driver_python_bytes"]) / MIB for side in sides}
    data = {side["title"]: side["bytes_to_driver"] / MIB for side in sides}
    rows = result["rows"]
    sections = [
        Section(
            "What was compared",
            [
                f"{rows['days']} days ({rows['first']} to {rows['last']}) of {', '.join(rows['regions'])}: "
                f"{rows['bus_snapshots']:,} bus-snapshots, the same for every side, each side in a process of its own. "
                "Seconds leave out the start of Spark, but not what each side pays once whatever the size: few rows "
                "say little about speed (benchmarks/end_to_end gives slopes). A time marked as scaled is from a sample."
            ],
            [{"side": side["title"], "time includes": side["timed"]} for side in sides],
        ),
        Section(
            "Time, data moved and memory",
            verdicts(result["gains"]),
            table(sides),
            {
                "Seconds by side": bars(seconds, title="Time (pale: scaled)", unit="s", log=True, pale=scaled),
                "Data to the driver": bars(data, title="Data to the driver", unit="MiB", log=True),
                "Driver memory": bars(memory, title="Driver's peak memory, JVM and Python", unit="MiB"),
            },
        ),
        Section(
            "Agreement",
            ["Largest difference between voltages of two sides on the same rows; tolerance of each solver as set."],
            result["agreement"],
        ),
    ]
    if result["under_cap"]:
        sections.append(_cap_section(result["under_cap"]))
    return render("gridsink: sunk against collected", sections, one_line(result["provenance"]))


def _cap_section(under_cap: Sequence[Mapping[str, Any]]) -> Section:
    first = under_cap[0]
    whole = first["cap_kind"] == "cgroup"
    return Section(
        "The same memory for each side",
        [
            f"{first['cap_mib']} MiB for {'the whole process tree' if whole else 'each process'} "
            f"({first['cap_kind']}), {first['heap']} of it the JVM's heap; workers count too. (a) collects as (b) does."
        ],
        [
            {
                "side": it["title"],
                "days finished": it["days_finished"],
                "of": it["days_tried"],
                "beyond that": "-" if it["ended"] == "finished" else it["ended"],
            }
            for it in under_cap
        ],
        {
            "Days finished": bars(
                {it["title"]: float(it["days_finished"]) for it in under_cap}, title="Days finished", unit="days"
            )
        },
    )
