from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jobs.ingest import demo
from lib.errors import GridsinkError
from lib.grid.network import Network
from lib.ingest.demo import tile_counts
from lib.job import JobContext
from lib.launch import catalog
from lib.settings import load

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SMALL = "regions.small={simbench_code: 1-LV-rural1--0-sw, time_zone: Europe/Berlin}"


@pytest.fixture
def job(spark: SparkSession, lake: Path) -> Callable[..., JobContext]:
    """A context of ingest.demo with the arguments given, on a lake with one small region among the shipped ones."""

    def make(*arguments: str) -> JobContext:
        settings = load([f"lake.path={lake}", SMALL, "demo.days=1", "demo.start=2016-03-26"], environment={})
        options = catalog.parse(demo, arguments)
        context = JobContext("ingest.demo", settings, options, "run-1", lake / "_runs" / "run-1")
        context.spark = spark
        return context

    return make


def test_the_job_builds_what_is_missing_and_says_what_it_added(spark: SparkSession, job: Callable[..., Any]) -> None:
    context = job("--region", "small")
    result = demo.run(context)
    assert result.summary["regions"]["small"]["days_added"] == 1
    assert context.counts["rows_out"] == 3

    context = job("--region", "small", "--days", "3")
    result = demo.run(context)
    assert result.tables["demo lake"] == [
        {"region": "small", "network": "1-LV-rural1--0-sw", "days_added": 2, "tiles_added": 6}
    ]
    first = date(2016, 3, 26)
    assert tile_counts(context.lake) == Counter({("small", first + timedelta(days=k)): 3 for k in range(3)})
    clocks_change = context.lake.read(spark, "snapshot_tile").where("date = '2016-03-27'")
    assert sum(row.slot_count for row in clocks_change.collect()) == 92

    row = context.lake.read(spark, "network").first()
    network = Network.from_bytes(bytes(row.content))
    assert (row.network_id, network.n_bus) == ("1-LV-rural1--0-sw", row.n_bus)


def test_the_plan_names_regions_and_days_without_spark(job: Callable[..., Any]) -> None:
    context = job("--days", "31")
    rows = demo.plan(context.settings, context.options)
    assert [row["region"] for row in rows] == [*context.settings.regions]
    assert {row["days"] for row in rows} == {31}


def test_an_unknown_region_is_refused(job: Callable[..., Any]) -> None:
    with pytest.raises(GridsinkError, match="there is no region mars"):
        demo.run(job("--region", "mars"))
