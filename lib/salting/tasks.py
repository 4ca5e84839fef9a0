"""Private calls into Spark's JVM, all in one place: the figures that Spark keeps of every task.

pyspark has no public way to them; they go through py4j and need a classic session (no Spark Connect).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from lib.errors import GridsinkError

MOST_TASKS = 1_000_000


@dataclass(frozen=True)
class Task:
    """One successful task. rows, bytes: what it read from a shuffle. cpu_s: of the JVM's thread, Python workers
    not included; run_s: all that it took, Python workers included.
    """

    stage: int
    index: int
    rows: int
    bytes: int
    cpu_s: float
    run_s: float


def last_stage(spark: SparkSession) -> int:
    """The highest number of a stage so far, -1 before the first."""
    return max((stage.stageId() for stage in _stages(spark)), default=-1)


def tasks(spark: SparkSession, after: int) -> list[Task]:
    """Successful tasks of the stages with higher numbers than `after`, by stage and partition.

    Of a partition that was calculated more than once, the last.
    """
    store = _store(spark)
    found: dict[tuple[int, int], Task] = {}
    for stage in sorted(_stages(spark), key=lambda stage: stage.attemptId()):
        if stage.stageId() <= after or stage.numCompleteTasks() == 0:
            continue
        every = store.taskList(stage.stageId(), stage.attemptId(), MOST_TASKS)
        for number in range(every.size()):
            task = every.apply(number)
            if task.status() != "SUCCESS" or task.taskMetrics().isEmpty():
                continue
            metrics = task.taskMetrics().get()
            read = metrics.shuffleReadMetrics()
            found[stage.stageId(), task.index()] = Task(
                stage.stageId(),
                task.index(),
                read.recordsRead(),
                read.remoteBytesRead() + read.localBytesRead(),
                metrics.executorCpuTime() / 1e9,
                metrics.executorRunTime() / 1e3,
            )
    return [found[key] for key in sorted(found)]


def attempts(spark: SparkSession) -> dict[tuple[int, int], set[str]]:
    """(stage, attempt) of every stage that began -> the executors on which tasks of it succeeded.

    An attempt above 0 is a stage that was calculated again, because an executor was lost with what it had written.
    """
    store = _store(spark)
    found = {}
    for stage in _stages(spark):
        every = store.taskList(stage.stageId(), stage.attemptId(), MOST_TASKS)
        tasks = [every.apply(number) for number in range(every.size())]
        done = {task.executorId() for task in tasks if task.status() == "SUCCESS"}
        found[stage.stageId(), stage.attemptId()] = done
    return found


def _store(spark: SparkSession) -> Any:
    if not hasattr(spark, "_jsc"):
        raise GridsinkError(
            "the figures of tasks cannot be had through Spark Connect", remedy="read the server's event log instead"
        )
    context: Any = spark._jsc.sc()
    context.listenerBus().waitUntilEmpty()
    return context.statusStore()


def _stages(spark: SparkSession) -> list[Any]:
    jvm: Any = spark._jvm
    empty = jvm.java.util.ArrayList()
    quantiles = spark.sparkContext._gateway.new_array(jvm.double, 0)  # type: ignore[union-attr]
    sequence = _store(spark).stageList(empty, False, False, quantiles, empty)
    return [sequence.apply(number) for number in range(sequence.size())]
