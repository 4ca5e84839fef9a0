"""A pipeline on the tiny lake, through the jobs: results against the gold tables, nothing done twice."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from jobs.cache import explain as cache_explain
from jobs.cache import verify
from jobs.pipeline import explain, run
from lib.job import OK, JobContext, JobResult
from lib.tables import Lake
from tests.jobs.solving import copy_lake, rows_of, settings_of
from tests.lakes import FIRST

PIPELINE = """
id: month_loss
title: Losses of a month
period: month
steps:
  daily:
    formula:
      table: network_result
      by: [network_id]
      aggregates: {days: count(*), worst: max(loss_kwh)}
      finish:
        worst_mwh: {expression: worst / 1000, unit: MWh}
  flow:
    operator: powerflow
result:
  loss_kwh: {expression: flow.loss_kwh, unit: kWh}
  worst_mwh: {expression: daily.worst_mwh, unit: MWh}
  days: {expression: daily.days, unit: ""}
"""


@pytest.fixture
def lake(tiny_lake: Lake, tmp_path: Path) -> Lake:
    return copy_lake(tiny_lake, tmp_path / "lake")


def test_a_pipeline_runs_is_explained_and_verified(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    file = tmp_path / "month_loss.yaml"
    file.write_text(PIPELINE)

    def go(job: ModuleType, **options: Any) -> JobResult:
        context = JobContext(job.__name__, settings_of(lake), options, "test-run", Path(lake.root) / "_runs" / "test")
        context.__dict__["spark"] = spark
        result = job.run(context)
        assert result.exit_code == OK
        return result

    def table() -> DeltaTable:
        return DeltaTable(f"{lake.root}/gold/pipeline_month_loss")

    def cells() -> dict[str, tuple[str, int]]:
        return {row["step"]: (row["cache"], row["cells"]) for row in go(explain, name=str(file)).summary["cells"]}

    assert cells() == {"flow": ("miss", 4), "daily": ("depends", 4)}
    assert [row["computed"] for row in go(run, name=str(file)).summary["steps"]] == [4, 4]

    days = rows_of(lake, "network_result").to_pandas()
    days = days.groupby(["region", "network_id"])["loss_kwh"].agg(["sum", "max", "count"]).reset_index()
    rows = table().to_pyarrow_table().to_pandas().sort_values("region").reset_index()
    assert list(rows["network_id"]) == list(days["network_id"]) == ["case33bw", "cigre_mv"]
    assert list(rows["loss_kwh"]) == pytest.approx(list(days["sum"]), rel=1e-12)
    assert list(rows["worst_mwh"]) == list(days["max"] / 1000)
    assert list(rows["days"]) == list(days["count"]) == [2, 2]
    assert set(rows["date"]) == {FIRST}
    assert rows["complete"].all()

    version = table().version()
    for options in ({}, {"first": datetime(2016, 1, 2), "regions": ("north",)}):
        steps = go(run, name=str(file), **options).summary["steps"]
        assert [row["computed"] for row in steps] == [0, 0]
    assert table().version() == version
    assert cells() == {"flow": ("hit", 4), "daily": ("hit", 4)}
    assert {row["cache"] for row in go(cache_explain, name=None).summary["cells"]} == {"hit"}
    compared = go(verify, name=str(file), sample=0.5, seed=1).summary["steps"]
    assert [(row["compared"], row["different"]) for row in compared] == [(2, 0), (2, 0)]
