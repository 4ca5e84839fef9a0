"""Commits a round's results: quarantine first, the table that marks cells complete last, each table at once."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from datetime import date
from typing import Any

import pyarrow as pa

from lib.analysis.blocks import CellKey
from lib.analysis.entries import Entry
from lib.calculation import parts
from lib.calculation.changes import TableLog
from lib.calculation.local import Outcome
from lib.errors import GridsinkError
from lib.tables import Lake
from lib.tables.quarantine import quarantine_row

WRITE_REMEDY = "make room, or let this user write there; what was committed is whole: run it again to finish"


def commit(
    lake: Lake, operator: Any, cells: Collection[CellKey], results: Sequence[Outcome], run_id: str
) -> dict[str, int]:
    """Makes `results` all that the operator's tables hold of `cells`. Returns the tables' versions.

    Regions with equal days share a commit of each table.
    """
    for dates, regions in _together(cells):
        rejected = [
            _quarantined(operator, it, row) for it in results if it.region in regions and it.date in dates
            for row in it.rejected
        ]  # fmt: skip
        with writing(lake, "quarantine"):
            parts.commit_quarantine(lake, rejected, job=operator.name, regions=regions, days=dates, run_id=run_id)
    versions = {}
    for table in operator.outputs:
        written = [part for it in results for part in it.parts if part.table == table]
        with writing(lake, table):
            held = _held(lake, table, results) if any(it.found for it in results) else set()
            for dates, regions in _together(set(cells) - held):
                days = {day.isoformat() for day in dates}
                files = [part for part in written if part.region in regions and part.date in days]
                versions[table] = parts.commit(lake, table, files, regions=regions, days=dates, run_id=run_id)
            if table not in versions:
                versions[table] = lake.snapshot(table).version()
    return versions


def _together(cells: Collection[CellKey]) -> list[tuple[tuple[date, ...], list[str]]]:
    """The cells as days and the regions that have all of them."""
    days: dict[str, list[date]] = {}
    for region, day in sorted(cells):
        days.setdefault(region, []).append(day)
    together: dict[tuple[date, ...], list[str]] = {}
    for region, some in days.items():
        together.setdefault(tuple(some), []).append(region)
    return list(together.items())


def _held(lake: Lake, table: str, results: Sequence[Outcome]) -> set[CellKey]:
    """Cells that the table holds the files of: one commit must not add and remove the same file, so they are left."""
    log = TableLog(lake, table)
    return {
        (it.region, it.date) for it in results
        if it.found and log.files(it.region, it.date) == {part.path for part in it.parts if part.table == table}
    }  # fmt: skip


def filed(lake: Lake, job: str) -> dict[CellKey, Counter[str]]:
    """The job's rows of quarantine by cell, each as JSON. Raises GridsinkError where they cannot be read."""
    found: dict[CellKey, Counter[str]] = {}
    if not lake.exists("quarantine"):
        return found
    try:
        rows = pa.table(lake.snapshot("quarantine").to_pyarrow_table(partitions=[("job", "=", job)]))
    except Exception as e:  # delta-rs, pyarrow and file systems have an exception each
        remedy = "move the table away: it is made again, and its rows with it"
        problem = next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)
        raise GridsinkError(f"table quarantine cannot be read: {problem[:300]}", lake.path("quarantine"), remedy) from e
    for row in rows.to_pylist():
        found.setdefault((row["region"], row["date"]), Counter())[_text(row)] += 1
    return found


def to_file(operator: Any, entry: Entry) -> Counter[str]:
    """Rows of quarantine that belong to an entry, as `filed` tells them."""
    return Counter(_text(_quarantined(operator, entry, row)) for row in entry.rejected)


def _text(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, default=str)


def _quarantined(operator: Any, it: Outcome | Entry, row: dict[str, Any]) -> dict[str, Any]:
    key = json.loads(json.dumps(row["key"]))
    return quarantine_row(
        region=it.region, day=it.date, job=operator.name, table=row["table"], key=key, reason=row["reason"],
        remedy=row["remedy"],
    )  # fmt: skip


@contextlib.contextmanager
def writing(lake: Lake, table: str) -> Iterator[None]:
    """Tells what cannot be written in three lines."""
    try:
        yield
    except GridsinkError:
        raise
    except Exception as e:  # Spark, py4j and delta-rs have an exception each for a folder that refuses a file
        problem = next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)
        raise GridsinkError(f"table {table} cannot be written: {problem[:300]}", lake.path(table), WRITE_REMEDY) from e
