"""What the workers of a salted group map do: rows sorted by key come in batches, results per key go out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.salting.keys import RESERVED
from lib.salting.placement import PLACE

Partial = Callable[[pa.Table], pa.Table]
Merge = Callable[[list[pa.Table]], pa.Table]
Group = tuple[pa.Table, pa.Table]  # a key, in one row, and its values

NUMBER = f"{RESERVED}number"  # of a partial among its reducer's of the same key
PARTIAL = f"{RESERVED}partial"  # an Arrow stream
RESULT = f"{RESERVED}result"
OUTPUT_BYTES = 4 << 20


@dataclass(frozen=True)
class Partials:
    """First stage. columns: what `partial` gets. reducers: of the plan. Where `output` has no column for partials,
    every group is whole and only results come out.
    """

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    partial: Partial
    merge: Merge
    result: pa.Schema
    output: pa.Schema
    reducers: int
    block_rows: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return gathered(self._groups(batches), self.output)

    def _groups(self, batches: Iterator[pa.RecordBatch]) -> Iterator[Group]:
        splits = PARTIAL in self.output.names
        for run in runs(batches, self.keys):
            key, place = None, 0
            partials = []
            for rows in blocks(run, self.block_rows):
                if key is None:
                    key = rows.select(self.keys).slice(0, 1)
                    place = rows[PLACE][0].as_py() if splits else 0
                partials.append(self.partial(rows.select(self.columns)))
            assert key is not None
            if place < self.reducers:
                yield key, conform(self.merge(partials), self.result)
                continue
            parts = {
                PLACE: pa.array([place] * len(partials), pa.int32()),
                NUMBER: pa.array(range(len(partials)), pa.int64()),
                PARTIAL: pa.array([to_bytes(it) for it in partials], pa.binary()),
            }
            yield key, pa.table(parts)


@dataclass(frozen=True)
class Merging:
    """Second stage: results pass, partials of a key are merged."""

    keys: tuple[str, ...]
    merge: Merge
    result: pa.Schema
    output: pa.Schema

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        partials: list[pa.RecordBatch] = []
        for batch in batches:
            final = pc.is_null(batch.column(PARTIAL))
            passed = batch.filter(final)
            if passed.num_rows:
                columns = [passed.column(name) for name in self.keys] + passed.column(RESULT).flatten()
                yield pa.RecordBatch.from_arrays(columns, schema=self.output)
            partials.append(batch.filter(pc.invert(final)))
        yield from gathered(self._groups(partials), self.output)

    def _groups(self, partials: Iterable[pa.RecordBatch]) -> Iterator[Group]:
        for run in runs(partials, self.keys):
            rows = pa.Table.from_batches(list(run))
            done = self.merge([from_bytes(it.as_buffer()) for it in rows[PARTIAL]])
            yield rows.select(self.keys).slice(0, 1), conform(done, self.result)


def runs(batches: Iterable[pa.RecordBatch], keys: Sequence[str]) -> Iterator[Iterator[pa.RecordBatch]]:
    """Runs of rows with equal keys, null equal to null, each as an iterator of its pieces; take them in order."""
    pieces = _pieces(batches, keys)
    ahead = next(pieces, None)
    while ahead is not None:
        first = ahead[1]
        ahead = None

        def run(first: pa.RecordBatch = first) -> Iterator[pa.RecordBatch]:
            nonlocal ahead
            yield first
            for starts, piece in pieces:
                if starts:
                    ahead = starts, piece
                    return
                yield piece

        current = run()
        yield current
        for _ in current:  # what the caller left
            pass


def _pieces(batches: Iterable[pa.RecordBatch], keys: Sequence[str]) -> Iterator[tuple[bool, pa.RecordBatch]]:
    """Slices of one key each, and whether it begins a run."""
    last: list[pa.Scalar] | None = None
    for batch in batches:
        if not batch.num_rows:
            continue
        columns = [batch.column(name) for name in keys]
        changes = np.zeros(batch.num_rows - 1, dtype=bool)
        for column in columns:
            changes |= _differ(column[1:], column[:-1])
        starts = [0, *(np.flatnonzero(changes) + 1).tolist(), batch.num_rows]
        same = last is not None and all(a.equals(column[0]) for a, column in zip(last, columns, strict=True))
        for number, (start, end) in enumerate(pairwise(starts)):
            yield number > 0 or not same, batch.slice(start, end - start)
        last = [column[batch.num_rows - 1] for column in columns]


def _differ(a: pa.Array, b: pa.Array) -> np.ndarray:
    values = pc.not_equal(a, b)
    if a.null_count or b.null_count:
        values = pc.or_(pc.fill_null(values, False), pc.xor(a.is_null(), b.is_null()))
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=bool)


def blocks(pieces: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The rows of a run in tables of `rows` rows, the last with what is left, wherever the batches ended."""
    held: list[pa.RecordBatch] = []
    count = 0
    for piece in pieces:
        while count + piece.num_rows >= rows:
            held.append(piece.slice(0, rows - count))
            yield pa.Table.from_batches(held)
            piece, held, count = piece.slice(rows - count), [], 0
        if piece.num_rows:
            held.append(piece)
            count += piece.num_rows
    if held:
        yield pa.Table.from_batches(held)


def gathered(groups: Iterable[Group], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Groups as batches of some megabytes; results within RESULT if the schema has it."""
    keys: list[pa.Table] = []
    values: list[pa.Table] = []
    size = 0
    for key, value in groups:
        if not value.num_rows:
            continue
        if values and (size > OUTPUT_BYTES or not value.schema.equals(values[0].schema)):
            yield _batch(keys, values, schema)
            keys, values, size = [], [], 0
        keys.append(key)
        values.append(value)
        size += value.get_total_buffer_size()  # nbytes takes a hundred times as long
    if values:
        yield _batch(keys, values, schema)


def _batch(keys: Sequence[pa.Table], values: Sequence[pa.Table], schema: pa.Schema) -> pa.RecordBatch:
    """Each key beside the rows of its table of values; null what neither has."""
    counts = [it.num_rows for it in values]
    key = pa.concat_tables(keys).combine_chunks().take(pa.array(np.repeat(np.arange(len(counts)), counts)))
    body = pa.concat_tables(values).combine_chunks()
    columns = {name: part[name] for part in (key, body) for name in part.column_names}
    if RESULT in schema.names and PARTIAL not in columns:
        kind = list(schema.field(RESULT).type)
        columns[RESULT] = pa.StructArray.from_arrays([it.combine_chunks() for it in body.columns], fields=kind)
    arrays = [columns[it.name] if it.name in columns else pa.nulls(sum(counts), it.type) for it in schema]
    (batch,) = pa.table(arrays, schema=schema).combine_chunks().to_batches()
    return batch


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The schema's columns in its types. Raises ValueError where the table has others."""
    if table.schema.equals(schema):
        return table
    if set(table.column_names) != set(schema.names):
        raise ValueError(f"merge gave the columns {table.column_names}, its schema has {schema.names}")
    return table.select(schema.names).cast(schema)


def to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def from_bytes(data: pa.Buffer) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
