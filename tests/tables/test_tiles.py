from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pytest

from lib.tables.tiles import Slot, day_slots, day_start, decode, decode_status, encode, slot_status


def test_a_tile_comes_back_and_its_tail_is_zero() -> None:
    matrix = np.random.default_rng(1).normal(size=(7, 28)).astype(np.float32)
    tile = decode(encode(matrix), 7)
    assert tile.shape == (7, 32)
    assert tile.flags.c_contiguous
    np.testing.assert_array_equal(tile[:, :28], matrix)
    assert not tile[:, 28:].any()


def test_bytes_are_little_endian_float32_bus_by_bus() -> None:
    matrix = np.arange(64, dtype=np.float64).reshape(2, 32)
    assert encode(matrix) == matrix.astype("<f4").tobytes()
    assert encode(matrix.T.copy().T) == encode(matrix)  # whatever the order in memory


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 32"):
        encode(np.zeros((2, 33)))
    with pytest.raises(ValueError, match=r"5 buses has 640 bytes, this one 384"):
        decode(encode(np.zeros((3, 32))), 5)
    with pytest.raises(ValueError, match=r"32 bytes, this one 3"):
        decode_status(b"abc")


def test_status_tells_missing_from_padded() -> None:
    status = decode_status(slot_status(28, missing=[3]))
    assert status[3] == Slot.MISSING
    assert (np.delete(status, 3)[:27] == Slot.VALID).all()
    assert (status[28:] == Slot.PADDED).all()


@pytest.mark.parametrize(
    ("day", "zone", "slots", "start"),
    [
        (date(2016, 1, 1), "Europe/Berlin", 96, datetime(2015, 12, 31, 23, tzinfo=UTC)),
        (date(2016, 3, 27), "Europe/Berlin", 92, datetime(2016, 3, 26, 23, tzinfo=UTC)),
        (date(2016, 10, 30), "Europe/Berlin", 100, datetime(2016, 10, 29, 22, tzinfo=UTC)),
        (date(2016, 10, 30), "Asia/Shanghai", 96, datetime(2016, 10, 29, 16, tzinfo=UTC)),
    ],
)
def test_civil_days(day: date, zone: str, slots: int, start: datetime) -> None:
    assert day_slots(day, zone) == slots
    assert day_start(day, zone) == start
