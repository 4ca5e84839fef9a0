"""Decides which keys to split and which reducer gets what: chunks and slots packed by load. No Spark."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lib.errors import GridsinkError
from lib.salting.packing import Piece, pack
from lib.salting.profile import Profile

EVEN = 1.2
CHUNK = 0.25


@dataclass(frozen=True)
class SaltPlan:
    """Where rows go. reducers: number of partitions of the first stage.

    identity: nothing is salted, keys are hashed as Spark does. reason: why, or what was done.
    chunks: digest of a placed key -> the reducer of each of its chunks. slots: reducer of each slot of the other keys.
    before, after: largest load of a reducer over the mean, hashed plainly and by this plan, as the profile tells.
    """

    keys: tuple[str, ...]
    reducers: int
    identity: bool
    reason: str
    before: float
    after: float
    chunks: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    slots: tuple[int, ...] = ()

    @property
    def split(self) -> dict[int, tuple[int, ...]]:
        """The keys that go to more than one reducer: digest -> reducers, ascending."""
        return {key: tuple(sorted(set(parts))) for key, parts in self.chunks.items() if len(set(parts)) > 1}


def plan(profile: Profile, reducers: int, *, chunk: float = CHUNK, even: float = EVEN) -> SaltPlan:
    """Spreads the profiled load over `reducers`.

    A key is cut into chunks of at most `chunk` times the mean load of a reducer; chunks and slots of other keys are
    packed, the largest first, each on the least loaded reducer (LPT), so that no reducer gets more than the mean and
    the largest single piece. Nothing is done where the largest load is at most `even` times the mean without it. The
    same profile gives the same plan. Raises GridsinkError where the profile is too coarse for so many reducers.
    """
    if reducers < 1 or not 0 < chunk <= 1 or even < 1:
        raise GridsinkError(
            "a plan needs at least one reducer, chunks of 0 to 1 of the mean and an evenness of at least 1",
            f"reducers={reducers}, chunk={chunk}, even={even}",
            "correct these values",
        )
    mean = profile.load / reducers
    plain = [0] * reducers
    for number, load in enumerate(profile.slots):
        plain[number % reducers] += load
    before = max(plain) / mean if mean else 1.0

    def identity(reason: str) -> SaltPlan:
        return SaltPlan(profile.keys, reducers, True, reason, before, before)

    if not profile.load:
        return identity("there is no load to spread")
    if before <= even:
        return identity(f"the load is even: the largest reducer has {before:.2f} times the mean")
    if reducers > round(1 / (8 * profile.smallest_share)) or reducers * 8 > len(profile.slots):
        raise GridsinkError(
            f"the profile is too coarse for {reducers} reducers",
            ", ".join(profile.keys),
            f"profile with reducers={reducers}",
        )
    pieces, counts, rest = _cut(profile, chunk * mean)
    pieces += [(load, 1, number, 0) for number, load in enumerate(rest)]
    place, loads = pack(pieces, reducers)
    after = max(loads) / mean
    if after >= before:
        return identity(f"no key can be split: the largest reducer has {before:.2f} times the mean either way")
    chunks = {key: tuple(place[0, key, n] for n in range(count)) for key, count in counts.items()}
    slots = tuple(place[1, number, 0] for number in range(len(rest)))
    done = SaltPlan(profile.keys, reducers, False, "", before, after, chunks, slots)
    reason = f"{len(done.split)} keys split, largest reducer from {before:.2f} to {after:.2f} times the mean"
    return SaltPlan(profile.keys, reducers, False, reason, before, after, chunks, slots)


def _cut(profile: Profile, limit: float) -> tuple[list[Piece], dict[int, int], list[int]]:
    """Chunks of the heavy keys, how many each key has, and what the slots hold besides them."""
    rest = list(profile.slots)
    loads: dict[int, int] = {}
    rows: dict[int, int] = {}
    for key in profile.heavy:
        rest[key.slot] -= key.load
        loads[key.digest] = loads.get(key.digest, 0) + key.load
        rows[key.digest] = rows.get(key.digest, 0) + key.rows
    counts = {key: min(rows[key], math.ceil(load / limit)) for key, load in loads.items()}
    pieces: list[Piece] = [(loads[key] / n, 0, key, number) for key, n in counts.items() for number in range(n)]
    return pieces, counts, rest
