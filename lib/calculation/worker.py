"""What a task does with its cells: opens their files, runs the operator group by group, writes result files.

Runs in Spark's Python workers and needs no Spark: `Iterator[RecordBatch] -> Iterator[RecordBatch]`, one report row per
cell: JSON, and the cell's partial as an Arrow stream.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from lib.algorithm import figures
from lib.algorithm.fingerprint import library_versions
from lib.algorithm.operator import Day, Operator, Rejected, Unusable
from lib.calculation import side
from lib.calculation.located import Cell
from lib.calculation.memory import Gauge
from lib.calculation.parts import Part, PartWriter, WriteFailed
from lib.calculation.reading import Block, Closed, Event, Group, Opened, read_ahead, read_cell
from lib.calculation.rows import Corrupt
from lib.calculation.storage import is_local
from lib.tables import ARROW
from lib.tables.digest import cell_digest

REPORT = pa.schema([("report", pa.string()), ("figures", pa.binary())])
REPORT_DDL = "report string, figures binary"


@dataclass(frozen=True)
class Work:
    """What every task of a run is told besides its cells. Roots are folders or URIs; result_roots by table.

    memory_bytes: what a worker may hold of rows that are read ahead. hash_only: find the cells' digests, no more.
    """

    operator: Any
    """An Operator, or a Formula to hash the rows for."""
    root: str
    side_root: str
    result_roots: Mapping[str, str]
    memory_bytes: int
    hash_only: bool = False
    beside_root: str = ""


@dataclass
class Worker:
    """The process that works."""

    libraries: Mapping[str, str] = field(default_factory=library_versions)
    memory: Gauge = field(default_factory=Gauge)


class CellRun:
    """One cell's calculation: takes the events of its reading, gives result files and a report.

    worker: what to report of the process: its libraries, its memory.
    """

    def __init__(self, work: Work, cell: Cell, side_rows: side.SideRows | None, worker: Worker) -> None:
        self.operator, self.cell, self.side_rows, self.worker = work.operator, cell, side_rows, worker
        self.day = Day(cell.region, cell.date, cell.length_s)
        self.writer = PartWriter(dict(work.result_roots), cell.region, cell.date)
        self.rows_in = self.rows_out = 0
        self.rejected: list[Rejected] = []
        self.figures: list[dict[str, Any]] = []
        self._group: _GroupRun | None = None
        self._begin = time.perf_counter()

    def take(self, event: Group | Block) -> None:
        """Calculates with one event. Raises WriteFailed."""
        if isinstance(event, Group):
            self._end_group()
            self._group = _GroupRun(self, event)
        elif self._group is not None:
            self._group.add(event)

    def close(self, event: Closed) -> pa.RecordBatch:
        """The cell's report row; finishes the result files, or deletes them where the cell could not be finished."""
        failed = None
        parts: list[Part] = []
        try:
            self._end_group()
            if event.missing_file is None:
                parts = self.writer.close()
        except WriteFailed as e:
            failed = str(e)
        for corrupt in event.corrupt:
            reason, remedy = _explain(corrupt)
            key = {"file": corrupt.file.path, "rows": corrupt.rows}
            self.rows_in += corrupt.rows
            self.rejected.append(Rejected(self.operator.table, key, reason, remedy, corrupt.rows))
        return self.report(event, parts, failed)

    def report(self, event: Closed, parts: Sequence[Part] = (), failed: str | None = None) -> pa.RecordBatch:
        """The report row of a cell that ended with `event`, or could not be written."""
        if failed or event.missing_file:
            self.writer.discard()
        known = {table: digest for table, digest in event.inputs.items() if digest is not None}
        whole = bool(event.inputs) and len(known) == len(event.inputs)
        report = {
            "region": self.cell.region, "date": self.cell.date.isoformat(), "inputs": known,
            "digest": cell_digest(known, self.cell.length_s) if whole else None,
            "found": event.found is not None, "note": event.note, "rows_in": self.rows_in, "rows_out": self.rows_out,
            "rows_quarantined": sum(r.rows for r in self.rejected), "bytes_read": event.bytes_read,
            "bytes_written": sum(p.size for p in parts), "seconds": time.perf_counter() - self._begin,
            "missing_file": event.missing_file, "failed": failed, "libraries": self.worker.libraries,
            "memory": [self.worker.memory.baseline_bytes, self.worker.memory.peak_bytes()],
            "parts": [p.to_json() for p in parts], "rejected": [asdict(r) for r in self.rejected],
        }  # fmt: skip
        rows = figures.to_bytes(pa.Table.from_pylist(self.figures, schema=figures_schema(self.operator)))
        return pa.RecordBatch.from_pydict({"report": [json.dumps(report, default=str)], "figures": [rows]}, REPORT)

    def _end_group(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.finish()


class _GroupRun:
    """One group of a cell: its rows come block by block."""

    def __init__(self, run: CellRun, event: Group) -> None:
        self.run, self.operator = run, run.operator
        self.day = replace(run.day, beside=event.beside)
        self.group = dict(zip(self.operator.group, event.key, strict=True))
        self.rows = [self.group | row for row in event.keys.select(list(self.operator.key)).to_pylist()]
        run.rows_in += len(self.rows)
        self.partial: Any = None
        self.rejected: list[Rejected] = []
        self.refused: tuple[str, str] | None = None
        self.times: dict[str, int] = {}
        for row in self.rows:
            self.times[repr(row)] = self.times.get(repr(row), 0) + 1
        self.twice = {row for row, n in self.times.items() if n > 1}
        try:
            if event.problem is not None:
                raise Unusable(*_explain(event.problem))
            self.state = side.state(self.operator, run.side_rows, event.key, run.cell.date)
        except Unusable as e:
            self.refused = e.reason, e.remedy

    def add(self, block: Block) -> None:
        if self.refused:
            return
        if block.problem is not None:
            self.refused = _explain(block.problem)
            self.rows = [row | {"file": block.problem.file.path} for row in self.rows]
            return
        rows = block.rows
        assert rows is not None
        if self.twice:
            keys = rows.select(list(self.operator.key)).to_pylist()
            rows = rows.filter(pa.array([repr(self.group | row) not in self.twice for row in keys]))
        try:
            some, bad = self.operator.map(rows, self.state, self.day)
            self.rejected += [it for it in bad if it not in self.rejected]  # rows beside come with every block
            if some is not None:
                self.partial = some if self.partial is None else self.operator.merge(self.partial, some)
        except Unusable as e:
            self.refused = e.reason, e.remedy

    def finish(self) -> None:
        """Hands rows, figures and rejected rows to the cell. Raises WriteFailed."""
        run, table = self.run, self.operator.table
        batches: dict[str, pa.RecordBatch] = {}
        if not self.refused and self.partial is not None:
            try:
                batches, values = self.operator.finish(self.partial, self.state, run.day)
                outside = figures.out_of_range(values, self.operator.figures)
                if outside:
                    raise Unusable(f"its result is out of range: {'; '.join(outside)}",
                                   "look at the network and the rows of this day")  # fmt: skip
                run.figures.append(self.group | values)
            except Unusable as e:
                self.refused = e.reason, e.remedy
        if self.refused:
            run.rejected += [Rejected(table, row, *self.refused) for row in self.rows]
            return
        for name, batch in batches.items():
            run.writer.add(name, batch, self.group)
        for row in self.rows:
            if repr(row) in self.twice:
                reason = f"{self.times[repr(row)]} rows have this key"
                remedy = "leave one of them: write this day again from its source (ingest)"
                self.rejected.append(Rejected(table, row, reason, remedy))
        run.rejected += self.rejected
        run.rows_out += len(self.rows) - sum(it.rows for it in self.rejected)


def figures_schema(operator: Operator) -> pa.Schema:
    """Columns of the operator's partials."""
    table = ARROW[operator.table]
    return figures.schema(pa.schema([table.field(name) for name in operator.group]), operator.figures)


def run_cells(work: Work) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The task function for rows whose column `cell` is a Cell as JSON."""

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        cells = [Cell.from_json(text) for batch in batches for text in batch.column("cell").to_pylist()]
        if not work.hash_only:
            side.preload(work.operator, work.side_root, cells)

        def events() -> Iterator[Event]:
            for cell in cells:
                yield from read_cell(
                    work.operator, cell, work.root, work.side_root, work.result_roots, work.hash_only, work.beside_root
                )  # fmt: skip

        # A file that this machine holds is read no sooner by a thread, and its rows then lie in another core's cache.
        yield from calculate(work, events() if is_local(work.root) else read_ahead(events, work.memory_bytes))

    return run


def calculate(work: Work, events: Iterator[Event]) -> Iterator[pa.RecordBatch]:
    """A report row for each cell whose events come in."""
    run: CellRun | None = None
    failed: str | None = None
    worker = Worker()
    try:
        for event in events:
            if isinstance(event, Opened):
                run, failed = CellRun(work, event.cell, event.side, worker), None
            elif run is None:
                raise AssertionError("an event before its cell")
            elif isinstance(event, Closed):
                yield run.report(event, failed=failed) if failed else run.close(event)
                run = None
            elif not failed:
                try:
                    run.take(event)
                except WriteFailed as e:
                    failed = str(e)
            del event  # its rows are counted as used once the next event is asked for
    except BaseException:
        if run is not None:
            run.writer.discard()
        raise


def _explain(e: Corrupt) -> tuple[str, str]:
    problem = " ".join(str(e).split())[:200]
    return (
        f"file {e.file.path} cannot be read as Parquet: {problem}",
        "restore the file, or write this day again (ingest)",
    )
