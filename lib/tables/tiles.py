"""The tile: 32 consecutive slots of one network as a [bus][slot] float32 matrix in one binary value."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from enum import IntEnum
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import ArrayLike, NDArray

LANES = 32


class Slot(IntEnum):
    """Values of slot_status."""

    VALID = 0
    MISSING = 1
    PADDED = 2


def encode(matrix: ArrayLike) -> bytes:
    """(n_bus, n_slot <= 32) as little-endian float32 [n_bus][32]; columns beyond n_slot are zero."""
    values = np.asarray(matrix, dtype="<f4")
    if values.ndim != 2 or values.shape[1] > LANES:
        raise ValueError(f"a tile is (n_bus, at most {LANES} slots), not {values.shape}")
    if values.shape[1] < LANES:
        values = np.pad(values, ((0, 0), (0, LANES - values.shape[1])))
    return values.tobytes()


def decode(binary: bytes, n_bus: int) -> NDArray[np.float32]:
    """Read-only view (n_bus, 32) of an encoded tile. Raises ValueError if the length is not that of n_bus buses."""
    if len(binary) != n_bus * LANES * 4:
        raise ValueError(f"a tile of {n_bus} buses has {n_bus * LANES * 4} bytes, this one {len(binary)}")
    return np.frombuffer(binary, dtype="<f4").reshape(n_bus, LANES)


def slot_status(slot_count: int, missing: ArrayLike = ()) -> bytes:
    """Status of a tile with `slot_count` slots, those at the positions `missing` missing, the tail padded."""
    status = np.full(LANES, Slot.PADDED, np.uint8)
    status[:slot_count] = Slot.VALID
    status[np.asarray(missing, dtype=np.intp)] = Slot.MISSING
    return status.tobytes()


def decode_status(binary: bytes) -> NDArray[np.uint8]:
    """(32,) read-only view of a tile's slot_status. Raises ValueError on any other length."""
    if len(binary) != LANES:
        raise ValueError(f"slot_status has {LANES} bytes, this one {len(binary)}")
    return np.frombuffer(binary, dtype=np.uint8)


def day_start(day: date, time_zone: str) -> datetime:
    """UTC start of a civil day."""
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(time_zone)).astimezone(UTC)


def day_slots(day: date, time_zone: str, interval_s: int = 900) -> int:
    """Slots of a civil day: 96 quarter-hours, 92 or 100 where clocks change."""
    length = day_start(day + timedelta(days=1), time_zone) - day_start(day, time_zone)
    return int(length.total_seconds()) // interval_s
