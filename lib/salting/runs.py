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
        return gathered(self._tables(batches), self.output)

    def _tables(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
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
            if place >= self.reducers:
                values = {
                    PLACE: pa.array([place] * len(partials), pa.int32()),
                    NUMBER: pa.array(range(len(partials)), pa.int64()),
                    PARTIAL: pa.array([to_bytes(it) for it in partials], pa.binary()),
                }
                yield _table(key, values, self.output, len(partials))
                continue
            done = conform(self.merge(partials), self.result)
            if splits:
                struct = pa.StructArray.from_arrays(
                    [column.combine_chunks() for column in done.columns], fields=list(self.output.field(RESULT).type)
                )
                yield _table(key, {RESULT: struct}, self.output, done.num_rows)
            else:
                yield _table(key, dict(zip(done.column_names, done.columns, strict=True)), self.output, done.num_rows)


@dataclass(frozen=True)
class Merging:
    """Second stage: results pass, partials of a key are merged."""

    keys: tuple[str, ...]
    merge: Merge
    result: pa.Schema
    output: pa.Schema

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return gathered(self._tables(batches), self.output)

    def _tables(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
        partials: list[pa.RecordBatch] = []
        for batch in batches:
            final = pc.is_null(batch.column(PARTIAL))
            yield self._passed(batch.filter(final))
            partials.append(batch.filter(pc.invert(final)))
        for run in runs(partials, self.keys):
            rows = pa.Table.from_batches(list(run))
            done = conform(self.merge([from_bytes(it.as_buffer()) for it in rows[PARTIAL]]), self.result)
            key = rows.select(self.keys).slice(0, 1)
            yield _table(key, dict(zip(done.column_names, done.columns, strict=True)), self.output, done.num_rows)

    def _passed(self, batch: pa.RecordBatch) -> pa.Table:
        columns = [batch.column(name) for name in self.keys] + batch.column(RESULT).flatten()
        return pa.Table.from_arrays(columns, schema=self.output)


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
    values = pc.fill_null(pc.not_equal(a, b), False)
    return np.asarray(pc.or_(values, pc.xor(a.is_null(), b.is_null())).to_numpy(zero_copy_only=False), dtype=bool)


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


def gathered(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Small tables as batches of some megabytes."""
    held: list[pa.Table] = []
    size = 0
    for table in tables:
        if table.num_rows:
            held.append(table)
            size += table.nbytes
        if size >= OUTPUT_BYTES:
            yield from pa.concat_tables(held).combine_chunks().to_batches()
            held, size = [], 0
    if held:
        yield from pa.concat_tables(held).combine_chunks().to_batches()


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


def _table(key: pa.Table, values: dict[str, pa.Array], schema: pa.Schema, rows: int) -> pa.Table:
    """`rows` rows with the key's values and these columns, null where there are none."""
    columns = []
    for field in schema:
        if field.name in values:
            columns.append(values[field.name])
        elif field.name in key.column_names:
            one = key[field.name]
            columns.append(one if rows == 1 else one.take(pa.array(np.zeros(rows, np.int64))))
        else:
            columns.append(pa.nulls(rows, field.type))
    return pa.table(columns, schema=schema)
