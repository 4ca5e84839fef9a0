from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lib.ingest import quality

NAN = np.nan
SERIES = hnp.arrays(
    float, st.tuples(st.integers(1, 3), st.integers(1, 40)), elements=st.sampled_from([NAN, 0.0, 1.0, 2.5, 7.0])
)


def gaps_by_hand(row: list[float]) -> list[int]:
    found = []
    for k, value in enumerate(row):
        if np.isfinite(value):
            found.append(0)
            continue
        a = k
        while a > 0 and np.isnan(row[a - 1]):
            a -= 1
        b = k
        while b < len(row) - 1 and np.isnan(row[b + 1]):
            b += 1
        found.append(b - a + 1)
    return found


@given(SERIES)
def test_gap_lengths_are_those_counted_one_by_one(values: np.ndarray) -> None:
    assert quality.gap_lengths(np.isfinite(values)).tolist() == [gaps_by_hand(row) for row in values.tolist()]


@given(SERIES, st.integers(0, 10))
def test_lines_are_those_of_numpy_and_only_in_short_gaps(values: np.ndarray, limit: int) -> None:
    filled, mask = quality.linear(values, limit)
    for row, made, marked in zip(values, filled, mask, strict=True):
        at = np.flatnonzero(np.isfinite(row))
        gaps = np.array(gaps_by_hand(row.tolist()))
        inside = np.zeros(len(row), bool)
        if len(at):
            inside[at[0] : at[-1] + 1] = True
        expected = inside & (gaps > 0) & (gaps <= limit)
        np.testing.assert_array_equal(marked, expected)
        if expected.any():
            np.testing.assert_allclose(made[expected], np.interp(np.flatnonzero(expected), at, row[at]))
        np.testing.assert_array_equal(made[~expected], row[~expected])


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 90)), min_size=1, max_size=20))
def test_even_shares_differ_by_at_most_one_and_add_up(pairs: list[tuple[int, int]]) -> None:
    total, count = np.array(pairs).T
    owner = np.repeat(np.arange(len(count)), count)
    parts = np.split(quality.shares(total, owner, np.zeros(len(owner))), np.cumsum(count)[:-1])
    for whole, n, part in zip(total, count, parts, strict=True):
        assert part.sum() == whole
        assert len(part) == n
        assert part.max() - part.min() <= 1


WEIGHTS = st.lists(st.floats(0, 1e3), min_size=1, max_size=90)


@given(st.lists(st.tuples(st.integers(0, 10**7), WEIGHTS), min_size=1, max_size=20))
def test_shares_follow_their_weights_to_the_next_whole_number(pairs: list[tuple[int, list[float]]]) -> None:
    total = np.array([whole for whole, _ in pairs])
    owner = np.repeat(np.arange(len(pairs)), [len(weights) for _, weights in pairs])
    found = quality.shares(total, owner, np.concatenate([weights for _, weights in pairs]))
    for k, (whole, weights) in enumerate(pairs):
        part = found[owner == k]
        assert part.sum() == whole
        assert (part >= 0).all()
        if sum(weights) > 1:
            assert np.abs(part - whole * np.array(weights) / sum(weights)).max() <= 1.001


@given(st.integers(3, 8), st.data())
def test_a_register_that_runs_over_counts_on(digits: int, data: st.DataObject) -> None:
    modulus = 10**digits
    before = data.draw(st.integers(0, modulus - 1))
    used = data.draw(st.integers(0, modulus // 20))
    after = (before + used) % modulus
    counted, over = quality.advance(*(np.array([float(it)]) for it in (before, after, modulus)))
    assert counted.tolist() == [used]
    assert over.tolist() == [before + used >= modulus]


def test_a_register_that_falls_otherwise_counts_nothing() -> None:
    counted, over = quality.advance(np.array([500.0, 950.0]), np.array([400.0, 200.0]), np.array([1000.0, 1000.0]))
    assert np.isnan(counted).all()
    assert not over.any()


def test_a_spike_stands_out_of_its_day_and_a_change_does_not() -> None:
    values = np.ones((4, 96))
    values[0, 40] = 100
    values[1, 40:50] = 100  # lasts
    values[2, 40] = 9  # not ten times the usual
    values[3, :73], values[3, 80] = NAN, 100  # too few values to judge
    mask = quality.spikes(values, [(0, 96)], 10, 5, 2)
    assert list(zip(*np.nonzero(mask), strict=True)) == [(0, 40)]
    assert not quality.spikes(values, [(0, 96)], 10, 200, 2).any()


def test_equal_values_are_frozen_from_the_given_number_on_but_zeros_are_not() -> None:
    values = np.arange(96.0)[None].repeat(3, axis=0) + 1
    values[0, 10:34] = 5.5  # 24
    values[1, 10:33] = 5.5  # 23
    values[2, 10:60] = 0
    mask = quality.frozen(values, [(0, 96)], 24)
    assert list(np.flatnonzero(mask[0])) == list(range(10, 34))
    assert not mask[1:].any()
    assert not quality.frozen(values, [(0, 20), (20, 96)], 24)[0].any()  # 10 and 14 in two days
