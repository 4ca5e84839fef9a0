"""Salted and plain Spark give the same rows, and the salted reducers get even shares."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lib.errors import GridsinkError
from lib.salting import (
    SaltPlan,
    observe,
    plan,
    profile,
    salted_aggregate,
    salted_group_map,
    salted_join,
)

ROWS, KEYS, REDUCERS = 200_000, 2_000, 8
NO_BROADCAST = "spark.sql.autoBroadcastJoinThreshold"


def zipf(s: float, rows: int = ROWS, keys: int = KEYS, seed: int = 1) -> np.ndarray:
    share = np.arange(1, keys + 1, dtype=float) ** -s
    return np.random.default_rng(seed).choice(keys, rows, p=share / share.sum())


def table(s: float = 1.5, rows: int = ROWS) -> pa.Table:
    """Areas drawn by Zipf's law, the second heaviest null, one with a name beyond ASCII."""
    rng = np.random.default_rng(2)
    number = zipf(s, rows)
    names = [f"area {n}" for n in range(KEYS)]
    names[2] = "Höhenstraße 变压器"
    names[1] = None  # type: ignore[call-overload]
    wh = rng.integers(-50, 2000, rows)
    kw = rng.normal(0, 1e3, rows) * 10.0 ** rng.integers(-6, 6, rows)
    return pa.table(
        {
            "area": pa.array(names).take(pa.array(number)),
            "phase": pa.array(rng.integers(1, 4, rows).astype(np.int32)),
            "row": pa.array(np.arange(rows)),
            "wh": pa.array(wh, mask=rng.random(rows) < 0.01),
            "price": pa.array([Decimal(int(v)).scaleb(-3) for v in wh], pa.decimal128(12, 3)),
            "kw": pa.array(kw),
        }
    )


@pytest.fixture(scope="module")
def skewed(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> DataFrame:
    path = str(tmp_path_factory.mktemp("skewed") / "rows")
    spark.createDataFrame(table()).repartition(4).write.parquet(path)
    return spark.read.parquet(path)


@pytest.fixture(scope="module")
def by_area(skewed: DataFrame) -> SaltPlan:
    return plan(profile(skewed, ["area"]), REDUCERS)


@pytest.fixture
def shuffled_joins(spark: SparkSession) -> Iterator[None]:
    before = spark.conf.get(NO_BROADCAST)
    spark.conf.set(NO_BROADCAST, "-1")
    yield
    spark.conf.set(NO_BROADCAST, before)


def rows_of(df: DataFrame) -> Counter[Any]:
    """The multiset of rows; lists as tuples."""
    return Counter(
        tuple(tuple(value) if isinstance(value, list) else value for value in row.values())
        for row in df.toArrow().to_pylist()
    )


def check_same(salted: DataFrame, plain: DataFrame) -> None:
    assert salted.columns == plain.columns
    a, b = rows_of(salted), rows_of(plain)
    assert not a - b, f"only salted: {list((a - b).items())[:3]}"
    assert not b - a, f"only plain: {list((b - a).items())[:3]}"


def imbalance(spark: SparkSession, df: DataFrame) -> float:
    with observe(spark) as report:
        df.write.format("noop").mode("overwrite").save()
    main = report.main()
    assert len(main.tasks) == REDUCERS
    return main.spread("rows").max_over_mean


def count_and_sum(rows: pa.Table) -> pa.Table:
    return pa.table({"n": [rows.num_rows], "wh": [pc.sum(rows["wh"]).as_py()]}, schema=PARTIAL)


PARTIAL = pa.schema([("n", pa.int64()), ("wh", pa.int64())])


def add(partials: list[pa.Table]) -> pa.Table:
    every = pa.concat_tables(partials)
    return pa.table({"n": [pc.sum(every["n"]).as_py()], "wh": [pc.sum(every["wh"]).as_py()]}, schema=PARTIAL)


def test_profile_counts_exactly(skewed: DataFrame) -> None:
    rows = table()
    counts = Counter(zip(rows["area"].to_pylist(), rows["phase"].to_pylist(), strict=True))
    found = profile(skewed, ["area", "phase"], reducers=100)
    assert {key.key: key.rows for key in found.heavy} == {k: n for k, n in counts.items() if n >= ROWS / 800}
    assert (found.rows, found.load, sum(found.slots)) == (ROWS, ROWS, ROWS)
    assert found == profile(skewed.repartition(7), ["area", "phase"], reducers=100)


def test_profile_weighs(spark: SparkSession) -> None:
    df = spark.sql("SELECT * FROM VALUES ('a', 5), ('a', 7), ('b', 1000), ('c', null) AS t(k, bytes)")
    found = profile(df, ["k"], weight="bytes", reducers=12)
    assert [(key.key, key.rows, key.load) for key in found.heavy] == [(("b",), 1, 1000), (("a",), 2, 12)]
    assert (found.rows, found.load) == (4, 1012)
    with pytest.raises(GridsinkError, match="negative"):
        profile(df.selectExpr("k", "-bytes AS bytes"), ["k"], weight="bytes")
    with pytest.raises(GridsinkError, match="no exact sum"):
        profile(df.selectExpr("k", "bytes / 3 AS bytes"), ["k"], weight="bytes")


def test_uniform_keys_are_left_alone(spark: SparkSession) -> None:
    df = spark.range(20_000).selectExpr("id", "id % 4000 AS k")
    done = plan(profile(df, ["k"]), REDUCERS)
    assert done.identity
    assert "even" in done.reason
    result = salted_group_map(df.withColumn("wh", F.col("id")), ["k"], count_and_sum, add, "n long, wh long",
                              row_key=["id"], plan=done)  # fmt: skip
    check_same(result, df.groupBy("k").agg(F.count("*").alias("n"), F.sum("id").alias("wh")))


@pytest.mark.usefixtures("shuffled_joins")
def test_light_keys_are_packed_in_one_stage(spark: SparkSession) -> None:
    """Forty equal keys, which hashing does not give five to each of eight reducers."""
    df = spark.range(20_000).selectExpr("id", "id % 40 AS k", "id % 7 AS wh")
    found = profile(df, ["k"], reducers=REDUCERS)
    done = plan(found, REDUCERS)
    assert (done.identity, found.heavy, done.split) == (False, (), {})
    plain = df.groupBy("k").agg(F.count("*").alias("n"), F.sum("wh").alias("wh"))
    result = salted_group_map(df, ["k"], count_and_sum, add, "n long, wh long", row_key=["id"], plan=done)
    check_same(result, plain)
    with observe(spark) as report:
        result.write.format("noop").mode("overwrite").save()
    assert [stage.spread("rows").max_over_mean for stage in report.stages] == [1.0]
    check_same(
        salted_aggregate(df, ["k"], {"wh": ("sum", "wh"), "m": ("median", "wh")}, row_key=["id"], plan=done),
        df.groupBy("k").agg(F.sum("wh").alias("wh"), F.median("wh").alias("m")),
    )
    check_same(salted_join(df, plain, ["k"], row_key=["id"], plan=done), df.join(plain, ["k"]))


AGGS: dict[str, tuple[Any, ...]] = {
    "n": ("count", "*"),
    "n_wh": ("count", "wh"),
    "wh": ("sum", "wh"),
    "least": ("min", "price"),
    "most": ("max", "wh"),
    "mean": ("mean", "wh"),
    "cost": ("sum", "price"),
    "mean_cost": ("mean", "price"),
    "median": ("median", "wh"),
    "p95": ("percentile", "wh", 0.95),
    "values": ("collect_set", "phase"),
    "distinct": ("count_distinct", "wh"),
}


def test_aggregate_equals_plain_spark(skewed: DataFrame, by_area: SaltPlan) -> None:
    assert not by_area.identity
    assert by_area.split
    salted = salted_aggregate(skewed, ["area"], AGGS, row_key=["row"], plan=by_area)
    plain = skewed.groupBy("area").agg(
        F.count("*").alias("n"), F.count("wh").alias("n_wh"), F.sum("wh").alias("wh"), F.min("price").alias("least"),
        F.max("wh").alias("most"), F.avg("wh").alias("mean"), F.sum("price").alias("cost"),
        F.avg("price").alias("mean_cost"), F.percentile("wh", 0.5).alias("median"),
        F.percentile("wh", 0.95).alias("p95"), F.sort_array(F.collect_set("phase")).alias("values"),
        F.countDistinct("wh").alias("distinct"),
    )  # fmt: skip
    check_same(salted, plain)


def test_floats_to_twelve_digits_and_the_same_bits(skewed: DataFrame, by_area: SaltPlan) -> None:
    aggs = {"kw": ("sum", "kw"), "mean": ("mean", "kw")}
    once, again = (
        {row["area"]: (row["kw"].hex(), row["mean"].hex()) for row in found.toArrow().to_pylist()}
        for found in (
            salted_aggregate(df, ["area"], aggs, row_key=["row"], plan=by_area)
            for df in (skewed, skewed.repartition(5, "phase", "row"))
        )
    )
    assert once == again
    rows = table().to_pandas()
    for area, group in rows.groupby("area", dropna=False)["kw"]:
        total, mean = map(float.fromhex, once[None if area != area else area])
        scale = float(group.abs().sum())
        assert abs(total - group.sum()) <= 1e-12 * scale
        assert abs(mean - group.mean()) <= 1e-12 * scale


def test_aggregate_refuses_what_cannot_be_split(skewed: DataFrame, by_area: SaltPlan) -> None:
    for spec, reason in [
        (("collect_list", "wh"), "order of a list"),
        (("stddev", "wh"), "cancel"),
        (("approx_percentile", "wh"), "another answer"),
        (("skewness", "wh"), "unknown aggregation"),
        (("percentile", "wh"), "not written"),
        (("percentile", "wh", 95), "between 0 and 1"),
    ]:
        with pytest.raises(GridsinkError, match=reason):
            salted_aggregate(skewed, ["area"], {"x": spec}, row_key=["row"], plan=by_area)
    with pytest.raises(GridsinkError, match="other keys"):
        salted_aggregate(skewed, ["phase"], {"x": ("sum", "wh")}, row_key=["row"], plan=by_area)
    with pytest.raises(GridsinkError, match="tells the rows"):
        salted_aggregate(skewed, ["area"], {"x": ("sum", "wh")}, row_key=["area"], plan=by_area)
    with pytest.raises(GridsinkError, match="no such column"):
        salted_aggregate(skewed, ["area"], {"x": ("sum", "w")}, row_key=["row"], plan=by_area)
    with pytest.raises(GridsinkError, match="type double"):
        profile(skewed, ["kw"])


def test_group_map_equals_plain_spark(spark: SparkSession, skewed: DataFrame) -> None:
    keys = ["area", "phase"]
    done = plan(profile(skewed, keys), REDUCERS)
    assert done.split
    plain = skewed.groupBy(*keys).agg(F.count("*").alias("n"), F.sum("wh").alias("wh"))
    salted = salted_group_map(skewed, keys, count_and_sum, add, "n long, wh long", row_key=["row"], plan=done,
                              ordered=False, block_rows=1_000)  # fmt: skip
    check_same(salted, plain)

    def pruned(rows: pa.Table) -> pa.Table:
        assert rows.column_names == ["wh"]
        return count_and_sum(rows)

    salted = salted_group_map(skewed, keys, pruned, add, "n long, wh long", row_key=["row"], plan=done, columns=["wh"])
    check_same(salted, plain)


def test_group_map_gives_the_same_bits_and_even_reducers(
    spark: SparkSession, skewed: DataFrame, by_area: SaltPlan
) -> None:
    def kw(rows: pa.Table) -> pa.Table:
        return pa.table({"kw": [sum(rows["kw"].to_pylist())]})

    def total(partials: list[pa.Table]) -> pa.Table:
        return pa.table({"kw": [sum(float(it["kw"][0].as_py()) for it in partials)]})

    once, again = (
        salted_group_map(df, ["area"], kw, total, "kw double", row_key=["row"], plan=by_area)
        for df in (skewed, skewed.repartition(5, "row"))
    )
    check_same(again, once)
    plain = skewed.repartition(REDUCERS, "area").groupBy("area").applyInArrow(lambda t: t.select(["row"]), "row long")
    with observe(spark) as report:
        once.write.format("noop").mode("overwrite").save()
    first, second = report.stages
    assert first.spread("rows").total == ROWS
    assert first.spread("rows").max_over_mean <= 1.2
    assert second.spread("bytes").total < 0.2 * first.spread("bytes").total
    assert imbalance(spark, plain) > 2


def test_group_map_names_what_is_wrong(skewed: DataFrame, by_area: SaltPlan) -> None:
    with pytest.raises(GridsinkError, match="cannot be split"):
        salted_group_map(skewed, ["area"], count_and_sum, None, "n long", row_key=["row"], plan=by_area)  # type: ignore[arg-type]
    with pytest.raises(GridsinkError, match="names a key"):
        salted_group_map(skewed, ["area"], count_and_sum, add, "area string", row_key=["row"], plan=by_area)


@pytest.mark.usefixtures("shuffled_joins")
@pytest.mark.parametrize("how", ["inner", "left", "left_semi", "left_anti"])
def test_join_equals_plain_spark(spark: SparkSession, skewed: DataFrame, how: str) -> None:
    areas = skewed.groupBy("area").agg(F.max("row").alias("last"))
    third = areas.where("area IS NULL OR hash(area) % 3 != 0 OR area = 'area 0'")
    right = third.unionByName(third.where("hash(area) % 2 = 0"))  # many rows of one key
    left = skewed.select("row", "area", "wh")
    matching = left if how in ("left", "left_anti") else left.where("area IS NOT NULL")
    done = plan(profile(matching, ["area"]), REDUCERS)
    assert done.split
    salted = salted_join(left, right, ["area"], how, row_key=["row"], plan=done)
    check_same(salted, left.join(right, ["area"], how))
    with observe(spark) as report:
        salted.write.format("noop").mode("overwrite").save()
    main = report.main()
    assert len(main.tasks) == REDUCERS
    assert main.spread("rows").max_over_mean <= 1.2


@pytest.mark.parametrize("how", ["full", "right", "right_outer", "cross"])
def test_join_refuses_other_kinds(skewed: DataFrame, by_area: SaltPlan, how: str) -> None:
    with pytest.raises(GridsinkError, match="cannot be salted"):
        salted_join(skewed, skewed, ["area"], how, row_key=["row"], plan=by_area)


def test_join_wants_equal_types(spark: SparkSession) -> None:
    left, right = spark.range(10).withColumn("k", F.col("id")), spark.range(10).selectExpr("int(id) AS k")
    with pytest.raises(GridsinkError, match="bigint on the left and int on the right"):
        salted_join(left, right, ["k"], row_key=["id"], plan=plan(profile(left, ["k"]), 2))


@pytest.mark.usefixtures("shuffled_joins")
@pytest.mark.parametrize("frame", ["empty", "single key", "three rows"])
def test_small_frames(spark: SparkSession, frame: str) -> None:
    rows = {"empty": 0, "single key": 3000, "three rows": 3}[frame]
    df = spark.range(rows).selectExpr("id", "'k' AS k", "id AS wh")
    done = plan(profile(df, ["k"]), REDUCERS)
    assert bool(done.split) == (rows > 0)
    plain = df.groupBy("k").agg(F.count("*").alias("n"), F.sum("wh").alias("wh"))
    check_same(salted_group_map(df, ["k"], count_and_sum, add, "n long, wh long", row_key=["id"], plan=done), plain)
    aggs = {"n": ("count", "*"), "wh": ("sum", "wh"), "m": ("median", "wh")}
    check_same(
        salted_aggregate(df, ["k"], aggs, row_key=["id"], plan=done),
        df.groupBy("k").agg(F.count("*").alias("n"), F.sum("wh").alias("wh"), F.median("wh").alias("m")),
    )
    right = spark.sql("SELECT 'k' AS k, 1 AS x")
    check_same(salted_join(df, right, ["k"], "left", row_key=["id"], plan=done), df.join(right, ["k"], "left"))


def test_report_knows_the_hottest_task(spark: SparkSession, tmp_path: Path) -> None:
    df = spark.range(1000).selectExpr("id", "int(CASE WHEN id < 910 THEN 3 ELSE id % 10 END) AS p")
    with observe(spark) as report:
        df.repartitionById(10, F.col("p")).write.format("noop").mode("overwrite").save()
    rows = report.main().spread("rows")
    assert (rows.total, rows.hottest, rows.max, rows.mean) == (1000, 3, 919, 100)
    assert rows.max_over_median == pytest.approx(919 / 9)
    assert rows.variation == pytest.approx(np.std([9.0] * 9 + [919.0]) / 100)
    assert report.main().spread("bytes").hottest == 3
    assert report.main().spread("cpu_s").total > 0  # counted in nanoseconds; seconds in whole milliseconds


def test_report_counts_the_seconds_of_workers(spark: SparkSession) -> None:
    def sleep(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            time.sleep(0.5 * (batch["p"][0].as_py() == 2))
            yield batch

    df = spark.range(4).select(F.col("id").cast("int").alias("p")).repartitionById(4, F.col("p"))
    with observe(spark) as report:
        df.mapInArrow(sleep, "p int").write.format("noop").mode("overwrite").save()
    assert report.main().tasks[2].run_s >= 0.5
