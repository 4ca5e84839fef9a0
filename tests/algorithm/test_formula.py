"""Formulas: what they accept, what they read, and that their partials are the same bits whatever the files."""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from lib.algorithm import figures
from lib.algorithm import formula as formulas
from lib.algorithm.formula import Formula, FormulaError, FormulaSpec, analyse, apply_finish, compute, explained
from lib.errors import GridsinkError
from lib.tables import SCHEMAS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

DAYS = (date(2016, 1, 1), date(2016, 1, 2))


def spec(**parts: Any) -> FormulaSpec:
    defaults: dict[str, Any] = {"table": "branch_day", "by": ["network_id"], "aggregates": {"n": "count(*)"}}
    return FormulaSpec.model_validate(defaults | parts)


def problems(spark: SparkSession, **parts: Any) -> dict[str, str]:
    with pytest.raises(FormulaError) as caught:
        analyse(spark, spec(**parts), "conf/pipelines/x.yaml:7")
    assert caught.value.where == "conf/pipelines/x.yaml:7"
    return dict(caught.value.problems)


TRANSFORMERS: dict[str, Any] = {
    "where": "element_type IN ('trafo', 'trafo3w')",
    "map": {"copper": "loss_copper_kwh", "hot": "minutes_heavy > 0", "cube": "element * 3"},
    "aggregates": {
        "copper_kwh": "sum(copper)", "cubes": "sum(cube)", "worst_percent": "max(loading_max_percent)",
        "mean_percent": "mean(loading_max_percent)", "rows": "count(*)", "any_hot": "max(hot)",
        "first_peak": "min(loading_max_ts)", "mean_cube": "mean(cube)",
    },
    "finish": {
        "per_row": {"expression": "copper_kwh / rows", "unit": "kWh"},
        "label": {"expression": "concat(network_id, ':', rows)", "unit": ""},
        "whole": {"expression": "rows * 0.5", "unit": ""},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def transformers(spark: SparkSession) -> Formula:
    return analyse(spark, spec(**TRANSFORMERS), "conf/pipelines/x.yaml:7 steps.transformers")


def branches(seed: int, n: int = 400) -> list[dict[str, Any]]:
    """Rows of branch_day in two regions and two days, with nulls, NaN and numbers whose sum depends on the order."""
    rng = np.random.default_rng(seed)
    values = [1e16, 1.0, -1e16, 0.1, math.nan, None, -0.0, 0.0, 3e-7]
    return [
        {
            "region": str(rng.choice(["north", "south"])), "date": DAYS[rng.integers(2)],
            "network_id": str(rng.choice(["a", "b", "c"])),
            "element_type": str(rng.choice(["trafo", "trafo3w", "line"])), "element": int(rng.integers(50)),
            "loss_copper_kwh": values[rng.choice(9, p=[0.2, 0.2, 0.2, 0.2, 0, 0.1, 0.05, 0.05, 0])],
            "loading_max_percent": values[rng.integers(9)], "minutes_heavy": float(rng.integers(3)),
            "loading_max_ts": datetime(2016, 1, 1, int(rng.integers(24)), tzinfo=UTC) if rng.random() > 0.2 else None,
        }
        for _ in range(n)
    ]  # fmt: skip


def frame(spark: SparkSession, rows: list[dict[str, Any]], table: str = "branch_day") -> DataFrame:
    schema = SCHEMAS[table]
    return spark.createDataFrame([tuple(row.get(name) for name in schema.names) for row in rows], schema)


def test_columns_are_those_that_the_expressions_and_by_read(transformers: Formula) -> None:
    assert transformers.columns == (
        "element", "element_type", "loading_max_percent", "loading_max_ts", "loss_copper_kwh", "minutes_heavy",
        "network_id",
    )  # fmt: skip


def test_region_and_date_are_read_without_being_columns(spark: SparkSession) -> None:
    formula = analyse(spark, spec(by=[], where="region = 'a' AND DATE > date'2016-01-01'"))
    assert (formula.columns, formula.by, formula.group, formula.outputs) == ((), (), (), ())


def test_figures_have_merge_rules_and_types(transformers: Formula) -> None:
    found = {name: (figure.merge, figure.type) for name, figure in transformers.figures.items()}
    assert found == {
        "copper_kwh": ("sum", "double"), "cubes": ("sum", "bigint"), "worst_percent": ("max", "double"),
        "mean_percent__sum": ("sum", "double"), "mean_percent__count": ("sum", "bigint"), "rows": ("sum", "bigint"),
        "any_hot": ("max", "boolean"), "first_peak": ("min", "timestamp"), "mean_cube__sum": ("sum", "double"),
        "mean_cube__count": ("sum", "bigint"),
    }  # fmt: skip
    assert transformers.types["mean_cube"] == transformers.types["per_row"] == transformers.types["whole"] == "double"
    assert (transformers.types["label"], transformers.types["first_peak"]) == ("string", "timestamp")


def test_only_what_a_partial_depends_on_is_a_parameter(spark: SparkSession, transformers: Formula) -> None:
    finish = {"half": {"expression": "rows / 2", "unit": ""}}
    other = analyse(spark, spec(**(TRANSFORMERS | {"finish": finish})), "elsewhere")
    assert other.parameters == transformers.parameters
    narrower = analyse(spark, spec(**(TRANSFORMERS | {"where": "element_type = 'trafo'"})))
    assert narrower.parameters != transformers.parameters
    assert "UTC" in transformers.parameters["engine"]


def reference(rows: list[dict[str, Any]]) -> dict[tuple, dict[str, Any]]:
    """The transformers' partials in plain Python; sums go up the sorted values, nulls first."""
    groups = defaultdict(list)
    for row in rows:
        if row["element_type"] != "line":
            groups[row["region"], row["date"], row["network_id"]].append(row)
    found = {}
    for key, members in groups.items():

        def known(name: str, members: list[dict[str, Any]] = members) -> list[Any]:
            return [row[name] for row in members if row[name] is not None]

        loadings = known("loading_max_percent")
        finite = [value for value in loadings if value == value]
        found[key] = {
            "cubes": sum(3 * row["element"] for row in members), "rows": len(members),
            "worst_percent": max(finite, default=None), "mean_percent__count": len(loadings),
            "any_hot": any(row["minutes_heavy"] > 0 for row in members),
            "first_peak": min(known("loading_max_ts"), default=None),
            "mean_cube__sum": float(sum(3 * row["element"] for row in members)), "mean_cube__count": len(members),
        }  # fmt: skip
    return found


def test_partials_are_those_of_plain_python(spark: SparkSession, transformers: Formula) -> None:
    rows = branches(1)
    table = compute(spark, frame(spark, rows), transformers)
    assert table.column_names == ["region", "date", "network_id", *transformers.figures]
    assert table.schema.field("first_peak").type == pa.timestamp("us", tz="UTC")
    expected = reference(rows)
    found = {(row["region"], row["date"], row["network_id"]): row for row in table.to_pylist()}
    assert list(found) == sorted(expected)
    for key, values in expected.items():
        assert {name: found[key][name] for name in values} == values


def test_the_bits_do_not_depend_on_files_order_or_tasks(
    spark: SparkSession, transformers: Formula, tmp_path: Path
) -> None:
    rows = branches(2)
    whole = frame(spark, rows)
    layouts = {
        "one": whole.coalesce(1), "many": whole.repartition(7), "sorted": whole.coalesce(1).orderBy("loss_copper_kwh"),
        "reversed": frame(spark, rows[::-1]).coalesce(1), "by_column": whole.repartition(3, "element"),
    }  # fmt: skip
    tables = []
    before = spark.conf.get("spark.sql.shuffle.partitions")
    try:
        for i, (name, layout) in enumerate(layouts.items()):
            spark.conf.set("spark.sql.shuffle.partitions", str(1 + i))
            layout.write.parquet(str(tmp_path / name))
            tables.append(compute(spark, spark.read.parquet(str(tmp_path / name)), transformers))
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before)
    first = figures.to_bytes(tables[0].combine_chunks())
    assert all(figures.to_bytes(table.combine_chunks()) == first for table in tables)
    # the sums really depend on the order: a plain aggregate of another order differs
    sums = {row["copper_kwh"] for row in tables[0].to_pylist()}
    assert sums != {math.fsum(row["loss_copper_kwh"] or 0 for row in rows)}


def test_aggregates_go_over_sorted_rows_after_the_only_exchange(spark: SparkSession, transformers: Formula) -> None:
    plan = (
        formulas.query(spark, frame(spark, branches(3)), transformers)._jdf.queryExecution().executedPlan().toString()
    )
    assert plan.count("Exchange") == 1
    assert plan.count("SortAggregate") == 1
    assert "HashAggregate" not in plan
    assert plan.index("SortAggregate") < plan.index("Sort [") < plan.index("Exchange")


def test_partials_of_cells_merge_to_the_result_of_all_rows(spark: SparkSession, transformers: Formula) -> None:
    rows = [row | {"loss_copper_kwh": float(row["element"])} for row in branches(4)]
    cells = compute(spark, frame(spark, rows), transformers)
    parts = [cells.slice(i, 1) for i in range(cells.num_rows)]
    merged = figures.merge(parts, ["network_id"], transformers.figures)
    moved = [row | {"region": "north", "date": DAYS[0]} for row in rows]
    once = compute(spark, frame(spark, moved), transformers).drop(["region", "date"])
    for name in once.column_names:
        np.testing.assert_equal(merged[name].to_pylist(), once[name].to_pylist(), err_msg=name)


def test_finish_sees_merged_aggregates(spark: SparkSession, transformers: Formula) -> None:
    rows = [
        {"region": "north", "date": day, "network_id": "a", "element_type": "trafo", "element": 2,
         "loss_copper_kwh": loss, "loading_max_percent": loading, "minutes_heavy": 0.0}
        for day, loss, loading in ((DAYS[0], 1.0, 10.0), (DAYS[1], 2.0, 20.0), (DAYS[1], 6.0, None))
    ]  # fmt: skip
    merged = figures.merge([compute(spark, frame(spark, rows), transformers)], ["network_id"], transformers.figures)
    [row] = apply_finish(spark.createDataFrame(merged), transformers).collect()
    assert list(row.asDict()) == ["network_id", *transformers.calls, *transformers.spec.finish]
    assert (row["copper_kwh"], row["mean_percent"], row["mean_cube"]) == (9.0, 15.0, 6.0)
    assert (row["per_row"], row["label"], row["whole"]) == (3.0, "a:3", 1.5)
    assert list(formulas.finish_columns(transformers)) == [*transformers.calls, *transformers.spec.finish]


def test_a_mean_of_nothing_is_null_and_a_cell_without_rows_has_none(spark: SparkSession, transformers: Formula) -> None:
    rows = branches(5, 20)
    lines = [row | {"element_type": "line"} for row in rows]
    assert compute(spark, frame(spark, lines), transformers).num_rows == 0
    nothing = [row | {"element_type": "trafo", "loading_max_percent": None} for row in rows]
    table = compute(spark, frame(spark, nothing), transformers)
    results = apply_finish(spark.createDataFrame(table), transformers).collect()
    assert {row["mean_percent"] for row in results} == {None}


def test_nothing_large_moves_for_a_count(spark: SparkSession) -> None:
    formula = analyse(spark, spec(table="snapshot_tile", aggregates={"measured": "count(u_v)"}))
    tile = {"region": "north", "date": DAYS[0], "network_id": "a", "u_v": b"x"}
    rows = frame(spark, [tile, tile | {"u_v": None}], "snapshot_tile")
    assert compute(spark, rows, formula)["measured"].to_pylist() == [1]
    plan = formulas.query(spark, rows, formula)
    assert "binary" not in {kind for _, kind in plan.dtypes}


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("network", r"network is partitioned by (region), and a formula runs on one (region, date) at a time"),
        ("quarantine", "quarantine is partitioned by (region, date, job)"),
        ("partial", "partial is neither silver nor gold"),
        ("alarms", "alarms is neither silver nor gold"),
        ("branch_dya", "there is no table branch_dya; did you mean branch_day?"),
        ("xyz", "tables are alarm, bad_measurement, branch_day, bus_day, load_episode, load_run, meter_day, "),
    ],
)
def test_tables_that_have_no_cells_are_refused(spark: SparkSession, table: str, reason: str) -> None:
    assert reason in problems(spark, table=table)["table"]


def test_all_problems_are_told_at_once(spark: SparkSession) -> None:
    found = problems(
        spark,
        where="loss_kwh + 1",
        by=["date", "netwrk_id", "loss_kwh", "side", "side"],
        map={"a": "loss_kw", "b": "rand()", "unused": "side", "text": "element_type"},
        aggregates={
            "side": "count(*)", "low": "percentile(a, 0.5)", "s": "sum(text)", "m": "mean(reverse_power)",
            "t": "max(text)", "u": "sum(loss_kwhh)", "bad": "sum(b)",
        },
    )  # fmt: skip
    assert "is double, not a condition" in found["where"]
    assert "always there" in found["by.0"]
    assert "did you mean network_id?" in found["by.1"]
    assert "names and whole numbers" in found["by.2"]
    assert "given twice" in found["by.4"]
    assert "loss_kwh" in found["map.a"]
    assert "another value each time" in found["map.b"]
    assert "a key of the result already" in found["aggregates.side"]
    assert "cannot be merged" in found["aggregates.low"]
    assert "text is string; sum takes a number" in found["aggregates.s"]
    assert "reverse_power is boolean; mean takes a number" in found["aggregates.m"]
    assert "text is string; max takes a number, timestamp, date or boolean" in found["aggregates.t"]
    assert "neither in map nor a column of branch_day; did you mean loss_kwh?" in found["aggregates.u"]
    assert "aggregates.bad" not in found  # its map entry is told


def test_map_entries_must_be_used_and_finish_is_analysed(spark: SparkSession) -> None:
    assert "aggregated nowhere" in problems(spark, map={"unused": "side"})["map.unused"]
    finish = {
        "x": {"expression": "n / loss_kwh", "unit": ""}, "y": {"expression": "sum(n)", "unit": ""},
        "n": {"expression": "1", "unit": ""}, "z": {"expression": "array(n)", "unit": ""},
    }  # fmt: skip
    assert "an aggregate already" in problems(spark, finish=finish)["finish.n"]
    del finish["n"]
    found = problems(spark, finish=finish)
    assert "UNRESOLVED_COLUMN" in found["finish.x.expression"]
    assert "an aggregate reads other rows" in found["finish.y.expression"]
    assert "is array<bigint>" in found["finish.z.expression"]


@pytest.mark.parametrize(
    ("expression", "condition", "where"),
    [
        ("1 / minutes_heavy", "DIVIDE_BY_ZERO", "x.yaml:7 map.x"),
        ("element * 9000000000000000000", "ARITHMETIC_OVERFLOW", "x.yaml:7 map.x"),
        ("cast(element_type AS int)", "CAST_INVALID_INPUT", "x.yaml:7 map.x"),
        ("element + 9000000000000000000", "ARITHMETIC_OVERFLOW", "x.yaml:7"),
    ],
)
def test_an_expression_that_fails_on_a_row_is_told(
    spark: SparkSession, expression: str, condition: str, where: str
) -> None:
    formula = analyse(spark, spec(map={"x": expression}, aggregates={"x": "sum(x)"}), "x.yaml:7")
    rows = [row | {"element": 7, "minutes_heavy": 0.0} for row in branches(6, 30)]
    with pytest.raises(GridsinkError) as caught:
        compute(spark, frame(spark, rows), formula)
    assert condition in caught.value.what
    assert caught.value.where == where
    assert "\n" not in caught.value.what


def test_what_fails_in_finish_is_told(spark: SparkSession) -> None:
    formula = analyse(spark, spec(finish={"x": {"expression": "1 / (n - n)", "unit": ""}}), "x.yaml:7")
    merged = spark.range(1).select(F.lit("a").alias("network_id"), F.lit(2).cast("bigint").alias("n"))
    expressions = {"finish.x": "1 / (n - n)"}
    with pytest.raises(GridsinkError, match="DIVIDE_BY_ZERO") as caught, explained(formula.place, expressions):
        apply_finish(merged, formula).collect()
    assert caught.value.where == "x.yaml:7 finish.x"


def test_an_unchecked_formula_does_not_run(spark: SparkSession) -> None:
    with pytest.raises(GridsinkError, match="not checked"):
        compute(spark, frame(spark, []), Formula(spec()))


def test_without_ansi_a_formula_is_refused(spark: SparkSession) -> None:
    spark.conf.set("spark.sql.ansi.enabled", "false")
    try:
        assert "overflow would pass unnoticed" in problems(spark)[""]
    finally:
        spark.conf.unset("spark.sql.ansi.enabled")
