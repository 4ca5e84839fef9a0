"""Rows of a cell's files by key: an index of small columns first, the large ones a row group at a time.

So memory holds one row group of large rows, or several small ones of together no more than `KEPT_BYTES`, whatever a
cell's size. A row group is read once where rows of equal key lie together, or where a cell's row groups are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from lib.calculation.located import File

Key = tuple
KEPT_BYTES = 64 << 20
_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.large_binary()}
"""Types that delta-rs gives to files that it rewrites, and their plain ones: not all of Arrow can work with views."""


class Corrupt(Exception):
    """A file, or a row group of it, that cannot be decoded."""

    def __init__(self, file: File, problem: str, rows: int) -> None:
        super().__init__(problem)
        self.file, self.rows = file, rows


@dataclass(frozen=True)
class Place:
    """Where rows are: some rows of one row group of one file."""

    file: File
    row_group: int
    rows: tuple[int, ...]


@dataclass
class FileRows:
    """The rows of some files of one table. Raises FileNotFoundError where a file has gone."""

    system: fs.FileSystem
    files: Sequence[File]
    group: Sequence[str]
    columns: Sequence[str]
    index_columns: Sequence[str]
    bytes_read: int = 0
    rows_found: int = 0
    corrupt: list[Corrupt] = field(default_factory=list)
    _kept: OrderedDict[tuple[str, int], pa.Table] = field(default_factory=OrderedDict)

    def index(self) -> dict[Key, list[tuple[Place, pa.Table]]]:
        """Group key -> places of its rows, with their small columns; what cannot be read goes to `corrupt`."""
        found: dict[Key, list[tuple[Place, pa.Table]]] = {}
        for file in self.files:
            try:
                for row_group, table in self._small(file):
                    keys = list(zip(*(table.column(name).to_pylist() for name in self.group), strict=True))
                    rows_of: dict[Key, list[int]] = {}
                    for row, key in enumerate(keys):
                        rows_of.setdefault(key, []).append(row)
                    for key, rows in rows_of.items():
                        place = Place(file, row_group, tuple(rows))
                        found.setdefault(key, []).append((place, table.take(pa.array(rows))))
                    self.rows_found += table.num_rows
            except Corrupt as e:
                self.corrupt.append(e)
                self.rows_found += e.rows
        return dict(sorted(found.items(), key=lambda item: tuple(map(repr, item[0]))))

    def read(self, place: Place) -> pa.Table:
        """All columns of the rows at `place`. Raises Corrupt."""
        at = place.file.path, place.row_group
        if at not in self._kept:
            with _open(self.system, place.file) as parquet:
                self._make_room(parquet.metadata.row_group(place.row_group).total_byte_size)
                self._kept[at] = self._decode(parquet, place.file, place.row_group, self.columns)
        self._kept.move_to_end(at)
        rows, table = list(place.rows), self._kept[at]
        if rows == list(range(rows[0], rows[0] + len(rows))):
            return table.slice(rows[0], len(rows))
        return table.take(pa.array(rows))

    def row_groups(self) -> Iterator[pa.Table]:
        """All columns of all rows, a row group at a time. Raises Corrupt."""
        for file in self.files:
            with _open(self.system, file) as parquet:
                for i in range(parquet.num_row_groups):
                    yield self._decode(parquet, file, i, self.columns)

    def release(self) -> None:
        """Forgets the row groups kept from earlier readings."""
        self._kept.clear()

    def _make_room(self, size: int) -> None:
        while self._kept and sum(table.nbytes for table in self._kept.values()) + size > KEPT_BYTES:
            self._kept.popitem(last=False)

    def _small(self, file: File) -> Iterator[tuple[int, pa.Table]]:
        with _open(self.system, file) as parquet:
            # All row groups are decoded before any is used: a file is corrupt as a whole.
            tables = [
                self._decode(parquet, file, i, [*self.group, *self.index_columns])
                for i in range(parquet.num_row_groups)
            ]
        yield from enumerate(tables)

    def _decode(self, parquet: pq.ParquetFile, file: File, row_group: int, columns: Sequence[str]) -> pa.Table:
        present = set(parquet.schema_arrow.names)
        try:
            table = parquet.read_row_group(row_group, columns=[c for c in columns if c in present], use_threads=False)
        except (pa.ArrowException, OSError) as e:
            raise Corrupt(file, str(e), file.rows or parquet.metadata.num_rows) from e
        if any(kind in _VIEWS for kind in table.schema.types):
            table = table.cast(
                pa.schema([field.with_type(_VIEWS.get(field.type, field.type)) for field in table.schema])
            )
        for name in columns:
            if name not in present:  # a column added to the table after this file was written
                table = table.append_column(name, pa.nulls(table.num_rows))
        self.bytes_read += table.nbytes
        return table


def _open(system: fs.FileSystem, file: File) -> pq.ParquetFile:
    try:
        source = system.open_input_file(file.path)
    except OSError as e:
        if isinstance(e, FileNotFoundError) or "not found" in str(e).lower():
            raise FileNotFoundError(file.path) from e
        raise
    try:
        return pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as e:
        source.close()
        raise Corrupt(file, str(e), file.rows or 1) from e
