"""What the cache saves: a day arrives after many, files are compacted, values are corrected, a second pipeline runs."""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import click
from deltalake import DeltaTable

from benchmarks import common
from lib.baseline import comparison
from lib.settings import Settings, load

NOTES = (
    "Every line is a run of the product from the command to its exit. Cold: nothing in the cache, no results.",
    "A day arrives: the mean of several days that arrive one after the other, each calculated by a run of its own. The "
    "fixed start-up is what a cold run of one day in a lake of one day takes, less that day's share of the long cold "
    "run; what is beyond it is what the arrived day costs.",
    "OPTIMIZE: all files of some days rewritten in another order. MERGE: one value changed in some cells. Computed, "
    "found again and current count region-days; bytes read are those of rows.",
    "First results: seconds from the run's start to the commit of its first round (newest days, all steps, result "
    "table), over the seconds of the whole run.",
)


@click.command()
@click.option("--lake", required=True, type=click.Path(file_okay=False), help="Demo lake; its results are deleted.")
@click.option("--days", default=361, show_default=True, help="Days calculated before the others arrive.")
@click.option("--arrivals", default=5, show_default=True)
@click.option("--pipeline-days", default=60, show_default=True, help="Days that the two pipelines run over.")
def main(lake: str, days: int, arrivals: int, pipeline_days: int) -> None:
    settings = load([f"lake.path={lake}"], environment={})
    one = load([f"lake.path={lake}-one-day"], environment={})
    rows: list[dict[str, Any]] = []
    common.build_lake(one, 1, ())
    start = [_solve("one day, cold", one, rows, "--recompute") for _ in range(arrivals)]
    common.build_lake(settings, days, ())
    _forget(settings)
    cold = _solve(f"{days} days, cold", settings, rows)
    _solve("again", settings, rows)
    arrived = []
    for n in range(arrivals):
        common.build_lake(settings, days + n + 1, ())
        arrived.append(_solve("a day arrives", settings, rows))
    last = settings.demo.start + timedelta(days=days + arrivals - 1)
    _optimize(settings, [last - timedelta(days=n) for n in range(30)])
    _solve("OPTIMIZE of 30 days", settings, rows)
    _merge(settings, [(region, last - timedelta(days=min(9, days - 1))) for region in sorted(settings.regions)[:3]])
    _solve("MERGE touches 3 cells", settings, rows)
    one_day = common.median(start)
    share = (cold - one_day) / (days - 1)
    fixed = one_day - share
    beyond = common.median(arrived) - fixed
    verdict = {
        "cold run, s": cold, "fixed start-up, s": fixed, "cold beyond it, s": cold - fixed,
        "a day arrives, s": common.median(arrived), "beyond the start-up, s": beyond,
        "cold over arrived, beyond the start-up": (cold - fixed) / beyond,
    }  # fmt: skip
    pipelines = _pipelines(settings, last, pipeline_days)
    shutil.rmtree(one.lake.path, ignore_errors=True)
    parameters = {"days": days, "arrivals": arrivals, "pipeline_days": pipeline_days}
    tables = {"runs of powerflow.solve": rows, "a day arrives": [verdict], "pipelines": pipelines}
    common.write("incremental", parameters, tables, NOTES, {"one day": start, "arrived": arrived})


def _solve(title: str, settings: Settings, rows: list[dict[str, Any]], *arguments: str) -> float:
    report, record = common.job("powerflow.solve", *arguments, settings=comparison.overrides(settings))
    regions = record["summary"]["regions"].values()
    counts = {name: sum(it[name] for it in regions) for name in ("days", "computed", "found", "current")}
    rows.append(
        {"run": title, "region-days": counts.pop("days"), **counts, "seconds": report.seconds,
         "MB read": record["counts"].get("bytes_read", 0) / 1e6, "phases": _phases(record)}
    )  # fmt: skip
    common.say(str(rows[-1]))
    return float(report.seconds)


def _phases(record: dict[str, Any]) -> str:
    return ", ".join(f"{name} {seconds:.2f}" for name, seconds in record["phases_s"].items())


def _pipelines(settings: Settings, last: date, days: int) -> list[dict[str, Any]]:
    """The first run calculates all but the power flow; the second pipeline shares that; then all of it cold."""
    span = ("--from", str(last - timedelta(days=days - 1)), "--to", str(last))
    rows = []
    for title, name, cold in (
        ("after powerflow.solve", "network_losses", False), ("after the first", "voltage_quality_day", False),
        ("again", "network_losses", False), ("cold", "network_losses", True),
    ):  # fmt: skip
        if cold:
            _forget(settings)
        report, record = common.job("pipeline.run", name, *span, settings=comparison.overrides(settings))
        rounds = record["inputs"]["rounds"]
        row = {"pipeline": name, "run": title, "region-days": sum(it["cells"] for it in rounds)}
        row |= {f"{it['step']} computed": it["computed"] for it in record["summary"]["steps"]}
        row |= {"seconds": report.seconds, "first results, s": None, "of the run": None}
        if rounds:
            first = report.seconds - record["seconds"] + rounds[0]["seconds"]
            row |= {"first results, s": first, "of the run": first / report.seconds}
        rows.append(row)
        common.say(str(row))
    return rows


def _forget(settings: Settings) -> None:
    for folder in ("gold", "cache"):
        shutil.rmtree(Path(settings.lake.path) / folder, ignore_errors=True)


def _optimize(settings: Settings, days: list[date]) -> None:
    table = DeltaTable(f"{settings.lake.path}/silver/snapshot_tile")
    for day in days:
        table.optimize.z_order(["slot_count", "first_slot"], partition_filters=[("date", "=", day.isoformat())])


def _merge(settings: Settings, cells: list[tuple[str, date]]) -> None:
    table = DeltaTable(f"{settings.lake.path}/silver/snapshot_tile")
    for region, day in cells:
        one = table.to_pyarrow_table(filters=[("region", "=", region), ("date", "=", day)]).slice(0, 1)
        changed = bytearray(one["p_kw"][0].as_py())
        changed[:4] = b"\0\0\0\0" if changed[:4] != b"\0\0\0\0" else b"\0\0\x80\x3f"
        one = one.set_column(one.schema.get_field_index("p_kw"), "p_kw", [[bytes(changed)]])
        key = " AND ".join(f"t.{name} = s.{name}" for name in ("region", "date", "network_id", "first_slot"))
        where = f"t.region = '{region}' AND t.date = '{day}' AND {key}"
        merge = table.merge(one, where, source_alias="s", target_alias="t")
        merge.when_matched_update_all().execute()


if __name__ == "__main__":
    main()
