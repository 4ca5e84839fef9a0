"""What a Delta log says has changed since a version, partition by partition. Reads commits alone, no rows, no Spark.

Commits with dataChange=false (OPTIMIZE) leave every row as it was. Whatever the log leaves in doubt counts as a change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from lib.calculation.located import open_table
from lib.calculation.storage import filesystem
from lib.tables import Lake
from lib.tables.digest import of_bytes, of_parts

Partition = tuple[str, date | None]
HIDDEN = " (rows deleted)"
"""Comes after the path of a file with a deletion vector in `TableLog.files`."""
_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Changes:
    """Changes of a table after a version: why all of it must be taken as changed, else what touched which partition.

    touched: (region, date) -> "version 17, MERGE", the latest; date None where tables are partitioned by region only.
    """

    everything: str | None
    touched: Mapping[Partition, str]

    def of(self, region: str, day: date) -> str | None:
        """What touched the cell's rows last, or None."""
        return self.touched.get((region, day)) or self.touched.get((region, None))


class TableLog:
    """The log of a lake's table up to `version`, by default the latest. Raises GridsinkError if it cannot be opened."""

    def __init__(self, lake: Lake, table: str, version: int | None = None) -> None:
        self._snapshot = open_table(lake, table, version)
        self._system = filesystem(lake.path(table))
        self.table, self.version = table, self._snapshot.version()
        self.id = str(self._snapshot.metadata().id)
        self._commits: dict[int, _Commit] = {}
        self._ids: dict[int, str] = {}
        self._known: dict[tuple[int, str], Changes] = {}
        self._last: dict[Partition, tuple[int, str]] = {}
        self._read_from = self.version  # commits after this one are in _last

    def since(self, version: int, table_id: str) -> Changes:
        """Changes by the commits after `version` of the table whose id was `table_id`."""
        if (version, table_id) not in self._known:
            self._known[version, table_id] = self._since(version, table_id)
        return self._known[version, table_id]

    def commit_id(self, version: int) -> str:
        """Digest of the commit that made `version`, or of the list of files where only that is left; else empty.

        Equal numbers are equal versions only where these are equal: a table put back from a copy counts on from there.
        """
        if version in self._ids:
            return self._ids[version]
        if version in self._present:
            try:
                self._read(version)
            except OSError:
                return ""
            return self._ids[version]
        paths = sorted(path for some in self._files.values() for path in some) if version == self.version else []
        told = paths and not any(path.endswith(HIDDEN) for path in paths)
        return of_parts({"files": paths}) if told else ""

    def files(self, region: str, day: date) -> frozenset[str]:
        """Paths of the partition's files, relative to the table; one with a deletion vector is no file of that name."""
        return self._files.get((region, day), frozenset())

    def _since(self, version: int, table_id: str) -> Changes:
        everything = self._everything(version, table_id)
        if everything:
            return Changes(everything, {})
        for at in range(self._read_from, version, -1):
            commit = self._commit(at)
            for partition in commit.touched:
                self._last.setdefault(partition, (at, f"version {at}, {commit.operation}"))
        self._read_from = min(self._read_from, version)
        return Changes(None, _After(self._last, version))

    def cells(self) -> set[Partition]:
        """Regions and dates that have files."""
        return set(self._files)

    def _everything(self, version: int, table_id: str) -> str | None:
        if table_id != self.id:
            return "the table was made anew"
        if version > self.version:
            return f"version {version} was recorded, the table is at version {self.version}"
        gone = [v for v in range(version + 1, self.version + 1) if v not in self._present]
        if gone:
            many = f"versions {gone[0]} to {gone[-1]}" if len(gone) > 1 else f"version {gone[0]}"
            return f"the log of {many} is gone"
        described = None
        for at in range(version + 1, self.version + 1):
            commit = self._commit(at)
            if commit.doubt:
                return f"version {at}, {commit.operation}: {commit.doubt}"
            if commit.metadata is not None:
                before = described or self._metadata_at(version)
                if before is None:
                    return f"version {at} describes the table, and how it was described before is gone"
                if before != commit.metadata:
                    return f"version {at}, {commit.operation}, changed the schema"
                described = commit.metadata
        return None

    def _metadata_at(self, version: int) -> Any:
        """What the table was described as at `version`; None where the log does not reach back so far."""
        for at in range(version, -1, -1):
            if at not in self._present or self._commit(at).doubt:
                return None
            if self._commit(at).metadata is not None:
                return self._commit(at).metadata
        return None

    @cached_property
    def _present(self) -> frozenset[int]:
        names = [info.base_name for info in self._system.get_file_info(fs.FileSelector("_delta_log"))]
        stems = [name.removesuffix(".json") for name in names if name.endswith(".json")]
        return frozenset(int(stem) for stem in stems if len(stem) == 20 and stem.isdigit())

    def _commit(self, version: int) -> _Commit:
        if version not in self._commits:
            try:
                self._commits[version] = _parse(self._read(version))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
                problem = " ".join(str(e).split())[:200]
                self._commits[version] = _Commit(
                    "unknown operation", frozenset(), f"it cannot be read: {problem}", None
                )
        return self._commits[version]

    def _read(self, version: int) -> bytes:
        with self._system.open_input_stream(f"_delta_log/{version:020d}.json") as stream:
            content = bytes(stream.read())
        self._ids[version] = of_bytes(content)
        return content

    @cached_property
    def _files(self) -> dict[Partition, frozenset[str]]:
        actions = pa.table(self._snapshot.get_add_actions(flatten=True))
        names = [n for n in ("path", "partition.region", "partition.date") if n in actions.schema.names]
        hidden = {str(row["filepath"]) for row in _deletion_vectors(self._snapshot)}
        found: dict[Partition, set[str]] = {}
        for row in actions.select(names).to_pylist():
            path = unquote(row["path"])
            if any(unquote(name).endswith(path) for name in hidden):
                path += HIDDEN
            found.setdefault((row.get("partition.region"), row.get("partition.date")), set()).add(path)
        return {partition: frozenset(paths) for partition, paths in found.items()}


@dataclass(frozen=True)
class _Commit:
    """One commit: the partitions it touched; `doubt` says why it may have touched all; metadata where it sets it."""

    operation: str
    touched: frozenset[Partition]
    doubt: str | None
    metadata: Any


class _After(Mapping[Partition, str]):
    """Those partitions of `last` (partition -> version, text) that were touched after a version."""

    def __init__(self, last: Mapping[Partition, tuple[int, str]], version: int) -> None:
        self._last_touched, self._version = last, version

    def __getitem__(self, partition: Partition) -> str:
        at, text = self._last_touched[partition]
        if at <= self._version:
            raise KeyError(partition)
        return text

    def __iter__(self) -> Iterator[Partition]:
        return (partition for partition, (at, _) in self._last_touched.items() if at > self._version)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _parse(content: bytes) -> _Commit:
    operation, metadata, doubt = "unknown operation", None, None
    touched: set[Partition] = set()
    for line in content.splitlines():
        action = json.loads(line) if line.strip() else {}
        if "commitInfo" in action:
            operation = action["commitInfo"].get("operation") or operation
        elif "metaData" in action:
            found = action["metaData"]
            metadata = (found["id"], json.loads(found["schemaString"]), found["partitionColumns"])
        file = action.get("add") or action.get("remove")
        if file and file.get("dataChange", True):
            partition = _partition(file)
            if partition is None:
                doubt = f"file {file['path']} names no region and date"
            else:
                touched.add(partition)
    return _Commit(operation, frozenset(touched), doubt, metadata)


def _partition(file: Mapping[str, Any]) -> Partition | None:
    """The file's region and date (None where the table is not partitioned by date); None if they cannot be told."""
    values = file.get("partitionValues") or _values_in(file["path"])
    region, day = values.get("region"), values.get("date")
    if not region:
        return None
    try:
        return region, date.fromisoformat(day) if day else None
    except ValueError:
        return None


def _values_in(path: str) -> dict[str, str | None]:
    """Partition values in a path such as region=a/date=2026-01-01/x.parquet: a URI of names that are escaped again."""
    pairs = [part.split("=", 1) for part in unquote(path).split("/")[:-1] if "=" in part]
    return {name: None if value == _NULL else unquote(value) for name, value in pairs}


def _deletion_vectors(snapshot: Any) -> list[dict[str, Any]]:
    if "deletionVectors" not in (snapshot.protocol().reader_features or ()):
        return []
    return pa.table(snapshot.deletion_vectors()).select(["filepath"]).to_pylist()
