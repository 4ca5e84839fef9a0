"""Side inputs in a worker: rows found by key and day, their digests, and the states prepared from them.

All of it is kept for as long as the process lives: topologies and factorisations are loaded once a worker.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from lib.algorithm.operator import Operator, Unusable, inputs
from lib.calculation.located import Cell, File
from lib.calculation.rows import Corrupt, FileRows, Key, Place
from lib.calculation.storage import filesystem
from lib.tables import ARROW
from lib.tables.digest import of_rows, row_digests

STATE_BYTES = 256 << 20
_INDEXES = 64
_indexes: OrderedDict[Any, SideRows] = OrderedDict()
_states: OrderedDict[Any, tuple[Any, int]] = OrderedDict()


@dataclass(frozen=True)
class SideRow:
    """One row: the days on which it holds, the digest of its content (None where it cannot be read), where it is."""

    first: date | None
    end: date | None
    digest: bytes | None
    place: Place
    index: int

    def holds(self, day: date) -> bool:
        return (self.first is None or self.first <= day) and (self.end is None or day < self.end)


class SideRows:
    """The rows of a region's side files by key. Their content is read once to be hashed, and not kept."""

    def __init__(self, operator: Operator, root: str, files: tuple[File, ...]) -> None:
        side = operator.side
        assert side is not None
        self.table, self.columns, self.optional = side.table, inputs(operator)[side.table], side.optional
        self.source = FileRows(filesystem(root), files, operator.group, self.columns, side.valid)
        self.rows: dict[Key, list[SideRow]] = {}
        for key, places in self.source.index().items():
            for place, small in places:
                first, end = (small.column(name).to_pylist() for name in side.valid)
                try:
                    digests: Iterable[bytes | None] = row_digests(
                        self.source.read(place), self.columns, ARROW[self.table]
                    )
                except Corrupt:
                    digests = [None] * small.num_rows
                found = self.rows.setdefault(key, [])
                found += [SideRow(*row, place, i) for i, row in enumerate(zip(first, end, digests, strict=True))]
        self.bytes_read = self.source.bytes_read
        self.source.release()

    def digest(self, day: date) -> str | None:
        """Of the rows that hold on `day`; None where one of them, or a file, cannot be read."""
        held = [row.digest for rows in self.rows.values() for row in rows if row.holds(day)]
        known = [digest for digest in held if digest is not None]
        return None if self.source.corrupt or len(known) < len(held) else of_rows(known)

    def find(self, key: Key, day: date, described: str) -> SideRow | None:
        """The one row of `key` on `day`; None where there is none and need not be. Raises Unusable."""
        found = [row for row in self.rows.get(key, []) if row.holds(day)]
        if len(found) == 1:
            return found[0]
        if found:
            raise Unusable(f"table {self.table} has {len(found)} rows for {described} on {day}", "leave one of them")
        if self.optional and not self.source.corrupt:
            return None
        damaged = f" (its file {self.source.corrupt[0].file.path} cannot be read)" if self.source.corrupt else ""
        raise Unusable(
            f"table {self.table} has no row for {described} that holds on {day}{damaged}",
            f"add it to table {self.table}, or correct this row",
        )

    def read(self, row: SideRow, described: str) -> tuple[Mapping[str, Any], int]:
        """The row's columns, and its size in bytes. Raises Unusable."""
        try:
            found = self.source.read(row.place).slice(row.index, 1)
        except Corrupt as e:
            raise Unusable(f"table {self.table} cannot be read for {described}: {e}", "restore the file") from e
        return found.to_pylist()[0], found.nbytes


def side_rows(operator: Operator, root: str, files: tuple[File, ...]) -> SideRows | None:
    """The side rows of these files, from this process's memory where they were read before."""
    if operator.side is None:
        return None
    at = operator.side, operator.group, root, files
    if at not in _indexes:
        _indexes[at] = SideRows(operator, root, files)
        while len(_indexes) > _INDEXES:
            _indexes.popitem(last=False)
    _indexes.move_to_end(at)
    return _indexes[at]


def state(operator: Operator, side: SideRows | None, key: Key, day: date) -> Any:
    """The group's prepared state. Raises Unusable."""
    if side is None:
        return operator.prepare({})
    described = ", ".join(f"{name} {value}" for name, value in zip(operator.group, key, strict=True))
    row = side.find(key, day, described)
    at = operator, key, row.digest if row else b""
    if (row and row.digest is None) or at not in _states:
        values, size = side.read(row, described) if row else ({}, 0)
        # What is prepared of a network takes some times its own size.
        _states[at] = operator.prepare(values), 8 * size
        while len(_states) > 1 and sum(size for _, size in _states.values()) > STATE_BYTES:
            _states.popitem(last=False)
    _states.move_to_end(at)
    return _states[at][0]


def preload(operator: Operator, root: str, cells: Iterable[Cell]) -> None:
    """Prepare what these cells' groups need, as far as it fits; what is unusable is told when a group asks for it."""
    for files, day in {cell.side_files: cell.date for cell in cells}.items():
        side = side_rows(operator, root, files)
        for key in side.rows if side is not None else ():
            if sum(size for _, size in _states.values()) > STATE_BYTES * 3 // 4:
                return
            try:
                state(operator, side, key, day)
            except Unusable:
                continue
        if side is not None:
            side.source.release()
