"""Digests tell apart what differs in value, and nothing else."""

from __future__ import annotations

import math
import random
import struct
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.tables.digest import cell_digest, of_bytes, of_parts, of_rows, row_digests

SCHEMA = pa.schema(
    {
        "a": pa.string(),
        "b": pa.string(),
        "c": pa.binary(),
        "d": pa.int32(),
        "e": pa.float64(),
        "f": pa.bool_(),
        "g": pa.date32(),
        "h": pa.list_(pa.float32()),
        "i": pa.timestamp("us", tz="UTC"),
        "j": pa.struct({"x": pa.int64(), "y": pa.string()}),
        "k": pa.decimal128(20, 3),
    }
)
NAMES = SCHEMA.names
FLOATS = st.one_of(st.sampled_from([0.0, -0.0, math.nan, math.inf]), st.floats(width=32))


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values)


ROW = st.fixed_dictionaries(
    {
        "a": maybe(st.text(max_size=3)),
        "b": maybe(st.text(max_size=3)),
        "c": maybe(st.binary(max_size=3)),
        "d": maybe(st.integers(-2, 2)),
        "e": maybe(FLOATS),
        "f": maybe(st.booleans()),
        "g": maybe(st.dates()),
        "h": maybe(st.lists(maybe(FLOATS), max_size=3)),
        "i": st.none(),
        "j": maybe(st.fixed_dictionaries({"x": maybe(st.integers(0, 1)), "y": maybe(st.text(max_size=1))})),
        "k": maybe(st.decimals(-5, 5, places=3)),
    }
)
ROWS = st.lists(ROW, max_size=40)


def table(rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema)


def digests(rows: list[dict[str, Any]]) -> list[bytes]:
    return row_digests(table(rows), NAMES, SCHEMA)


def identity(value: Any) -> Any:
    """What makes two values the same, told independently of the encoding: floats by their bits, NaN by its name."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else ("float", struct.pack("<d", value))
    if isinstance(value, dict):
        return tuple((name, identity(v)) for name, v in sorted(value.items()))
    if isinstance(value, list):
        return ("list", *map(identity, value))
    return (type(value).__name__, value)


@given(ROWS, ROWS)
def test_rows_have_equal_digests_if_and_only_if_their_values_are_equal(
    some: list[dict[str, Any]], others: list[dict[str, Any]]
) -> None:
    rows = some + others + some[:1]
    found = digests(rows)
    assert all(len(d) == 32 for d in found)
    keys = [identity(row) for row in table(rows).to_pylist()]
    assert len(set(found)) == len(set(keys)) == len(set(zip(found, keys, strict=True)))


@given(ROWS.filter(bool), st.data())
def test_layout_does_not_matter(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    expected, whole = digests(rows), table(rows)
    cut = data.draw(st.integers(0, len(rows)))
    chunks = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])
    assert row_digests(chunks, NAMES, SCHEMA) == expected
    assert row_digests(whole.slice(cut), NAMES, SCHEMA) == expected[cut:]
    padded = pa.concat_tables([table([dict.fromkeys(NAMES)]), whole]).combine_chunks().slice(1)
    assert row_digests(padded, NAMES, SCHEMA) == expected
    dictionary = pa.dictionary(pa.int32(), pa.string())
    for other in (
        {"a": pa.large_string(), "c": pa.large_binary(), "h": pa.large_list(pa.float32())},
        {"a": pa.string_view(), "b": dictionary, "c": pa.binary_view(), "d": pa.int64(), "e": pa.float64()},
    ):
        columns = [whole.column(n).cast(other[n]) if n in other else whole.column(n) for n in NAMES]
        assert row_digests(pa.table(columns, NAMES), NAMES, SCHEMA) == expected
    order = data.draw(st.permutations(NAMES))
    assert row_digests(whole.select(order), order, SCHEMA) == expected


@given(ROWS, st.integers(0, 9))
def test_a_set_of_rows_has_no_order_but_counts(rows: list[dict[str, Any]], seed: int) -> None:
    found = digests(rows)
    shuffled = random.Random(seed).sample(found, len(found))
    assert of_rows(shuffled) == of_rows(found)
    if rows:
        assert of_rows([*found, found[0]]) != of_rows(found)
        assert of_rows(found[1:]) != of_rows(found)


def one(name: str, value: Any, kind: pa.DataType | None = None) -> bytes:
    schema = pa.schema({name: kind or SCHEMA.field(name).type})
    return row_digests(pa.Table.from_pylist([{name: value}], schema=schema), [name], schema)[0]


def test_what_looks_alike_differs() -> None:
    different = [
        one("a", None), one("a", ""), one("a", "0"), one("a", "\0"), one("b", ""), one("c", b""), one("d", 0),
        one("d", None), one("d", 0, pa.int64()), one("e", 0.0), one("e", -0.0), one("e", math.nan), one("f", False),
        one("h", None), one("h", []), one("h", [None]), one("h", [0.0]), one("h", [-0.0]), one("h", [0.0, 0.0]),
        one("g", date(1970, 1, 1)), one("e", 0.0, pa.float32()),
    ]  # fmt: skip
    assert len(set(different)) == len(different)
    pairs = [{"a": "ab", "b": "c"}, {"a": "a", "b": "bc"}, {"a": "c", "b": "ab"}, {"a": "abc", "b": None}]
    assert len(set(digests(pairs))) == 4
    assert row_digests(table([{}]), ["a"], SCHEMA) != row_digests(table([{}]), ["a", "b"], SCHEMA)


def test_every_nan_is_the_same() -> None:
    bits = [0x7FF8000000000000, 0x7FF8000000000001, 0xFFF8000000000000, 0x7FF0000000000001]
    values = pa.Array.from_buffers(pa.float64(), 4, [None, pa.py_buffer(struct.pack("<4Q", *bits))])
    assert len(set(row_digests(pa.table({"e": values}), ["e"], SCHEMA))) == 1


def test_values_under_a_null_do_not_count() -> None:
    values = pa.Array.from_buffers(pa.int32(), 2, [pa.py_buffer(b"\0"), pa.py_buffer(struct.pack("<2i", 1, 2))])
    texts = pa.Array.from_buffers(
        pa.string(), 2, [pa.py_buffer(b"\0"), pa.py_buffer(struct.pack("<3i", 0, 1, 3)), pa.py_buffer(b"abc")]
    )
    found = row_digests(pa.table({"d": values, "a": texts}), NAMES, SCHEMA)
    assert set(found) == set(digests([{}]))


def test_a_column_added_later_is_null() -> None:
    rows = table([{"a": "x"}, {"a": None}])
    assert row_digests(rows.select(["a"]), NAMES, SCHEMA) == row_digests(rows, NAMES, SCHEMA)
    untyped = rows.select(["a"]).append_column("h", pa.nulls(2))
    assert row_digests(untyped, NAMES, SCHEMA) == row_digests(rows, NAMES, SCHEMA)


@pytest.mark.parametrize("distinct", [1, 3, 127, 200])
def test_many_equal_texts(distinct: int) -> None:
    rows = [{"a": f"n{i % distinct}" if i % 7 else None, "b": None} for i in range(200)]
    expected = [d for row in rows for d in digests([row])]
    assert digests(rows) == expected
    narrow = table(rows).column("a").combine_chunks().dictionary_encode()
    if distinct < 128:
        narrow = narrow.cast(pa.dictionary(pa.int8(), pa.string()))
    assert row_digests(pa.table({"a": narrow}), NAMES, SCHEMA) == expected


def test_a_large_value_is_told_by_its_last_byte() -> None:
    a = bytes(3_000_000)
    assert len({one("c", a), one("c", a[:-1] + b"\1"), one("c", a + b"\0"), one("c", a[:-1])}) == 4


def test_what_cannot_be_digested_says_so() -> None:
    with pytest.raises(pa.ArrowException):
        row_digests(pa.table({"d": [2**40]}), ["d"], SCHEMA)
    with pytest.raises(KeyError):
        row_digests(table([{}]), ["z"], SCHEMA)
    kind = pa.map_(pa.string(), pa.string())
    with pytest.raises(TypeError, match="map"):
        one("m", [("a", "b")], kind)


def test_digests_of_parts() -> None:
    assert of_parts({"a": 1, "b": [1, "ü"]}) == of_parts({"b": [1, "ü"], "a": 1})
    assert len({of_parts({"a": 1}), of_parts({"a": "1"}), of_parts({"a": None}), of_parts({})}) == 4
    assert of_bytes(b"") == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"  # BLAKE3's own vector
    assert of_bytes(memoryview(b"abc")) == of_bytes(b"abc")
    assert len({cell_digest({"t": "1"}, 86_400), cell_digest({"t": "1"}, 82_800), cell_digest({"u": "1"}, 86_400)}) == 3
