"""Run powerflow.solve in the tests' process, on copies of the tiny lake whose inputs a test may spoil."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession

from jobs.powerflow import solve
from lib.job import JobContext, JobResult
from lib.settings import Settings, load
from lib.tables import ARROW, Lake

RESULTS = ("bus_day", "branch_day", "network_result", "quarantine")


def copy_lake(lake: Lake, to: Path) -> Lake:
    """Inputs of a lake, without its results."""
    shutil.copytree(f"{lake.root}/silver", to / "silver")
    return Lake(str(to))


def settings_of(lake: Lake, *overrides: str) -> Settings:
    regions = [f"regions.{name}={{simbench_code: none, time_zone: Europe/Berlin}}" for name in ("north", "south")]
    return load([f"lake.path={lake.root}", "spark.master=local[2]", *regions, *overrides], environment={})


def run_solve(spark: SparkSession, lake: Lake, *overrides: str, **options: Any) -> tuple[JobResult, JobContext]:
    """Runs the job; `spark` is the tests' session."""
    context = JobContext(
        solve.JOB, settings_of(lake, *overrides), options, "test-run", Path(lake.root) / "_runs" / "test"
    )
    context.__dict__["spark"] = spark
    return solve.run(context), context


def rows_of(lake: Lake, name: str) -> pa.Table:
    """All rows of a table in key order, read by delta-rs."""
    schema = ARROW[name]
    table = pa.table(DeltaTable(lake.path(name)).to_pyarrow_table()).select(schema.names).cast(schema)
    return table.sort_by([(field.name, "ascending") for field in schema if not pa.types.is_binary(field.type)])


def results_of(lake: Lake) -> dict[str, pa.Table]:
    return {name: rows_of(lake, name) for name in RESULTS}


def change_tiles(lake: Lake, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], files: int = 1) -> None:
    """Rewrites snapshot_tile with `change` applied to its rows (sorted by key), spread over `files` commits."""
    path = lake.path("snapshot_tile")
    rows = change(rows_of(lake, "snapshot_tile").to_pylist())
    for i in range(files):
        table = pa.Table.from_pylist(rows[i::files], schema=ARROW["snapshot_tile"])
        write_deltalake(path, table, mode="append" if i else "overwrite")


def is_tile(row: dict[str, Any], region: str, day: date, first_slot: int | None = None) -> bool:
    return row["region"] == region and row["date"] == day and first_slot in (None, row["first_slot"])


def matrix(row: dict[str, Any], name: str) -> np.ndarray:
    """A writable copy of a tile's matrix, (n_bus, 32)."""
    return np.frombuffer(row[name], "<f4").reshape(row["n_bus"], 32).copy()
