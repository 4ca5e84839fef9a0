"""A lake whose inputs were calculated once: change it, run again, compare with a run that knows nothing of before.

Tasks run in this process instead of in Spark's workers, which takes a tenth of the time; all else is as in the job.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from pyspark.sql import SparkSession

from jobs.powerflow import solve
from lib.algorithm import figures
from lib.algorithm.operators.powerflow import PowerFlowOperator
from lib.analysis.blocks import CellKey
from lib.calculation import local, side
from lib.calculation.located import Selection
from lib.calculation.worker import REPORT, Work, run_cells
from lib.fusion.run import run_steps
from lib.fusion.step import StepRun
from lib.job import JobContext
from lib.tables import ARROW, Lake
from lib.tables.tiles import encode
from tests.jobs.solving import RESULTS, copy_lake, matrix, rows_of, settings_of
from tests.lakes import FIRST

SECOND, THIRD = FIRST + timedelta(1), FIRST + timedelta(2)
N1, N2, S1, S2 = [(region, day) for region in ("north", "south") for day in (FIRST, SECOND)]
ALL = {N1, N2, S1, S2}
TILES, NETWORK = "snapshot_tile", "network"


@dataclass(frozen=True)
class Seen:
    """What a run did with which cells, and what it came to."""

    computed: set[CellKey]
    found: set[CellKey]
    current: set[CellKey]
    gone: int
    quarantined: int
    partials: dict[CellKey, pa.Table]
    tables: dict[str, pa.Table]
    step: StepRun


@dataclass
class World:
    """One lake, and how it is run."""

    spark: SparkSession
    lake: Lake
    empty: Path
    """A lake with result tables without rows."""
    overrides: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    operator: Callable[[Any, dict[str, Any]], Any] = lambda settings, options: PowerFlowOperator.from_settings(
        settings, full_voltages=options.get("full_voltages", False)
    )
    _numbers: Any = field(default_factory=itertools.count)

    def path(self, table: str) -> str:
        return self.lake.path(table)

    def table(self, name: str) -> DeltaTable:
        return DeltaTable(self.path(name))

    def rows(self, name: str) -> list[dict[str, Any]]:
        return rows_of(self.lake, name).to_pylist()

    def write(self, name: str, rows: Sequence[dict[str, Any]], **options: Any) -> None:
        write_deltalake(self.path(name), pa.Table.from_pylist(list(rows), schema=ARROW[name]), **options)

    def sql(self, text: str) -> None:
        """`{name}` stands for a table."""
        self.spark.sql(text.format(**{name: f"delta.`{self.path(name)}`" for name in (TILES, NETWORK, *RESULTS)}))

    def step(self, lake: Lake | None = None, **options: Any) -> StepRun:
        lake = lake or self.lake
        options = self.options | options
        settings = settings_of(lake, *self.overrides)
        folder = Path(lake.root) / "_runs" / str(next(self._numbers))
        context = JobContext(solve.JOB, settings, options, folder.name, folder)
        context.__dict__["spark"] = self.spark
        chosen = Selection(options.get("regions", ()), options.get("first"), options.get("last"))
        return StepRun(context, self.operator(settings, options), chosen, bool(options.get("recompute")))

    def run(self, lake: Lake | None = None, **options: Any) -> Seen:
        lake = lake or self.lake
        step = self.step(lake, **options)
        run_steps(step.context, [step])
        partials = {key: figures.from_bytes(it) for key, it in step.partials(sorted(step.cells)).items()}
        computed, found = set(step.computed), set(step._found)
        tables = {name: self._rows(lake, name) for name in (*step.operator.outputs, "quarantine")}
        gone, quarantined = sum(it.gone for it in step.counts.values()), sum(step.quarantined.values())
        tables = {name: self._rows(lake, name) for name in (*step.operator.outputs, "quarantine")}
        gone, quarantined = sum(it.gone for it in step.counts.values()), sum(step.quarantined.values())
        current = set(step.cells) - computed - found
        return Seen(computed, found, current, gone, quarantined, partials, tables, step)

    def cold(self, **options: Any) -> Seen:
        """A run over a copy of the inputs, in a process that remembers nothing."""
        root = Path(self.lake.root).with_name(f"cold{next(self._numbers)}")
        lake = copy_lake(self.lake, root)
        shutil.copytree(self.empty / "gold", root / "gold")
        side._indexes.clear()
        side._states.clear()
        return self.run(lake, **options)

    def check(self, computed: set[CellKey], found: set[CellKey] = frozenset(), **options: Any) -> Seen:  # type: ignore[assignment]
        """Runs; asserts that these cells were calculated or found, and that all is as in a cold run."""
        seen, cold = self.run(**options), self.cold(**options)
        assert_same(seen, cold)
        assert (seen.computed, seen.found) == (computed, found)
        assert cold.computed == seen.computed | seen.found | seen.current
        return seen

    def copy(self, to: Path) -> Path:
        """A copy of the lake's folder."""
        shutil.copytree(self.lake.root, to)
        return to

    def put_back(self, copy: Path, *layers: str) -> None:
        """The layers (silver, gold, cache) as they were when the copy was made."""
        for layer in layers:
            shutil.rmtree(f"{self.lake.root}/{layer}")
            shutil.copytree(copy / layer, f"{self.lake.root}/{layer}")

    def _rows(self, lake: Lake, name: str) -> pa.Table:
        try:
            return rows_of(lake, name)
        except DeltaError:  # deletion vectors
            names = ARROW[name].names
            rows = lake.read(self.spark, name).select(names).toArrow().cast(ARROW[name])
            return rows.sort_by([(field.name, "ascending") for field in ARROW[name] if field.type != pa.binary()])


def assert_same(seen: Seen, cold: Seen) -> None:
    """Tables, partials and counts of quarantine, bit for bit."""
    for name, rows in cold.tables.items():
        assert seen.tables[name].equals(rows), f"{name} differs from a cold run's"
    assert seen.partials == cold.partials, "partials differ from a cold run's"
    assert seen.quarantined == cold.quarantined


def run_here(
    spark: Any, lake: Lake, operator: Any, plan: Any, blocks: Any, memory_bytes: int, hash_only: bool = False
) -> list[local.Outcome]:
    """As `local.run`, in this process."""
    if plan.table in plan.reasons or not blocks:
        return _through_spark(spark, lake, operator, plan, blocks, memory_bytes, hash_only)
    roots = {table: lake.path(table) for table in operator.outputs}
    task = run_cells(Work(operator, plan.root, plan.side_root, roots, memory_bytes, hash_only, plan.beside_root))
    batches = [pa.RecordBatch.from_pydict({"cell": [cell.to_json() for cell in block]}) for block in blocks]
    return local.gather(pa.Table.from_batches([report for batch in batches for report in task([batch])], REPORT))


_through_spark = local.run


def start(spark: SparkSession, tiny_lake: Lake, root: Path) -> World:
    """The tiny lake, calculated once."""
    empty = Lake(str(root / "empty"))
    for table in (*RESULTS, "state_tile"):
        empty.create(table)
    lake = copy_lake(tiny_lake, root / "lake")
    shutil.copytree(root / "empty" / "gold", root / "lake" / "gold")
    world = World(spark, lake, root / "empty")
    assert world.run().computed == ALL
    return world


def again(world: World, root: Path) -> World:
    """A copy of a world, to be spoilt."""
    world.copy(root / "lake")
    return World(world.spark, Lake(str(root / "lake")), world.empty)


@pytest.fixture(scope="module")
def in_process() -> Any:
    patch = pytest.MonkeyPatch()
    patch.setattr(local, "run", run_here)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def calculated(
    spark: SparkSession, tiny_lake: Lake, in_process: None, tmp_path_factory: pytest.TempPathFactory
) -> World:
    return start(spark, tiny_lake, tmp_path_factory.mktemp("calculated"))


@pytest.fixture
def world(calculated: World, tmp_path: Path) -> World:
    return again(calculated, tmp_path)


def is_cell(row: dict[str, Any], key: CellKey, first_slot: int | None = None) -> bool:
    return (row["region"], row["date"]) == key and first_slot in (None, row.get("first_slot"))


def where(key: CellKey, first_slot: int | None = None) -> str:
    text = f"region = '{key[0]}' AND date = '{key[1]}'"
    return text if first_slot is None else f"{text} AND first_slot = {first_slot}"


def day_after(rows: list[dict[str, Any]], region: str, day: date) -> list[dict[str, Any]]:
    """The region's first day once more, at another date."""
    moved = timedelta(days=(day - FIRST).days)
    return [r | {"date": day, "first_ts": r["first_ts"] + moved} for r in rows if is_cell(r, (region, FIRST))]


def corrected(row: dict[str, Any], factor: float = 1.1) -> dict[str, Any]:
    return row | {"p_kw": encode(matrix(row, "p_kw") * np.float32(factor))}


def one_tile(world: World, factor: float = 1.1) -> pa.Table:
    rows = [corrected(row, factor) for row in world.rows(TILES) if is_cell(row, S2, 32)]
    return pa.Table.from_pylist(rows, schema=ARROW[TILES])


def correct(world: World, factor: float = 1.1) -> None:
    """One value of one cell, as a source that sends a day again does."""
    rows = [corrected(row, factor) if row["first_slot"] == 32 else row for row in world.rows(TILES) if is_cell(row, S2)]
    world.write(TILES, rows, mode="overwrite", predicate=where(S2))


def merge(world: World, factor: float = 1.1) -> None:
    on = " AND ".join(f"t.{name} = s.{name}" for name in ("region", "date", "network_id", "first_slot"))
    merger = world.table(TILES).merge(one_tile(world, factor), on, source_alias="s", target_alias="t")
    merger.when_matched_update_all().execute()
