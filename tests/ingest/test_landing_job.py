from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from jobs.ingest import landing
from lib.errors import GridsinkError
from lib.job import JobContext
from lib.launch import catalog
from lib.settings import load

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SMALL = "regions.small={simbench_code: 1-LV-rural1--0-sw, time_zone: Europe/Berlin}"


@pytest.fixture
def job(spark: SparkSession, lake: Path, tmp_path: Path) -> Callable[..., JobContext]:
    """A context of ingest.landing with the arguments given, into a folder of its own."""

    def make(*arguments: str) -> JobContext:
        overrides = [f"lake.path={lake}", f"landing.path={tmp_path / 'landing'}", "landing.start=2016-03-26", SMALL]
        settings = load([*overrides, "landing.zipf_regions=[small]"], environment={})
        context = JobContext("ingest.landing", settings, catalog.parse(landing, arguments), "run-1", lake / "_runs")
        context.spark = spark
        return context

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_workers_write_the_same_landing_again(job: Callable[..., Any], tmp_path: Path) -> None:
    context = job("--region", "small", "--days", "2")
    result = landing.run(context)
    first = contents(tmp_path)
    sources = {path.name for path in (tmp_path / "landing" / "small").iterdir() if path.is_dir()}
    assert {row["source"] for row in result.summary["written"]} == sources
    assert context.counts["files_out"] == sum("landing/small/" in name and "/_" not in name for name in first)
    losses = pd.read_parquet(tmp_path / "truth" / "small" / "area_loss")
    assert [str(day) for day in losses.date.unique()] == ["2016-03-26", "2016-03-27"]
    assert (losses.customers == 13 * 2 + 4).all()  # one area has twice as many customers as loads, and four generators

    landing.run(job("--region", "small", "--days", "2"))
    assert contents(tmp_path) == first


def test_files_of_another_origin_are_never_deleted(job: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "landing" / "small" / "meters" / "readings-20160101T000000Z.csv"
    file.parent.mkdir(parents=True)
    file.write_text("meter_id\n")
    with pytest.raises(GridsinkError, match="not the demo's"):
        landing.run(job("--region", "small"))
    assert file.read_text() == "meter_id\n"


def test_an_unknown_region_and_a_remote_folder_are_refused(job: Callable[..., Any], lake: Path) -> None:
    with pytest.raises(GridsinkError, match="there is no region mars"):
        landing.run(job("--region", "mars"))
    context = job()
    remote = load(["landing.path=hdfs://name/landing"], environment={})
    with pytest.raises(GridsinkError, match="a folder that all workers see"):
        landing.plan(remote, context.options)
