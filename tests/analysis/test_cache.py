"""When a result is taken from the cache: tables changed in every way."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from deltalake.exceptions import DeltaError
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lib.analysis.cache import explain_rows
from lib.calculation.changes import TableLog
from tests.analysis.worlds import (
    BUSES,
    KEYS,
    NETWORK,
    ODD,
    ONE,
    TILES,
    TWO,
    Summing,
    World,
    build,
    content,
    late,
    log_folder,
    prints,
    rows,
    table,
    where,
)


def test_what_did_not_change_is_current(world: World) -> None:
    decided = world.decide()
    for key, verdict in decided.items():
        assert (verdict.status, verdict.reason) == ("current", "unchanged")
        assert verdict.inputs == world.digests(*key)
        assert verdict.entry is not None
        assert replace(verdict.entry, figures=b"", inputs=(), outputs=()) == replace(
            world.entry(*key), figures=b"", inputs=(), outputs=()
        )
    assert [it["cache"] for it in explain_rows(decided.values())] == ["hit"] * 4


def test_partials_come_back(world: World) -> None:
    cache = world.cache()
    entries = [it.entry for it in cache.decide(world.cells(), world.versions()) if it.entry]
    assert cache.content(entries[1:]) == {key: world.entry(*key).figures for key in KEYS[1:]}
    for entry, figures in cache.contents(entries):
        assert figures == world.entry(entry.region, entry.date).figures
    assert cache.contents([replace(entries[0], digest="another")]) == []


def test_nothing_was_calculated_yet(world: World) -> None:
    shutil.rmtree(world.lake.path("partial"))
    for verdict in world.decide().values():
        assert (verdict.status, verdict.reason) == ("compute", "never calculated")
        assert verdict.inputs == {TILES: None, NETWORK: None}


def optimize(world: World) -> None:
    table(world, TILES).optimize.compact()
    table(world, TILES).vacuum(0, enforce_retention_duration=False, dry_run=False)


def other_partition(world: World) -> None:
    write_deltalake(world.lake.path(TILES), rows("south", date(2016, 1, 3), 1), mode="append")


def optimize_output(world: World) -> None:
    write_deltalake(world.lake.path(BUSES), rows("south", date(2016, 1, 3), 1), mode="append")
    table(world, BUSES).optimize.z_order(["v"])


@pytest.mark.parametrize("change", [optimize, other_partition, optimize_output])
def test_what_changes_no_row_of_a_cell_leaves_it_current(world: World, change: Callable[[World], None]) -> None:
    before = TableLog(world.lake, BUSES).files("south", ONE)
    change(world)
    if change is optimize_output:
        assert TableLog(world.lake, BUSES).files("south", ONE) != before
    assert world.status() == ["current"] * 4


def delete(world: World) -> None:
    table(world, TILES).delete(where("south", TWO) + " AND v > 5")


def update(world: World) -> None:
    table(world, TILES).update(updates={"v": "v + 1"}, predicate=where("south", TWO))


def merge(world: World) -> None:
    merger = table(world, TILES).merge(rows("south", TWO, 77), "t.v = s.v", source_alias="s", target_alias="t")
    merger.when_not_matched_insert_all().execute()


@pytest.mark.parametrize(
    ("change", "told"), [(late, "WRITE"), (delete, "DELETE"), (update, "UPDATE"), (merge, "MERGE")]
)
def test_a_touched_cell_is_hashed_and_found_again_or_not(
    world: World, change: Callable[[World], None], told: str
) -> None:
    before = world.decide()
    change(world)
    decided = world.decide()
    assert [it.status for it in decided.values()] == ["current", "current", "current", "check"]
    verdict, version = decided["south", TWO], world.versions()[TILES]
    assert verdict.reason == f"snapshot_tile changed in version {version} ({told})"
    assert verdict.inputs == {TILES: None, NETWORK: before["south", TWO].inputs[NETWORK]}
    old = before["south", TWO].entry
    assert old is not None
    assert verdict.known == {old.digest: old}
    assert world.entry("south", TWO).digest not in verdict.known
    world.calculate([("south", TWO)])
    assert world.status() == ["current"] * 4


def test_rows_put_back_are_found_again(world: World) -> None:
    version = world.versions()[TILES]
    late(world)
    table(world, TILES).restore(version)
    verdict = world.decide()["south", TWO]
    assert (verdict.status, "RESTORE" in verdict.reason) == ("check", True)
    assert world.entry("south", TWO).digest in verdict.known
    # Recorded again with the version that was hashed, it stands without hashing.
    cache = world.cache()
    cache.decide(world.cells(), world.versions())
    found = cache.contents(verdict.known.values())
    cache.record([replace(e, inputs=world.entry("south", TWO).inputs, figures=f) for e, f in found], "run 2")
    assert world.status() == ["current"] * 4
    entry = world.decide()["south", TWO].entry
    assert entry is not None
    assert cache.content([entry]) == {("south", TWO): world.entry("south", TWO).figures}


def test_a_changed_network_concerns_its_region(world: World) -> None:
    write_deltalake(world.lake.path(NETWORK), rows("south", ONE, 2).drop_columns("date"), mode="append")
    decided = world.decide()
    assert [it.status for it in decided.values()] == ["current", "current", "check", "check"]
    assert decided["south", ONE].reason == "network changed in version 2 (WRITE)"
    assert decided["south", ONE].inputs[TILES] is not None


def test_another_fingerprint_is_calculated_and_told(world: World) -> None:
    new = replace(world, fingerprint=prints(v_min_pu=0.95))
    for key, verdict in new.decide().items():
        assert (verdict.status, verdict.reason) == ("compute", "parameter v_min_pu 0.9 -> 0.95")
        assert verdict.inputs == world.digests(*key)  # no need to hash again
        assert verdict.known == {}
    new.calculate()
    assert new.status() == ["current"] * 4
    # Both wrote the same output table: the files of the old ones are known, and can be put back.
    decided = world.decide()
    assert {it.status for it in decided.values()} == {"check"}
    assert all(it.reason.startswith("bus_day was changed in version") for it in decided.values())
    for verdict in decided.values():
        (entry,) = verdict.known.values()
        assert world.cache().outputs_differ(entry) == verdict.reason
        assert None not in verdict.inputs.values()


def test_operators_share_recorded_digests(world: World) -> None:
    other = replace(world, operator=Summing("another"))
    for key, verdict in other.decide().items():
        assert (verdict.status, verdict.reason) == ("compute", "never calculated")
        assert verdict.inputs == world.digests(*key)


def test_an_operator_finds_its_rows_again_by_anothers_digest(world: World) -> None:
    version = world.versions()[TILES]
    late(world)
    table(world, TILES).restore(version)
    other = replace(world, operator=Summing("another"))
    other.calculate([("south", TWO)])
    verdict = world.decide()["south", TWO]
    assert verdict.inputs == world.digests("south", TWO)
    assert verdict.status == "check"  # the other one wrote bus_day
    assert "bus_day was changed" in verdict.reason


def test_entries_that_disagree_count_for_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    entry = world.entry("south", ONE)
    wrong = tuple(replace(it, digest="something else") for it in entry.inputs)
    cache = world.cache()
    cache.record([replace(entry, inputs=wrong, digest="wrong")], "run 2")
    verdict = world.decide()["south", ONE]
    assert (verdict.status, verdict.inputs) == ("check", {TILES: None, NETWORK: None})
    assert "disagree" in verdict.reason
    assert "disagree" in caplog.text


def test_another_length_of_the_day_is_another_cell(world: World) -> None:
    longer = replace(world, length_s=90_000)
    assert longer.status() == ["compute"] * 4
    assert "length of the day" in longer.decide()["south", ONE].reason


@pytest.mark.parametrize("name", [TILES, NETWORK])
def test_a_lost_log_means_hashing(world: World, name: str) -> None:
    for _ in range(2):
        write_deltalake(world.lake.path(TILES), rows("north", ONE, 1), mode="append")
        write_deltalake(world.lake.path(NETWORK), rows("north", ONE, 1).drop_columns("date"), mode="append")
    table(world, name).create_checkpoint()
    last = world.versions()[name]
    for version in range(last):
        (log_folder(world, name) / f"{version:020d}.json").unlink()
    decided = world.decide()
    assert {it.status for it in decided.values()} == {"check"}
    assert decided["south", ONE].reason == f"{name}: the log of version {last - 1} is gone"
    assert {it.inputs[name] for it in decided.values()} == {None}


def test_a_log_lost_after_the_last_version(world: World) -> None:
    table(world, TILES).create_checkpoint()
    for path in log_folder(world, TILES).glob("*.json"):
        path.unlink()
    assert world.status() == ["check"] * 4
    world.calculate()
    assert world.status() == ["current"] * 4


def test_a_table_made_anew_means_hashing(world: World) -> None:
    shutil.rmtree(world.lake.path(NETWORK))
    for region in (ODD, "south"):
        new = rows(region, ONE, 1).drop_columns("date")
        write_deltalake(world.lake.path(NETWORK), new, mode="append", partition_by=["region"])
    decided = world.decide()
    assert {it.status for it in decided.values()} == {"check"}
    assert decided["south", ONE].reason == "network: the table was made anew"


def test_a_table_put_back_from_a_copy_means_hashing(world: World) -> None:
    copy = Path(world.lake.root) / "copy"
    shutil.copytree(world.lake.path(TILES), copy)
    late(world)
    world.calculate([("south", TWO)])
    shutil.rmtree(world.lake.path(TILES))
    shutil.copytree(copy, world.lake.path(TILES))
    other_partition(world)  # the same version number as of the late rows, and the same table id
    decided = world.decide()
    assert [it.status for it in decided.values()][:3] == ["current"] * 3
    verdict = decided["south", TWO]
    # The first entry still stands: of it the log tells that nothing changed. The second one must not be taken.
    assert verdict.inputs == world.digests("south", TWO)
    assert (verdict.status, content(world.lake, TILES, "south", TWO)) == ("check", [3, 13])
    assert world.entry("south", TWO).digest in verdict.known


def change_output(world: World) -> None:
    table(world, BUSES).delete(where("south", ONE))


def replace_output(world: World) -> None:
    write_deltalake(
        world.lake.path(BUSES), rows("south", ONE, 5), mode="overwrite", predicate=where("south", ONE)
    )  # fmt: skip


@pytest.mark.parametrize(("change", "told"), [(change_output, "DELETE"), (replace_output, "WRITE")])
def test_a_changed_output_is_told(world: World, change: Callable[[World], None], told: str) -> None:
    change(world)
    decided = world.decide()
    assert [it.status for it in decided.values()] == ["current", "current", "check", "current"]
    verdict = decided["south", ONE]
    assert verdict.reason == f"bus_day was changed in version {table(world, BUSES).version()} ({told})"
    assert list(verdict.known) == [world.entry("south", ONE).digest]
    assert verdict.inputs == world.digests("south", ONE)


def test_an_output_table_that_is_gone(world: World) -> None:
    shutil.rmtree(world.lake.path(BUSES))
    decided = world.decide()
    assert {it.status for it in decided.values()} == {"check"}
    assert decided["south", ONE].reason == "the lake has no table bus_day"


def test_an_output_that_another_writer_changed_before_it_was_recorded(world: World) -> None:
    late(world)
    replace_output(world)
    entry = world.entry("south", ONE)
    change_output(world)  # between the commit and the look at its version
    stale = tuple(replace(it, version=table(world, BUSES).version()) for it in entry.outputs)
    world.cache().record([replace(entry, outputs=stale)], "run 2")
    verdict = world.decide()["south", ONE]
    assert verdict.status == "check"


def test_all_is_calculated_when_asked_for(world: World) -> None:
    for verdict in world.decide(recompute=True).values():
        assert (verdict.status, verdict.reason) == ("compute", "asked for")
        assert verdict.inputs == {TILES: None, NETWORK: None}


def some_rows(random: Random) -> pa.Table:
    return rows(*random.choice(KEYS), random.randrange(20))


def copy_away(world: World, random: Random) -> None:
    name = random.choice([TILES, NETWORK, BUSES])
    shutil.rmtree(Path(world.lake.root) / "copy" / name, ignore_errors=True)
    shutil.copytree(world.lake.path(name), Path(world.lake.root) / "copy" / name)


def put_back(world: World, random: Random) -> None:
    copies = sorted((Path(world.lake.root) / "copy").glob("*"))
    if copies:
        copy = random.choice(copies)
        shutil.rmtree(world.lake.path(copy.name))
        shutil.copytree(copy, world.lake.path(copy.name))


def lose_log(world: World, random: Random) -> None:
    name = random.choice([TILES, NETWORK, BUSES])
    table(world, name).create_checkpoint()
    commits = sorted(log_folder(world, name).glob("*.json"))
    for path in commits[: random.randrange(len(commits))]:  # without its last commit nobody can write to it
        path.unlink()


def restore(world: World, random: Random) -> None:
    name = random.choice([TILES, BUSES])
    table(world, name).restore(random.randrange(table(world, name).version() + 1))


def change_network(world: World, random: Random) -> None:
    write_deltalake(world.lake.path(NETWORK), some_rows(random).drop_columns("date"), mode="append")


EVENTS: dict[str, Callable[[World, Random], Any]] = {
    "run": lambda world, _: world.run(),
    "append": lambda world, random: write_deltalake(world.lake.path(TILES), some_rows(random), mode="append"),
    "delete": lambda world, random: table(world, TILES).delete(f"v = {random.randrange(20)}"),
    "update": lambda world, random: table(world, TILES).update(
        updates={"v": "v + 1"}, predicate=where(*random.choice(KEYS))
    ),
    "optimize": lambda world, random: table(world, random.choice([TILES, NETWORK, BUSES])).optimize.compact(),
    "vacuum": lambda world, _: table(world, TILES).vacuum(0, enforce_retention_duration=False, dry_run=False),
    "network": change_network,
    "restore": restore,
    "lose log": lose_log,
    "copy away": copy_away,
    "put back": put_back,
    "spoil output": lambda world, random: table(world, BUSES).delete(where(*random.choice(KEYS))),
    "another run": lambda world, _: replace(world, fingerprint=prints(v_min_pu=0.95)).run(),
}


# No shrinking: each step writes tables.
@hypothesis_settings(max_examples=12, phases=[Phase.generate])
@given(st.lists(st.sampled_from(["run", *EVENTS]), min_size=6, max_size=12), st.randoms(use_true_random=False))
def test_what_is_current_is_what_a_calculation_would_give(events: list[str], random: Random) -> None:
    with TemporaryDirectory() as folder:
        world = build(Path(folder))
        for event in events:
            # A version whose files were vacuumed cannot be restored, and so on: then nothing happened.
            with contextlib.suppress(DeltaError, OSError, ValueError):
                EVENTS[event](world, random)
            for key, verdict in world.decide().items():
                if verdict.status == "current":
                    assert verdict.entry is not None
                    assert verdict.entry.digest == world.entry(*key).digest
                    assert content(world.lake, BUSES, *key) == [world.result(*key)]
        world.run()
        assert world.status() == ["current"] * 4
