"""Private calls into Spark's JVM, all in one place: where blocks lie, and rows with preferred hosts.

pyspark has no public way to either; both go through py4j and need a classic session (no Spark Connect).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from lib.calculation.located import Cell


def with_hosts(spark: SparkSession, root: str, block: Sequence[Cell]) -> tuple[Sequence[Cell], list[str]]:
    """The block and its hosts: those that hold most of its bytes first."""
    jvm: Any = spark._jvm
    configuration = spark._jsc.hadoopConfiguration()
    held: dict[str, int] = {}
    for file in (file for cell in block for file in cell.files):
        path = jvm.org.apache.hadoop.fs.Path(file.path if "://" in file.path else f"{root}/{file.path}")
        system = path.getFileSystem(configuration)
        for part in system.getFileBlockLocations(path, 0, file.size):
            for host in part.getHosts():
                held[host] = held.get(host, 0) + part.getLength()
    return block, sorted(held, key=lambda host: (-held[host], host))


def located_rows(spark: SparkSession, tasks: Sequence[tuple[Sequence[str], Sequence[str]]]) -> DataFrame:
    """A DataFrame with the column `cell`, one partition per task, each preferring its hosts.

    tasks: (rows, hosts) of each.
    """
    jvm: Any = spark._jvm
    items = jvm.java.util.ArrayList()
    for rows, hosts in tasks:
        text = "\n".join(rows)
        preferred = jvm.scala.jdk.javaapi.CollectionConverters.asScala(_list(jvm, hosts)).toSeq()
        items.append(jvm.scala.Tuple2(text, preferred))
    sequence = jvm.scala.jdk.javaapi.CollectionConverters.asScala(items).toSeq()
    tag = jvm.scala.reflect.ClassTag.apply(jvm.java.lang.Class.forName("java.lang.String"))
    rdd = spark._jsc.sc().makeRDD(sequence, tag)
    encoder = jvm.org.apache.spark.sql.Encoders.STRING()
    frame = spark._jsparkSession.createDataset(rdd, encoder).toDF()
    return DataFrame(frame, spark).selectExpr("explode(split(value, '\\n')) AS cell")


def _list(jvm: Any, values: Sequence[str]) -> Any:
    out = jvm.java.util.ArrayList()
    for value in values:
        out.append(value)
    return out
