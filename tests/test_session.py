from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def test_session_writes_and_reads_delta(spark: SparkSession, lake: Path) -> None:
    spark.range(5).write.format("delta").save(str(lake / "numbers"))
    assert spark.read.format("delta").load(str(lake / "numbers")).count() == 5
    assert spark.conf.get("spark.sql.session.timeZone") == "UTC"


def test_workers_find_the_library_and_keep_to_one_thread(spark: SparkSession) -> None:
    def environment(batches):  # type: ignore[no-untyped-def]
        import os

        import pyarrow

        import lib.settings

        for _ in batches:
            names = [os.environ["OMP_NUM_THREADS"], os.environ["NUMBA_CACHE_DIR"], lib.settings.__name__]
            yield pyarrow.RecordBatch.from_pydict({"text": [" ".join(names)]})

    rows = spark.range(1, numPartitions=1).mapInArrow(environment, "text string").collect()
    first, cache, name = rows[0].text.split()
    assert (first, name) == ("1", "lib.settings")
    assert Path(cache).parent.name == "numba"  # then a folder per state of the sources


def test_tasks_of_all_kinds_share_workers_that_have_imported_what_they_need(spark: SparkSession) -> None:
    def of_rows(_: int) -> tuple[int, bool]:
        import os
        import sys

        return os.getppid(), "lib.grid.sweep" in sys.modules

    def of_batches(batches):  # type: ignore[no-untyped-def]
        import os
        import sys

        import pyarrow

        for _ in batches:
            rows = {"parent": [os.getppid()], "imported": ["lib.grid.sweep" in sys.modules]}
            yield pyarrow.RecordBatch.from_pydict(rows)

    frame = spark.range(1, numPartitions=1).mapInArrow(of_batches, "parent long, imported boolean")
    [(parent, imported)] = spark.sparkContext.parallelize([0], 1).map(of_rows).collect()
    assert [tuple(row) for row in frame.collect()] == [(parent, True)]
    assert imported
