"""Table `partial`: where the cache keeps its entries. Reading never fails; damage takes no more than it must."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import date
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from lib.analysis.entries import Entry, Row, checked_rows, to_table
from lib.calculation.located import not_located
from lib.calculation.parts import quoted, run_properties
from lib.calculation.storage import filesystem, is_local, local_path
from lib.errors import GridsinkError
from lib.tables import ARROW, Lake

_log = logging.getLogger(__name__)

CellKey = tuple[str, date]
MOST_FILES = 64
"""An operator's files are compacted when there are more."""
_UNREADABLE = (OSError, ValueError, KeyError, pa.ArrowException)
_SMALL = [name for name in ARROW["partial"].names if name not in ("operator", "figures")]
_REPEATED = ["fingerprint", "manifest", "rejected"]
_REMEDY = "move the table's folder away: it is made again, and what was in it is calculated again"


class PartialTable:
    """The table of a lake. What cannot be read is logged, and told by `problems`."""

    def __init__(self, lake: Lake) -> None:
        self._lake, self._path = lake, lake.path("partial")
        self._tables: dict[str, pa.Table | None] = {}
        self.problems: list[str] = []
        """What could not be read, one sentence each: files, or the whole table."""

    def rows(self, cells: Collection[CellKey]) -> tuple[list[Row], list[Row]]:
        """Rows of these cells of all operators, oldest commits first; and those that are damaged."""
        self.problems = []
        snapshot = self._snapshot()
        if snapshot is None:
            return [], []
        wanted = set(cells)
        good: list[Row] = []
        damaged: list[Row] = []
        regions = pa.array(sorted({region for region, _ in wanted}), pa.string())
        days = pa.array(sorted({day for _, day in wanted}), pa.date32())
        for path, operator in _files(snapshot):
            table = self._small(path, operator)
            if table is None:
                continue
            found = pc.and_(pc.is_in(table["region"], value_set=regions), pc.is_in(table["date"], value_set=days))
            for row, fits in checked_rows(table.filter(found), path):
                if (row.values["region"], row.values["date"]) in wanted:
                    (good if fits else damaged).append(row)
        return good, damaged

    def contents(self, rows: Iterable[Row]) -> Iterator[tuple[Row, bytes | None]]:
        """The rows' partials, None where one is damaged or gone; not in order."""
        by_path: dict[str, list[Row]] = {}
        for row in rows:
            by_path.setdefault(row.path, []).append(row)
        for path, some in by_path.items():
            try:
                column = self._read(path, ["figures"]).column("figures")
            except _UNREADABLE as e:
                self._damaged(path, e)
                yield from ((row, None) for row in some)
                continue
            for row in some:
                content = column[row.index].as_py() if row.index < len(column) else None
                if not row.holds(content):
                    _log.warning("the partial of %s in table partial is damaged: file %s", row.key, path)
                yield row, content if row.holds(content) else None

    def append(self, entries: Sequence[Entry], run_id: str) -> None:
        """Adds entries in one commit, the table being made if absent. Raises GridsinkError."""
        rows = to_table(entries)

        def write(table: DeltaTable) -> None:
            write_deltalake(table, rows, mode="append", commit_properties=run_properties(run_id))

        self._write(write)
        for operator in sorted({entry.operator for entry in entries}):
            self._compact(operator)

    def forget(self, rows: Collection[Row], operator: str, fingerprint: str) -> None:
        """Takes all rows of the same cells out; files that cannot be rewritten as a whole. Raises GridsinkError."""
        days: dict[str, set[date]] = {}
        for row in rows:
            days.setdefault(row.values["region"], set()).add(row.values["date"])
        cells = " OR ".join(
            f"(region = {quoted(region)} AND date IN ({', '.join(quoted(str(day)) for day in sorted(some))}))"
            for region, some in sorted(days.items())
        )
        where = f"operator = {quoted(operator)} AND fingerprint = {quoted(fingerprint)} AND ({cells})"
        paths = {row.path for row in rows}

        def write(table: DeltaTable) -> None:
            try:
                table.delete(where)
            except CommitFailedError:
                raise
            except Exception as e:
                _log.warning("rows of table partial cannot be deleted one by one: %s", _line(e))
                _remove(table, paths)

        if rows:
            self._write(write)

    def _snapshot(self) -> DeltaTable | None:
        try:
            if is_local(self._path) and not (local_path(self._path) / "_delta_log").is_dir():
                return None
            if not DeltaTable.is_deltatable(self._path):
                return None
            snapshot = DeltaTable(self._path)
            problem = not_located(snapshot, "partial") or _other_columns(snapshot)
        except Exception as e:  # delta-rs has an exception each for all that can be wrong with a log
            problem = f"table partial cannot be read: {_line(e)}"
        if problem:
            _log.warning("%s (%s); %s", problem, self._path, _REMEDY)
            self.problems.append(problem)
            return None
        return snapshot

    def _small(self, path: str, operator: str) -> pa.Table | None:
        """Columns of a file but the partials; None where it cannot be read. Files never change."""
        if path not in self._tables:
            try:
                table = self._read(path, _SMALL)
                self._tables[path] = table.add_column(0, "operator", pa.repeat(pa.scalar(operator), table.num_rows))
            except _UNREADABLE as e:
                self._tables[path] = None
                self._damaged(path, e)
        elif self._tables[path] is None:
            self.problems.append(f"file {path} of table partial cannot be read")
        return self._tables[path]

    def _read(self, path: str, columns: list[str]) -> pa.Table:
        with filesystem(self._path).open_input_file(path) as source:
            file = pq.ParquetFile(source, read_dictionary=_REPEATED, page_checksum_verification=True)
            table = file.read(columns, use_threads=False)
        missing = set(columns) - set(table.schema.names)
        if missing:
            raise KeyError(f"without the columns {', '.join(sorted(missing))}")
        # delta-rs writes other layouts of the same types when it rewrites a file
        kinds = [f if pa.types.is_dictionary(f.type) else ARROW["partial"].field(f.name) for f in table.schema]
        table = table.cast(pa.schema(kinds))
        return table.append_column("_index", pa.array(range(table.num_rows), pa.int64()))

    def _damaged(self, path: str, e: Exception) -> None:
        problem = f"file {path} of table partial cannot be read"
        _log.warning("%s (%s): what it holds is calculated again: %s", problem, self._path, _line(e))
        self.problems.append(problem)

    def _write(self, write: Callable[[DeltaTable], None]) -> None:
        def checked(table: DeltaTable) -> None:
            problem = _other_columns(table)
            if problem:
                raise GridsinkError(problem, self._path, _REMEDY)
            write(table)

        try:
            self._lake.create("partial")
            self._lake.commit("partial", checked)
        except GridsinkError:
            raise
        except CommitFailedError as e:
            problem = f"table partial was changed by others each time it was to be written: {_line(e)}"
            raise GridsinkError(problem, self._path, "run again") from e
        except Exception as e:
            raise GridsinkError(f"table partial cannot be written: {_line(e)}", self._path, _REMEDY) from e

    def _compact(self, operator: str) -> None:
        try:
            table = DeltaTable(self._path)
            if sum(1 for _, owner in _files(table) if owner == operator) > MOST_FILES:
                table.optimize.compact(partition_filters=[("operator", "=", operator)])
        except Exception as e:  # nothing is lost: it only takes longer to read
            _log.warning("files of operator %s in table partial cannot be compacted: %s", operator, _line(e))


def _files(snapshot: DeltaTable) -> list[tuple[str, str]]:
    """Path and operator of each file, in the order in which they were written."""
    actions = pa.table(snapshot.get_add_actions(flatten=True))
    if not actions.num_rows:
        return []
    actions = actions.sort_by([("modification_time", "ascending"), ("path", "ascending")])
    rows = actions.select(["path", "partition.operator"]).to_pylist()
    return [(unquote(row["path"]), row["partition.operator"]) for row in rows]


def _remove(table: DeltaTable, paths: set[str]) -> None:
    """Takes whole files out of the log."""
    actions: list[AddAction | RemoveAction] = [
        RemoveAction(
            row["path"], True, int(time.time() * 1000), row["size_bytes"], {"operator": row["partition.operator"]}
        )
        for row in pa.table(table.get_add_actions(flatten=True)).to_pylist()
        if unquote(row["path"]) in paths
    ]
    table.create_write_transaction(actions, "append", table.schema(), partition_by=["operator"])


def _other_columns(snapshot: DeltaTable) -> str | None:
    found, expected = set(pa.schema(snapshot.schema().to_arrow()).names), set(ARROW["partial"].names)
    return f"table partial has other columns: {', '.join(sorted(found ^ expected))}" if found != expected else None


def _line(e: BaseException) -> str:
    return " ".join(str(e).split())[:300] or type(e).__name__
