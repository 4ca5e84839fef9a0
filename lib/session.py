"""Spark: its properties from the settings, one place for `spark-submit` and for sessions inside a process."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lib.errors import GridsinkError
from lib.launch import kernels
from lib.settings import CONF, ROOT, STATE, Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JARS = STATE / "jars"
# A Python worker is one of many on its node, so nothing in it may start a pool of threads of its own.
WORKER_ENVIRONMENT = {
    name: "1"
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "ARROW_NUM_THREADS")
}


def delta_jars() -> list[Path]:
    """Delta's JARs in the checkout; set-up resolves them. Raises GridsinkError if there are none."""
    jars = sorted(JARS.glob("*.jar"))
    if not jars:
        raise GridsinkError("Delta's JARs are missing", str(JARS), "run ./spark-submit.sh, which resolves them")
    return jars


def is_local(settings: Settings) -> bool:
    """Whether executors run on this machine (local[...] and local-cluster[...])."""
    return settings.spark.master.startswith("local")


def properties(settings: Settings, log: Path | None = None, driver_java_options: Sequence[str] = ()) -> dict[str, str]:
    """Spark's properties for these settings, without the master. log: file of the driver's own log (else discarded)."""
    spark = settings.spark
    java_options = [*driver_java_options, f"-Dlog4j2.configurationFile={(CONF / 'log4j2.properties').as_uri()}"]
    if log is not None:
        java_options.append(f"-Dgridsink.log={log}")
    values = {
        "spark.driver.memory": spark.driver_memory,
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.showConsoleProgress": "false",
        # Of what is kept, too, small partitions are joined: fewer tasks and files where there is little.
        "spark.sql.optimizer.canChangeCachedPlanOutputPartitioning": "true",
    }
    if is_local(settings):
        jars = os.pathsep.join(str(jar) for jar in delta_jars())
        # Short runs on one machine: the first compiler tier and the serial collector start seconds sooner.
        java_options += ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        values |= {
            "spark.driver.extraClassPath": jars,
            "spark.executor.extraClassPath": jars,
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.databricks.delta.snapshotPartitions": "2",
            "spark.sql.sources.parallelPartitionDiscovery.threshold": "10000",  # a job for that takes longer
            "spark.sql.warehouse.dir": str(STATE / "warehouse"),
            "spark.pyspark.python": spark.python or sys.executable,
            "spark.python.daemon.module": "lib.calculation.daemon",
            # Spark starts other workers for each environment, and this would be in that of DataFrames' tasks alone.
            "spark.sql.execution.pyspark.udf.simplifiedTraceback.enabled": "false",
            "spark.executorEnv.PYTHONPATH": str(ROOT),
        }
        environment = WORKER_ENVIRONMENT | kernels.environment(STATE / "numba", unpacked=True)
    else:
        environment = WORKER_ENVIRONMENT | kernels.environment(Path(spark.kernel_cache), unpacked=False)
        values["spark.executor.memory"] = spark.executor_memory
        values["spark.pyspark.python"] = spark.python or sys.executable
        if spark.executor_cores is not None:
            values["spark.executor.cores"] = str(spark.executor_cores)
        if spark.executors is not None:
            values["spark.executor.instances"] = str(spark.executors)
    values |= {f"spark.executorEnv.{name}": value for name, value in environment.items()}
    options = " ".join(java_options)
    extra = spark.conf.get("spark.driver.extraJavaOptions")
    values["spark.driver.extraJavaOptions"] = f"{options} {extra}" if extra else options
    return values | {name: value for name, value in spark.conf.items() if name != "spark.driver.extraJavaOptions"}


def build(settings: Settings, name: str, log: Path | None = None) -> SparkSession:
    """The process's session, made if there is none. Under spark-submit its JVM runs already and has its properties."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName(name)
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        for key, value in properties(settings, log).items():
            builder = builder.config(key, value)
        builder = builder.master(settings.spark.master)
        # pyspark takes the workers' Python from the environment alone.
        os.environ["PYSPARK_PYTHON"] = settings.spark.python or sys.executable
        os.environ |= kernels.environment(STATE / "numba", unpacked=True)
    return builder.getOrCreate()


def start_workers(spark: SparkSession) -> None:
    """Runs a task in Python that does nothing: a session's first one waits for seconds until there are workers."""
    spark.sparkContext.parallelize([0], 1).foreach(lambda _: None)
