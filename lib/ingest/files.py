"""Landing files: which there are, whether they can be read, and their rows as text. No Spark."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
from blake3 import blake3

from lib.setting_groups import SourceSettings
from lib.tables.bronze import FEEDS, PERSONAL, Feed

_NAME = re.compile(r"(?P<feed>[a-z]+)-(?P<received>\d{8}T\d{6}Z)(-\w+)?\.(?P<kind>csv|csv\.gz|jsonl|jsonl\.gz|parquet)")
_BLOCK = 1 << 22
_ROWS = 20_000


@dataclass(frozen=True)
class Landed:
    """A file of the landing folder. `path` is relative to it; `problem` says why the file is not taken."""

    region: str
    source: str
    path: str
    feed: str | None = None
    received: str | None = None
    digest: str = ""
    problem: str | None = None
    remedy: str | None = None


def landed(root: Path, regions: Sequence[str], sources: Sequence[str]) -> list[Landed]:
    """Files of these regions and sources, by name; those of a wrong name with a problem."""
    found = []
    for region in regions:
        for source in sources:
            for path in sorted((root / region / source).glob("*")):
                if path.is_file() and not path.name.startswith((".", "_")):
                    found.append(_named(region, source, path.relative_to(root).as_posix(), path.name))
    return found


def _named(region: str, source: str, path: str, name: str) -> Landed:
    match = _NAME.fullmatch(name)
    feeds = [feed.name for feed in FEEDS.values() if feed.source == source]
    if match and match["feed"] in feeds:
        return Landed(region, source, path, match["feed"], match["received"])
    return Landed(
        region, source, path, problem="the file's name does not say what it holds",
        remedy=f"name it {' or '.join(feeds)}-YYYYMMDDTHHMMSSZ.csv, .jsonl (with .gz or not) or .parquet",
    )  # fmt: skip


def file_digest(path: Path) -> str:
    """BLAKE3 of the file, hexadecimal."""
    return blake3(max_threads=1).update_mmap(path).hexdigest() if path.stat().st_size else blake3(b"").hexdigest()


def problem_of(path: Path, feed: Feed, source: SourceSettings) -> tuple[str, str] | None:
    """What makes the whole file useless, and the remedy; None if its rows can be looked at one by one."""
    if not path.stat().st_size:
        return "the file is empty", "send it again; a file without rows has its header line"
    try:
        if path.name.endswith(".parquet"):
            return _lacking(pq.ParquetFile(path).schema_arrow.names, feed, source)
        header = _decode(path, source.encoding)
    except UnicodeDecodeError as e:
        line, text = str(e.reason).split("|", 1)
        return f"line {line} is not {source.encoding}: {text}", f"set ingest.sources.{feed.source}.encoding"
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        return f"the file is truncated or no gzip file: {e}", "send it again, whole"
    except (pa.ArrowException, OSError) as e:
        return f"the file is truncated or damaged: {' '.join(str(e).split())[:200]}", "send it again, whole"
    if ".csv" in path.name:
        return _lacking(next(csv.reader([header], delimiter=source.separator), []), feed, source)
    return None


def _decode(path: Path, encoding: str) -> str:
    """Reads the whole file; returns its first line. Raises UnicodeDecodeError with 'line|what' as its reason."""
    decoder, header, line = codecs.getincrementaldecoder(encoding)(), "", 1
    with _open(path) as stream:
        while True:
            block = stream.read(_BLOCK)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as e:
                line += block.count(b"\n", 0, e.start)
                e.reason = f"{line}|byte 0x{e.object[e.start]:02x}"
                raise
            if line == 1 and "\n" not in header:
                header += text
            line += text.count("\n")
            if not block:
                return header.split("\n", 1)[0].rstrip("\r")


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.name.endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _lacking(names: Sequence[str], feed: Feed, source: SourceSettings) -> tuple[str, str] | None:
    given = [source.rename.get(name, name) for name in names]
    twice = sorted({name for name in given if given.count(name) > 1})
    if twice:
        return f"column {', '.join(twice)} comes twice", f"mend the file or ingest.sources.{feed.source}.rename"
    lacking = [name for name in feed.required if name not in given]
    if lacking:
        return (
            f"column {', '.join(lacking)} is missing; there are {', '.join(given)}"[:500],
            f"send the file with it, or name its column in ingest.sources.{feed.source}.rename",
        )
    return None


def rows_schema(feed: Feed) -> pa.Schema:
    """What `rows` gives: the feed's columns, `extra`, `line` and `damage`."""
    texts = [(name, pa.string()) for name in (*feed.columns, "extra")]
    return pa.schema([*texts, ("line", pa.int64()), ("damage", pa.string())])


def rows(path: Path, feed: Feed, source: SourceSettings) -> Iterator[pa.RecordBatch]:
    """The file's rows, every value as text. A row that cannot be taken apart has no values; `damage` says why."""
    read = _parquet if path.name.endswith(".parquet") else _csv if ".csv" in path.name else _json
    line = 0
    try:
        for batch in read(path, feed, source):
            line = max(line, batch.column("line")[batch.num_rows - 1].as_py())
            yield batch
    except (pa.ArrowException, OSError, ValueError) as e:
        text = f"the file cannot be read from here on: {' '.join(str(e).split())[:200]}"
        yield _batch(feed, {}, [line + 1], [text])


def _batch(feed: Feed, columns: Mapping[str, Any], line: Any, damage: Any = None) -> pa.RecordBatch:
    """Columns by their names in docs/sources.md; those that it does not name become `extra`."""
    schema, count = rows_schema(feed), len(line)
    known = {name: columns[name] for name in feed.columns if name in columns}
    others = {name: columns[name] for name in columns if name not in (*feed.columns, *PERSONAL)}
    if others:
        lists = [pa.array(it).to_pylist() for it in others.values()]
        texts = [
            json.dumps({k: v for k, v in zip(others, row, strict=True) if v is not None}, ensure_ascii=False)
            for row in zip(*lists, strict=True)
        ]
        known["extra"] = [None if text == "{}" else text for text in texts]
    known |= {"line": line} if damage is None else {"line": line, "damage": damage}
    return pa.RecordBatch.from_arrays(
        [pa.array(known[f.name], f.type) if f.name in known else pa.nulls(count, f.type) for f in schema],
        schema=schema,
    )


def _csv(path: Path, feed: Feed, source: SourceSettings) -> Iterator[pa.RecordBatch]:
    odd: list[tuple[int, str]] = []

    def note(row: Any) -> str:
        odd.append((row.number - 1, f"the row has {row.actual_columns} fields, the header {row.expected_columns}"))
        return "skip"

    with _open(path) as raw:
        text: Any = codecs.EncodedFile(raw, "utf-8", source.encoding) if not _is_utf8(source) else raw
        header = next(
            csv.reader([io.TextIOWrapper(_open(path), source.encoding).readline()], delimiter=source.separator)
        )
        types = {name: pa.string() for name in header}
        stream = pcsv.open_csv(
            pa.PythonFile(text, mode="r"),
            pcsv.ReadOptions(use_threads=False, block_size=_BLOCK),
            pcsv.ParseOptions(delimiter=source.separator, newlines_in_values=True, invalid_row_handler=note),
            pcsv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True),
        )
        line, renamed = 0, [source.rename.get(name, name) for name in stream.schema.names]
        for batch in stream:
            skipped = [number for number, _ in odd]
            numbers = np.setdiff1d(np.arange(line + 1, line + batch.num_rows + len(skipped) + 1), skipped)
            if batch.num_rows:
                line = int(numbers[batch.num_rows - 1])
                columns = dict(zip(renamed, batch.columns, strict=True))
                yield _batch(feed, columns, numbers[: batch.num_rows])
    if odd:
        yield _batch(feed, {}, [number for number, _ in odd], [text for _, text in odd])


def _is_utf8(source: SourceSettings) -> bool:
    return source.encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")


def _json(path: Path, feed: Feed, source: SourceSettings) -> Iterator[pa.RecordBatch]:
    waiting: list[tuple[int, dict[str, Any] | None, str | None]] = []
    with io.TextIOWrapper(_open(path), source.encoding) as stream:
        for number, text in enumerate(stream, 1):
            if not text.strip():
                continue
            row, damage = None, None
            try:
                row = json.loads(text)
                if not isinstance(row, dict):
                    row, damage = None, "the line is no JSON object"
            except ValueError as e:
                damage = f"the line is no JSON: {e}"
            waiting.append((number, row, damage))
            if len(waiting) == _ROWS:
                yield _objects(feed, source, waiting)
                waiting = []
    if waiting:
        yield _objects(feed, source, waiting)


def _objects(feed: Feed, source: SourceSettings, waiting: Sequence[Any]) -> pa.RecordBatch:
    objects = [{source.rename.get(k, k): v for k, v in (row or {}).items()} for _, row, _ in waiting]
    names = dict.fromkeys(name for row in objects for name in row)
    columns = {name: [_text(row.get(name)) for row in objects] for name in names}
    return _batch(feed, columns, [number for number, _, _ in waiting], [damage for _, _, damage in waiting])


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    return json.dumps(value, ensure_ascii=False, default=str)


def _parquet(path: Path, feed: Feed, source: SourceSettings) -> Iterator[pa.RecordBatch]:
    line = 0
    for batch in pq.ParquetFile(path).iter_batches(batch_size=_ROWS):
        columns = {
            source.rename.get(name, name): _as_text(column)
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        }
        yield _batch(feed, columns, np.arange(line + 1, line + batch.num_rows + 1))
        line += batch.num_rows


def _as_text(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_list(column.type) and pa.types.is_floating(column.type.value_type):
        return _lists_as_text(column)
    if pa.types.is_nested(column.type):
        return pa.array([_text(value) for value in column.to_pylist()], pa.string())
    return pc.cast(column, pa.string())


def _lists_as_text(column: pa.ListArray) -> pa.Array:
    """JSON of lists of numbers, as `_text` gives it but many times as fast; what is no finite number is null."""
    values = column.flatten()
    texts = pc.fill_null(pc.if_else(pc.is_finite(values), pc.cast(values, pa.string()), "null"), "null")
    ends = pc.cumulative_sum(pc.fill_null(pc.list_value_length(column), 0))
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends.cast(pa.int32())])
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, texts), ", ")
    return pc.if_else(column.is_valid(), pc.binary_join_element_wise("[", joined, "]", ""), None)
