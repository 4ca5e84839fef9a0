"""SQL expressions checked by Spark's own parser and analyser: what they read, their type, and that they always give the
same value for the same row. Nothing runs."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from py4j.java_gateway import is_instance_of
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import functions as F
from pyspark.sql import types as t

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_EXPRESSIONS = "org.apache.spark.sql.catalyst.expressions."
_AMBIENT = "depends on when, where or by whom it runs; a result must depend on the rows alone"
_ROWS = "reads other rows than its own; an expression sees one row"
_AGGREGATE = f"an aggregate {_ROWS}; write aggregates under a formula's `aggregates`"
# What an expression may end in. Every other leaf (current_date, current_user, version(), variables) is no constant.
_LEAVES = {"Literal", "AttributeReference", "CommonExpressionRef", "NamedLambdaVariable", "Pi", "EulerNumber"}
_NO_CALL = "is not one aggregate; write sum(x), count(x), count(*), min(x), max(x) or mean(x), and combine in `finish`"
_NO_AGGREGATE = "is no aggregate; use sum, count, min, max or mean, and map for what is done to a single row"
_NOT_MERGEABLE = "cannot be merged from partials; use sum, count, min, max or mean"
AGGREGATES = ("sum", "count", "min", "max", "mean")
_DATETIMES = ("DateType", "TimestampType", "TimestampNTZType", "TimeType")
_INTEGRAL = (t.ByteType, t.ShortType, t.IntegerType, t.LongType)
_FRACTIONAL = (t.FloatType, t.DoubleType, t.DecimalType)


class Refused(ValueError):
    """An expression that cannot be used; the text says why and what would do."""


@dataclass(frozen=True)
class Checked:
    """Type of an expression's value, and the columns that it reads."""

    type: t.DataType
    columns: frozenset[str]


@dataclass(frozen=True)
class Call:
    """One call of an aggregate; `argument` is None for count(*)."""

    function: str
    argument: str | None


def kind(data_type: t.DataType) -> str | None:
    """The type that a value of `data_type` is kept as: bigint for integers, double for other numbers."""
    if isinstance(data_type, _INTEGRAL):
        return "bigint"
    if isinstance(data_type, _FRACTIONAL):
        return "double"
    kept = (t.TimestampType, t.DateType, t.BooleanType, t.StringType)
    return data_type.simpleString() if isinstance(data_type, kept) else None


def message(error: PySparkException) -> str:
    """Spark's condition and its first sentence or two, without plans, positions and stack traces."""
    text = " ".join((error.getMessage() or str(error)).split(" SQLSTATE")[0].split())
    return text.partition(" If necessary set ")[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without pyspark's own log of every failed call, stack trace and all: the error is told by its caller."""
    logger = logging.getLogger("SQLQueryContextLogger")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


class Analyser:
    """Checks expressions over rows of one schema."""

    def __init__(self, spark: SparkSession, schema: t.StructType) -> None:
        self._spark = spark
        self._state = spark._jsparkSession.sessionState()
        self._rows = spark.createDataFrame([], schema)
        self._plan = self._rows._jdf.queryExecution().analyzed()

    def check(self, text: str) -> Checked:
        """Type and columns of an expression over one row. Raises Refused."""
        self._check_parsed(self._parse(text), text)
        try:
            with quiet():
                frame = self._rows.select(F.expr(text))
        except AnalysisException as e:
            raise Refused(message(e)) from e
        plan = frame._jdf.queryExecution().analyzed()
        self._check_shape(plan)
        if len(frame.schema) != 1:
            raise Refused("gives several columns; an expression is one value")
        for node in self._walk(plan.expressions().apply(0)):
            self._check_node(node)
        references = plan.references().toSeq()
        names = {references.apply(i).name().lower() for i in range(references.size())}
        columns = frozenset(name for name in self._rows.columns if name.lower() in names)
        return Checked(frame.schema[0].dataType, columns)

    def call(self, text: str) -> Call:
        """The aggregate that `text` is. Raises Refused where it is anything but f(name) or count(*)."""
        node = self._parse(text)
        name = _class(node)
        if name == "WindowExpression":
            raise Refused(f"a window {_ROWS}; aggregates are grouped by `by`")
        if name == "AggregateExpression":
            raise Refused(f"this aggregate {_NOT_MERGEABLE}")
        if name != "UnresolvedFunction":
            raise Refused(_NO_CALL)
        function = node.nameParts().mkString(".").lower()
        if function not in AGGREGATES:
            if function == "avg":
                raise Refused("write mean instead of avg")
            raise Refused(f"{function} {_NOT_MERGEABLE if self._is_aggregate(function) else _NO_AGGREGATE}")
        if self._info(function).getSource() != "built-in":
            raise Refused(f"{function} is a function of this session here, not Spark's own; drop it")
        if node.isDistinct():
            raise Refused(f"distinct values {_NOT_MERGEABLE}, each without distinct")
        if node.filter().isDefined():
            raise Refused(f"FILTER is not allowed; put the condition into map: if(condition, x, null), then {function}")
        if node.ignoreNulls().isDefined() or node.orderingWithinGroup().size():
            raise Refused(f"write {function}(x) alone; nulls are passed over and order does not matter")
        arguments = [node.arguments().apply(i) for i in range(node.arguments().size())]
        if len(arguments) != 1:
            raise Refused(f"{function} takes one name")
        [argument] = arguments
        if function == "count" and _class(argument) == "Literal" and argument.sql() == "1":
            return Call(function, None)  # what the parser makes of count(*)
        if _class(argument) != "UnresolvedAttribute" or argument.nameParts().size() != 1:
            raise Refused(f"{function} takes a name in map; give `{argument.sql()}` a name there")
        return Call(function, argument.nameParts().apply(0))

    def _parse(self, text: str) -> Any:
        with quiet():
            try:
                return self._state.sqlParser().parseExpression(text)
            except PySparkException as e:
                raise Refused(message(e).partition(" == SQL ==")[0]) from e

    def _check_parsed(self, root: Any, text: str) -> None:
        """What analysis would hide behind another error or replace: subqueries, windows, others' functions, 'today'."""
        for node in self._walk(root):
            if self._is(node, "PlanExpression"):
                raise Refused(f"a subquery {_ROWS}")
            if _class(node) in ("WindowExpression", "UnresolvedWindowExpression"):
                raise Refused(f"a window function {_ROWS}")
            if _class(node) == "AggregateExpression":
                raise Refused(_AGGREGATE)
            if _class(node) == "UnresolvedFunction":
                function = node.nameParts().mkString(".")
                info = self._info(function)
                if info is None:
                    raise Refused(f"there is no function {function}")
                if info.getSource() != "built-in":
                    raise Refused(f"{function} is a function of this session, not Spark's own: its source is not known")
                if info.getGroup() == "agg_funcs":
                    raise Refused(_AGGREGATE)
        self._check_typed_literals(text)

    def _check_typed_literals(self, text: str) -> None:
        """date'today' is a constant as soon as it is parsed, so the tokens are what there is to look at."""
        jvm: Any = self._spark._jvm
        parser = jvm.org.apache.spark.sql.catalyst.parser
        lexer = parser.SqlBaseLexer(parser.UpperCaseCharStream(jvm.org.antlr.v4.runtime.CharStreams.fromString(text)))
        lexer.removeErrorListeners()
        names = lexer.getVocabulary()
        tokens = [(names.getSymbolicName(token.getType()), token.getText()) for token in lexer.getAllTokens()]
        shown = [token for token in tokens if token[0] not in ("WS", "SIMPLE_COMMENT", "BRACKETED_COMMENT")]
        for (before, _), (name, literal) in itertools.pairwise(shown):
            typed = before in ("DATE", "TIME", "TIMESTAMP", "TIMESTAMP_LTZ", "TIMESTAMP_NTZ")
            if typed and name in ("STRING_LITERAL", "DOUBLEQUOTED_STRING") and not _is_point_in_time(literal[1:]):
                raise Refused(f"{before.lower()} {literal} {_AMBIENT}; write year, month and day")

    def _check_shape(self, plan: Any) -> None:
        if _class(plan) == "Project" and plan.child().equals(self._plan):
            return
        classes = {_class(node) for node in self._walk(plan)}
        if "Aggregate" in classes:
            raise Refused(_AGGREGATE)
        if "Window" in classes:
            raise Refused(f"a window function {_ROWS}")
        if "Generate" in classes:
            raise Refused("makes several rows of one (explode and the like); an expression is one value")
        raise Refused(f"{_ROWS} (Spark plans {', '.join(sorted(classes))})")

    def _check_node(self, node: Any) -> None:
        name = _class(node)
        if not node.deterministic() or name == "AesEncrypt":
            raise Refused(f"{node.prettyName()} gives another value each time; a result must depend on the rows alone")
        leaf = self._is(node, "LeafExpression") and name not in _LEAVES
        if leaf or name.startswith("Current"):
            raise Refused(f"{node.prettyName()} {_AMBIENT}")
        if self._is(node, "UserDefinedExpression"):
            raise Refused(f"{node.prettyName()} is not Spark's own function: its source is not known")
        if name == "Cast" and node.child().foldable() and _class(node.dataType()).rstrip("$") in _DATETIMES:
            value = node.child().eval(self._spark._jvm.org.apache.spark.sql.catalyst.InternalRow.empty())  # type: ignore[union-attr]
            if _class(node.child().dataType()) == "StringType$" and not _is_point_in_time(str(value)):
                raise Refused(f"{value} as a {node.dataType().simpleString()} {_AMBIENT}; write year, month and day")

    def _walk(self, node: Any) -> Iterator[Any]:
        """All below the node, and what the optimiser will put in its place, then the node itself."""
        children = node.children()
        for i in range(children.size()):
            yield from self._walk(children.apply(i))
        if self._is(node, "RuntimeReplaceable"):
            yield from self._walk(node.replacement())
        yield node

    def _is(self, node: Any, trait: str) -> bool:
        return is_instance_of(self._spark.sparkContext._gateway, node, _EXPRESSIONS + trait)

    def _info(self, function: str) -> Any:
        """Spark's description of a function, or None if there is none of this name."""
        identifier = self._spark._jvm.org.apache.spark.sql.catalyst.FunctionIdentifier(function)  # type: ignore[union-attr]
        with quiet():
            try:
                return self._state.catalog().lookupFunctionInfo(identifier)
            except PySparkException:
                return None

    def _is_aggregate(self, function: str) -> bool:
        info = self._info(function)
        return info is not None and info.getGroup() == "agg_funcs"


def _class(node: Any) -> str:
    return str(node.getClass().getSimpleName())


def _is_point_in_time(text: str) -> bool:
    """Whether a date or time is written in figures, not as 'today' or 'now'."""
    return text.strip().lstrip("+-'\"")[:1].isdigit()
