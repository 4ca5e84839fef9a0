"""Sinks an operator over a selection of a lake's cells, region by region, and commits what comes back."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from lib.algorithm.operator import Operator
from lib.calculation import local, located, parts, scan
from lib.calculation.local import Outcome
from lib.calculation.located import Plan
from lib.calculation.worker import combine
from lib.errors import GridsinkError
from lib.settings import Settings
from lib.tables import Lake
from lib.tables.quarantine import quarantine_row
from lib.tables.tiles import day_slots

if TYPE_CHECKING:
    from lib.job import JobContext

DAYS_PER_COMMIT = 92
"""Days that are solved in one Spark job and committed together: bounds what a crash loses, and the driver's lists."""
_WRITE_REMEDY = "make room, or let this user write there; what was committed is whole: run it again to finish"


@dataclass(frozen=True)
class Selection:
    """Regions (all if empty) and days (both included, open if None)."""

    regions: tuple[str, ...] = ()
    first: date | None = None
    last: date | None = None


def plan(lake: Lake, settings: Settings, selection: Selection, operator: Operator | type[Operator]) -> Plan:
    """What would run, from the tables' logs alone. Raises GridsinkError for a region that is not in the settings."""
    unknown = sorted(set(selection.regions) - set(settings.regions))
    if unknown:
        known = ", ".join(sorted(settings.regions))
        raise GridsinkError(f"there is no region {', '.join(unknown)}", "--region", f"regions are {known}")
    return located.plan(
        lake, operator.table, operator.side.table, lambda region, day: _length_s(settings, region, day),
        selection.regions, selection.first, selection.last,
    )  # fmt: skip


def run(context: JobContext, job: str, operator: Any, selection: Selection) -> dict[str, dict[str, float]]:
    """Runs the operator over the selection and commits each region's results. Returns figures by region.

    Rows in = rows out + rows quarantined is checked for every commit. A file that has gone since the plan was made
    means one new plan, then an error.
    """
    lake, spark = context.lake, context.spark
    with context.phase("plan"):
        whole = _plan(context, operator, selection)
        for table in (*operator.outputs, "quarantine"):
            with _writing(lake, table):
                lake.create(spark, table)
    context.inputs.update({name: {"path": lake.path(name), "version": v} for name, v in whole.versions.items()})
    if whole.reasons:
        context.inputs["read_through_spark"] = dict(whole.reasons)
    totals: dict[str, dict[str, float]] = {}
    with context.progress(len(whole.cells), "region-days") as bar:
        for first, last in _windows(whole, selection):
            begin = time.perf_counter()
            with context.phase("solve"):
                whole, outcomes = _solve(context, operator, selection, whole, first, last)
            with context.phase("commit"):
                for region in _regions(whole, selection):
                    chunk, outcome = whole.only(first, last, region), outcomes.get(region, Outcome())
                    _check(chunk, outcome)
                    _commit(context, job, operator, outcome, region, first, last)
                    _account(context, operator, totals, region, len(chunk.cells), outcome)
                    bar.update(len(chunk.cells))
            _share_seconds(totals, outcomes, time.perf_counter() - begin)
    return {region: total for region, total in totals.items() if total["days"]}


def _solve(
    context: JobContext, operator: Any, selection: Selection, whole: Plan, first: date, last: date
) -> tuple[Plan, dict[str, Outcome]]:
    """The window's outcomes; once more with a new plan where a file of the first has been vacuumed meanwhile."""
    for attempt in range(2):
        if attempt:
            whole = _plan(context, operator, selection)
            context.inputs["planned_again"] = dict(whole.versions)
        outcomes = local.run(context.spark, context.lake, operator, whole.only(first, last))
        every = outcomes.values()
        failures = [text for outcome in every for text in outcome.failures]
        missing = [text for outcome in every for text in outcome.missing_files]
        if not failures and not missing:
            return whole, outcomes
        parts.discard(context.lake, [p for outcome in every for some in outcome.parts.values() for p in some])
        if failures:
            raise GridsinkError(failures[0], f"{first} to {last}", _WRITE_REMEDY)
    raise GridsinkError(
        f"a file that the log of table {whole.table} names is not there: {missing[0]}",
        f"{whole.root}, {first} to {last}",
        "restore the file, or write these days again (ingest)",
    )


def _account(
    context: JobContext, operator: Any, totals: dict[str, dict[str, float]], region: str, days: int, outcome: Outcome
) -> None:
    names = ("rows_in", "rows_out", "rows_quarantined", "bytes_read", "bytes_written", "bytes_returned")
    context.count(**{name: getattr(outcome, name) for name in names})
    context.inputs.setdefault("tasks", []).extend(outcome.tasks)
    total = totals.setdefault(region, {"days": 0, "rows_quarantined": 0, "seconds": 0.0})
    total["days"] += days
    total["rows_quarantined"] += outcome.rows_quarantined
    combine(total, outcome.figures, operator.figures)


def _share_seconds(totals: dict[str, dict[str, float]], outcomes: dict[str, Outcome], seconds: float) -> None:
    """Regions run side by side: each is given its share of the wall time, by its workers' seconds."""
    busy = sum(outcome.worker_seconds for outcome in outcomes.values())
    for region, outcome in outcomes.items():
        totals[region]["seconds"] += seconds * outcome.worker_seconds / busy if busy else 0.0


def _plan(context: JobContext, operator: Any, selection: Selection) -> Plan:
    found = plan(context.lake, context.settings, selection, operator)
    if not found.reasons:
        return found
    return scan.complete(
        context.spark, context.lake, operator, found, lambda region, day: _length_s(context.settings, region, day),
        f"{context.lake.root}/_runs/{context.run_id}/side", selection.regions, selection.first, selection.last,
    )  # fmt: skip


def _commit(
    context: JobContext, job: str, operator: Any, outcome: Outcome, region: str, first: date, last: date
) -> None:
    """Quarantine first, the table that marks cells complete last; each table in one commit."""
    lake = context.lake
    days = [first + timedelta(n) for n in range((last - first).days + 1)]
    rejected = [
        quarantine_row(region=region, day=date.fromisoformat(row["date"]), job=job, table=row["table"],
                       key=json.loads(json.dumps(row["key"])), reason=row["reason"], remedy=row["remedy"])
        for row in outcome.rejected
    ]  # fmt: skip
    with _writing(lake, "quarantine"):
        parts.commit_quarantine(lake, rejected, job=job, region=region, days=days, run_id=context.run_id)
    for table in operator.outputs:
        with _writing(lake, table):
            parts.commit(lake, table, outcome.parts.get(table, []), region=region, days=days, run_id=context.run_id)


def _check(chunk: Plan, outcome: Outcome) -> None:
    planned = (
        sum(cell.rows or 0 for cell in chunk.cells) if all(cell.rows is not None for cell in chunk.cells) else None
    )
    if chunk.reasons:
        planned = None  # the log counts rows that a deletion vector hides
    accounted = outcome.rows_out + outcome.rows_quarantined
    if accounted != outcome.rows_in or planned not in (None, outcome.rows_in):
        raise GridsinkError(
            f"rows do not add up: {planned} planned, {outcome.rows_in} read, {outcome.rows_out} solved, "
            f"{outcome.rows_quarantined} quarantined; nothing was committed",
            chunk.root,
            "run again; if it stays so, the table's statistics are wrong: write these days again (ingest)",
        )


def _windows(whole: Plan, selection: Selection) -> Iterator[tuple[date, date]]:
    """First and last day of each round. Days without cells belong to one too: results of days that are gone must go."""
    days = [cell.date for cell in whole.cells]
    first, end = selection.first or min(days, default=None), selection.last or max(days, default=None)
    while first and end and first <= end:
        last = min(end, first + timedelta(DAYS_PER_COMMIT - 1))
        yield first, last
        first = last + timedelta(1)


def _regions(whole: Plan, selection: Selection) -> list[str]:
    """Regions to commit: those asked for, even where they have no cells left, else those of the plan."""
    return sorted(selection.regions or {cell.region for cell in whole.cells})


def _length_s(settings: Settings, region: str, day: date) -> int:
    if region not in settings.regions:
        raise GridsinkError(
            f"region {region} is in the lake and not in the settings",
            f"regions.{region}",
            "add its time_zone to conf/base.yaml",
        )
    return day_slots(day, settings.regions[region].time_zone, 1)


@contextlib.contextmanager
def _writing(lake: Lake, table: str) -> Iterator[None]:
    try:
        yield
    except GridsinkError:
        raise
    except Exception as e:  # Spark, py4j and delta-rs have an exception each for a folder that refuses a file
        problem = next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)
        raise GridsinkError(f"table {table} cannot be written: {problem[:300]}", lake.path(table), _WRITE_REMEDY) from e
