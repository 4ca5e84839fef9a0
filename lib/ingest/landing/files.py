"""Files of the landing: CSV, JSON lines and Parquet, each whole or absent, equal rows giving equal bytes."""

from __future__ import annotations

import gzip
import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
from numpy.typing import NDArray


def write(path: Path, rows: pa.Table | bytes) -> int:
    """Writes rows in the format that the name's end says, bytes as they are. Returns the number of rows."""
    out = io.BytesIO()
    name = path.name.removesuffix(".gz")
    if isinstance(rows, bytes):
        out.write(rows)
    elif name.endswith(".parquet"):
        pq.write_table(rows, out, compression="zstd")
    elif name.endswith(".csv"):
        csv.write_csv(rows, out, csv.WriteOptions(quoting_style="needed"))
    else:
        for row in rows.to_pylist():
            out.write(json.dumps({key: value for key, value in row.items() if value is not None}).encode() + b"\n")
    data = out.getvalue()
    if path.name.endswith(".gz"):
        data = gzip.compress(data, compresslevel=1, mtime=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)
    return 0 if isinstance(rows, bytes) else rows.num_rows


def name(feed: str, received_s: int, rest: str) -> str:
    """`<feed>-<received><rest>`, for example rest = "-gate.csv.gz"."""
    return f"{feed}-{datetime.fromtimestamp(received_s, UTC):%Y%m%dT%H%M%SZ}{rest}"


def with_offset(seconds: NDArray[np.int64] | list[int], zone: str) -> pa.Array:
    """ISO 8601 texts with the zone's offset."""
    unique, place = np.unique(np.asarray(seconds, dtype=np.int64), return_inverse=True)
    texts = [datetime.fromtimestamp(s, ZoneInfo(zone)).isoformat() for s in unique.tolist()]
    return pa.array(texts, pa.string()).take(pa.array(place))


def civil(seconds: NDArray[np.int64], zone: str) -> tuple[pa.Array, pa.Array]:
    """ISO 8601 texts without offset, and the fold that tells an hour that comes twice."""
    unique, place = np.unique(seconds, return_inverse=True)
    times = [datetime.fromtimestamp(s, ZoneInfo(zone)) for s in unique.tolist()]
    texts = pa.array([time.replace(tzinfo=None).isoformat() for time in times], pa.string())
    return texts.take(pa.array(place)), pa.array([time.fold for time in times], pa.int32()).take(pa.array(place))


def instants(seconds: NDArray[np.int64]) -> pa.Array:
    """Arrow timestamps, UTC."""
    return pa.array(np.asarray(seconds, dtype=np.int64) * 1_000_000).cast(pa.timestamp("us", tz="UTC"))
