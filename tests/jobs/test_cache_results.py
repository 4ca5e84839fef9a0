"""The cache never gives a wrong hit: whatever becomes of results, cache or code, runs leave what cold ones leave."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.algorithm import fingerprint
from lib.algorithm.operators.network_load import NetworkLoad
from lib.analysis.cache import Cache
from lib.calculation import parts
from tests.jobs.scenarios import (
    ALL,
    N2,
    S1,
    S2,
    THIRD,
    TILES,
    World,
    assert_same,
    calculated,
    correct,
    day_after,
    in_process,
    is_cell,
    merge,
    where,
    world,
)  # fmt: skip

__all__ = ["calculated", "in_process", "world"]

Change = Callable[[World], None]
ROOT = Path(__file__).parents[2]


def in_bus_day(row: str) -> Change:
    return lambda world: world.sql(row.format(where=where(S1), bus_day="{bus_day}"))


def hidden_rows(world: World) -> None:
    world.sql("ALTER TABLE {bus_day} SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    world.sql("DELETE FROM {bus_day} WHERE bus = 3 AND " + where(S1))


def extra_rows(world: World) -> None:
    rows = [row | {"bus": 1000} for row in world.rows("bus_day") if is_cell(row, S1)]
    world.write("bus_day", rows, mode="append")


def extra_cell(world: World) -> None:
    rows = [row | {"date": THIRD} for row in world.rows("bus_day") if is_cell(row, S1)]
    world.write("bus_day", rows, mode="append")


def earlier_version(world: World) -> None:
    """Results of before a correction."""
    version = world.table("bus_day").version()
    correct(world)
    assert world.run().computed == {S2}
    world.table("bus_day").restore(version)


def no_table(world: World) -> None:
    shutil.rmtree(world.path("branch_day"))


def damaged_and_missed(world: World) -> None:
    """A result that would be put back, but for a flipped bit."""
    (file,) = (Path(world.path("bus_day")) / f"region={S1[0]}" / f"date={S1[1]}").glob("*.parquet")
    world.table("bus_day").delete(where(S1))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "computed", "found"),
    [
        (in_bus_day("DELETE FROM {bus_day} WHERE bus = 3 AND {where}"), set(), {S1}),
        (in_bus_day("UPDATE {bus_day} SET vm_min_pu = 0.5 WHERE bus = 3 AND {where}"), set(), {S1}),
        (in_bus_day("DELETE FROM {bus_day}"), set(), ALL),
        (hidden_rows, {S1}, set()),
        (extra_rows, {S1}, set()),
        (extra_cell, set(), set()),
        (earlier_version, set(), {S2}),
        (damaged_and_missed, {S1}, set()),
    ],
)
def test_changed_results_are_put_right(world: World, change: Change, computed: set, found: set) -> None:
    change(world)
    seen = world.check(computed, found)
    for table in ("bus_day", "branch_day", "network_result"):  # Spark and delta-rs see the same
        rows = world.lake.read(world.spark, table).count()
        assert rows == seen.tables[table].num_rows > 0
    assert world.run().current == ALL


def test_a_result_table_that_is_gone(world: World) -> None:
    shutil.rmtree(world.path("branch_day"))
    world.check(ALL)


def spoil(world: World, name: str) -> None:
    """Tiles of the second day that cannot be used; `name` appears in the reason."""
    rows = [row | {"network_id": name} for row in world.rows(TILES) if is_cell(row, S2)]
    world.write(TILES, rows, mode="overwrite", predicate=where(S2))


def test_a_cell_without_a_usable_row(world: World) -> None:
    first = world.table(TILES).version()
    spoil(world, "nowhere")
    assert world.check({S2}).quarantined == 3
    assert world.check(set()).quarantined == 3
    spoil(world, "elsewhere")
    assert world.check({S2}).quarantined == 3
    spoil(world, "nowhere")
    assert world.check(set(), {S2}).quarantined == 3
    world.table(TILES).restore(first)
    assert world.check(set(), {S2}).quarantined == 0
    spoil(world, "elsewhere")
    assert world.check(set(), {S2}).quarantined == 3


@pytest.mark.parametrize("change", ["DELETE FROM {quarantine}", "UPDATE {quarantine} SET reason = 'none'"])
def test_a_changed_quarantine_is_put_right(world: World, change: str) -> None:
    spoil(world, "nowhere")
    world.run()
    world.sql(change)
    world.check(set(), {S2})


def no_cache(world: World) -> None:
    shutil.rmtree(world.path("partial"))


def no_log_of_the_cache(world: World) -> None:
    shutil.rmtree(world.path("partial") + "/_delta_log")


def truncated_cache(world: World) -> None:
    for file in Path(world.path("partial")).rglob("*.parquet"):
        file.write_bytes(file.read_bytes()[:-100])


def others_figures(world: World) -> None:
    """Each entry with the partial of another."""
    rows = world.rows("partial")
    figures = [row["figures"] for row in rows]
    world.write("partial", [r | {"figures": f} for r, f in zip(rows, figures[1:] + figures[:1], strict=True)],
                mode="overwrite")  # fmt: skip


def others_digests(world: World) -> None:
    rows = world.rows("partial")
    digests = [row["digest"] for row in rows]
    world.write("partial", [r | {"digest": d} for r, d in zip(rows, digests[1:] + digests[:1], strict=True)],
                mode="overwrite")  # fmt: skip


@pytest.mark.parametrize(
    "change", [no_cache, no_log_of_the_cache, truncated_cache, others_figures, others_digests]
)  # fmt: skip
def test_a_damaged_cache_is_calculated_anew(world: World, change: Change) -> None:
    change(world)
    world.check(ALL)
    assert world.run().current == ALL


def test_a_flipped_byte_anywhere_in_the_cache(world: World, tmp_path: Path) -> None:
    cold = world.cold()
    copy = world.copy(tmp_path / "copy")
    recomputed = 0
    for path in (file.relative_to(copy) for file in (copy / "cache").rglob("*.parquet")):
        for offset in np.linspace(4, (copy / path).stat().st_size - 9, 12).astype(int):
            world.put_back(copy, "cache", "gold")
            content = bytearray((copy / path).read_bytes())
            content[offset] ^= 0x10
            Path(world.lake.root, path).write_bytes(content)
            seen = world.run()
            assert_same(seen, cold)
            recomputed += bool(seen.computed)
    assert recomputed > 12  # the other bytes mean nothing


def test_an_earlier_cache(world: World) -> None:
    correct(world)
    world.run()
    world.table("partial").restore(world.table("partial").version() - 1)
    world.check({S2})


def test_a_parameter_and_back(world: World) -> None:
    world.overrides = ["solve.v_min_pu=0.96"]
    world.check(ALL)
    world.overrides = ["solve.v_min_pu=0.96", "solve.heavy_percent=60"]
    correct(world)
    world.check(ALL)
    world.overrides = []
    world.check({S2}, ALL - {S2})


def test_full_voltages_after_a_run_without(world: World) -> None:
    world.check(ALL, full_voltages=True)
    world.check(set(), ALL)
    world.check(set(), ALL, full_voltages=True)
    world.table("state_tile").delete(where(N2, 32))
    world.check(set(), {N2}, full_voltages=True)
    world.check(set(), ALL)


def test_another_time_zone(world: World) -> None:
    """Clocks change on this day in Berlin, and not in UTC."""
    spring = date(2016, 3, 27)
    rows = day_after(world.rows(TILES), "south", spring)
    rows[-1]["slot_count"] = 28
    world.write(TILES, rows, mode="append")
    world.check({("south", spring)})
    world.overrides = ["regions.south={simbench_code: none, time_zone: UTC}"]
    world.check({("south", spring)})
    world.overrides = []
    world.check(set(), {("south", spring)})


def test_another_library(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    version = fingerprint._version
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "_version", lambda name: "99.0" if name == "numpy" else version(name))
        fingerprint._fingerprint.cache_clear()
        world.check(ALL)
    fingerprint._fingerprint.cache_clear()
    world.check(set(), ALL)


@pytest.mark.parametrize("at", ["quarantine", "bus_day", "branch_day", "network_result", "partial", "recorded"])
def test_a_run_that_dies(world: World, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Before a table's commit, or after all of them. What it left is neither taken for more nor in the way."""
    commit, record = parts.commit, Cache.record

    def dies(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    def dies_after(*arguments: Any, **options: Any) -> Any:
        record(*arguments, **options)
        raise KeyboardInterrupt

    first = world.table(TILES).version()
    correct(world)
    with monkeypatch.context() as patch:
        if at == "quarantine":
            patch.setattr(parts, "commit_quarantine", dies)
        elif at in ("partial", "recorded"):
            patch.setattr(Cache, "record", dies if at == "partial" else dies_after)
        else:
            patch.setattr(
                parts, "commit",
                lambda lake, table, *rest, **named: (dies if table == at else commit)(lake, table, *rest, **named),
            )  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            world.run()
    copy = world.copy(Path(world.lake.root).with_name("copy"))
    world.check(set() if at == "recorded" else {S2})
    world.put_back(copy, "silver", "gold", "cache")
    world.table(TILES).restore(first)  # undone, not repeated
    world.check(set(), {S2})


def test_folders_put_back_from_copies(world: World, tmp_path: Path) -> None:
    """Versions with the same numbers are not the same versions."""
    copy = world.copy(tmp_path / "copy")
    correct(world, 1.1)
    world.check({S2})
    later = world.copy(tmp_path / "later")
    world.put_back(copy, "silver")
    correct(world, 1.2)
    world.check({S2})
    world.put_back(copy, "silver")
    world.check(set(), {S2})
    world.put_back(later, "silver", "gold")  # its cache knows what came after, too
    world.check(set())
    world.put_back(copy, "gold")  # without the result's files
    world.check({S2})
    world.put_back(copy, "silver", "gold", "cache")
    correct(world, 1.3)
    world.check({S2})
    world.put_back(later, "cache")
    world.check({S2})
    world.put_back(copy, "gold", "cache")
    merge(world, 1.1)
    world.check({S2})


def test_an_operator_without_result_files(world: World) -> None:
    world.operator = lambda settings, options: NetworkLoad()
    first = world.table(TILES).version()
    world.check(ALL)
    broken = [row | {"n_bus": 0} for row in world.rows(TILES) if is_cell(row, S2)]
    world.write(TILES, broken, mode="overwrite", predicate=where(S2))
    assert world.check({S2}).quarantined == 3
    assert world.check(set()).quarantined == 3
    world.table(TILES).restore(first)
    assert world.check(set(), {S2}).quarantined == 0
    world.write(TILES, broken, mode="overwrite", predicate=where(S2))
    assert world.check(set(), {S2}).quarantined == 3
    world.operator = lambda settings, options: NetworkLoad(high_kw=10.0)
    world.check(ALL)


OPERATOR = """
from dataclasses import dataclass
from typing import ClassVar
from lib.algorithm.operators.network_load import NetworkLoad
from sunk.helper import factor

@dataclass(frozen=True)
class Scaled(NetworkLoad):
    name: ClassVar[str] = "scaled"

    def finish(self, partial, state, day):
        batches, values = super().finish(partial, state, day)
        return batches, values | {"drawn_kwh": factor() * values["drawn_kwh"]}
"""
PROGRAM = """
import json, sys
from types import SimpleNamespace
from lib.calculation import local
from lib.tables import Lake
from lib.fusion.run import run_steps
from tests.jobs.scenarios import World, run_here
from sunk.operator import Scaled

local.run = run_here
session = SimpleNamespace(sparkContext=SimpleNamespace(defaultParallelism=2))
world = World(session, Lake(sys.argv[1]), None, operator=lambda settings, options: Scaled())
if len(sys.argv) > 2:  # edited while the run goes on
    step = world.step()
    open(sys.argv[2], "a").write("# edited")
    run_steps(step.context, [step])
seen = world.run()
drawn = sum(sum(table["drawn_kwh"].to_pylist()) for table in seen.partials.values())
reasons = {verdict.reason for verdict in seen.step.verdicts.values()}
print(json.dumps([len(seen.computed), len(seen.current), drawn, sorted(reasons)]))
"""


def test_a_changed_helper_of_an_operator(world: World, tmp_path: Path) -> None:
    """Each run in a process of its own, as Python keeps what it has imported."""
    package = tmp_path / "code" / "sunk"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "operator.py").write_text(OPERATOR)

    def run(helper: str, *arguments: str) -> list[Any]:
        (package / "helper.py").write_text(helper)
        path = os.pathsep.join([str(package.parent), str(ROOT)])
        done = subprocess.run(
            [sys.executable, "-B", "-c", PROGRAM, world.lake.root, *arguments], env=os.environ | {"PYTHONPATH": path},
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout.splitlines()[-1]))

    once = run("def factor(): return 1.0")
    assert once[:2] == [4, 0]
    assert run("# the factor\ndef factor():\n    return 1.0")[:3] == [0, 4, once[2]]
    twice = run("def factor(): return 2.0")
    assert twice[:3] == [4, 0, pytest.approx(2 * once[2])]
    assert any("source sunk.helper" in reason for reason in twice[3])
    assert run("def factor(): return 1.0")[:3] == [0, 4, once[2]]
    # What an edit may have reached is calculated, and not kept.
    assert run("def factor(): return 3.0", str(package / "helper.py"))[:2] == [4, 0]
    assert run("def factor(): return 3.0")[:2] == [4, 0]
