"""Laws of the plan, on loads drawn at random; no Spark."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import GridsinkError
from lib.salting.plan import CHUNK, EVEN, SaltPlan, plan
from lib.salting.profile import HeavyKey, Profile

SLOTS = 512


def profile_of(heavy: list[int], light: list[int]) -> Profile:
    """Heavy keys with these loads (a row each per unit), and this load in each slot besides."""
    keys = [
        HeavyKey((n,), digest=n * 7919 - 10**6, slot=(n * 31) % SLOTS, rows=it, load=it) for n, it in enumerate(heavy)
    ]
    slots = list(light)
    for key in keys:
        slots[key.slot] += key.load
    ordered = tuple(sorted(keys, key=lambda key: (-key.load, key.digest)))
    return Profile(("k",), None, sum(slots), sum(slots), tuple(slots), ordered, 1 / 4096)


def loads_of(profile: Profile, done: SaltPlan) -> list[float]:
    """Load of each reducer, from the plan's own tables."""
    loads = [0.0] * done.reducers
    rest = list(profile.slots)
    for key in profile.heavy:
        rest[key.slot] -= key.load
        for reducer in done.chunks[key.digest]:
            loads[reducer] += key.load / len(done.chunks[key.digest])
    for slot, load in enumerate(rest):
        loads[done.slots[slot]] += load
    return loads


PROFILES = st.builds(
    profile_of,
    st.lists(st.integers(1, 10**7), max_size=40),
    st.lists(st.integers(0, 1000), min_size=SLOTS, max_size=SLOTS),
)
REDUCERS = st.integers(1, 64)


@given(PROFILES, REDUCERS)
def test_nothing_is_lost_and_the_largest_is_bounded(profile: Profile, reducers: int) -> None:
    done = plan(profile, reducers)
    if done.identity:
        return
    loads = loads_of(profile, done)
    assert math.isclose(sum(loads), profile.load)
    mean = profile.load / reducers
    assert max(loads) / mean == pytest.approx(done.after)
    rest = list(profile.slots)
    for key in profile.heavy:
        rest[key.slot] -= key.load
    pieces = [key.load / len(done.chunks[key.digest]) for key in profile.heavy] + rest
    assert max(loads) <= mean + max(pieces) + 1e-6 * mean  # Graham's bound of list scheduling
    for key in profile.heavy:
        assert (
            key.load / len(done.chunks[key.digest]) <= CHUNK * mean + 1e-6 or len(done.chunks[key.digest]) == key.rows
        )


@given(PROFILES, REDUCERS)
def test_the_same_profile_gives_the_same_plan(profile: Profile, reducers: int) -> None:
    assert plan(profile, reducers) == plan(profile, reducers)


@given(PROFILES, REDUCERS)
def test_what_is_even_is_left_alone_and_what_is_not_gets_better(profile: Profile, reducers: int) -> None:
    done = plan(profile, reducers)
    plain = [sum(profile.slots[r::reducers]) for r in range(reducers)]  # Spark: hash modulo reducers
    before = max(plain) * reducers / profile.load if profile.load else 1.0
    assert done.before == pytest.approx(before)
    if before <= EVEN:
        assert done.identity
        assert not done.chunks
    if not done.identity:
        assert done.after < before


@pytest.mark.parametrize("reducers", [8, 64, 256])
@pytest.mark.parametrize("s", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_zipf_loads_are_even(s: float, reducers: int) -> None:
    """Ten million rows of two thousand keys, profiled as `profile` does."""
    rng = np.random.default_rng(3)
    share = np.arange(1, 2001, dtype=float) ** -s
    loads = rng.multinomial(10**7, share / share.sum()).tolist()
    hashes = rng.integers(2**31, size=2000).tolist()
    slots = [0] * reducers * max(32, 1024 // reducers)
    for load, number in zip(loads, hashes, strict=True):
        slots[number % len(slots)] += load
    least = 10**7 / (8 * reducers)
    heavy = [
        HeavyKey((n,), number, number % len(slots), load, load)
        for n, (load, number) in enumerate(zip(loads, hashes, strict=True))
        if load >= least
    ]
    done = plan(Profile(("k",), None, 10**7, 10**7, tuple(slots), tuple(heavy), 1 / (8 * reducers)), reducers)
    assert done.after <= 1.2
    assert s < 1.5 or done.before > 3


def test_one_key_with_all_rows_goes_everywhere() -> None:
    done = plan(profile_of([1_000_000], [0] * SLOTS), 8)
    (reducers,) = done.split.values()
    assert reducers == tuple(range(8))
    assert done.after == pytest.approx(1)


def test_uniform_keys_are_an_identity() -> None:
    done = plan(profile_of([], [100] * SLOTS), 8)
    assert (done.identity, done.before) == (True, 1)


def test_one_row_cannot_be_split() -> None:
    done = plan(profile_of([1], [0] * SLOTS), 8)
    assert done.identity
    assert "no key can be split" in done.reason


def test_an_empty_frame_has_nothing_to_spread() -> None:
    assert plan(profile_of([], [0] * SLOTS), 8).identity


def test_light_keys_go_round_a_heavy_one() -> None:
    """A quarter of the load is one key of one row, which nothing can split: its reducer gets nothing else."""
    light = [6] * 510 + [12, 0]  # three reducers' worth
    heavy = HeavyKey(("x",), 5, 0, 1, 1024)
    profile = Profile(("k",), "bytes", 511, 4 * 1024, (1030, *light[1:]), (heavy,), 1 / 4096)
    done = plan(profile, 4)
    assert done.chunks == {5: (0,)}
    assert max(loads_of(profile, done)) <= 1024 + 6
    assert {n for n, load in enumerate(light) if load and done.slots[n] == 0} == set()


def test_a_coarse_profile_is_refused_with_the_remedy() -> None:
    with pytest.raises(GridsinkError, match="profile with reducers=200"):
        plan(profile_of([10**6], [1] * SLOTS), 200)
    with pytest.raises(GridsinkError, match="profile with reducers=16"):
        plan(replace(profile_of([10**6], [1] * SLOTS), smallest_share=1 / 64), 16)


@pytest.mark.parametrize(("reducers", "chunk", "even"), [(0, 0.1, 1.2), (8, 0, 1.2), (8, 2, 1.2), (8, 0.1, 0.9)])
def test_impossible_wishes_are_refused(reducers: int, chunk: float, even: float) -> None:
    with pytest.raises(GridsinkError):
        plan(profile_of([10], [1] * SLOTS), reducers, chunk=chunk, even=even)
