"""What every test may ask for: one Spark session per process, settings on a lake of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings as hypothesis_settings

from lib import session
from lib.settings import Settings, load

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# No deadline: a shared machine stalls now and then, and timings are never asserted.
hypothesis_settings.register_profile("gridsink", deadline=None, max_examples=50, derandomize=True)
hypothesis_settings.load_profile("gridsink")


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """An empty folder for a lake."""
    return tmp_path / "lake"


@pytest.fixture
def settings(lake: Path) -> Settings:
    """The shipped settings on an empty lake, whatever the environment says."""
    return load([f"lake.path={lake}", "spark.master=local[2]"], environment={})


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """The process's Spark session, with Delta."""
    settings = load(["spark.master=local[2]", "spark.conf.spark.sql.shuffle.partitions=2"], environment={})
    spark = session.build(settings, "tests")
    yield spark
    spark.stop()
