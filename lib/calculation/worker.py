"""What a task does with a cell: opens its own files, runs the operator group by group, writes its own result files.

Runs in Spark's Python workers and needs no Spark: `Iterator[RecordBatch] -> Iterator[RecordBatch]`, one small report
row per cell.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa

from lib.algorithm.operator import Day, Operator, Rejected, Unusable
from lib.calculation.located import Cell, File
from lib.calculation.parts import PartWriter, WriteFailed
from lib.calculation.rows import Corrupt, FileRows, Key, Place
from lib.calculation.storage import filesystem

REPORT = pa.schema([("report", pa.string())])
REPORT_DDL = "report string"

_STATE_BYTES = 256 << 20
_states: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
_side_indexes: dict[Any, tuple[FileRows, dict[Key, list[tuple[Place, pa.Table]]]]] = {}


class CellRun:
    """One cell's calculation: groups of rows go in, result files and a report come out."""

    def __init__(self, operator: Operator, cell: Cell, side_root: str, result_roots: Mapping[str, str]) -> None:
        self.operator, self.cell, self.side_root = operator, cell, side_root
        self.day = Day(cell.region, cell.date, cell.length_s)
        self.writer = PartWriter(dict(result_roots), cell.region, cell.date)
        self.rows_in = self.rows_out = self.bytes_read = 0
        self.rejected: list[Rejected] = []
        self.figures: dict[str, float] = {}
        self._begin = time.perf_counter()

    def add_group(self, key: Key, blocks: Iterable[Callable[[], pa.Table]], keys: pa.Table) -> None:
        """Solves one group. keys: its rows' key columns; blocks: read its rows, block by block, in any order."""
        operator, group = self.operator, dict(zip(self.operator.group, key, strict=True))
        rows = [group | row for row in keys.select(list(operator.key)).to_pylist()]
        self.rows_in += len(rows)
        try:
            state = self._state(key, group)
            times: dict[str, int] = {}
            for row in rows:
                times[repr(row)] = times.get(repr(row), 0) + 1
            twice = {row for row, n in times.items() if n > 1}
            whole, rejected = None, []
            for read in blocks:
                block = read()
                if twice:
                    mask = [repr(group | row) not in twice for row in block.select(list(operator.key)).to_pylist()]
                    block = block.filter(pa.array(mask))
                some, bad = operator.map(block, state, self.day)
                rejected += bad
                whole = some if whole is None else whole if some is None else operator.merge(whole, some)
            for row in rows:
                if repr(row) in twice:
                    rejected.append(
                        Rejected(operator.table, row, f"{times[repr(row)]} rows have this key",
                                 "leave one of them: write this day again from its source (ingest)")
                    )  # fmt: skip
            batches, figures = operator.finish(whole, state, self.day) if whole is not None else ({}, {})
        except Unusable as e:
            self.rejected += [Rejected(operator.table, row, e.reason, e.remedy) for row in rows]
            return
        except Corrupt as e:
            reason, remedy = _explain(e)
            self.rejected += [Rejected(operator.table, row | {"file": e.file.path}, reason, remedy) for row in rows]
            return
        for table, batch in batches.items():
            self.writer.add(table, batch, group)
        self.rejected += rejected
        self.rows_out += len(rows) - len(rejected)
        combine(self.figures, figures, operator.figures)

    def report(self, missing_file: str | None = None, failed: str | None = None) -> pa.RecordBatch:
        """The cell's report row; closes the result files, or deletes them where the cell could not be finished."""
        parts = []
        if missing_file is None and failed is None:
            try:
                parts = self.writer.close()
            except WriteFailed as e:
                failed = str(e)
        if missing_file is not None or failed is not None:
            self.writer.discard()
        report = {
            "region": self.cell.region, "date": self.cell.date.isoformat(), "rows_in": self.rows_in,
            "rows_out": self.rows_out, "rows_quarantined": sum(r.rows for r in self.rejected),
            "bytes_read": self.bytes_read, "bytes_written": sum(p.size for p in parts),
            "seconds": time.perf_counter() - self._begin, "figures": self.figures, "missing_file": missing_file,
            "failed": failed,
            "parts": [p.to_json() for p in parts], "rejected": [asdict(r) for r in self.rejected],
        }  # fmt: skip
        return pa.RecordBatch.from_pydict({"report": [json.dumps(report, default=str)]}, schema=REPORT)

    def _state(self, key: Key, group: dict[str, Any]) -> Any:
        """The group's prepared state, kept in this process between tasks. Raises Unusable."""
        side = self.operator.side
        source, index = _side_index(self.operator, self.side_root, self.cell.side_files)
        described = ", ".join(f"{name} {value}" for name, value in group.items())
        found = [(p, t, i) for p, t in index.get(key, []) for i in range(t.num_rows)]
        if not found:
            damaged = f" (its file {source.corrupt[0].file.path} cannot be read)" if source.corrupt else ""
            raise Unusable(f"table {side.table} has no row for {described}{damaged}",
                           f"add it to table {side.table}, or correct this row")  # fmt: skip
        if len(found) > 1:
            raise Unusable(f"table {side.table} has {len(found)} rows for {described}", "leave one of them")
        place, small, i = found[0]
        at = self.operator, self.side_root, key, small.column(side.digest)[i].as_py()
        if at not in _states:
            before = source.bytes_read
            try:
                row = source.read(place).slice(i, 1)
            except Corrupt as e:
                raise Unusable(f"table {side.table} cannot be read for {described}: {e}", "restore the file") from e
            self.bytes_read += source.bytes_read - before
            _states[at] = self.operator.prepare(row.to_pylist()[0]), 8 * row.nbytes
            while len(_states) > 1 and sum(size for _, size in _states.values()) > _STATE_BYTES:
                _states.popitem(last=False)
        _states.move_to_end(at)
        return _states[at][0]


def combine(into: dict[str, float], figures: Mapping[str, float], how: Mapping[str, str]) -> None:
    """Adds a partial's or a cell's figures to a total, each as the operator declares."""
    joined: dict[str, Callable[[float, float], float]] = {"sum": lambda a, b: a + b, "min": min, "max": max}
    for name, value in figures.items():
        into[name] = joined[how[name]](into[name], value) if name in into else value


def run_cells(
    operator: Operator, root: str, side_root: str, result_roots: Mapping[str, str]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The task function for rows whose column `cell` is a Cell as JSON."""

    def work(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for text in batch.column("cell").to_pylist():
                yield _run_cell(operator, Cell.from_json(text), root, side_root, result_roots)

    return work


def _run_cell(
    operator: Operator, cell: Cell, root: str, side_root: str, result_roots: Mapping[str, str]
) -> pa.RecordBatch:
    run = CellRun(operator, cell, side_root, result_roots)
    index_columns = [*operator.key]
    source = FileRows(filesystem(root), cell.files, operator.group, operator.columns, index_columns)
    try:
        for key, places in source.index().items():
            blocks = [partial(source.read, place) for place, _ in places]
            run.add_group(key, blocks, pa.concat_tables([table for _, table in places]))
    except FileNotFoundError as e:
        return run.report(missing_file=str(e))
    except WriteFailed as e:
        return run.report(failed=str(e))
    except BaseException:
        run.writer.discard()
        raise
    for corrupt in source.corrupt:
        reason, remedy = _explain(corrupt)
        run.rows_in += corrupt.rows
        run.rejected.append(
            Rejected(operator.table, {"file": corrupt.file.path, "rows": corrupt.rows}, reason, remedy, corrupt.rows)
        )
    run.bytes_read += source.bytes_read
    return run.report()


def _side_index(operator: Operator, root: str, files: tuple[File, ...]) -> Any:
    at = operator.side, root, files
    if at not in _side_indexes:
        side = operator.side
        source = FileRows(
            filesystem(root), files, operator.group, (*operator.group, side.digest, *side.columns), (side.digest,)
        )
        _side_indexes.clear()  # one region at a time
        _side_indexes[at] = source, source.index()
    return _side_indexes[at]


def _explain(e: Corrupt) -> tuple[str, str]:
    problem = " ".join(str(e).split())[:200]
    return (
        f"file {e.file.path} cannot be read as Parquet: {problem}",
        "restore the file, or write this day again (ingest)",
    )
