"""Results of pipelines: against the same calculation by hand and by pandas, on partials made up here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import pyarrow as pa
import pytest

from lib.algorithm import figures
from lib.algorithm.formula import FormulaSpec, analyse
from lib.algorithm.operator import Figure
from lib.algorithm.pipeline import Pipeline, PipelineSpec, Step
from lib.errors import GridsinkError
from lib.fusion.result import ALL_DAYS, commit, fuse, period_of, result_table
from lib.tables import Lake, LakeError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JANUARY, FEBRUARY = date(2016, 1, 1), date(2016, 2, 1)
DAYS = [JANUARY + timedelta(n) for n in range(40)]


@dataclass(frozen=True)
class Flow:
    """Losses and lowest voltage of each network, grouped finer than the result."""

    name: ClassVar[str] = "flow"
    table: ClassVar[str] = "snapshot_tile"
    group: ClassVar[tuple[str, ...]] = ("network_id", "network_version")
    figures: ClassVar[Mapping[str, Figure]] = {
        "loss_kwh": Figure("sum", "double", "kWh", "losses"),
        "vm_min_pu": Figure("min", "double", "pu", "lowest voltage"),
        "first": Figure("min", "date", "", "first day with a value"),
    }


@dataclass(frozen=True)
class Load:
    """Energy of each network."""

    name: ClassVar[str] = "load"
    table: ClassVar[str] = "bus_day"
    group: ClassVar[tuple[str, ...]] = ("network_id",)
    figures: ClassVar[Mapping[str, Figure]] = {
        "energy_kwh": Figure("sum", "double", "kWh", "energy"),
        "meters": Figure("max", "bigint", "", "meters"),
    }


RESULT = {
    "loss_percent": {"expression": "100 * flow.loss_kwh / load.energy_kwh", "unit": "%", "comment": "losses"},
    "vm_min_pu": {"expression": "flow.vm_min_pu", "unit": "pu"},
    "meters": {"expression": "coalesce(load.meters, 0)", "unit": ""},
    "low": {"expression": "flow.vm_min_pu < 0.95", "unit": ""},
    "first": {"expression": "flow.first", "unit": ""},
}
TYPES = {"loss_percent": "double", "vm_min_pu": "double", "meters": "bigint", "low": "boolean", "first": "date"}


def pipeline(period: str = "month", by: tuple[str, ...] = ("network_id",), **changes: Any) -> Pipeline:
    result = RESULT | {name: {"expression": text, "unit": ""} for name, text in changes.items()}
    steps = {name: {"operator": name} for name in ("flow", "load")}
    spec = PipelineSpec(id="losses", title="Losses", period=period, by=list(by), steps=steps, result=result)
    types = TYPES | dict.fromkeys(changes, "double")
    return Pipeline(spec, (Step("flow", Flow()), Step("load", Load())), Path("losses.yaml"), types)


def flow_rows(days: list[date] = DAYS, regions: tuple[str, ...] = ("north", "south")) -> pa.Table:
    """Two versions of network n1, and n2 in the north alone; sums that depend on their order."""
    rows = [
        {"region": region, "date": day, "network_id": network, "network_version": version,
         "loss_kwh": 0.1 * day.day + 1e16 * (day.day == 9), "vm_min_pu": 1 - 0.001 * day.day, "first": day}
        for region in regions for day in days
        for network, version in [("n1", 1), ("n1", 2), *([("n2", 1)] if region == "north" else [])]
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, figures_schema(Flow()))


def load_rows(days: list[date] = DAYS, regions: tuple[str, ...] = ("north", "south")) -> pa.Table:
    rows = [
        {"region": region, "date": day, "network_id": "n1", "energy_kwh": 10.0 + day.day, "meters": day.day}
        for region in regions for day in days
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, figures_schema(Load()))


def figures_schema(operator: Any) -> pa.Schema:
    kinds = {"network_id": pa.string(), "network_version": pa.int32()}
    keys = [("region", pa.string()), ("date", pa.date32()), *((name, kinds[name]) for name in operator.group)]
    return figures.schema(pa.schema(keys), operator.figures)


def expected_cells(days: list[date] = DAYS, period: str = "month") -> dict[tuple[str, date], int]:
    starts = pd.Series([period_of(day, period) for day in days]).value_counts()  # type: ignore[arg-type]
    return {(region, start): int(n) for region in ("north", "south") for start, n in starts.items()}


def test_periods_begin_on_their_first_day() -> None:
    day = date(2016, 2, 29)
    assert period_of(day, "day") == day
    assert period_of(day, "month") == FEBRUARY
    assert period_of(day, "all") == ALL_DAYS == period_of(JANUARY, "all")


def test_the_table_says_what_its_columns_are() -> None:
    table = result_table(pipeline())
    assert (table.layer, table.name, table.partition_by) == ("gold", "pipeline_losses", ("region", "date"))
    assert table.key == ("region", "date", "network_id")
    assert {column.name: column.type for column in table.columns} == {
        "region": "string", "date": "date", "network_id": "string", **TYPES,
        "cells": "int", "cells_expected": "int", "complete": "boolean",
    }  # fmt: skip
    comments = {column.name: column.comment for column in table.columns}
    assert comments["loss_percent"] == "%, losses: 100 * flow.loss_kwh / load.energy_kwh"
    assert "month" in comments["date"]


def test_months_equal_what_pandas_makes_of_the_partials(spark: SparkSession) -> None:
    found = fuse(spark, pipeline(), {"flow": flow_rows(), "load": load_rows()}, expected_cells())
    keys = ["region", "date", "network_id"]
    frames = [table.to_pandas().assign(date=lambda f: [d.replace(day=1) for d in f["date"]])
              for table in (flow_rows(), load_rows())]  # fmt: skip
    flow = frames[0].groupby(keys).agg({"loss_kwh": "sum", "vm_min_pu": "min", "first": "min"})
    load = frames[1].groupby(keys).agg({"energy_kwh": "sum", "meters": "max"})
    both = flow.join(load, how="outer").sort_index()
    rows = found.to_pandas().set_index(keys)
    assert list(rows.index) == list(both.index)
    assert len(rows) == 6
    percent = (100 * both["loss_kwh"] / both["energy_kwh"]).astype(float)
    pd.testing.assert_series_equal(rows["loss_percent"], percent, check_names=False, rtol=1e-12)
    assert list(rows["vm_min_pu"]) == list(both["vm_min_pu"])
    assert list(rows["low"]) == list(both["vm_min_pu"] < 0.95)
    assert list(rows["meters"]) == list(both["meters"].fillna(0))
    assert list(rows["first"]) == list(both["first"])
    assert rows["complete"].all()
    assert list(rows["cells"]) == [31, 31, 9, 9, 31, 9]
    assert found.schema == result_table(pipeline()).arrow


def test_the_order_of_partials_changes_no_bit(spark: SparkSession) -> None:
    flow, load = flow_rows(), load_rows()
    backwards = [table.take(pa.array(range(table.num_rows - 1, -1, -1))) for table in (flow, load)]
    there, back = (
        fuse(spark, pipeline(), dict(zip(("flow", "load"), tables, strict=True)), expected_cells())
        for tables in ((flow, load), backwards)
    )
    assert there.equals(back)


def test_a_month_with_missing_days_is_incomplete(spark: SparkSession) -> None:
    days = [day for day in DAYS if day != date(2016, 1, 5)]
    tables = {"flow": flow_rows(), "load": pa.concat_tables([load_rows(days, ("north",)), load_rows(DAYS, ("south",))])}
    rows = fuse(spark, pipeline(), tables, expected_cells()).to_pylist()
    state = {(row["region"], row["date"]): (row["cells"], row["cells_expected"], row["complete"]) for row in rows}
    assert state == {
        ("north", JANUARY): (30, 31, False), ("north", FEBRUARY): (9, 9, True),
        ("south", JANUARY): (31, 31, True), ("south", FEBRUARY): (9, 9, True),
    }  # fmt: skip
    # cells that are done may have no rows at all
    done = [(region, day) for region in ("north", "south") for day in DAYS]
    assert all(row["complete"] for row in fuse(spark, pipeline(), tables, expected_cells(), done).to_pylist())


def test_groups_of_one_step_alone_are_kept_and_null_is_a_group(spark: SparkSession) -> None:
    day = [JANUARY]
    nameless = load_rows(day, ("north",)).set_column(2, "network_id", pa.nulls(1, pa.string()))
    tables = {"flow": flow_rows(day), "load": pa.concat_tables([nameless, nameless, load_rows(day, ("south",))])}
    rows = fuse(spark, pipeline("day"), tables, expected_cells(day, "day")).to_pylist()
    found = {(row["region"], row["network_id"]): (row["vm_min_pu"], row["meters"]) for row in rows}
    assert found == {("north", "n1"): (0.999, 0), ("north", "n2"): (0.999, 0), ("north", None): (None, 1),
                     ("south", "n1"): (0.999, 1)}  # fmt: skip


def test_all_days_and_no_group_make_one_row_a_region(spark: SparkSession) -> None:
    it = pipeline("all", by=())
    rows = fuse(spark, it, {"flow": flow_rows(), "load": load_rows()}, expected_cells(period="all")).to_pylist()
    assert [(row["region"], row["date"], row["cells"], row["meters"]) for row in rows] == [
        ("north", ALL_DAYS, 40, 31), ("south", ALL_DAYS, 40, 31)
    ]  # fmt: skip


def test_no_partials_make_no_rows(spark: SparkSession) -> None:
    found = fuse(spark, pipeline(), {"flow": pa.table({}), "load": load_rows([])}, {})
    assert found.equals(result_table(pipeline()).arrow.empty_table())


def test_an_expression_that_fails_on_a_value_is_named(spark: SparkSession) -> None:
    it = pipeline(ratio="1 / (load.meters - load.meters)")
    with pytest.raises(GridsinkError, match="zero") as error:
        fuse(spark, it, {"flow": flow_rows(), "load": load_rows()}, expected_cells())
    assert error.value.where == "losses.yaml result.ratio"


def test_formulas_are_finished_once_their_figures_are_merged(spark: SparkSession) -> None:
    finish = {"score": {"expression": "coalesce(losses, 0) / n + 1", "unit": ""}}
    aggregates = {"losses": "sum(loss_kwh)", "cosine": "mean(cos_phi)", "n": "count(*)"}
    formula = analyse(
        spark, FormulaSpec(table="network_result", by=["network_id"], aggregates=aggregates, finish=finish)
    )
    changes = {"score": "daily.score", "cosine": "daily.cosine", "share": "try_divide(daily.losses, flow.loss_kwh)"}
    it = pipeline(**changes)
    it = dataclasses.replace(it, steps=(*it.steps, Step("daily", formula)))
    keys = {"region": "north", "network_id": "n1"}
    partials = pa.Table.from_pylist(
        [keys | {"date": day, "losses": 2.0 * n, "cosine__sum": 0.5 + n, "cosine__count": 1 + n, "n": 4}
         for n, day in enumerate(DAYS[:2])],
        figures.schema(pa.schema([("region", pa.string()), ("date", pa.date32()), ("network_id", pa.string())]),
                       formula.figures),
    )  # fmt: skip
    days = DAYS[:2]
    tables = {"flow": flow_rows(days, ("north",)), "load": load_rows(days, ("north",)), "daily": partials}
    rows = fuse(spark, it, tables, expected_cells(days)).to_pylist()
    assert [row["network_id"] for row in rows] == ["n1", "n2"]
    assert (rows[0]["score"], rows[0]["cosine"]) == (2 / 8 + 1, (0.5 + 1.5) / (1 + 2))
    assert rows[0]["share"] == pytest.approx(2 / 0.6)
    # no rows are not rows of nothing: coalesce does not see them
    assert (rows[1]["score"], rows[1]["cosine"], rows[1]["share"]) == (None, None, None)


def rows_of(region: str, day: date, *values: float | None) -> pa.Table:
    empty = dict.fromkeys(result_table(pipeline()).arrow.names)
    rows = [
        empty | {"region": region, "date": day, "network_id": f"n{k}", "loss_percent": value}
        for k, value in enumerate(values)
    ]
    return pa.Table.from_pylist(rows, result_table(pipeline()).arrow)


def kept(lake: Lake) -> dict[tuple[str, date], list[float | None]]:
    found: dict[tuple[str, date], list[float | None]] = {}
    table = pa.table(lake.snapshot(result_table(pipeline())).to_pyarrow_table())
    for row in table.sort_by("network_id").to_pylist():
        found.setdefault((row["region"], row["date"]), []).append(row["loss_percent"])
    return found


def test_equal_rows_are_not_written_again(lake: Path) -> None:
    it, january = Lake(str(lake)), [("o'neill", JANUARY)]
    rows = rows_of("o'neill", JANUARY, 1.0, float("nan"), None)
    assert commit(it, pipeline(), rows, january, "one") == 1
    assert commit(it, pipeline(), rows, january, "two") == 1
    assert commit(it, pipeline(), rows.slice(1), january, "three") == 2
    assert it.snapshot(result_table(pipeline())).history(1)[0]["userMetadata"] == '{"run_id": "three"}'


def test_only_the_periods_named_are_replaced(lake: Path) -> None:
    it = Lake(str(lake))
    cells = [(region, day) for region in ("a", "b") for day in (JANUARY, FEBRUARY)]
    commit(it, pipeline(), pa.concat_tables([rows_of(*cell, 1.0, 2.0) for cell in cells]), cells)
    both = [("a", JANUARY), ("b", FEBRUARY)]
    commit(it, pipeline(), pa.concat_tables([rows_of(*cell, 5.0) for cell in cells]), both)
    assert kept(it) == {("a", JANUARY): [5.0], ("b", FEBRUARY): [5.0], ("a", FEBRUARY): [1.0, 2.0],
                        ("b", JANUARY): [1.0, 2.0]}  # fmt: skip
    files = {file for file in it.snapshot(result_table(pipeline())).file_uris() if "region=b" in file}
    commit(it, pipeline(), pa.concat_tables([rows_of("b", JANUARY, 1.0, 2.0), rows_of("b", FEBRUARY, 7.0)]), cells[2:])
    assert kept(it)["b", FEBRUARY] == [7.0]
    assert len(files & set(it.snapshot(result_table(pipeline())).file_uris())) == 1  # January's
    commit(it, pipeline(), rows_of("a", JANUARY), [("a", JANUARY)])
    assert ("a", JANUARY) not in kept(it)
    assert len(kept(it)) == 3


def test_the_table_is_a_plain_one_with_comments(spark: SparkSession, lake: Path) -> None:
    it, table = Lake(str(lake)), result_table(pipeline())
    commit(it, pipeline(), rows_of("a", JANUARY, 1.0), [("a", JANUARY)])
    snapshot = it.snapshot(table)
    assert (snapshot.protocol().min_reader_version, snapshot.protocol().min_writer_version) == (1, 2)
    assert snapshot.metadata().configuration["delta.enableDeletionVectors"] == "false"
    comments = {row.col_name: row.comment for row in spark.sql(f"DESCRIBE delta.`{snapshot.table_uri}`").collect()}
    assert comments["loss_percent"] == "%, losses: 100 * flow.loss_kwh / load.energy_kwh"
    assert it.read(spark, table).select("loss_percent").collect()[0][0] == 1.0


def test_a_result_of_other_columns_is_not_written_over(lake: Path) -> None:
    it = Lake(str(lake))
    commit(it, pipeline(), rows_of("a", JANUARY, 1.0), [("a", JANUARY)])
    other = pipeline(more="1.0D")
    with pytest.raises(LakeError, match="column more"):
        commit(it, other, result_table(other).arrow.empty_table(), [("a", JANUARY)])
