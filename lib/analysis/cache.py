"""The cache of what was already calculated: which cells are up to date, which must be looked at, which calculated.

A result is taken only where everything says that it is what a calculation would give: same fingerprint, same rows, and
the output tables still hold it. Whatever is in doubt is calculated again, and the reason says why.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Literal

from lib.algorithm.fingerprint import Fingerprint, difference
from lib.algorithm.operator import inputs
from lib.analysis.entries import Entry, Input, Output, OutputFile, Row
from lib.analysis.partials import CellKey, PartialTable
from lib.calculation.changes import HIDDEN, TableLog
from lib.calculation.located import Cell
from lib.errors import GridsinkError
from lib.tables import Lake
from lib.tables.digest import cell_digest

__all__ = ["Cache", "Entry", "Input", "Output", "OutputFile", "Verdict", "explain_rows"]

_log = logging.getLogger(__name__)

Status = Literal["current", "check", "compute"]


@dataclass(frozen=True)
class Verdict:
    """What the cache says of a cell; `reason` is for people.

    entry: the result that stands, where current. inputs: digest by table, None where the rows must be hashed. known:
    results by cell digest that a worker may find again, newest last, where to be checked.
    """

    region: str
    date: date
    status: Status
    reason: str
    entry: Entry | None = None
    inputs: Mapping[str, str | None] = field(default_factory=dict)
    known: Mapping[str, Entry] = field(default_factory=dict)


def explain_rows(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """Verdicts for people: region, date, cache (hit, miss, to be hashed), reason."""
    names = {"current": "hit", "check": "to be hashed", "compute": "miss"}
    return [{"region": v.region, "date": v.date, "cache": names[v.status], "reason": v.reason} for v in verdicts]


class Cache:
    """The cache of one operator in one lake. Ask `decide` first: the rest is about the cells that it was asked for."""

    def __init__(self, lake: Lake, operator: Any, fingerprint: Fingerprint) -> None:
        self._lake, self._operator, self._fingerprint = lake, operator, fingerprint
        self.manifest = json.dumps(fingerprint.manifest, sort_keys=True, separators=(",", ":"))
        self._inputs = inputs(operator)
        self._table = PartialTable(lake)
        self._logs: dict[str, TableLog] = {}
        self._no_log: dict[str, str] = {}
        self._rows: dict[CellKey, list[Row]] = {}
        """Good rows of this operator and fingerprint."""

    def decide(self, cells: Sequence[Cell], versions: Mapping[str, int], recompute: bool = False) -> list[Verdict]:
        """A verdict for each cell, of the inputs' pinned versions by table. recompute: everything is calculated.

        A cache that cannot be read makes everything to be calculated, loudly. Raises GridsinkError where the log of an
        input cannot be read.
        """
        self._logs, self._no_log = {}, {}
        for table in self._inputs:
            self._logs[table] = TableLog(self._lake, table, versions.get(table))
        good, damaged = self._table.rows([(cell.region, cell.date) for cell in cells])
        damaged += [row for row in good if self._is_own(row) and row.entry is None]
        for row in damaged:
            _log.warning("a row of table partial is damaged: %s, file %s", row.key, row.path)
        self._rows = {}
        others: dict[CellKey, list[Row]] = {}
        for row in good:
            key = row.values["region"], row.values["date"]
            (self._rows if self._is_own(row) else others).setdefault(key, []).append(row)
        bad = {(row.values["region"], row.values["date"]) for row in damaged if self._is_operators(row)}
        if recompute:
            return [Verdict(cell.region, cell.date, "compute", "asked for", None, self._unknown()) for cell in cells]
        return [self._verdict(cell, others.get((cell.region, cell.date), []), bad) for cell in cells]

    def log(self, table: str) -> TableLog:
        """The table's log: inputs as pinned by `decide`, outputs as of the first look. Raises GridsinkError."""
        if table not in self._logs:
            self._logs[table] = TableLog(self._lake, table)
        return self._logs[table]

    def outputs_differ(self, entry: Entry) -> str | None:
        """Why the output tables do not hold the entry's files as they are, or None."""
        recorded = {output.table: output for output in entry.outputs}
        for table in self._operator.outputs:
            if table not in recorded:
                return f"its entry names no files of table {table}"
            problem = self._output_differs(recorded[table], entry)
            if problem:
                return problem
        return None

    def content(self, entries: Iterable[Entry]) -> dict[CellKey, bytes]:
        """The entries' partials by cell; damaged ones are missing, and logged."""
        return {(entry.region, entry.date): content for entry, content in self.contents(entries)}

    def contents(self, entries: Iterable[Entry]) -> list[tuple[Entry, bytes]]:
        """The entries with their partials; damaged ones are missing, and logged."""
        wanted = {(entry.region, entry.date, entry.digest): entry for entry in entries}
        rows = [
            row for region, day in {key[:2] for key in wanted} for row in self._rows.get((region, day), [])
            if row.key in wanted
        ]  # fmt: skip
        found = {row.key: content for row, content in self._table.contents(rows) if content is not None}
        return [(entry, found[key]) for key, entry in wanted.items() if key in found]

    def record(self, entries: Sequence[Entry], run_id: str) -> None:
        """Adds the entries in one commit. Raises GridsinkError where table `partial` cannot be written."""
        wrong = [entry for entry in entries if (entry.operator, entry.fingerprint) != self._owner]
        if wrong:
            raise ValueError(f"{len(wrong)} entries are of another operator or fingerprint")
        held: dict[tuple[str, int], TableLog | None] = {}
        if entries:
            self._table.append([self._complete(entry, held) for entry in entries], run_id)

    def forget(self, cells: Iterable[CellKey]) -> None:
        """Takes this operator's and fingerprint's entries of the cells out. Raises GridsinkError."""
        good, damaged = self._table.rows(list(cells))
        self._table.forget([row for row in (*good, *damaged) if self._is_own(row)], *self._owner)

    @property
    def _owner(self) -> tuple[str, str]:
        return self._operator.name, self._fingerprint.digest

    def _is_operators(self, row: Row) -> bool:
        return bool(row.values["operator"] == self._operator.name)

    def _is_own(self, row: Row) -> bool:
        return (row.values["operator"], row.values["fingerprint"]) == self._owner

    def _unknown(self) -> dict[str, str | None]:
        return dict.fromkeys(self._inputs)

    def _verdict(self, cell: Cell, others: Sequence[Row], bad: Collection[CellKey]) -> Verdict:
        key = cell.region, cell.date
        own = self._rows.get(key, [])
        standing, changed = self._standing(key, own, others)
        own_entries = [row.entry for row in own if row.entry is not None]
        entries = [entry for entry in own_entries if not self._mixed(entry)]
        known = (
            {entry.digest: entry for entry in sorted(entries, key=self._age)}
            if len(entries) > 1
            else {e.digest: e for e in entries}
        )
        reason = "; ".join(changed[table] for table in self._inputs if table in changed)
        if not entries:
            why = str(self.outputs_differ(own_entries[-1])) if own_entries else self._why_none(key, others, bad)
            return Verdict(*key, "compute", why, None, standing)
        if None in standing.values():
            return Verdict(*key, "check", reason, None, standing, known)
        digest = cell_digest({table: str(found) for table, found in standing.items()}, cell.length_s)
        same = [entry for entry in reversed(entries) if entry.digest == digest]
        if not same:
            return Verdict(
                *key,
                "compute",
                reason or "its rows, or the length of the day, are not those of its entry",
                None,
                standing,
            )
        differences = [self.outputs_differ(entry) for entry in same]
        if None in differences:
            return Verdict(*key, "current", "unchanged", same[differences.index(None)], standing)
        return Verdict(*key, "check", str(differences[0]), None, standing, known)

    def _standing(
        self, key: CellKey, own: Sequence[Row], others: Sequence[Row]
    ) -> tuple[dict[str, str | None], dict[str, str]]:
        """By table: the recorded digest that still holds, or None; what changed since this operator's last entry."""
        standing, changed = self._unknown(), {}
        for table, columns in self._inputs.items():
            for rows in (own, others):
                recorded = [it for row in rows for it in row.inputs if (it.table, it.columns) == (table, columns)]
                recorded.sort(key=lambda it: it.version)
                reasons = [self._changed(key, it) for it in recorded]
                if rows is own and recorded and reasons[-1]:
                    changed[table] = reasons[-1]
                digests = {it.digest for it, reason in zip(recorded, reasons, strict=True) if reason is None}
                if len(digests) > 1:
                    _log.warning("entries of %s disagree about the rows of table %s: hashed again", key, table)
                    changed[table] = f"entries disagree about the rows of {table}"
                    break
                if digests:
                    standing[table] = digests.pop()
                    break
        return standing, changed

    def _changed(self, key: CellKey, recorded: Input) -> str | None:
        """What may have changed the cell's rows since they were recorded, or None."""
        log = self.log(recorded.table)
        changes = log.since(recorded.version, recorded.table_id)
        if changes.everything:
            return f"{recorded.table}: {changes.everything}"
        if not recorded.commit or log.commit_id(recorded.version) != recorded.commit:
            return f"{recorded.table}: version {recorded.version} is not, or no longer known to be, the one recorded"
        return _told(recorded.table, changes.of(*key), "changed")

    def _output_differs(self, output: Output, entry: Entry) -> str | None:
        log = self._output_log(output.table)
        if isinstance(log, str):
            return log
        if log.files(entry.region, entry.date) == {file.path for file in output.files}:
            return None
        if not output.commit or log.commit_id(output.version) != output.commit:
            return f"{output.table} holds other files"
        changes = log.since(output.version, log.id)
        if changes.everything:
            return f"{output.table}: {changes.everything}"
        return _told(output.table, changes.of(entry.region, entry.date), "was changed")

    def _mixed(self, entry: Entry) -> bool:
        """Whether some of its files are in the output tables, but with other files or without rows deleted from them.

        No commit can mend that: it must not add a file that it removes.
        """
        for output in entry.outputs:
            log, files = self._output_log(output.table), {file.path for file in output.files}
            if isinstance(log, TableLog):
                held = log.files(entry.region, entry.date)
                if held != files and files & {path.removesuffix(HIDDEN) for path in held}:
                    return self.outputs_differ(entry) is not None
        return False

    def _why_none(self, key: CellKey, others: Sequence[Row], bad: Collection[CellKey]) -> str:
        """Why this fingerprint has no entry of the cell."""
        if key in bad:
            return "its entry in table partial is damaged"
        for row in reversed(others):
            if self._is_operators(row):
                try:
                    told = difference(json.loads(row.values["manifest"]), self._fingerprint.manifest)
                except (ValueError, KeyError, TypeError, AttributeError):
                    told = ""
                return "; ".join([told or "another fingerprint", *self._table.problems])
        return "; ".join(["never calculated", *self._table.problems])

    def _age(self, entry: Entry) -> tuple[Any, ...]:
        """Sorts entries, those last whose output files the tables may still know, the newest last of all."""
        logs = [(output, self._output_log(output.table)) for output in entry.outputs]
        alive = all(
            isinstance(log, TableLog) and output.commit and log.commit_id(output.version) == output.commit
            for output, log in logs
        )
        return alive, [output.version for output in entry.outputs], [it.version for it in entry.inputs]

    def _output_log(self, table: str) -> TableLog | str:
        """The log, or why there is none."""
        if table not in self._no_log:
            try:
                return self.log(table)
            except GridsinkError as e:
                self._no_log[table] = e.what
        return self._no_log[table]

    def _complete(self, entry: Entry, held: dict[tuple[str, int], TableLog | None]) -> Entry:
        """The entry with the digests of the commits that its versions stand for."""
        return replace(
            entry,
            inputs=tuple(it if it.commit else replace(it, commit=self._commit_id(it)) for it in entry.inputs),
            outputs=tuple(it if it.commit else self._confirmed(it, entry, held) for it in entry.outputs),
        )

    def _commit_id(self, it: Input) -> str:
        log = self.log(it.table)
        return log.commit_id(it.version) if log.id == it.table_id and it.version <= log.version else ""

    def _confirmed(self, output: Output, entry: Entry, held: dict[tuple[str, int], TableLog | None]) -> Output:
        """The output with its commit, if that version does hold these files: another writer may have come between."""
        at = output.table, output.version
        if at not in held:
            try:
                held[at] = TableLog(self._lake, *at)
            except GridsinkError:
                held[at] = None
        log = held[at]
        if log is None or log.files(entry.region, entry.date) != {file.path for file in output.files}:
            return output
        return replace(output, commit=log.commit_id(output.version))


def _told(table: str, text: str | None, verb: str) -> str | None:
    """ "snapshot_tile changed in version 17 (MERGE)" """
    if text is None:
        return None
    version, _, operation = text.partition(", ")
    return f"{table} {verb} in {version} ({operation})"
