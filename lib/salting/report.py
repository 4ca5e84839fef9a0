"""How evenly the tasks of a run were loaded, from Spark's own figures."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pyspark.sql import SparkSession

from lib.salting.tasks import Task, last_stage, tasks

MEASURES = {"rows": "rows", "bytes": "bytes", "cpu_s": "CPU seconds", "run_s": "seconds"}


@dataclass(frozen=True)
class Spread:
    """One measure over the reducers of a stage. A ratio is 1 where the measure is nothing."""

    total: float
    max: float
    mean: float
    max_over_mean: float
    max_over_median: float
    variation: float
    """Coefficient of variation: standard deviation over mean."""
    hottest: int
    """Partition of the largest value."""


@dataclass(frozen=True)
class Reducers:
    """One stage. tasks: one per reducer, or per partition of what it read."""

    stage: int
    tasks: tuple[Task, ...]

    def spread(self, measure: str) -> Spread:
        """Of `rows`, `bytes`, `cpu_s` or `run_s`."""
        return spread([getattr(task, measure) for task in self.tasks])


@dataclass
class SkewReport:
    """Every successful task of a run, by stage and partition."""

    tasks: list[Task] = field(default_factory=list)

    @property
    def every(self) -> list[Reducers]:
        """All stages, in order."""
        stages: dict[int, list[Task]] = {}
        for task in self.tasks:
            stages.setdefault(task.stage, []).append(task)
        return [Reducers(number, tuple(tasks)) for number, tasks in stages.items()]

    @property
    def stages(self) -> list[Reducers]:
        """Stages that read a shuffle, in order."""
        return [stage for stage in self.every if any(task.rows for task in stage.tasks)]

    def main(self) -> Reducers:
        """The stage that read most rows: of a salted calculation the first. Raises ValueError if none read any."""
        return max(self.stages, key=lambda stage: sum(task.rows for task in stage.tasks))

    def rows(self) -> list[dict[str, float | int | str]]:
        """One row per stage and measure, for a table."""
        return [
            {"stage": it.stage, "reducers": len(it.tasks), "measure": title, **vars(it.spread(measure))}
            for it in self.stages
            for measure, title in MEASURES.items()
        ]


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    mean, median, most = statistics.fmean(values), statistics.median(values), max(values)
    return Spread(
        total=sum(values),
        max=most,
        mean=mean,
        max_over_mean=most / mean if mean else 1.0,
        max_over_median=most / median if median else (float("inf") if most else 1.0),
        variation=statistics.pstdev(values) / mean if mean else 0.0,
        hottest=list(values).index(most),
    )


def skew_report(spark: SparkSession, after: int = -1) -> SkewReport:
    """Rows, bytes, CPU seconds and seconds per reducer of all stages numbered above `after`.

    Raises GridsinkError through Spark Connect, which does not tell them.
    """
    return SkewReport(tasks(spark, after))


@contextmanager
def observe(spark: SparkSession) -> Iterator[SkewReport]:
    """A report that is filled when the block ends, of the stages that ran in it.

    with observe(spark) as report:
        result.write...
    print(report.main().spread("rows").max_over_mean)
    """
    report, after = SkewReport(), last_stage(spark)
    yield report
    report.tasks = skew_report(spark, after).tasks
