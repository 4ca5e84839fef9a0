"""Compare the sunk power flow with three that collect to the driver first: time, data moved, memory, agreement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from jobs import selection

if TYPE_CHECKING:
    from lib.job import JobContext, JobResult

READS = ("network", "snapshot_tile")


def options() -> list[click.Option]:
    return [
        *selection.options(),
        click.Option(
            ["--cap-mib"], type=click.IntRange(0), default=2048, show_default=True,
            help="Memory that each side gets to finish as many days as it can; 0 leaves this part out.",
        ),
    ]  # fmt: skip


def run(context: JobContext) -> JobResult:
    from lib.baseline import comparison
    from lib.baseline.comparison_report import page, table, verdicts
    from lib.job import FAILED, OK, JobResult, write_json
    from lib.report.machine import provenance

    options, settings, lake = context.options, context.settings, context.lake
    rows = comparison.rows_of(lake, options["regions"], selection.day(options["first"]), selection.day(options["last"]))
    capped = comparison.CAPPED if options["cap_mib"] else ()
    origin = provenance()
    with context.progress(len(comparison.SIDES) + len(capped), "sides") as bar:
        measured = {}
        for side in comparison.SIDES:
            with context.phase(side.title):
                measured[side.name] = comparison.measure(side, rows, settings)
            bar.update()
        agreement = comparison.agreement(measured, lake, rows)
        under_cap = []
        for side in capped:
            with context.phase("under the cap"):
                under_cap.append(
                    comparison.largest_under_cap(side, rows, settings, options["cap_mib"] * comparison.MIB)
                )
            bar.update()
    sides = list(measured.values())
    result: dict[str, Any] = {
        "rows": {
            "regions": rows.regions, "first": rows.days[0], "last": rows.days[-1], "days": len(rows.days),
            "bus_snapshots": measured["gridsink"]["bus_snapshots"],
        },
        "sides": sides, "gains": comparison.gains(measured), "agreement": agreement, "under_cap": under_cap,
        "provenance": origin,
    }  # fmt: skip
    report, record = context.run_dir / "compare.html", context.run_dir / "compare.json"
    report.write_text(page(result), encoding="utf-8")
    write_json(record, result)
    for line in verdicts(result["gains"]):
        context.say(line)
    context.say(f"report: {report}")
    tables = {"sides": table(sides), "agreement": agreement}
    if under_cap:
        shown = ("title", "cap_mib", "cap_kind", "days_finished", "days_tried", "ended")
        tables["under the same memory"] = [{name: it[name] for name in shown} for it in under_cap]
    apart = [it for it in agreement if not it["max |dV| [pu]"] <= comparison.AGREEMENT_PU]
    for it in apart:
        context.say(f"{it['one']} and {it['other']} disagree by {it['max |dV| [pu]']:.2g} pu ({it['voltages']})")
    return JobResult(summary=result | {"report": str(report)}, tables=tables, exit_code=FAILED if apart else OK)
