"""Readings of many meters to matrices [meter][slot]: which version of a value holds, and what became of each row."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lib.ingest.span import Span
from lib.tables.quality import Quality

PHASES = ("A", "B", "C")
REGISTERS = ("p_kw", "q_kvar", "u_v", "i_a", "import_kwh", "export_kwh", "import_total_kwh", "export_total_kwh")
EVENT = "event"
"""Register of rows that say that a meter is there, and carry no value."""
_SOURCE_FLAGS = {"suspect": Quality.SUSPECT, "estimated": Quality.SUBSTITUTE}

READINGS = pa.schema(
    [
        ("meter_id", pa.string()),
        ("date", pa.date32()),
        ("register", pa.string()),
        ("phase", pa.string()),
        ("end_slot", pa.int64()),  # UTC end of the first value's interval, in intervals since 1970
        ("values", pa.list_(pa.float64())),  # consecutive intervals, in the register's own unit
        ("quality", pa.list_(pa.string())),  # one for all, or one for each
        ("received", pa.string()),
        ("source_file", pa.string()),
        ("line", pa.int64()),
    ]
)


class Fate(IntEnum):
    """What became of a row."""

    OUT = 0
    DUPLICATE = 1
    SUPERSEDED = 2
    CONFLICT = 3


@dataclass(eq=False)
class Channel:
    """One register and phase of all meters: values and flags (meter, slot), which values a row gave."""

    values: NDArray[np.float64]
    flags: NDArray[np.uint8]


@dataclass(eq=False)
class Received:
    """Readings in order: channels by (register, phase), the rows' meters and days, and what became of each row."""

    meters: list[str]
    channels: dict[tuple[str, str], Channel]
    meter_of_row: NDArray[np.int64]
    day_of_row: NDArray[np.int64]
    fate: NDArray[np.int8]


def codes(column: pa.ChunkedArray | pa.Array) -> tuple[NDArray[np.int64], list[str | None]]:
    """Numbers for the distinct values of a column, and these."""
    encoded = pc.dictionary_encode(column, null_encoding="encode")
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # no chunk at all
        return np.zeros(0, np.int64), []
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary.to_pylist()


def receipt(rows: pa.Table) -> NDArray[np.int64]:
    """Order of receipt: by time of delivery, file and line."""
    file_of_row, files = codes(rows["source_file"])
    received_of_row, received = codes(rows["received"])
    pair, rank = np.unique(received_of_row * len(files) + file_of_row, return_inverse=True)
    names = [(str(received[k // len(files)]), str(files[k % len(files)])) for k in pair.tolist()]
    place = np.argsort(sorted(range(len(pair)), key=names.__getitem__))
    return np.lexsort((rows["line"].to_numpy(), place[rank]))


def arrange(rows: pa.Table, span: Span) -> Received:
    """Of the values for one slot the last received holds, within one file the last line; see Fate for the others."""
    rows = rows.take(pa.array(receipt(rows)))
    meter_of_row, meters = codes(rows["meter_id"])
    register_of_row, registers = codes(rows["register"])
    phase_of_row, phases = codes(rows["phase"])
    file_of_row, _ = codes(rows["source_file"])
    first = np.datetime64(span.days[0], "D")
    day_of_row = (rows["date"].to_numpy().astype("datetime64[D]") - first).astype(np.int64)

    row, value, flags, usable, column = _values(rows, span)
    series = (meter_of_row * len(registers) + register_of_row) * len(phases) + phase_of_row
    key = series[row] * span.width + column
    inside = (column >= 0) & (column < span.width) & (np.isfinite(value) | ~usable)
    row, value, flags, usable, column, key = (it[inside] for it in (row, value, flags, usable, column, key))
    order = np.argsort(key, kind="stable")  # rows are in order of receipt already
    row, value, flags, usable, column, key = (it[order] for it in (row, value, flags, usable, column, key))
    last = np.append(key[1:] != key[:-1], True) if len(key) else np.zeros(0, bool)
    winner = np.flatnonzero(last)[np.cumsum(last) - last] if len(key) else np.zeros(0, np.int64)
    same = ((value == value[winner]) | (np.isnan(value) & np.isnan(value[winner]))) & (flags == flags[winner])
    same &= usable == usable[winner]
    conflict = ~same & (file_of_row[row] == file_of_row[row[winner]])
    corrected = np.zeros(len(key), bool)
    corrected[winner[~same & ~conflict]] = True
    flags = np.where(corrected, flags | Quality.CORRECTED, flags).astype(np.uint8)
    fate = _fates(rows.num_rows, row, last, same, conflict)

    channels: dict[tuple[str, str], Channel] = {}
    row, value, flags, usable, column = (it[last] for it in (row, value, flags, usable, column))
    kind = register_of_row[row] * len(phases) + phase_of_row[row]
    for k in np.unique(kind):
        mine = kind == k
        at = meter_of_row[row[mine]], column[mine]
        values = np.full((len(meters), span.width), np.nan)
        marks = np.zeros((len(meters), span.width), np.uint8)
        values[at] = np.where(usable[mine], value[mine], np.nan)
        marks[at] = flags[mine]
        channels[str(registers[k // len(phases)]), str(phases[k % len(phases)])] = Channel(values, marks)
    return Received([str(it) for it in meters], channels, meter_of_row, day_of_row, fate)


def _values(rows: pa.Table, span: Span) -> tuple[NDArray, NDArray, NDArray, NDArray, NDArray]:
    """The lists' elements side by side: row, value, flags, whether the source calls it usable, column."""
    lists = rows["values"].combine_chunks()
    count = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    value = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    row = np.repeat(np.arange(rows.num_rows), count)
    place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    end_slot = rows["end_slot"].to_numpy().astype(np.int64)
    column = end_slot[row] + place - 1 - span.begin

    qualities = rows["quality"].combine_chunks()
    length = pc.fill_null(pc.list_value_length(qualities), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    code, names = codes(qualities.flatten())
    flag_of = [0 if it in (None, "", "good") else int(_SOURCE_FLAGS.get(str(it), Quality.SUSPECT)) for it in names]
    start = np.cumsum(length) - length
    at = start[row] + np.where(length[row] == count[row], place, 0)
    known = (length[row] > 0) & ((length[row] == count[row]) | (length[row] == 1))
    of_value = np.where(known, code[np.minimum(at, len(code) - 1)] if len(code) else 0, -1)
    flags = np.append(np.array(flag_of, np.uint8), np.uint8(0))[of_value]
    bad = np.append(np.array([it == "bad" for it in names], bool), False)[of_value]
    return row, value, np.where(bad, 0, flags).astype(np.uint8), ~bad, column


def _fates(count: int, row: NDArray, last: NDArray, same: NDArray, conflict: NDArray) -> NDArray[np.int8]:
    """A row is out if one of its values holds, or if it has none; otherwise the worst that befell one of its values."""
    has, wins, conflicts, superseded = (np.zeros(count, bool) for _ in range(4))
    has[row] = True
    wins[row[last]] = True
    conflicts[row[conflict]] = True
    superseded[row[~same & ~conflict]] = True
    worst = np.where(conflicts, Fate.CONFLICT, np.where(superseded, Fate.SUPERSEDED, Fate.DUPLICATE))
    return np.where(wins | ~has, Fate.OUT, worst).astype(np.int8)
