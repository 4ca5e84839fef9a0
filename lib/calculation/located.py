"""Located partitions: which files make up each (region, date) cell of a table, from its Delta log alone.

The driver pins a version and reads the log, never the rows. Workers open the files themselves, which a Delta table
allows only where its files alone tell the truth; `Plan.reason` says why not where they do not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable

from lib.calculation.storage import is_local, local_path
from lib.errors import GridsinkError
from lib.tables import Lake

# Features that change how rows are read from files. Others a reader may meet, such as v2 checkpoints, do not.
_HARMLESS_FEATURES = {"v2Checkpoint", "timestampNtz", "vacuumProtocolCheck"}


@dataclass(frozen=True)
class Selection:
    """Regions (all if empty) and days (both included, open if None)."""

    regions: tuple[str, ...] = ()
    first: date | None = None
    last: date | None = None

    def wants(self, region: str, day: date) -> bool:
        """Whether a cell is selected."""
        return (
            (not self.regions or region in self.regions)
            and (self.first is None or day >= self.first)
            and (self.last is None or day <= self.last)
        )


@dataclass(frozen=True)
class File:
    """One data file: `path` relative to the table (or absolute), `rows` None where the log has no statistics."""

    path: str
    size: int
    rows: int | None = None


@dataclass(frozen=True)
class Cell:
    """One (region, date): its files, and what a worker must know to solve it."""

    region: str
    date: date
    length_s: int
    files: tuple[File, ...]
    side_files: tuple[File, ...]
    hosts: tuple[str, ...] = ()
    recorded: Mapping[str, str] = field(default_factory=dict)
    """Digests of inputs, by table, that still stand."""
    known: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    """Digests of the cell with results known already, and their files (table, path, digest) to be confirmed."""
    beside_files: tuple[File, ...] = ()

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def rows(self) -> int | None:
        known = [file.rows for file in self.files if file.rows is not None]
        return sum(known) if len(known) == len(self.files) else None

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"date": self.date.isoformat()})

    @classmethod
    def from_json(cls, text: str) -> Cell:
        values = json.loads(text)
        for name in ("files", "side_files", "beside_files"):
            values[name] = tuple(File(**file) for file in values[name])
        values["date"] = date.fromisoformat(values["date"])
        known = {digest: tuple(files) for digest, files in values["known"].items()}
        return cls(**values | {"hosts": tuple(values["hosts"]), "known": known})


@dataclass(frozen=True)
class Plan:
    """A pinned snapshot: versions by table, cells in order of region and date, why files cannot be read directly.

    side, side_root, beside, beside_root: empty without such an input.
    """

    table: str
    side: str
    root: str
    side_root: str
    versions: Mapping[str, int]
    ids: Mapping[str, str]
    """Of the tables: a table made anew has another."""
    cells: tuple[Cell, ...]
    side_files: Mapping[str, tuple[File, ...]] = field(default_factory=dict)
    """By region."""
    beside: str = ""
    beside_root: str = ""
    beside_files: Mapping[tuple[str, date], tuple[File, ...]] = field(default_factory=dict)
    """By region and date."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """By table; empty where workers read the files of all."""


def open_table(lake: Lake, name: str, version: int | None = None) -> DeltaTable:
    """The table's snapshot. Raises GridsinkError where its log cannot be read."""
    if is_local(lake.path(name)) and not (local_path(lake.path(name)) / "_delta_log").is_dir():
        raise GridsinkError(
            f"the lake has no table {name}",
            lake.path(name),
            "set lake.path to your lake, or write the table first (ingest.load; the demo: ingest.demo)",
        )
    try:
        return DeltaTable(lake.path(name), version=version)
    except Exception as e:
        raise GridsinkError(
            f"the Delta log of table {name} cannot be read: {_first_line(e)}",
            lake.path(name),
            "restore the log's files from a copy, or move the table away and build it again (ingest)",
        ) from e


def plan(
    lake: Lake, table: str, side: str | None, length_s: Callable[[str, date], int],
    selection: Selection | None = None, beside: str | None = None,
) -> Plan:  # fmt: skip
    """The selected cells of `table` (all by default), with the files of `side` for their region and of `beside`.

    length_s: length of a region's civil day. Where a table's files must not be read directly, `Plan.reasons` says why
    and `lib.calculation.scan` finds the cells. Raises GridsinkError where a log cannot be read.
    """
    selection = selection or Selection()
    snapshots = {name: open_table(lake, name) for name in (table, side, beside) if name}
    found = {name: not_located(snapshot, name) for name, snapshot in snapshots.items()}
    reasons = {name: reason for name, reason in found.items() if reason}
    side_lists: dict[str, list[File]] = {}
    beside_lists: dict[tuple[str, date], list[File]] = {}
    cells: dict[tuple[str, date], list[File]] = {}
    if side and side not in reasons:
        for region, _, file in located_files(snapshots[side]):
            side_lists.setdefault(region, []).append(file)
    side_files = {region: _sorted(files) for region, files in side_lists.items()}
    if beside and beside not in reasons:
        for region, day, file in located_files(snapshots[beside]):
            if selection.wants(region, day):
                beside_lists.setdefault((region, day), []).append(file)
    beside_files = {key: _sorted(files) for key, files in beside_lists.items()}
    if table not in reasons:
        for region, day, file in located_files(snapshots[table]):
            if selection.wants(region, day):
                cells.setdefault((region, day), []).append(file)
    return Plan(
        table, side or "", lake.path(table), lake.path(side) if side else "",
        {name: snapshot.version() for name, snapshot in snapshots.items()},
        {name: str(snapshot.metadata().id) for name, snapshot in snapshots.items()},
        tuple(
            Cell(
                region, day, length_s(region, day), _sorted(files), side_files.get(region, ()),
                beside_files=beside_files.get((region, day), ()),
            )
            for (region, day), files in sorted(cells.items())
        ),
        side_files, beside or "", lake.path(beside) if beside else "", beside_files, reasons,
    )  # fmt: skip


def not_located(snapshot: DeltaTable, name: str) -> str | None:
    """Why the table's files must not be read directly, or None."""
    features = set(snapshot.protocol().reader_features or ())
    mapping = snapshot.metadata().configuration.get("delta.columnMapping.mode", "none")
    if mapping != "none":
        return f"table {name} has column mapping by {mapping}"
    if "deletionVectors" in features and next(iter(snapshot.deletion_vectors()), None) is not None:
        return f"table {name} has deletion vectors"
    unknown = features - _HARMLESS_FEATURES - {"deletionVectors", "columnMapping"}
    if unknown:
        return f"table {name} needs the reader features {', '.join(sorted(unknown))}"
    return None


def located_files(snapshot: DeltaTable) -> Iterable[tuple[str, Any, File]]:
    """Region, day (None in tables that are not partitioned by date) and file, for each file of the snapshot."""
    # Partition columns by name: statistics of the other columns are not needed.
    actions = pa.table(snapshot.get_add_actions(flatten=True))
    names = [
        n
        for n in ("path", "size_bytes", "num_records", "partition.region", "partition.date")
        if n in actions.schema.names
    ]
    for row in actions.select(names).to_pylist():
        yield (
            row["partition.region"],
            row.get("partition.date"),
            File(unquote(row["path"]), row["size_bytes"], row.get("num_records")),
        )


def _sorted(files: list[File]) -> tuple[File, ...]:
    return tuple(sorted(files, key=lambda file: file.path))


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
