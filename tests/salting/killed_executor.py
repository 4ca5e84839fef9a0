"""A Spark application with two executors, one of which dies mid-shuffle: run apart by test_killed_executor.py.

Each calculation runs undisturbed, then again with a gate behind its last shuffle: the tasks that read it wait there
until an executor that wrote some of it has been killed. What is lost must be calculated again. Prints one line of JSON:
calculation -> rows of both runs, and how many stages ran more than once.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lib import session
from lib.launch.setup import spark_home
from lib.salting import plan, profile, salted_aggregate, salted_group_map
from lib.salting.tasks import attempts
from lib.settings import load

REDUCERS = 4
PATIENCE_S = 180.0
# One core each; workers without the solver; retries at once, and enough of them; no stage changes while it runs.
SETTINGS = {
    "spark.master": "local-cluster[2,1,1024]",
    "spark.driver_memory": "1g",
    "spark.conf.spark.executor.memory": "512m",
    "spark.conf.spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.conf.spark.scheduler.minRegisteredResourcesRatio": "1.0",
    "spark.conf.spark.scheduler.maxRegisteredResourcesWaitingTime": "120s",
    "spark.conf.spark.python.daemon.module": "pyspark.daemon",
    "spark.conf.spark.stage.maxConsecutiveAttempts": "20",
    "spark.conf.spark.task.maxFailures": "20",
    "spark.conf.spark.shuffle.io.maxRetries": "1",
    "spark.conf.spark.shuffle.io.retryWait": "100ms",
    "spark.conf.spark.sql.adaptive.enabled": "false",
    "spark.conf.spark.sql.shuffle.partitions": str(REDUCERS),
}


def count_and_sum(rows: pa.Table) -> pa.Table:
    return pa.table({"n": [rows.num_rows], "wh": [pc.sum(rows["wh"]).as_py()]})


def add(partials: list[pa.Table]) -> pa.Table:
    every = pa.concat_tables(partials)
    return pa.table({"n": [pc.sum(every["n"]).as_py()], "wh": [pc.sum(every["wh"]).as_py()]})


def whole(rows: pa.Table) -> pa.Table:
    return count_and_sum(rows).add_column(0, "area", rows["area"].slice(0, 1))


def calculations(df: DataFrame) -> dict[str, DataFrame]:
    how = plan(profile(df, ["area"]), REDUCERS)
    assert how.split, how.reason
    aggregations = {"n": ("count", "*"), "median": ("median", "wh"), "kw": ("sum", "kw")}
    return {
        "group map": df.groupBy("area").applyInArrow(whole, "area int, n long, wh long"),
        "salted group map": salted_group_map(
            df, ["area"], count_and_sum, add, "n long, wh long", row_key=["id"], plan=how
        ),
        "aggregate": df.groupBy("area").agg(F.count("*").alias("n"), F.percentile("wh", 0.5).alias("median")),
        "salted aggregate": salted_aggregate(df, ["area"], aggregations, row_key=["id"], plan=how),
    }


def rows_of(df: DataFrame) -> list[list[object]]:
    """Sorted, floats to the bit."""
    return sorted([value.hex() if isinstance(value, float) else value for value in row] for row in df.collect())


def gated(df: DataFrame, folder: Path) -> DataFrame:
    """`df`, whose last stage's tasks say that they have begun, and go on when a file `open` is there."""

    def wait(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        first = next(batches, None)
        (folder / "begun").touch()
        deadline = time.monotonic() + PATIENCE_S
        while not (folder / "open").exists():
            if time.monotonic() > deadline:
                raise TimeoutError("no executor was killed")
            time.sleep(0.02)
        if first is not None:
            yield first
        yield from batches

    return df.mapInArrow(wait, df.schema)


def kill_a_writer(spark: SparkSession, before: set[tuple[int, int]], folder: Path) -> None:
    """When the last stage has begun: kill an executor that wrote what it reads, wait for its end, open the gate."""
    deadline = time.monotonic() + PATIENCE_S
    while not (folder / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    written = {stage: executors for stage, executors in attempts(spark).items() if stage not in before and executors}
    executor = min(written[max(written)])
    process = process_of(executor)
    process.kill()
    process.wait(PATIENCE_S)
    (folder / "open").touch()


def process_of(executor: str) -> psutil.Process:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # workers come and go
            arguments = process.cmdline()
            if "--executor-id" in arguments and arguments[arguments.index("--executor-id") + 1] == executor:
                return process
    raise RuntimeError(f"no process of executor {executor}")


def disturbed(spark: SparkSession, df: DataFrame, folder: Path) -> tuple[list[list[object]], int]:
    """Rows of a run that lost an executor, and how many of its stages ran more than once."""
    before = set(attempts(spark))
    folder.mkdir()
    killer = threading.Thread(target=kill_a_writer, args=(spark, before, folder))
    killer.start()
    rows = rows_of(gated(df, folder))
    killer.join()
    return rows, sum(attempt > 0 for stage, attempt in attempts(spark) if (stage, attempt) not in before)


def main(folder: Path) -> None:
    spark = session.build(
        load([f"{key}={value}" for key, value in SETTINGS.items()], environment={}), "killed executor"
    )
    area = F.expr("int(CASE WHEN pmod(hash(id), 10) < 6 THEN 0 ELSE pmod(hash(id), 50) END)")
    df = spark.range(0, 20_000, 1, REDUCERS).select(
        "id", area.alias("area"), F.expr("pmod(xxhash64(id), 1000)").alias("wh"), F.expr("sin(id) * 1e6").alias("kw")
    )
    result = {}
    for name, calculation in calculations(df).items():
        expected = rows_of(calculation)
        rows, repeated = disturbed(spark, calculation, folder / name)
        result[name] = {"expected": expected, "rows": rows, "repeated": repeated}
    print(json.dumps(result))
    application = spark.sparkContext.applicationId
    spark.stop()
    shutil.rmtree(spark_home() / "work" / application, ignore_errors=True)  # where its executors wrote their logs


if __name__ == "__main__":
    main(Path(sys.argv[1]))
