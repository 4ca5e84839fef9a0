from __future__ import annotations

import hashlib
from datetime import UTC, date, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pyspark.errors import PySparkException

from lib.calculation.replace import replace
from lib.grid.network import Network
from lib.ingest import demo
from lib.ingest.source import Source
from lib.settings import load
from lib.tables import TABLES, Lake
from lib.tables.tiles import Slot, day_start, decode, decode_status
from tests.lakes import FIRST, NETS, build_tiny_lake, net_of, source_of, tiny_region

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.mark.parametrize(
    ("day", "counts"),
    [
        (date(2016, 1, 1), [32, 32, 32]),
        (date(2016, 3, 27), [32, 32, 28]),
        (date(2016, 10, 30), [32, 32, 32, 4]),
    ],
)
def test_tiles_of_days_with_and_without_a_change_of_clocks(tmp_path: Path, day: date, counts: list[int]) -> None:
    region = tiny_region(tmp_path, "north")
    source = Source.load(Path(region.source))
    rows = list(chain.from_iterable(batch.to_pylist() for batch in demo.tiles(source, region, day)))
    assert [row["slot_count"] for row in rows] == counts
    assert [row["first_slot"] for row in rows] == [32 * k for k in range(len(counts))]
    p_kw, _ = demo.injections(source, region, day)
    for row, count in zip(rows, counts, strict=True):
        first = row["first_slot"]
        assert row["first_ts"] == day_start(day, "Europe/Berlin") + timedelta(minutes=15 * (first + 1))
        status = decode_status(row["slot_status"])
        assert (status[:count] == Slot.VALID).all()
        assert (status[count:] == Slot.PADDED).all()
        np.testing.assert_array_equal(decode(row["p_kw"], 33)[:, :count], p_kw[:, first : first + count])


def test_a_year_of_days_uses_every_interval_of_the_profiles_once(tmp_path: Path) -> None:
    region = tiny_region(tmp_path, "south", noise=0.0)
    source = Source.load(Path(region.source))
    days = [date(2016, 1, 1) + timedelta(days=k) for k in range(366)]
    q_kvar = np.concatenate([demo.injections(source, region, day)[1] for day in days], axis=1)
    assert q_kvar.shape == (15, 35136)
    loads = source.meter_p_kw < 0
    expected = np.outer(source.meter_q_kvar[loads], source.profile_q[source.meter_profile[loads][0]]).sum(axis=0)
    generators = source.meter_q_kvar[~loads].sum()
    np.testing.assert_allclose(q_kvar.sum(axis=0), expected + generators, rtol=1e-5)


def test_any_part_built_again_has_the_same_bytes(spark: SparkSession, tiny_lake: Lake, tmp_path: Path) -> None:
    region = tiny_region(tmp_path, "south")
    last = FIRST + timedelta(days=1)
    alone = demo.tiles(Source.load(Path(region.source)), region, last)
    part = [batch.column("p_kw")[0].as_py() for batch in alone]
    whole = tiny_lake.read(spark, "snapshot_tile").where(f"region = 'south' AND date = '{last}'").orderBy("first_slot")
    assert part == [bytes(row.p_kw) for row in whole.collect()]


def test_seed_region_and_day_each_change_the_noise(tmp_path: Path) -> None:
    north, south = tiny_region(tmp_path, "north"), tiny_region(tmp_path, "south")
    other_seed = tiny_region(tmp_path, "north", seed=2)
    next_day = FIRST + timedelta(days=1)
    noises = [
        demo.meter_noise(region, day, (4, 96)).tobytes()
        for region, day in ((north, FIRST), (north, FIRST), (south, FIRST), (other_seed, FIRST), (north, next_day))
    ]
    assert noises[0] == noises[1]
    assert len(set(noises)) == 4


def test_building_again_changes_nothing_and_more_days_add_only_these(spark: SparkSession, lake: Path) -> None:
    it = build_tiny_lake(spark, lake, days=1)
    version = it.snapshot("snapshot_tile").version()
    before = set(it.snapshot("snapshot_tile").file_uris())
    build_tiny_lake(spark, lake, days=1)
    assert it.snapshot("snapshot_tile").version() == version
    regions = [tiny_region(lake, name) for name in NETS]
    commits = list(demo.build(spark, it, regions, FIRST, 3))
    assert [(commit.region, commit.days, commit.tiles) for commit in commits] == [("north", 2, 6), ("south", 2, 6)]
    after = set(it.snapshot("snapshot_tile").file_uris())
    assert before < after
    assert len(after) == 6
    assert it.snapshot("network").version() == 2  # made, and one commit for each region


def test_a_build_broken_off_is_completed_by_the_next(spark: SparkSession, lake: Path, tiny_lake: Lake) -> None:
    it = Lake(str(lake))
    regions = [tiny_region(lake, name) for name in NETS]
    commits = demo.build(spark, it, regions, FIRST, 2)
    assert next(commits).region == "north"
    commits.close()  # between two commits
    assert demo.tile_counts(it).total() == 6
    # a day with a tile too few, as another writer may leave it
    torn = it.read(spark, "snapshot_tile").where(f"date = '{FIRST}' AND first_slot > 0")
    replace(it, "snapshot_tile", torn.localCheckpoint(), region="north", first=FIRST, last=FIRST)
    build_tiny_lake(spark, lake)
    key = TABLES["snapshot_tile"].key
    whole, expected = (each.read(spark, "snapshot_tile").orderBy(*key).collect() for each in (it, tiny_lake))
    assert len(whole) == 12
    assert whole == expected


def test_a_task_that_fails_leaves_the_table_as_it_was(spark: SparkSession, lake: Path) -> None:
    region = tiny_region(lake, "north", profile_days=2)
    it = build_tiny_lake(spark, lake, days=1)
    with pytest.raises(PySparkException, match="do not cover 2016-01-03"):
        list(demo.build(spark, it, [region], FIRST, 3))
    assert demo.tile_counts(it) == {("north", FIRST): 3, ("south", FIRST): 3}


def test_another_seed_builds_the_region_anew(spark: SparkSession, lake: Path) -> None:
    it = build_tiny_lake(spark, lake, days=2)
    other = tiny_region(lake, "north", seed=9)
    assert [commit.days for commit in demo.build(spark, it, [other], FIRST, 1)] == [1]
    counts = demo.tile_counts(it)
    assert counts["north", FIRST] == 3
    assert counts["north", FIRST + timedelta(days=1)] == 0
    assert counts["south", FIRST + timedelta(days=1)] == 3
    tile = it.read(spark, "snapshot_tile").where("region = 'north' AND first_slot = 0").first()
    expected, _ = demo.injections(Source.load(Path(other.source)), other, FIRST)
    assert tile is not None
    np.testing.assert_array_equal(decode(bytes(tile.p_kw), 33), expected[:, :32])


def test_the_network_table_holds_networks(spark: SparkSession, tiny_lake: Lake) -> None:
    for row in tiny_lake.read(spark, "network").collect():
        network = Network.from_bytes(bytes(row.content))
        assert (network.n_bus, network.n_row, network.n_branch) == (row.n_bus, row.n_row, row.n_branch)
        assert bytes(row.content) == source_of(net_of(row.region)).network.tobytes()
        assert row.digest == hashlib.sha256(row.content).hexdigest()
        assert (row.valid_from, row.valid_to) == (FIRST, None)


def test_first_ts_reads_as_utc_in_spark(spark: SparkSession, tiny_lake: Lake) -> None:
    row = tiny_lake.read(spark, "snapshot_tile").selectExpr("min(unix_seconds(first_ts)) AS s").first()
    assert row is not None
    assert row.s == day_start(FIRST, "Europe/Berlin").astimezone(UTC).timestamp() + 900


def test_chunks_cover_runs_of_days_within_a_month() -> None:
    days = [date(2016, 1, 30), date(2016, 1, 31), date(2016, 2, 1), date(2016, 2, 3)]
    assert demo.chunks(days) == [days[:2], days[2:3], days[3:]]


def test_a_remote_lake_and_an_unknown_region_are_refused(lake: Path) -> None:
    with pytest.raises(demo.GridsinkError, match="a folder that all workers see"):
        demo.regions_of(load(["lake.path=hdfs://name/lake"], environment={}))
    with pytest.raises(demo.GridsinkError, match="there is no region mars"):
        demo.regions_of(load([f"lake.path={lake}"], environment={}), ["mars"])
