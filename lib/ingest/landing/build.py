"""Writing the demo landing: one task a region and day, in the workers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from lib.errors import GridsinkError
from lib.ingest.demo import source_path
from lib.ingest.landing import files
from lib.ingest.landing.customers import Recipe
from lib.ingest.landing.master import master_files
from lib.ingest.landing.operations import operation_files
from lib.ingest.landing.readings import meter_files
from lib.ingest.landing.region import DemoRegion
from lib.ingest.landing.source import LandingSource, from_simbench
from lib.ingest.landing.truth import area_loss, fault_table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_MARKER = "_demo.json"
_COUNTS = "region string, source string, files bigint, rows bigint"


@dataclass(frozen=True)
class Order:
    """One region's landing to write: `source` is the .npz of its LandingSource, `landing` the folder of all regions."""

    recipe: Recipe
    source: str
    landing: str
    first: date
    days: int

    @property
    def folder(self) -> Path:
        return Path(self.landing) / self.recipe.region

    @property
    def truth(self) -> Path:
        """Beside the landing, so that nothing that reads the landing comes by."""
        return Path(self.landing).parent / "truth" / self.recipe.region


@dataclass(frozen=True)
class Written:
    """Files and rows of one source of one region."""

    region: str
    source: str
    files: int
    rows: int


def write_day(region: DemoRegion, day: date, folder: Path, truth: Path) -> list[Written]:
    """Everything that is delivered for one day, and its truth."""
    it = region.solve(day)
    meters, faults = meter_files(region, day, it)
    rows = [("meters", name, table) for name, table in meters] + operation_files(region, day, it)
    files.write(truth / "faults" / f"{day}.parquet", fault_table(region, faults))
    files.write(truth / "area_loss" / f"{day}.parquet", area_loss(region, day, it))
    return [Written(region.recipe.region, s, 1, files.write(folder / s / name, table)) for s, name, table in rows]


def write_master(region: DemoRegion, folder: Path, truth: Path) -> list[Written]:
    """Everything that is delivered once, and the truth about the faults that outlast a day."""
    area_type = "rural" if "rural" in region.recipe.network_id else "urban"
    files.write(truth / "faults" / "plan.parquet", fault_table(region, region.plan.faults))
    return [
        Written(region.recipe.region, source.split("/")[0], 1, files.write(folder / source / name, rows))
        for source, name, rows in master_files(region, area_type)
    ]


def prepare(spark: SparkSession, orders: Iterable[Order]) -> None:
    """Make the sources that are absent, each in a worker: a SimBench network takes seconds and much memory to load."""
    absent = sorted({(it.source, it.recipe.network_id) for it in orders if not Path(it.source).exists()})

    def make(task: int) -> list[Written]:
        path, code = absent[task]
        from_simbench(code).save(Path(path))
        return []

    if absent:
        _run(spark, len(absent), make)


def build(spark: SparkSession, orders: Sequence[Order]) -> Iterator[Written]:
    """Write each region's landing anew, a task for what is delivered once and one for each day.

    Raises GridsinkError for a folder with files that this did not write: they are never deleted.
    """
    for order in orders:
        _clear(order)
    for order in orders:

        def make(task: int, order: Order = order) -> list[Written]:
            region = _region(order)
            if task == order.days:
                return write_master(region, order.folder, order.truth)
            return write_day(region, region.days[task], order.folder, order.truth)

        yield from _run(spark, order.days + 1, make)


def orders_of(settings: Any, names: Sequence[str] = (), days: int | None = None) -> list[Order]:
    """The regions of the settings' demo landing, or those named. Raises GridsinkError for an unknown one."""
    it = settings.landing
    path = it.path.removeprefix("file://")
    if "://" in path:
        raise GridsinkError(
            "the demo landing is written into a folder that all workers see", path,
            "set landing.path to a local folder or a shared mount; the files can be copied anywhere",
        )  # fmt: skip
    wanted = list(dict.fromkeys(names or it.regions))
    unknown = [name for name in wanted if name not in settings.regions]
    if unknown:
        known = ", ".join(settings.regions)
        raise GridsinkError(f"there is no region {', '.join(unknown)}", "regions", f"regions are {known}")
    sources = Path(path).parent / "landing_sources"
    orders = []
    for name in wanted:
        region = settings.regions[name]
        recipe = Recipe(
            name, region.simbench_code, region.time_zone, it.seed, it.noise,
            it.zipf_s if name in it.zipf_regions else -1.0, it.customers_per_load, it.missing_share, it.faulty_areas,
        )  # fmt: skip
        source = str(source_path(sources, region.simbench_code))
        orders.append(Order(recipe, source, path, it.start, days or it.days))
    return orders


def _clear(order: Order) -> None:
    marker = order.folder / _MARKER
    if order.folder.exists():
        if any(order.folder.iterdir()) and not marker.exists():
            raise GridsinkError(
                f"region {order.recipe.region} has a landing that is not the demo's", str(order.folder),
                "set landing.path to another folder; files of source systems are never deleted",
            )  # fmt: skip
        shutil.rmtree(order.folder)
    shutil.rmtree(order.truth, ignore_errors=True)
    order.folder.mkdir(parents=True)
    marker.write_text(json.dumps(asdict(order), default=str, indent=2) + "\n")


@lru_cache(maxsize=2)
def _region(order: Order) -> DemoRegion:
    source = cast(LandingSource, LandingSource.load(Path(order.source)))
    return DemoRegion(source, order.recipe, order.first, order.days)


def _run(spark: SparkSession, tasks: int, make: Callable[[int], list[Written]]) -> list[Written]:
    """`make(0)`, `make(1)` ... in the workers, one task each; what they wrote, summed over each source's files."""

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for task in batch.column(0).to_pylist():
                if found := make(task):
                    yield pa.RecordBatch.from_pylist([asdict(it) for it in found])

    counts = spark.range(0, tasks, 1, tasks).mapInArrow(run, _COUNTS).groupBy("region", "source")
    rows = counts.agg({"files": "sum", "rows": "sum"}).orderBy("source").collect()
    return [Written(row["region"], row["source"], row["sum(files)"], row["sum(rows)"]) for row in rows]
