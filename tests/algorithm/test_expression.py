"""What an expression may be is decided on Spark's own trees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from lib.algorithm.expression import Analyser, Call, Refused
from lib.tables import SCHEMAS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="module")
def analyser(spark: SparkSession) -> Iterator[Analyser]:
    """Over branch_day, in a session that has functions and a variable of its own."""
    spark.udf.register("my_python", lambda x: x, "double")
    spark.udf.register("upper_bound", lambda x: x, "double")
    spark.sql("CREATE TEMPORARY FUNCTION my_sql(x DOUBLE) RETURNS DOUBLE RETURN x * 2")
    spark.sql("DECLARE VARIABLE my_limit INT DEFAULT 3")
    yield Analyser(spark, SCHEMAS["branch_day"])
    for name in ("my_python", "upper_bound", "my_sql"):
        spark.sql(f"DROP TEMPORARY FUNCTION {name}")
    spark.sql("DROP TEMPORARY VARIABLE my_limit")


@pytest.mark.parametrize(
    ("text", "type_", "columns"),
    [
        ("loss_kwh / 2", "double", {"loss_kwh"}),
        ("LOSS_KWH > 1 AND element_type IN ('trafo', 'trafo3w')", "boolean", {"loss_kwh", "element_type"}),
        ("CASE WHEN side = 0 THEN loss_kwh END", "double", {"side", "loss_kwh"}),
        ("loss_kwh BETWEEN 1 AND nullif(energy_kwh, 0)", "boolean", {"loss_kwh", "energy_kwh"}),
        ("date >= date'2016-01-01'", "boolean", {"date"}),
        ("to_timestamp('2016-01-01 00:00:00')", "timestamp", set()),
        ("hour(loading_max_ts)", "int", {"loading_max_ts"}),
        ("pi() * e() -- a comment", "double", set()),
        ("aggregate(transform(array(1, side), x -> x + 1), 0, (a, b) -> a + b)", "int", {"side"}),
        ("decode(side, 0, 1, 2)", "int", {"side"}),
    ],
)
def test_an_expression_s_type_and_columns(analyser: Analyser, text: str, type_: str, columns: set[str]) -> None:
    found = analyser.check(text)
    assert (found.type.simpleString(), found.columns) == (type_, columns)


@pytest.mark.parametrize("text", [
    "sum(loss_kwh)", "1 + max(side)", "sum(loss_kwh) * side", "any_value(side)", "percentile(loss_kwh, 0.5)",
    "count(*)",
])  # fmt: skip
def test_aggregates_have_their_place(analyser: Analyser, text: str) -> None:
    with pytest.raises(Refused, match="an aggregate reads other rows"):
        analyser.check(text)


@pytest.mark.parametrize(("text", "reason"), [
    ("row_number() OVER (ORDER BY side)", "a window function reads other rows"),
    ("sum(loss_kwh) OVER ()", "a window function reads other rows|an aggregate reads other rows"),
    ("(SELECT 1)", "a subquery"), ("EXISTS (SELECT 1)", "a subquery"), ("side IN (SELECT 1)", "a subquery"),
    ("(SELECT max(x) FROM nowhere)", "a subquery"),
    ("explode(array(1, 2))", "several rows"), ("stack(2, 1, 2)", "several rows"), ("*", "several columns"),
    ("window(loading_max_ts, '1 day')", "reads other rows"),
])  # fmt: skip
def test_other_rows_are_refused(analyser: Analyser, text: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        analyser.check(text)


@pytest.mark.parametrize("text", [
    "rand()", "randn()", "1 + uuid()::int", "monotonically_increasing_id()", "input_file_name()",
    "spark_partition_id()", "shuffle(array(1, 2))", "java_method('java.util.UUID', 'randomUUID')",
    "aes_encrypt('a', '0000111122223333')",
    "if(side > 1, rand(), 0)", "transform(array(1), x -> x + rand())",
])  # fmt: skip
def test_what_is_different_each_time_is_refused(analyser: Analyser, text: str) -> None:
    with pytest.raises(Refused, match="gives another value each time"):
        analyser.check(text)


@pytest.mark.parametrize("text", [
    "current_date", "current_date()", "current_timestamp", "now()", "localtimestamp()", "current_time",
    "unix_timestamp()", "datediff(current_date, date)", "current_user", "user()", "session_user",
    "current_database()", "current_catalog()",
    "current_timezone()", "version()", "my_limit", "side + my_limit", "date'today'", "DATE /* now */ 'Yesterday'",
    "timestamp'now'", "cast('now' AS timestamp)", "to_date('today')", "to_timestamp(' tomorrow')",
    "cast('to' || 'day' AS date)", "try_to_timestamp('now')", "date > 'today'", "greatest(date, date'epoch')",
])  # fmt: skip
def test_what_depends_on_when_where_or_by_whom_it_runs_is_refused(analyser: Analyser, text: str) -> None:
    with pytest.raises(Refused, match="depends on when, where or by whom"):
        analyser.check(text)


@pytest.mark.parametrize("text", ["my_python(loss_kwh)", "my_sql(loss_kwh)", "1 + upper_bound(loss_kwh)"])
def test_functions_of_unknown_source_are_refused(analyser: Analyser, text: str) -> None:
    with pytest.raises(Refused, match="not Spark's own"):
        analyser.check(text)


@pytest.mark.parametrize(("text", "reason"), [
    ("loss_kw", "Did you mean.*loss_kwh"), ("nothing(1)", "no function nothing"), ("loss_kwh +", "PARSE_SYNTAX_ERROR"),
    ("1, 2", "PARSE_SYNTAX_ERROR"), ("element_type + date", r"^\[DATATYPE_MISMATCH"),
    ("_metadata.file_path", "UNRESOLVED"),
])  # fmt: skip
def test_what_spark_refuses_is_told_in_one_line(analyser: Analyser, text: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason) as caught:
        analyser.check(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("text", "call"), [
    ("sum(loss)", Call("sum", "loss")), ("COUNT(*)", Call("count", None)), (" count( loss )", Call("count", "loss")),
    ("min(`loss`)", Call("min", "loss")), ("max(x)", Call("max", "x")), ("mean(x)", Call("mean", "x")),
])  # fmt: skip
def test_calls_of_aggregates(analyser: Analyser, text: str, call: Call) -> None:
    assert analyser.call(text) == call


@pytest.mark.parametrize(("text", "reason"), [
    *((f"{f}(x)", f"{f} cannot be merged from partials; use sum, count, min, max or mean")
      for f in ("stddev", "median", "collect_list", "approx_count_distinct", "variance", "bool_or")),
    ("percentile(x, 0.5)", "percentile cannot be merged"), ("min_by(x, y)", "min_by cannot be merged"),
    ("percentile_cont(0.5) WITHIN GROUP (ORDER BY x)", "percentile_cont cannot be merged"),
    ("any_value(x)", "cannot be merged"), ("count(DISTINCT x)", "distinct values cannot be merged"),
    ("sum(x) FILTER (WHERE x > 1)", "put the condition into map"), ("sum(x) OVER ()", "a window"),
    ("sum(x) / 2", "combine in `finish`"), ("x", "is not one aggregate"), ("sum(a * b)", r"give `\(a \* b\)` a name"),
    ("max(sum(x))", "takes a name in map"), ("sum(1)", "takes a name in map"), ("sum(a.b)", "takes a name in map"),
    ("sum(x, y)", "takes one name"), ("avg(x)", "write mean"), ("upper(x)", "is no aggregate"),
    ("my_python(x)", "is no aggregate"), ("(SELECT sum(x))", "is not one aggregate"), ("sum(", "PARSE_SYNTAX_ERROR"),
    ("sum(*)", "takes a name in map"), ("system.builtin.sum(x)", "is no aggregate"),
])  # fmt: skip
def test_other_aggregates_are_refused_with_the_reason(analyser: Analyser, text: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        analyser.call(text)
