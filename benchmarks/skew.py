"""Skewed keys: the load of reducers, CPU and time of an exact median per key, salted by plan and by its rivals."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks import common
from lib import session
from lib.salting import SkewReport, observe, plan, profile, salted_group_map
from lib.settings import load

EXPONENTS = (0.0, 0.5, 1.0, 1.5, 2.0)
REDUCERS = (8, 64, 256)
VALUES = 500
SCHEMA = "rows long, median double"
METRICS = {
    "rows max/mean": "Rows per reducer, max/mean",
    "bytes max/mean": "Bytes per reducer, max/mean",
    "seconds max/mean": "Seconds per reducer, max/mean",
    "makespan s (modelled)": "Makespan on as many slots as reducers, s (modelled)",
    "wall s": "Wall clock on this machine, s",
    "CPU s": "CPU of all processes, s",
}
NOTES = (
    "The work is the exact median per key, from counted values, in Python workers: the same two functions everywhere.",
    "max/mean are of the stage that read most rows from a shuffle, from Spark's own figures of its tasks. Seconds are "
    "a task's run time, Python included; 'JVM CPU' leaves Python out.",
    "The makespan is modelled: each stage's measured task times, in their order, put on as many slots as reducers, "
    "each task on the slot that is free first; stages one after the other. Profiling is among the salted run's stages.",
    "Wall clock and CPU are of the whole run, profiling and planning included; CPU counts every process. AQE is on for "
    "'AQE', 'REBALANCE hint' and 'planned salting'. Coalescing is off for rivals, which keeps their reducers' number; "
    "for planned salting it is on, and joins the tasks of its small stages alone.",
    "'equal' compares all rows of the result with plain Spark's. 'uniform salting' cuts every key into --salts parts.",
)


def partial(rows: pa.Table) -> pa.Table:
    """How often each value occurs."""
    counts = pc.value_counts(rows["wh"].combine_chunks())
    return pa.table({"wh": counts.field("values"), "n": counts.field("counts")})


def merge(partials: list[pa.Table]) -> pa.Table:
    """Rows and exact median of the values counted in `partials`."""
    every = pa.concat_tables(partials)
    value, count = every["wh"].to_numpy(), every["n"].to_numpy()
    order = np.argsort(value, kind="stable")
    value, upto = value[order], np.cumsum(count[order])
    rows = int(upto[-1])
    low, high = np.searchsorted(upto, [(rows - 1) // 2, rows // 2], side="right")
    return pa.table({"rows": [rows], "median": [(float(value[low]) + float(value[high])) / 2]})


def whole(rows: pa.Table) -> pa.Table:
    return merge([partial(rows)]).add_column(0, "area", rows["area"].slice(0, 1))


def plain(df: DataFrame, reducers: int, salts: int) -> DataFrame:
    return df.groupBy("area").applyInArrow(whole, f"area int, {SCHEMA}")


def rebalance(df: DataFrame, reducers: int, salts: int) -> DataFrame:
    return plain(df.hint("rebalance", "area"), reducers, salts)


def uniform(df: DataFrame, reducers: int, salts: int) -> DataFrame:
    def part(rows: pa.Table) -> pa.Table:
        counted = partial(rows)
        area = pa.array(np.full(counted.num_rows, rows["area"][0].as_py(), np.int32))
        return counted.add_column(0, "area", area)

    def together(parts: pa.Table) -> pa.Table:
        return merge([parts]).add_column(0, "area", parts["area"].slice(0, 1))

    salted = df.withColumn("salt", F.pmod(F.xxhash64("row"), F.lit(salts)))
    parts = salted.groupBy("area", "salt").applyInArrow(part, "area int, wh int, n long")
    return parts.groupBy("area").applyInArrow(together, f"area int, {SCHEMA}")


def planned(df: DataFrame, reducers: int, salts: int) -> DataFrame:
    chosen = plan(profile(df, ["area"], reducers=reducers), reducers)
    return salted_group_map(df, ["area"], partial, merge, SCHEMA, row_key=["row"], plan=chosen, ordered=False)


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


def measure(
    spark: SparkSession, df: DataFrame, name: str, reducers: int, salts: int
) -> tuple[dict[str, Any], pa.Table, SkewReport]:
    """One run: its figures, its result sorted by key, its tasks."""
    run, adaptive = RIVALS[name]
    spark.conf.set("spark.sql.shuffle.partitions", str(reducers))
    spark.conf.set("spark.sql.adaptive.enabled", str(adaptive).lower())
    # Coalescing would change the rivals' number of reducers. A plan's is fixed, whatever the small stages around it do.
    spark.conf.set("spark.sql.adaptive.coalescePartitions.enabled", str(name == SALTED).lower())
    cpu, begin = cpu_s(), time.perf_counter()
    with observe(spark) as report:
        result = run(df, reducers, salts).toArrow()
    wall, cpu = time.perf_counter() - begin, cpu_s() - cpu
    main = report.main()
    spreads = {measure: main.spread(measure) for measure in ("rows", "bytes", "cpu_s", "run_s")}
    figures = {
        "tasks": len(main.tasks),
        "rows max/mean": spreads["rows"].max_over_mean,
        "rows max/median": spreads["rows"].max_over_median,
        "rows variation": spreads["rows"].variation,
        "bytes max/mean": spreads["bytes"].max_over_mean,
        "JVM CPU max/mean": spreads["cpu_s"].max_over_mean,
        "seconds max/mean": spreads["run_s"].max_over_mean,
        "hottest task s": spreads["run_s"].max,
        "makespan s (modelled)": makespan(report, reducers),
        "wall s": wall,
        "CPU s": cpu,
    }
    return figures, result.sort_by("area"), report


def makespan(report: SkewReport, slots: int) -> float:
    """Seconds of all stages on `slots` slots, from the measured seconds of each task."""
    total = 0.0
    for stage in report.every:
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


def plot(rows: Sequence[Mapping[str, Any]], metric: str, title: str, path: Path) -> None:
    """One panel per number of reducers, one line per rival, over s."""
    numbers = sorted({row["reducers"] for row in rows})
    figure = Figure(figsize=(4.2 * len(numbers), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, reducers in zip(figure.subplots(1, len(numbers), squeeze=False)[0], numbers, strict=True):
        for name in RIVALS:
            points = [(row["s"], row[metric]) for row in rows if (row["rival"], row["reducers"]) == (name, reducers)]
            axes.plot(*zip(*points, strict=True), marker="o", label=name, linewidth=2.5 if name == SALTED else 1.2)
        axes.set(title=f"{reducers} reducers", xlabel="Zipf s", yscale="log")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, format="png", dpi=110)


@click.command()
@click.option("--rows", default=10**7, show_default=True, help="Rows for each s.")
@click.option("--keys", default=10_000, show_default=True, help="Distinct keys.")
@click.option("--s", "exponents", type=float, multiple=True, help="Zipf's exponent; again for more.  [default: 0 to 2]")
@click.option("--reducers", "numbers", type=int, multiple=True, help="Again for more.  [default: 8, 64, 256]")
@click.option("--salts", default=16, show_default=True, help="Parts that uniform salting cuts each key into.")
@click.option("--rounds", default=1, show_default=True, help="Runs of each; the median is told.")
@click.option("--files", default=64, show_default=True, help="Files of the input, at least one task each.")
@click.option("--driver-memory", default="4g", show_default=True)
def main(
    rows: int,
    keys: int,
    exponents: tuple[float, ...],
    numbers: tuple[int, ...],
    salts: int,
    rounds: int,
    files: int,
    driver_memory: str,
) -> None:
    spark = session.build(load([f"spark.driver_memory={driver_memory}"], environment={}), "skew")
    folder = Path(tempfile.mkdtemp(prefix="skew-"))
    table: list[dict[str, Any]] = []
    raw: list[dict[str, Any]] = []
    try:
        for s in exponents or EXPONENTS:
            path = str(folder / f"s{s}")
            write_rows(spark, path, s, rows, keys, files)
            df = spark.read.parquet(path)
            for name in RIVALS:
                measure(spark, df.where("row < 20000"), name, 2, salts)  # starts workers, untimed
            for reducers in numbers or REDUCERS:
                table += compare(spark, df, s, reducers, salts, rounds, raw)
            shutil.rmtree(path)
    finally:
        spark.stop()
        shutil.rmtree(folder, ignore_errors=True)
    parameters = {"rows": rows, "keys": keys, "s": exponents or EXPONENTS, "reducers": numbers or REDUCERS}
    parameters |= {"salts": salts, "rounds": rounds, "files": files, "driver_memory": driver_memory}
    common.write("skew", parameters, {"Exact median per key": table, "Against plain Spark": ratios(table)}, NOTES, raw)
    for metric, title in METRICS.items():
        plot(
            table,
            metric,
            title,
            common.RESULTS / f"skew_{metric.split(' (')[0].replace('/', '_').replace(' ', '_')}.png",
        )


def compare(
    spark: SparkSession, df: DataFrame, s: float, reducers: int, salts: int, rounds: int, raw: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Every rival on the same rows, in turns."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in RIVALS}
    expected: pa.Table | None = None
    equal = dict.fromkeys(RIVALS, True)
    for _ in range(rounds):
        for name in RIVALS:
            figures, result, report = measure(spark, df, name, reducers, salts)
            expected = result if expected is None else expected
            equal[name] &= result.equals(expected)
            runs[name].append(figures)
            task_s = [[task.run_s for task in stage.tasks] for stage in report.every]
            raw.append({"s": s, "reducers": reducers, "rival": name, "task_s": task_s} | figures)
            common.say(f"s={s} reducers={reducers} {name}: {figures['wall s']:.1f} s")
    return [
        {"s": s, "reducers": reducers, "rival": name}
        | {key: common.median([run[key] for run in runs[name]]) for key in runs[name][0]}
        | {"equal": equal[name]}
        for name in RIVALS
    ]


def ratios(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Planned salting over each rival: below 1 it is better."""
    found = []
    by = {(row["s"], row["reducers"], row["rival"]): row for row in table}
    for s, reducers in dict.fromkeys((row["s"], row["reducers"]) for row in table):
        own = by[s, reducers, SALTED]
        row: dict[str, Any] = {"s": s, "reducers": reducers}
        for name in RIVALS:
            if name != SALTED:
                other = by[s, reducers, name]
                row[f"makespan (modelled) / {name}"] = own["makespan s (modelled)"] / other["makespan s (modelled)"]
        row["CPU / plain"] = own["CPU s"] / by[s, reducers, "plain"]["CPU s"]
        row["wall / plain"] = own["wall s"] / by[s, reducers, "plain"]["wall s"]
        found.append(row)
    return found


if __name__ == "__main__":
    main()
