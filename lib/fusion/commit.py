"""Commits a round's results: quarantine first, the table that marks cells complete last, each table at once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Sequence
from datetime import date
from typing import Any

from lib.analysis.blocks import CellKey
from lib.calculation import parts
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
    days: dict[str, list[date]] = {}
    for region, day in sorted(cells):
        days.setdefault(region, []).append(day)
    together: dict[tuple[date, ...], list[str]] = {}
    for region, some in days.items():
        together.setdefault(tuple(some), []).append(region)
    versions = {}
    for dates, regions in together.items():
        chosen = [it for it in results if it.region in regions]
        rejected = [_quarantined(operator, it, row) for it in chosen for row in it.rejected]
        with writing(lake, "quarantine"):
            parts.commit_quarantine(lake, rejected, job=operator.name, regions=regions, days=dates, run_id=run_id)
        for table in operator.outputs:
            files = [part for it in chosen for part in it.parts if part.table == table]
            with writing(lake, table):
                versions[table] = parts.commit(lake, table, files, regions=regions, days=dates, run_id=run_id)
    return versions


def _quarantined(operator: Any, it: Outcome, row: dict[str, Any]) -> dict[str, Any]:
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
