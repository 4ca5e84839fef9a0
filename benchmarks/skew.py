"""Skewed keys: the load of reducers, CPU and time of robust statistics per key, salted by plan and by its rivals."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks import common, workers
from lib import session
from lib.report.plots import lines
from lib.salting import SkewReport, observe, plan, profile, salted_group_map
from lib.salting.report import Reducers
from lib.salting.tasks import last_stage
from lib.settings import load

EXPONENTS = (0.0, 0.5, 1.0, 1.5, 2.0)
REDUCERS = (8, 64, 256)
VALUES = 500
SETTINGS = {
    "spark.master": "local[2]",
    "spark.driver_memory": "4g",
    "spark.conf.spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=4",
    "spark.conf.spark.python.daemon.module": "benchmarks.workers",
}
SCHEMA = "rows long, p05 int, median double, p95 int, deviation double, trimmed_mean double"
MAKESPAN, KEPT, CPU = "makespan s (modelled)", "makespan with a kept plan s (modelled)", "CPU s"
METRICS = {
    "rows max/mean": "Rows per reducer, max/mean",
    "bytes max/mean": "Bytes per reducer, max/mean",
    "CPU max/mean": "CPU seconds per reducer, max/mean",
    MAKESPAN: "Makespan on as many slots as reducers, s (modelled)",
    "wall s": "Wall clock on this machine, s",
    CPU: "CPU of all processes, s",
}
NOTES = (
    "The work: exact 5 %, 50 % and 95 % quantiles, median absolute deviation and trimmed mean of each area's readings, "
    "from counted values, in Python workers. The same functions everywhere; rivals read the two columns they need.",
    "max/mean, max/median and variation are of the stage that read most rows from a shuffle, from Spark's own figures "
    "of its tasks; CPU of a task is the JVM's and its Python worker's.",
    "The makespan is modelled: each stage's measured task times, in their order, put on as many slots as reducers, "
    "each task on the slot that is free first; stages one after the other. Profiling is among the salted run's stages.",
    "Wall clock and CPU are of the whole run, profiling and planning included ('profile CPU s' is their part); CPU "
    "counts every process. A kept plan, made from earlier rows, saves the profile: 'with a kept plan' leaves it out.",
    "AQE is on for 'AQE', 'REBALANCE hint' and 'planned salting'. Coalescing is off for rivals, which keeps their "
    "reducers' number; for planned salting it is on, and joins the tasks of its small stages alone.",
    "'equal' compares all rows of the result with plain Spark's. 'uniform salting' cuts every key into --salts parts.",
    "The JVM compiles fully, as a cluster's executors do.",
)


def partial(rows: pa.Table) -> pa.Table:
    """How often each value occurs, by value."""
    counts = pc.value_counts(rows["wh"].combine_chunks())
    return pa.table({"wh": counts.field("values"), "n": counts.field("counts")}).sort_by("wh")


def merge(partials: list[pa.Table]) -> pa.Table:
    """Robust statistics of the values counted in `partials`, which may name a value more than once."""
    every = pa.concat_tables(partials)
    value, upto = accumulated(every["wh"].to_numpy(), every["n"].to_numpy())
    count = np.diff(upto, prepend=0)
    rows = int(upto[-1])
    low, high = (int(value[np.searchsorted(upto, np.ceil(share * rows))]) for share in (0.05, 0.95))
    middle = median(value, upto)
    kept = (value >= low) & (value <= high)
    return pa.table(
        {
            "rows": [rows],
            "p05": pa.array([low], pa.int32()),
            "median": [middle],
            "p95": pa.array([high], pa.int32()),
            "deviation": [median(*accumulated(np.abs(value - middle), count))],
            "trimmed_mean": [float(value[kept] @ count[kept]) / float(count[kept].sum())],
        }
    )


def accumulated(value: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values in order, and how many there are up to each."""
    order = np.argsort(value, kind="stable")
    return value[order].astype(np.float64), np.cumsum(count[order])


def median(value: np.ndarray, upto: np.ndarray) -> float:
    low, high = np.searchsorted(upto, [(upto[-1] - 1) // 2, upto[-1] // 2], side="right")
    return (float(value[low]) + float(value[high])) / 2


def whole(rows: pa.Table) -> pa.Table:
    return merge([partial(rows)]).add_column(0, "area", rows["area"].slice(0, 1))


def plain(df: DataFrame, reducers: int, salts: int) -> DataFrame:
    return df.select("area", "wh").groupBy("area").applyInArrow(whole, f"area int, {SCHEMA}")


def rebalance(df: DataFrame, reducers: int, salts: int) -> DataFrame:
    return plain(df.select("area", "wh").hint("rebalance", "area"), reducers, salts)


def uniform(df: DataFrame, reducers: int, salts: int) -> DataFrame:
    def part(rows: pa.Table) -> pa.Table:
        counted = partial(rows)
        area = pa.array(np.full(counted.num_rows, rows["area"][0].as_py(), np.int32))
        return counted.add_column(0, "area", area)

    def together(parts: pa.Table) -> pa.Table:
        return merge([parts]).add_column(0, "area", parts["area"].slice(0, 1))

    salted = df.select("area", "wh", F.pmod(F.xxhash64("row"), F.lit(salts)).alias("salt"))
    parts = salted.groupBy("area", "salt").applyInArrow(part, "area int, wh int, n long")
    return parts.groupBy("area").applyInArrow(together, f"area int, {SCHEMA}")


def planned(df: DataFrame, reducers: int, salts: int) -> DataFrame:
    how = plan(profile(df, ["area"], reducers=reducers), reducers)
    return salted_group_map(
        df, ["area"], partial, merge, SCHEMA, row_key=["row"], plan=how, columns=["wh"], ordered=False
    )


SALTED = "planned salting"
RIVALS: dict[str, tuple[Callable[[DataFrame, int, int], DataFrame], bool]] = {
    "plain": (plain, False),
    "AQE": (plain, True),
    "REBALANCE hint": (rebalance, True),
    "uniform salting": (uniform, False),
    SALTED: (planned, True),
}


def write_rows(spark: SparkSession, path: str, s: float, rows: int, keys: int, files: int) -> None:
    """`rows` rows whose keys follow Zipf's law: key k with a share of k^-s."""
    upto = np.cumsum(np.arange(1, keys + 1, dtype=float) ** -s)
    upto /= upto[-1]

    def draw(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            uniform = batch["u"].to_numpy().view(np.uint64) / 2.0**64
            area = np.minimum(np.searchsorted(upto, uniform), keys - 1).astype(np.int32)
            yield pa.RecordBatch.from_arrays([batch["row"], pa.array(area), batch["wh"]], names=["row", "area", "wh"])

    wh = F.pmod(F.xxhash64("id", F.lit("wh")), F.lit(VALUES)).cast("int")
    drawn = spark.range(0, rows, 1, files).select(F.col("id").alias("row"), F.xxhash64("id").alias("u"), wh.alias("wh"))
    drawn.mapInArrow(draw, "row long, area int, wh int").write.mode("overwrite").parquet(path)


@dataclass(frozen=True)
class Bench:
    spark: SparkSession
    task_cpu: Path
    """Where the workers note their tasks' CPU seconds."""
    salts: int
    rounds: int

    def measure(self, df: DataFrame, name: str, reducers: int) -> tuple[dict[str, Any], pa.Table, SkewReport]:
        """One run: its figures, its result sorted by key, its tasks with the CPU seconds of JVM and Python."""
        run, adaptive = RIVALS[name]
        conf = self.spark.conf
        conf.set("spark.sql.shuffle.partitions", str(reducers))
        conf.set("spark.sql.adaptive.enabled", str(adaptive).lower())
        # Coalescing would change the rivals' number of reducers. A plan's is fixed, whatever the stages around it do.
        conf.set("spark.sql.adaptive.coalescePartitions.enabled", str(name == SALTED).lower())
        cpu, begin = cpu_s(), time.perf_counter()
        with observe(self.spark) as report:
            calculation = run(df, reducers, self.salts)
            ready, profiled = cpu_s(), last_stage(self.spark)
            result = calculation.toArrow()
        wall, done = time.perf_counter() - begin, cpu_s()
        time.sleep(0.2)  # the last workers write when Spark has their results
        python = workers.read(self.task_cpu)
        report.tasks = [replace(it, cpu_s=it.cpu_s + python.get((it.stage, it.index), 0.0)) for it in report.tasks]
        main = report.main()
        rows, size, cpu_spread, run_s = (main.spread(it) for it in ("rows", "bytes", "cpu_s", "run_s"))
        figures = {
            "tasks": len(main.tasks),
            "rows max/mean": rows.max_over_mean,
            "rows max/median": rows.max_over_median,
            "rows variation": rows.variation,
            "bytes max/mean": size.max_over_mean,
            "CPU max/mean": cpu_spread.max_over_mean,
            "hottest task CPU s": cpu_spread.max,
            "hottest task s": run_s.max,
            MAKESPAN: makespan(report.every, reducers),
            KEPT: makespan([stage for stage in report.every if stage.stage > profiled], reducers),
            "wall s": wall,
            CPU: done - cpu,
            "profile CPU s": ready - cpu,
        }
        return figures, result.sort_by("area"), report

    def compare(self, df: DataFrame, s: float, reducers: int, raw: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Every rival on the same rows, in turns."""
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in RIVALS}
        expected: pa.Table | None = None
        equal = dict.fromkeys(RIVALS, True)
        for _ in range(self.rounds):
            for name in RIVALS:
                figures, result, report = self.measure(df, name, reducers)
                expected = result if expected is None else expected
                equal[name] &= result.equals(expected)
                runs[name].append(figures)
                run_ms = [" ".join(f"{task.run_s * 1e3:.0f}" for task in stage.tasks) for stage in report.every]
                raw.append({"s": s, "reducers": reducers, "rival": name, "run_ms per stage": run_ms} | figures)
                common.say(f"s={s} reducers={reducers} {name}: {figures['wall s']:.1f} s, {figures[CPU]:.1f} CPU s")
        return [
            {"s": s, "reducers": reducers, "rival": name}
            | {key: common.median([run[key] for run in runs[name]]) for key in runs[name][0]}
            | {"equal": equal[name]}
            for name in RIVALS
        ]


def makespan(stages: Sequence[Reducers], slots: int) -> float:
    """Seconds of these stages on `slots` slots, from the measured seconds of each task."""
    total = 0.0
    for stage in stages:
        free = [0.0] * slots
        for task in stage.tasks:
            first = free.index(min(free))
            free[first] += task.run_s
        total += max(free)
    return total


def cpu_s() -> float:
    """CPU seconds of this process and all below it, those that ended included."""
    own = psutil.Process()
    total = 0.0
    for process in [own, *own.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue  # it ended meanwhile, and its parent counts it
        total += times.user + times.system + times.children_user + times.children_system
    return total


def plot(table: Sequence[Mapping[str, Any]], metric: str, title: str) -> None:
    """One panel per number of reducers, one line per rival, over s."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in table:
        panel = panels.setdefault(f"{row['reducers']} reducers", {})
        panel.setdefault(row["rival"], []).append((row["s"], row[metric]))
    name = metric.split(" (")[0].replace("/", "_").replace(" ", "_")
    picture = lines(panels, title=title, x="Zipf s", log=True, bold=SALTED)
    (common.RESULTS / f"skew_{name}.png").write_bytes(picture)


@click.command()
@click.option("--rows", default=10**7, show_default=True, help="Rows for each s.")
@click.option("--keys", default=2_000, show_default=True, help="Distinct keys.")
@click.option("--s", "exponents", type=float, multiple=True, help="Zipf's exponent; again for more.  [default: 0 to 2]")
@click.option("--reducers", "numbers", type=int, multiple=True, help="Again for more.  [default: 8, 64, 256]")
@click.option("--salts", default=16, show_default=True, help="Parts that uniform salting cuts each key into.")
@click.option("--rounds", default=1, show_default=True, help="Runs of each; the median is told.")
@click.option("--files", default=64, show_default=True, help="Files of the input, at least one task each.")
def main(
    rows: int,
    keys: int,
    exponents: tuple[float, ...],
    numbers: tuple[int, ...],
    salts: int,
    rounds: int,
    files: int,
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="skew-"))
    task_cpu = folder / "cpu"
    task_cpu.mkdir()
    os.environ[workers.FOLDER] = str(task_cpu)
    spark = session.build(load([f"{key}={value}" for key, value in SETTINGS.items()], environment={}), "skew")
    spark.conf.set("spark.sql.files.minPartitionNum", str(files))  # a task each
    bench = Bench(spark, task_cpu, salts, rounds)
    table: list[dict[str, Any]] = []
    raw: list[dict[str, Any]] = []
    try:
        write_rows(spark, str(folder / "first"), 1.5, rows // 10, keys // 10, files)
        for name in RIVALS:  # untimed: Spark and the JVM compile each one's code
            bench.measure(spark.read.parquet(str(folder / "first")), name, 16)
        for s in exponents or EXPONENTS:
            path = str(folder / f"s{s}")
            write_rows(spark, path, s, rows, keys, files)
            df = spark.read.parquet(path)
            for reducers in numbers or REDUCERS:
                table += bench.compare(df, s, reducers, raw)
            shutil.rmtree(path)
    finally:
        spark.stop()
        shutil.rmtree(folder, ignore_errors=True)
    parameters = {"rows": rows, "keys": keys, "s": exponents or EXPONENTS, "reducers": numbers or REDUCERS}
    parameters |= {"salts": salts, "rounds": rounds, "files": files} | SETTINGS
    tables = {"Robust statistics per key": table, "Planned salting over its rivals": ratios(table)}
    common.write("skew", parameters, tables, NOTES, raw)
    for metric, title in METRICS.items():
        plot(table, metric, title)


def ratios(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Below 1 planned salting is better."""
    found = []
    by = {(row["s"], row["reducers"], row["rival"]): row for row in table}
    for s, reducers in dict.fromkeys((row["s"], row["reducers"]) for row in table):
        own, plain = by[s, reducers, SALTED], by[s, reducers, "plain"]
        row: dict[str, Any] = {"s": s, "reducers": reducers}
        for name in RIVALS:
            if name != SALTED:
                row[f"makespan (modelled) / {name}"] = own[MAKESPAN] / by[s, reducers, name][MAKESPAN]
        best = min(by[s, reducers, name][MAKESPAN] for name in RIVALS if name != SALTED)
        row["with a kept plan / best rival"] = own[KEPT] / best
        row["CPU / plain"] = own[CPU] / plain[CPU]
        row["CPU with a kept plan / plain"] = (own[CPU] - own["profile CPU s"]) / plain[CPU]
        row["wall / plain"] = own["wall s"] / plain["wall s"]
        found.append(row)
    return found


if __name__ == "__main__":
    main()
