"""What a task reads of its cells, ahead of the calculation and within a memory budget.

A thread of its own opens the files, hashes rows whose digest is not known, and hands over blocks of rows while the
last ones are being calculated. A cell whose result is known already is found again by its digest instead.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lib.algorithm.operator import Operator, inputs
from lib.calculation.beside import BesideRows, beside_rows
from lib.calculation.located import Cell
from lib.calculation.rows import Corrupt, FileRows, Key
from lib.calculation.side import SideRows, side_rows
from lib.calculation.storage import file_digest, filesystem
from lib.tables import ARROW
from lib.tables.digest import cell_digest, of_rows, row_digests


@dataclass(frozen=True)
class Opened:
    """A cell begins."""

    cell: Cell
    side: SideRows | None
    size: int = 0


@dataclass(frozen=True)
class Group:
    """A group of rows begins; keys: its rows' key columns. beside: its rows of the second table, if the operator has
    one; problem: why those cannot be decoded."""

    key: Key
    keys: pa.Table
    beside: pa.Table | None = None
    problem: Corrupt | None = None

    @property
    def size(self) -> int:
        return 0 if self.beside is None else int(self.beside.nbytes)


@dataclass(frozen=True)
class Block:
    """Some rows of the group; None where they cannot be decoded."""

    rows: pa.Table | None
    problem: Corrupt | None = None

    @property
    def size(self) -> int:
        return 0 if self.rows is None else int(self.rows.nbytes)


@dataclass(frozen=True)
class Closed:
    """The cell's rows have all been handed over, or need not be.

    inputs: digest by table, None where something could not be read. found: the cell's digest where its result is known.
    """

    inputs: Mapping[str, str | None]
    found: str | None = None
    note: str | None = None
    missing_file: str | None = None
    bytes_read: int = 0
    corrupt: tuple[Corrupt, ...] = ()
    size: int = 0


Event = Opened | Group | Block | Closed


def read_cell(
    operator: Operator, cell: Cell, root: str, side_root: str, result_roots: Mapping[str, str],
    hash_only: bool = False, beside_root: str = "",
) -> Iterator[Event]:  # fmt: skip
    """A cell's events. hash_only: its digests alone, no rows."""
    source = FileRows(filesystem(root), cell.files, operator.group, inputs(operator)[operator.table], operator.key)
    hashing = Hashing(operator, cell)
    note = None
    try:
        side = side_rows(operator, side_root, cell.side_files)
        yield Opened(cell, side)
        second = beside_rows(operator, beside_root, cell.beside_files)
        hashing.side(side)
        hashing.beside(second)
        if hash_only or cell.known:
            hashing.rows(source)
            digest = hashing.cell_digest()
            known = cell.known.get(digest) if digest else None
            if known is not None:
                note = confirm(known, result_roots)
            found = digest if known is not None and note is None else None
            if hash_only or found:
                yield Closed(hashing.inputs, found, note, None, source.bytes_read, tuple(source.corrupt))
                return
        for key, places in source.index().items():
            yield group(operator, key, pa.concat_tables([small for _, small in places]), second)
            for place, _ in places:
                try:
                    rows = source.read(place)
                except Corrupt as e:
                    hashing.failed()
                    yield Block(None, e)
                    break
                hashing.add(rows)
                yield Block(rows)
    except FileNotFoundError as e:
        yield Closed({}, missing_file=str(e))
        return
    if source.corrupt:
        hashing.failed()
    yield Closed(hashing.finish(), None, note, None, source.bytes_read, tuple(source.corrupt))


def group(operator: Operator, key: Key, keys: pa.Table, second: BesideRows | None) -> Group:
    """The event of a group, with its rows of the second table."""
    if second is None:
        return Group(key, keys)
    try:
        return Group(key, keys, second.of(dict(zip(operator.group, key, strict=True))))
    except Corrupt as e:
        return Group(key, keys, problem=e)


@dataclass
class Hashing:
    """Digests of a cell's inputs: those that still stand, and those made of the rows as they go by."""

    operator: Operator
    cell: Cell
    inputs: dict[str, str | None] = field(init=False)
    _digests: list[bytes] | None = field(init=False)

    def __post_init__(self) -> None:
        self.inputs = dict(self.cell.recorded)
        self._digests = None if self.operator.table in self.inputs else []

    def side(self, side: SideRows | None) -> None:
        if side is not None and side.table not in self.inputs:
            self.inputs[side.table] = side.digest(self.cell.date)

    def beside(self, second: BesideRows | None) -> None:
        if second is not None and second.table not in self.inputs:
            self.inputs[second.table] = second.digest()

    def add(self, rows: pa.Table) -> None:
        if self._digests is not None:
            table = self.operator.table
            self._digests += row_digests(rows, inputs(self.operator)[table], ARROW[table])

    def failed(self) -> None:
        """Some rows could not be read: what was calculated without them is not to be found again."""
        self.inputs[self.operator.table] = None
        self._digests = None

    def rows(self, source: FileRows) -> None:
        """Hashes all of the cell's rows, unless their digest stands."""
        if self._digests is not None:
            try:
                for rows in source.row_groups():
                    self.add(rows)
                self.finish()
            except Corrupt:
                self.failed()

    def finish(self) -> dict[str, str | None]:
        if self._digests is not None:
            self.inputs[self.operator.table] = of_rows(self._digests)
            self._digests = None
        return self.inputs

    def cell_digest(self) -> str | None:
        known = {table: digest for table, digest in self.inputs.items() if digest is not None}
        return cell_digest(known, self.cell.length_s) if len(known) == len(self.inputs) else None


def confirm(files: Iterable[Mapping[str, Any]], roots: Mapping[str, str]) -> str | None:
    """Why result files of an earlier run cannot be taken again, or None."""
    for file in files:
        system = filesystem(roots[file["table"]])
        try:
            if file_digest(system, file["path"]) != file["digest"]:
                return f"result file {file['path']} of table {file['table']} is damaged: calculated again"
        except OSError:
            return f"result file {file['path']} of table {file['table']} is gone: calculated again"
    return None


def read_ahead(events: Callable[[], Iterator[Event]], budget_bytes: int) -> Iterator[Event]:
    """The events in order, from a thread that keeps at most `budget_bytes` of blocks in flight, or one block."""
    waiting: deque[Event | BaseException | None] = deque()
    turn = threading.Condition()
    in_flight = 0
    stopped = False

    def produce() -> None:
        nonlocal in_flight
        last: BaseException | None = None
        try:
            for event in events():
                with turn:
                    while in_flight and in_flight + event.size > budget_bytes and not stopped:
                        turn.wait()
                    if stopped:
                        return
                    in_flight += event.size
                    waiting.append(event)
                    turn.notify_all()
        except BaseException as e:  # handed to the reader of the events
            last = e
        with turn:
            waiting.append(last)
            turn.notify_all()

    thread = threading.Thread(target=produce, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            with turn:
                while not waiting:
                    turn.wait()
                event = waiting.popleft()
            if event is None:
                return
            if isinstance(event, BaseException):
                raise event
            yield event
            with turn:  # only now has the block been used
                in_flight -= event.size
                turn.notify_all()
            del event
    finally:
        with turn:
            stopped = True
            turn.notify_all()
        thread.join()
