"""Laws that every operator's merge obeys, and those of the figures that partials of many cells are merged by."""

from __future__ import annotations

import math
from copy import deepcopy
from datetime import UTC, date, datetime
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.algorithm import figures as module
from lib.algorithm.equivalence import identical
from lib.algorithm.operator import Figure
from lib.algorithm.registry import operators

SEEDS = st.integers(0, 2**32 - 1)
OPERATORS = pytest.mark.parametrize("cls", operators().values(), ids=list(operators()))


@OPERATORS
@settings(max_examples=25)
@given(seed=SEEDS, data=st.data())
def test_merge_is_associative_and_commutative(cls: Any, seed: int, data: st.DataObject) -> None:
    """Any order and any bracketing come to the same."""
    operator, examples = cls(), cls.examples(seed)
    before = deepcopy(examples)
    expected = reduce(operator.merge, examples.partials)
    pool = data.draw(st.permutations([examples.identity, *examples.partials]))
    while len(pool) > 1:
        i = data.draw(st.integers(0, len(pool) - 2))
        pool[i : i + 2] = [operator.merge(pool[i], pool[i + 1])]
    assert operator.equivalent(pool[0], expected)
    pairs = zip((before.identity, *before.partials), (examples.identity, *examples.partials), strict=True)
    assert all(operator.equivalent(a, b) for a, b in pairs), "merge changed what it was given"


@OPERATORS
@settings(max_examples=10)
@given(seed=SEEDS)
def test_the_identity_changes_nothing(cls: Any, seed: int) -> None:
    operator, examples = cls(), cls.examples(seed)
    assert len(examples.partials) >= 3
    for partial in (examples.identity, *examples.partials):
        assert operator.equivalent(operator.merge(examples.identity, partial), partial)
        assert operator.equivalent(operator.merge(partial, examples.identity), partial)


@OPERATORS
@settings(max_examples=10)
@given(seed=SEEDS)
def test_equivalent_tells_partials_apart(cls: Any, seed: int) -> None:
    operator, examples, again = cls(), cls.examples(seed), cls.examples(seed)
    partials = (examples.identity, *examples.partials)
    for a, b in combinations(partials, 2):
        assert not operator.equivalent(a, b)
    assert all(map(operator.equivalent, partials, (again.identity, *again.partials)))
    assert not operator.equivalent(examples.partials[0], cls.examples(seed + 1).partials[0])


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (0.0, -0.0, False), (math.nan, -math.nan, True), (1, 1.0, False), (1, True, False), ("a", "a", True),
        (np.array([0.0]), np.array([-0.0]), False), (np.array([np.nan]), np.array([-np.nan]), True),
        (np.array([1]), np.array([1.0]), False), (np.zeros((2, 1)), np.zeros((1, 2)), False),
        (np.array([complex(0, -0.0)]), np.array([0j]), False), (complex(math.nan, 1), complex(math.nan, 1), True),
        (complex(math.nan, 1), complex(math.nan, 2), False), ((1, [2]), (1, [2]), True), ((1, [2]), (1, [3]), False),
        ((1,), (1, 2), False), ({"a": b"x"}, {"a": b"x"}, True), ({"a": 1}, {"b": 1}, False),
        (np.arange(4.0)[::2], np.array([0.0, 2.0]), True), (None, 0, False),
    ],
)  # fmt: skip
def test_identical_means_bit_for_bit(a: Any, b: Any, same: bool) -> None:
    assert identical(a, b) is same
    assert identical(b, a) is same


FIGURES = {
    f"{merge}_{kind}": Figure(merge, kind, "", "for tests")
    for merge in ("sum", "min", "max")
    for kind in ("bigint", "double", "timestamp", "date", "boolean")
    if merge != "sum" or kind in ("bigint", "double")
}
KEYS = pa.schema([("network_id", pa.string()), ("network_version", pa.int32())])
SCHEMA = module.schema(KEYS, FIGURES)
VALUES = {
    "bigint": st.integers(-(2**52), 2**52),
    "double": st.floats(-1e12, 1e12, allow_nan=False).map(lambda x: x + 0.0),
    "timestamp": st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)).map(lambda t: t.replace(tzinfo=UTC)),
    "date": st.dates(date(1990, 1, 1), date(2100, 1, 1)),
    "boolean": st.booleans(),
}
ROWS = st.fixed_dictionaries(
    {"network_id": st.sampled_from(["a", "b", "ä"]), "network_version": st.integers(1, 2)}
    | {name: st.none() | VALUES[figure.type] for name, figure in FIGURES.items()}
)
TABLES = st.lists(ROWS, max_size=6).map(lambda rows: pa.Table.from_pylist(rows, schema=SCHEMA))


def fold(rows: list[dict[str, Any]], keys: list[str]) -> list[dict[str, Any]]:
    """The plainest merge there is: row by row, value by value."""
    how = {"sum": lambda a, b: a + b, "min": min, "max": max}
    groups: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        group = groups.setdefault(tuple(row[key] for key in keys), dict.fromkeys(FIGURES))
        for name, figure in FIGURES.items():
            if row[name] is not None:
                group[name] = row[name] if group[name] is None else how[figure.merge](group[name], row[name])
    return [dict(zip(keys, key, strict=True)) | groups[key] for key in sorted(groups)]


@pytest.mark.parametrize("keys", [["network_id", "network_version"], ["network_id"], []])
@given(tables=st.lists(TABLES, min_size=1, max_size=4))
def test_figures_merge_as_a_plain_fold_does(keys: list[str], tables: list[pa.Table]) -> None:
    merged = module.merge(tables, keys, FIGURES)
    expected = fold([row for table in tables for row in table.to_pylist()], keys)
    # bit for bit, floats too: rows are added up in their order
    assert [repr(row) for row in merged.to_pylist()] == [repr(row) for row in expected]
    assert merged.schema.equals(pa.schema([SCHEMA.field(name) for name in (*keys, *FIGURES)]))


@given(tables=st.lists(TABLES, min_size=1, max_size=4), data=st.data())
def test_figures_merge_alike_in_any_order_and_bracketing(tables: list[pa.Table], data: st.DataObject) -> None:
    keys = KEYS.names
    expected = module.merge(tables, keys, FIGURES).to_pylist()
    pool = data.draw(st.permutations(tables))
    while len(pool) > 1:
        i = data.draw(st.integers(0, len(pool) - 2))
        pool[i : i + 2] = [module.merge(pool[i : i + 2], keys, FIGURES)]
    scale = {
        key: math.fsum(abs(row["sum_double"] or 0) for table in tables for row in table.to_pylist()
                       if (row["network_id"], row["network_version"]) == key)
        for key in ((row["network_id"], row["network_version"]) for row in expected)
    }  # fmt: skip
    actual = module.merge(pool, keys, FIGURES).to_pylist()
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        x, y = a.pop("sum_double"), b.pop("sum_double")
        assert a == b  # keys, whole numbers, extremes: exact
        assert (x is None) == (y is None)
        if x is not None:
            assert abs(x - y) <= 1e-12 * scale[a["network_id"], a["network_version"]]


@given(tables=st.lists(TABLES, min_size=1, max_size=4), at=st.integers(0, 4))
def test_an_empty_table_and_rows_of_nulls_change_no_figure(tables: list[pa.Table], at: int) -> None:
    keys = KEYS.names
    expected = module.merge(tables, keys, FIGURES)
    with_empty = [*tables[:at], SCHEMA.empty_table(), *tables[at:]]
    assert module.merge(with_empty, keys, FIGURES).equals(expected)
    nulls = expected.select(keys)
    for name in FIGURES:
        nulls = nulls.append_column(SCHEMA.field(name), pa.nulls(len(nulls), SCHEMA.field(name).type))
    assert module.merge([*tables[:at], nulls, *tables[at:]], keys, FIGURES).equals(expected)


def test_columns_besides_keys_and_figures_are_dropped() -> None:
    table = pa.table({"region": ["x", "y"], "n": pa.array([1, 2], pa.int64())})
    figures = {"n": Figure("sum", "bigint", "", "count")}
    assert module.merge([table], [], figures).to_pydict() == {"n": [3]}
    assert module.merge([table], ["region"], {}).to_pydict() == {"region": ["x", "y"]}


@given(table=TABLES)
def test_tables_come_back_from_their_bytes(table: pa.Table) -> None:
    content = module.to_bytes(table)
    assert module.from_bytes(content).equals(table, check_metadata=True)
    for damaged in (b"", content[: len(content) // 2], b"\0" * 40):
        with pytest.raises(pa.ArrowException):
            module.from_bytes(damaged)


@pytest.mark.parametrize(
    ("value", "limits", "outside"),
    [
        (1.0, (0, 2), None), (0, (0, 2), None), (2, (0, 2), None), (-0.1, (0, 2), "x is -0.1 kW, outside 0 to 2"),
        (3, (0, 2), "x is 3 kW, outside 0 to 2"), (3, (0, None), None), (-1, (0, None), "x is -1 kW, outside 0 to any"),
        (1e300, (None, None), None), (math.nan, (None, None), "x is nan kW, outside any to any"),
        (math.nan, (0, 1), "x is nan kW, outside 0 to 1"), (math.inf, (0, None), None), (None, (0, 1), None),
        (date(2020, 1, 1), (0, 1), None),
    ],
)  # fmt: skip
def test_values_out_of_range_are_named(value: Any, limits: tuple[Any, Any], outside: str | None) -> None:
    figures = {"x": Figure("max", "double", "kW", "", *limits), "y": Figure("sum", "bigint", "", "", 0)}
    assert module.out_of_range({"x": value}, figures) == ([outside] if outside else [])
    assert module.out_of_range({"x": 1, "y": -1}, figures)[-1] == "y is -1, outside 0 to any"
