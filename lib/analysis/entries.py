"""Entries of the cache, and the rows that they are stored as: one each, with a checksum that covers all of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import cached_property
from typing import Any

import pyarrow as pa

from lib.tables import ARROW
from lib.tables.digest import of_bytes, row_digests

_SCHEMA = ARROW["partial"]
# What the second half of a checksum covers: all columns, the content by its digest, so that it need not be read.
_CHECKED = pa.schema([field for field in _SCHEMA if field.name not in ("checksum", "figures")]).append(
    pa.field("figures", pa.string())
)
_UNDECODABLE = (ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Input:
    """What an entry was calculated from: `digest` is of the cell's rows in `version` of the table.

    commit: digest of the commit that made the version (`TableLog.commit_id`); filled in where it is recorded.
    """

    table: str
    columns: tuple[str, ...]
    table_id: str
    version: int
    digest: str
    commit: str = ""


@dataclass(frozen=True)
class OutputFile:
    """A result file: `path` relative to its table, `digest` of its bytes."""

    path: str
    size: int
    rows: int
    digest: str


@dataclass(frozen=True)
class Output:
    """Result files of a cell in one table, and the version whose only files of the cell they are.

    commit: as of Input; empty where the version is not known to hold them.
    """

    table: str
    version: int
    files: tuple[OutputFile, ...]
    commit: str = ""


@dataclass(frozen=True)
class Entry:
    """The result of one operator and cell. figures: its partial; empty where it was not read."""

    operator: str
    fingerprint: str
    region: str
    date: date
    digest: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    rows_in: int
    rows_out: int
    rows_quarantined: int
    rejected: Sequence[dict[str, Any]]
    figures: bytes
    manifest: str


@dataclass(frozen=True)
class Row:
    """An entry as it is stored, without its partial."""

    values: dict[str, Any]
    path: str
    """Of the file that holds it."""
    index: int

    @property
    def key(self) -> tuple[str, date, str]:
        return self.values["region"], self.values["date"], self.values["digest"]

    @cached_property
    def inputs(self) -> tuple[Input, ...]:
        """Empty where they cannot be decoded."""
        try:
            found = json.loads(self.values["inputs"])
            return tuple(Input(**values | {"columns": tuple(values["columns"])}) for values in found)
        except _UNDECODABLE:
            return ()

    @cached_property
    def entry(self) -> Entry | None:
        """The entry without its partial; None where it cannot be decoded."""
        values = {name: value for name, value in self.values.items() if name != "checksum"}
        try:
            outputs = tuple(
                Output(**output | {"files": tuple(OutputFile(**file) for file in output["files"])})
                for output in json.loads(self.values["outputs"])
            )
            decoded = {"inputs": self.inputs, "outputs": outputs, "rejected": tuple(json.loads(values["rejected"]))}
            return Entry(**values | decoded | {"figures": b""})
        except _UNDECODABLE:
            return None

    def holds(self, content: bytes | None) -> bool:
        """Whether this is the row's partial."""
        return content is not None and of_bytes(content) == self.values["checksum"][:64]


def to_table(entries: Sequence[Entry]) -> pa.Table:
    """Rows of table `partial`."""
    names = [name for name in _SCHEMA.names if name not in ("inputs", "outputs", "rejected", "checksum")]
    rows = [
        {name: getattr(entry, name) for name in names}
        | {
            "inputs": _json([asdict(it) for it in entry.inputs]),
            "outputs": _json([asdict(it) for it in entry.outputs]),
            "rejected": _json(list(entry.rejected)),
        }
        for entry in entries
    ]
    contents = [of_bytes(entry.figures) for entry in entries]
    table = pa.Table.from_pylist([row | {"checksum": None} for row in rows], schema=_SCHEMA)
    sums = _row_sums(table, contents)
    checksums = pa.array([a + b for a, b in zip(contents, sums, strict=True)], pa.string())
    return table.set_column(table.schema.get_field_index("checksum"), "checksum", checksums)


def checked_rows(table: pa.Table, path: str) -> Iterator[tuple[Row, bool]]:
    """Rows of a file (column `_index` counts them), and whether each fits its checksum."""
    columns = {name: _values(table.column(name)) for name in table.schema.names}
    indexes = columns.pop("_index")
    checksums = [text or "" for text in columns["checksum"]]
    sums = _row_sums(table, [text[:64] for text in checksums])
    for i, index in enumerate(indexes):
        row = Row({name: values[i] for name, values in columns.items()}, path, index)
        yield row, checksums[i][64:] == sums[i]


def _row_sums(table: pa.Table, contents: list[str]) -> list[str]:
    rows = table.drop_columns([name for name in ("figures", "checksum") if name in table.schema.names])
    rows = rows.append_column("figures", pa.array(contents, pa.string()))
    return [digest.hex() for digest in row_digests(rows, _CHECKED.names, _CHECKED)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    """The column's values; equal ones of a dictionary are one object."""
    found: list[Any] = []
    for chunk in column.chunks:
        if pa.types.is_dictionary(chunk.type):
            distinct = chunk.dictionary.to_pylist()
            found += [None if i is None else distinct[i] for i in chunk.indices.to_pylist()]
        else:
            found += chunk.to_pylist()
    return found


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)
