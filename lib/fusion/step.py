"""One step over a selection of cells: what the cache has stands, the rest is calculated where it lies and committed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa

from lib.algorithm.fingerprint import fingerprint
from lib.algorithm.formula import Formula
from lib.algorithm.operator import Operator, beside, inputs
from lib.analysis.blocks import CellKey, blocks
from lib.analysis.cache import Cache, Entry, Input, Output, OutputFile, Verdict
from lib.calculation import formulas, local, located, parts, scan
from lib.calculation.local import Outcome
from lib.calculation.located import Cell, Plan, Selection
from lib.calculation.parts import Part
from lib.errors import GridsinkError
from lib.fusion.commit import WRITE_REMEDY, commit, filed, to_file, writing
from lib.settings import Settings
from lib.tables import Lake
from lib.tables.tiles import day_slots

if TYPE_CHECKING:
    from lib.job import JobContext

_log = logging.getLogger(__name__)


def plan(lake: Lake, settings: Settings, operator: Operator | Formula, selection: Selection) -> Plan:
    """What the operator would read, from the tables' logs alone. Raises GridsinkError for an unknown region."""
    unknown = sorted(set(selection.regions) - set(settings.regions))
    if unknown:
        known = ", ".join(sorted(settings.regions))
        raise GridsinkError(f"there is no region {', '.join(unknown)}", "--region", f"regions are {known}")
    side, second = operator.side, beside(operator)
    if second is not None and lake.exists(operator.table):
        lake.create(second.table)  # where no source has filled it yet
    return located.plan(
        lake, operator.table, side.table if side else None, lambda region, day: _length_s(settings, region, day),
        selection, second.table if second else None,
    )  # fmt: skip


@dataclass
class Counts:
    """What became of a region's cells in a step. `seconds` are its workers', summed."""

    cells: int = 0
    current: int = 0
    found: int = 0
    computed: int = 0
    gone: int = 0
    seconds: float = 0.0


@dataclass
class StepRun:
    """A step's state during a run: `refresh` first, then `run` any of `todo`.

    selection: the cells it looks at; only: those of them that it may calculate (by default all).
    """

    context: JobContext
    operator: Operator | Formula
    selection: Selection
    recompute: bool = False
    only: Selection = field(default_factory=Selection)
    counts: dict[str, Counts] = field(default_factory=dict)
    """By region."""
    computed: dict[CellKey, bytes] = field(default_factory=dict)
    """Partials that this run calculated."""
    quarantined: dict[CellKey, int] = field(default_factory=dict)
    done: set[CellKey] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.fingerprint = fingerprint(self.operator)
        self._found: dict[CellKey, bytes] = {}

    def refresh(self) -> None:
        """Plans anew and asks the cache. Cells that this run has gone through stay done."""
        context = self.context
        found = plan(context.lake, context.settings, self.operator, self.selection)
        if found.reasons:
            found = scan.complete(
                context.spark, context.lake, self.operator, found,
                lambda region, day: _length_s(context.settings, region, day),
                f"{context.lake.root}/_runs/{context.run_id}/side", self.selection,
            )  # fmt: skip
            context.inputs["read_through_spark"] = dict(found.reasons)
        context.inputs.update({t: {"path": context.lake.path(t), "version": v} for t, v in found.versions.items()})
        self.plan = found
        self.cells = {(cell.region, cell.date): cell for cell in found.cells}
        self.cache = Cache(context.lake, self.operator, self.fingerprint)
        decided = self.cache.decide(found.cells, found.versions, self.recompute)
        self._filed = filed(context.lake, self.operator.name)
        self.verdicts: dict[CellKey, Verdict] = {(it.region, it.date): self._with_quarantine(it) for it in decided}

    @property
    def todo(self) -> set[CellKey]:
        """Cells that are to be brought up to date."""
        return {
            key for key, it in self.verdicts.items()
            if it.status != "current" and key not in self.done and self.only.wants(*key)
        }  # fmt: skip

    def clear(self) -> None:
        """Takes results of cells that have no rows any more out of the operator's tables, and their quarantine."""
        held = {key for table in self.operator.outputs for key in self.cache.log(table).cells()}
        known = pa.table(self.context.lake.snapshot("quarantine").get_add_actions(flatten=True)).to_pylist()
        name = self.operator.name
        held |= {(it["partition.region"], it["partition.date"]) for it in known if it["partition.job"] == name}
        gone = {
            (region, day) for region, day in held
            if day is not None and (region, day) not in self.cells
            and self.selection.wants(region, day) and self.only.wants(region, day)
        }  # fmt: skip
        if gone:
            with self.context.phase("commit"):
                commit(self.context.lake, self.operator, gone, [], self.context.run_id)
        for region, _ in gone:
            self._count(region).gone += 1

    def run(self, keys: Sequence[CellKey]) -> None:
        """Brings these cells up to date, in this order, and commits them.

        Rows in = rows out + rows quarantined is checked. A file that has gone since the plan was made means one new
        plan, then an error.
        """
        if not keys:
            return
        with self.context.phase("calculate"):
            outcomes = self._outcomes(keys)
        for it in outcomes:
            if it.note:
                _log.warning("%s, %s: %s", it.region, it.date, it.note)
                self.context.say(f"region {it.region}, {it.date}: {it.note}")
        with self.context.phase("commit"):
            self._settle(outcomes)

    def finish(self) -> None:
        """Counts the cells that needed nothing."""
        for key, verdict in self.verdicts.items():
            if not self.only.wants(*key):
                continue
            count = self._count(key[0])
            count.cells += 1
            if verdict.status == "current" and key not in self.done:
                count.current += 1
                self.quarantined[key] = verdict.entry.rows_quarantined if verdict.entry else 0

    def partials(self, keys: Collection[CellKey]) -> dict[CellKey, bytes]:
        """Partials of those of these cells that are up to date; damaged ones are calculated again, loudly."""
        here = self.computed | self._found
        current = [self.verdicts[key].entry for key in keys if key not in here and key in self.verdicts]
        entries = [entry for entry in current if entry is not None]
        read = self.cache.content(entries)
        damaged = [(e.region, e.date) for e in entries if (e.region, e.date) not in read]
        if damaged:
            for region, day in damaged:
                self.context.say(f"region {region}, {day}: its entry in table partial is damaged: calculated again")
            self.cache.forget(damaged)
            self.refresh()
            self.run(damaged)
            here = self.computed | self._found
        return {key: partial for key in keys if (partial := here.get(key, read.get(key))) is not None}

    def resolve(self) -> list[Verdict]:
        """The verdicts, those that depend on rows decided by hashing them: none is left to be checked."""
        open_keys = [key for key, it in self.verdicts.items() if it.status == "check"]
        self._load_known(open_keys)
        outcomes = {(it.region, it.date): it for it in self._calculate([self._task(k) for k in open_keys], True)}
        found = []
        for key, verdict in self.verdicts.items():
            it = outcomes.get(key)
            if it is not None and it.found:
                verdict = replace(verdict, status="current", reason=f"{verdict.reason}: the same rows")
            elif it is not None:
                verdict = replace(verdict, status="compute", reason=it.note or f"{verdict.reason}: other rows")
            found.append(verdict)
        return found

    def calculate_again(self, keys: Collection[CellKey]) -> list[Outcome]:
        """These cells calculated from their rows, whatever the cache has; nothing is committed."""
        return self._calculate([replace(self.cells[key], recorded={}, known={}) for key in sorted(keys)])

    def _with_quarantine(self, it: Verdict) -> Verdict:
        """The verdict, not current where the rows that its entry puts into quarantine are not there, or others are."""
        if it.entry is None or self._is_filed(it.entry):
            return it
        known = {it.entry.digest: it.entry}
        return replace(it, status="check", reason="quarantine holds other rows of it", entry=None, known=known)

    def _is_filed(self, entry: Entry) -> bool:
        return self._filed.get((entry.region, entry.date), Counter()) == to_file(self.operator, entry)

    def _outcomes(self, keys: Sequence[CellKey]) -> list[Outcome]:
        for attempt in range(2):
            if attempt:
                self.refresh()
                self.context.inputs["planned_again"] = dict(self.plan.versions)
            self._load_known(keys)
            cells = [self._task(key) for key in keys if key in self.cells]
            outcomes = self._calculate(cells)
            failures = [it.failed for it in outcomes if it.failed]
            missing = [it.missing_file for it in outcomes if it.missing_file]
            if not failures and not missing:
                _check(self.plan, cells, outcomes)
                return outcomes
            parts.discard(self.context.lake, [part for it in outcomes for part in it.parts])
            if failures:
                raise GridsinkError(failures[0], _span(keys), WRITE_REMEDY)
        raise GridsinkError(
            f"a file that the log of table {self.plan.table} names is not there: {missing[0]}",
            f"{self.plan.root}, {_span(keys)}",
            "restore the file, or write these days again (ingest)",
        )

    def _load_known(self, keys: Collection[CellKey]) -> None:
        """Contents of the entries that workers may find again, one cell's digest after the other."""
        entries = [entry for key in keys for entry in self.verdicts[key].known.values()]
        self._known = {
            (entry.region, entry.date, entry.digest): (entry, content)
            for entry, content in self.cache.contents(entries)
        }

    def _task(self, key: CellKey) -> Cell:
        """The cell with what the cache knows of it."""
        recorded = {table: digest for table, digest in self.verdicts[key].inputs.items() if digest is not None}
        known = {}
        for digest in self.verdicts[key].known:
            if (*key, digest) in self._known:
                entry, _ = self._known[*key, digest]
                files = [
                    {"table": output.table, "path": file.path, "digest": file.digest}
                    for output in entry.outputs for file in output.files
                ]  # fmt: skip
                # What the tables hold already need not be looked at.
                known[digest] = tuple(files) if self.cache.outputs_differ(entry) else ()
        return replace(self.cells[key], recorded=recorded, known=known)

    def _calculate(self, cells: Sequence[Cell], hash_only: bool = False) -> list[Outcome]:
        context, budget = self.context, self.context.settings.preload.worker_bytes
        if not cells:
            return []
        # A region's cells one after the other: they share networks, and so what a worker has at hand.
        place = {region: i for i, region in enumerate(dict.fromkeys(cell.region for cell in cells))}
        cells = sorted(cells, key=lambda cell: place[cell.region])
        tasks = blocks(cells, self.plan.table, budget, context.spark.sparkContext.defaultParallelism)
        if isinstance(self.operator, Formula) and not hash_only:
            return formulas.run(context.spark, context.lake, self.operator, self.plan, tasks, budget)
        return local.run(context.spark, context.lake, self.operator, self.plan, tasks, budget, hash_only)

    def _settle(self, outcomes: Sequence[Outcome]) -> None:
        """Commits results and records them in the cache."""
        entries: dict[CellKey, Entry] = {}
        results: dict[CellKey, Outcome] = {}
        for it in outcomes:
            key, count = (it.region, it.date), self._count(it.region)
            count.seconds += it.seconds
            if it.found and it.digest is not None:
                entry, content = self._known[*key, it.digest]
                if self.cache.outputs_differ(entry) or not self._is_filed(entry):
                    results[key] = replace(it, parts=_parts(entry), rejected=tuple(entry.rejected))
                entries[key] = replace(entry, inputs=self._inputs(it), figures=content)
                self._found[key], self.quarantined[key] = content, entry.rows_quarantined
                count.found += 1
            else:
                results[key] = it
                if it.digest is not None:
                    entries[key] = self._entry(it)
                self.computed[key], self.quarantined[key] = it.figures, it.rows_quarantined
                count.computed += 1
        versions = commit(
            self.context.lake, self.operator, results.keys(), list(results.values()), self.context.run_id
        )  # fmt: skip
        for key, result in results.items():
            if key in entries:
                entries[key] = replace(entries[key], outputs=_outputs(self.operator.outputs, versions, result.parts))
        if self.fingerprint.stands():
            with writing(self.context.lake, "partial"):
                self.cache.record(list(entries.values()), self.context.run_id)
        else:
            told = "sources were changed while this ran: its results are not kept in the cache"
            _log.warning("%s: %s", self.operator.name, told)
            self.context.say(f"{self.operator.name}: {told}")
        self.done |= {(it.region, it.date) for it in outcomes}
        for it in outcomes:
            at = {"region": it.region, "date": it.date.isoformat(), "step": self.operator.name}
            figures = {name: getattr(it, name) for name in ("bytes_read", "bytes_written", "bytes_returned")}
            measured = {"seconds": round(it.seconds, 4), "memory_bytes": it.memory}
            self.context.inputs.setdefault("tasks", []).append(at | figures | measured)
            self.context.count(rows_in=it.rows_in, rows_out=it.rows_out, **figures)

    def _entry(self, it: Outcome) -> Entry:
        assert it.digest is not None
        return Entry(
            operator=self.operator.name, fingerprint=self.fingerprint.digest, region=it.region, date=it.date,
            digest=it.digest, inputs=self._inputs(it), outputs=(), rows_in=it.rows_in, rows_out=it.rows_out,
            rows_quarantined=it.rows_quarantined, rejected=it.rejected, figures=it.figures,
            manifest=self.cache.manifest,
        )  # fmt: skip

    def _inputs(self, it: Outcome) -> tuple[Input, ...]:
        return tuple(
            Input(table, columns, self.plan.ids[table], self.plan.versions[table], it.inputs[table])
            for table, columns in sorted(inputs(self.operator).items())
        )

    def _count(self, region: str) -> Counts:
        return self.counts.setdefault(region, Counts())


def verdicts(context: JobContext, operator: Operator | Formula, selection: Selection) -> list[Verdict]:
    """What a run would find: every cell current or to be computed, with the reason. Hashes rows where it must."""
    step = StepRun(context, operator, selection)
    step.refresh()
    return step.resolve()


def _parts(entry: Entry) -> tuple[Part, ...]:
    return tuple(
        Part(output.table, entry.region, entry.date.isoformat(), file.path, file.size, file.rows, file.digest)
        for output in entry.outputs for file in output.files
    )  # fmt: skip


def _outputs(tables: Sequence[str], versions: dict[str, int], written: Sequence[Part]) -> tuple[Output, ...]:
    return tuple(
        Output(table, versions[table], tuple(
            OutputFile(part.path, part.size, part.rows, part.digest) for part in written if part.table == table
        ))
        for table in tables
    )  # fmt: skip


def _check(chosen: Plan, cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> None:
    rows_in = sum(it.rows_in for it in outcomes)
    accounted = sum(it.rows_out + it.rows_quarantined for it in outcomes)
    calculated = {(it.region, it.date) for it in outcomes if not it.found}
    known = [cell.rows for cell in cells if (cell.region, cell.date) in calculated]
    # The log counts rows that a deletion vector hides.
    planned = sum(n or 0 for n in known) if None not in known and not chosen.reasons else None
    if accounted != rows_in or planned not in (None, rows_in) or len(outcomes) != len(cells):
        raise GridsinkError(
            f"rows do not add up: {planned} planned, {rows_in} read, {accounted} solved or quarantined, "
            f"{len(outcomes)} of {len(cells)} cells; nothing was committed",
            chosen.root,
            "run again; if it stays so, the table's statistics are wrong: write these days again (ingest)",
        )


def _span(keys: Sequence[CellKey]) -> str:
    return f"{min(day for _, day in keys)} to {max(day for _, day in keys)}"


def _length_s(settings: Settings, region: str, day: date) -> int:
    if region not in settings.regions:
        raise GridsinkError(
            f"region {region} is in the lake and not in the settings",
            f"regions.{region}",
            "add its time_zone to conf/base.yaml",
        )
    return day_slots(day, settings.regions[region].time_zone, 1)
