"""The engines get the same rows and find the same voltages; a scaled time says that it is scaled."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lib.baseline import engines
from lib.baseline.collect import Collected
from lib.grid.network import Network
from lib.ingest import source
from lib.settings import Settings, load
from lib.tables.tiles import encode, slot_status

CODE = "1-LV-rural1--0-sw"
KEYS = ["region", "date", "network_id", "network_version", "bus"]
SLOTS = (32, 32, 28)  # a day of 92 slots
MISSING = 7


@pytest.fixture(scope="module")
def settings() -> Settings:
    village = f"regions.village.simbench_code={CODE}"
    return load([village, "regions.village.time_zone=Europe/Berlin"], environment={})


@pytest.fixture(scope="module")
def collected() -> Collected:
    """Two days of one network, tiles out of order, a missing slot and a short last tile."""
    net = source.simbench_net(CODE)
    network = Network.from_pandapower(net)
    p, q = network.injections(net)
    rng = np.random.default_rng(5)

    def rows() -> Iterator[dict[str, object]]:
        for day in (27, 26):
            for tile, count in reversed(list(enumerate(SLOTS))):
                factor = rng.uniform(0, 1.5, (network.n_bus, count))
                yield {
                    "region": "village", "date": date(2016, 3, day), "network_id": CODE, "network_version": 1,
                    "first_slot": 32 * tile, "slot_count": count, "interval_s": 900, "n_bus": network.n_bus,
                    "first_ts": datetime(2016, 3, day, 8 * tile, 15, tzinfo=UTC),
                    "p_kw": encode(1e3 * p[:, None] * factor),
                    "q_kvar": encode(1e3 * q[:, None] * factor),
                    "slot_status": slot_status(count, [MISSING] if tile == 1 else []),
                }  # fmt: skip

    schema = pa.schema({
        "region": pa.string(), "date": pa.date32(), "network_id": pa.string(), "network_version": pa.int32(),
        "first_slot": pa.int32(), "slot_count": pa.int32(), "interval_s": pa.int32(), "n_bus": pa.int32(),
        "first_ts": pa.timestamp("us", "UTC"), "p_kw": pa.binary(), "q_kvar": pa.binary(), "slot_status": pa.binary(),
    })  # fmt: skip
    tiles = pa.Table.from_pylist(list(rows()), schema)
    return Collected(tiles, {("village", CODE, 1): network}, tiles.nbytes)


@pytest.fixture(scope="module")
def outcomes(collected: Collected, settings: Settings) -> dict[str, engines.Outcome]:
    return {name: engines.run(name, collected, settings, 5) for name in engines.ENGINES}


def test_network_days_are_whole_and_in_order(collected: Collected) -> None:
    days = list(collected.network_days())
    assert [day.date.day for day in days] == [26, 27]
    for day in days:
        assert day.first_slot.tolist() == [0, 32, 64]
        assert day.n_snapshot == sum(SLOTS) - 1
        assert not day.used[32 + MISSING]
        assert not day.p_kw[:, ~day.used][:, -4:].any()


def test_engines_agree_on_every_sampled_voltage(outcomes: dict[str, engines.Outcome]) -> None:
    frames = [outcome.sample.to_pandas().set_index([*KEYS, "slot"])["vm_pu"] for outcome in outcomes.values()]
    assert len(frames[0]) == 5 * 15
    for other in frames[1:]:
        pd.testing.assert_series_equal(other, frames[0], rtol=0, atol=2e-8)


def test_day_figures_agree_on_used_slots(outcomes: dict[str, engines.Outcome], collected: Collected) -> None:
    rival, own = (outcomes[name].bus_day.to_pandas().set_index(KEYS) for name in ("power-grid-model", "gridsink"))
    assert len(own) == 2 * 15
    pd.testing.assert_frame_equal(rival, own, rtol=0, atol=2e-8)
    for outcome in outcomes.values():
        assert outcome.snapshots == 2 * (sum(SLOTS) - 1)
        assert outcome.bus_snapshots == 15 * outcome.snapshots
        assert outcome.failed == 0


def test_only_the_loop_is_scaled_and_says_so(outcomes: dict[str, engines.Outcome]) -> None:
    assert [outcomes[name].scaled for name in engines.ENGINES] == [True, False, False]
    loop = outcomes["pandapower"]
    assert loop.solved_snapshots == 5
    assert loop.seconds["solve"] == pytest.approx(loop.measured_solve_s / 5 * loop.snapshots)


def test_sample_is_spread_and_never_more_than_there_is(collected: Collected) -> None:
    few = engines.choose_sample(collected, 4)
    assert {key[1].day: len(slots) for key, slots in few.items()} == {26: 2, 27: 2}
    every = engines.choose_sample(collected, 10_000)
    assert sum(len(slots) for slots in every.values()) == 2 * (sum(SLOTS) - 1)
    assert all(collected.used(key)[slots].all() for key, slots in every.items())


def test_a_tile_without_its_network_is_named(collected: Collected, settings: Settings) -> None:
    with pytest.raises(ValueError, match=rf"village 2016-03-26.*{CODE} version 1"):
        engines.run("gridsink", Collected(collected.tiles, {}, 0), settings, 1)
