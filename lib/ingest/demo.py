"""The demo lake: tables `network` and `snapshot_tile` from SimBench, built by the workers, day by day."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from lib.calculation import parts
from lib.calculation.parts import Part, PartWriter
from lib.calculation.replace import replace
from lib.errors import GridsinkError
from lib.grid.network import FORMAT_VERSION, Network
from lib.ingest.source import INTERVAL_S, Source, from_simbench
from lib.tables.catalog import ARROW, SCHEMAS
from lib.tables.tiles import LANES, day_slots, day_start, encode, slot_status

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from lib.tables import Lake

NETWORK_VERSION = 1


@dataclass(frozen=True)
class Region:
    """One region of the demo: `source` is the .npz of its network, meters and profiles."""

    name: str
    network_id: str
    time_zone: str
    source: str
    seed: int
    noise: float


@dataclass(frozen=True)
class Commit:
    """One commit of tiles: `days` of one region, in all `tiles` rows with `n_bus` buses."""

    region: str
    days: int
    tiles: int
    n_bus: int


def meter_noise(region: Region, day: date, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Factors (n_meter, n_slot) around 1, standard deviation `region.noise`, not below 0.

    They depend on seed, region, day, meter and slot alone: Philox (Salmon et al., SC'11) keyed by the first three, so
    that any part of the lake can be built again with the same bytes.
    """
    digest = hashlib.sha256(f"{region.seed}/{region.name}/{day.isoformat()}".encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype="<u8")))
    factor = generator.standard_normal(shape, dtype=np.float32)
    factor *= np.float32(region.noise)
    factor += np.float32(1)
    return np.maximum(factor, 0, out=factor)


def injections(source: Source, region: Region, day: date) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Net injection p_kw, q_kvar of a civil day, both (n_bus, n_slot), generation positive.

    Each is the sum of the bus's meters: power x profile x noise, P and Q of a meter with the same noise. Raises
    ValueError for a day that the profiles do not cover.
    """
    slots = day_slots(day, region.time_zone, INTERVAL_S)
    first = (int(day_start(day, region.time_zone).timestamp()) - source.start_s) // INTERVAL_S
    count = source.profile_p.shape[1]
    if first < 0 or first + slots > count:
        begin = datetime.fromtimestamp(source.start_s, UTC)
        raise ValueError(
            f"region {region.name}: the profiles of {region.network_id} do not cover {day} in {region.time_zone}; "
            f"they run from {begin:%F %H:%M} to {begin + count * timedelta(seconds=INTERVAL_S):%F %H:%M} UTC"
        )
    starts = np.searchsorted(source.meter_row, np.arange(source.n_bus + 1))
    meters = np.arange(len(source.meter_row))
    factor = meter_noise(region, day, (len(source.meter_row), slots))
    result = []
    for power, profile in ((source.meter_p_kw, source.profile_p), (source.meter_q_kvar, source.profile_q)):
        value = profile[:, first : first + slots][source.meter_profile]
        value *= factor
        result.append(csr_array((power, meters, starts), shape=(source.n_bus, len(meters))) @ value)
    return result[0], result[1]


def tiles(source: Source, region: Region, day: date) -> Iterator[pa.RecordBatch]:
    """Rows of `snapshot_tile` of one region's day, a batch each."""
    p_kw, q_kvar = injections(source, region, day)
    slots = p_kw.shape[1]
    for first in range(0, slots, LANES):
        part = slice(first, min(first + LANES, slots))
        row = {
            "region": region.name,
            "date": day,
            "network_id": region.network_id,
            "network_version": NETWORK_VERSION,
            "first_slot": first,
            "slot_count": part.stop - first,
            "first_ts": day_start(day, region.time_zone) + timedelta(seconds=INTERVAL_S * (first + 1)),
            "interval_s": INTERVAL_S,
            "n_bus": source.n_bus,
            "p_kw": encode(p_kw[:, part]),
            "q_kvar": encode(q_kvar[:, part]),
            "u_v": None,
            "slot_status": slot_status(part.stop - first),
        }
        yield pa.RecordBatch.from_pylist([row], schema=ARROW["snapshot_tile"])


def network_row(source: Source, region: Region, valid_from: date) -> pa.RecordBatch:
    """The row of `network` of one region."""
    content = source.network.tobytes()
    network = Network.from_bytes(content)
    row = {
        "region": region.name,
        "network_id": region.network_id,
        "network_version": NETWORK_VERSION,
        "valid_from": valid_from,
        "valid_to": None,
        "n_bus": network.n_bus,
        "n_row": network.n_row,
        "n_branch": network.n_branch,
        "digest": hashlib.sha256(content).hexdigest(),
        "content": content,
    }
    return pa.RecordBatch.from_pylist([row], schema=ARROW["network"])


def source_path(folder: Path, code: str) -> Path:
    """Where a SimBench network's source is kept; another version of what makes it is another file."""
    made_by = [
        f"network {FORMAT_VERSION}",
        *(f"{name} {metadata.version(name)}" for name in ("simbench", "pandapower")),
    ]
    return folder / f"{code}-{hashlib.sha256('/'.join(made_by).encode()).hexdigest()[:12]}.npz"


def prepare(spark: SparkSession, regions: Iterable[Region]) -> None:
    """Make the sources that are absent, each in a worker: a SimBench network takes seconds and much memory to load."""
    absent = sorted({(it.source, it.network_id) for it in regions if not Path(it.source).exists()})

    def make(task: int) -> Iterator[pa.RecordBatch]:
        path, code = absent[task]
        source = from_simbench(code)
        source.save(Path(path))
        yield pa.RecordBatch.from_pydict({"n_bus": [source.n_bus]})

    if absent:
        _run(spark, len(absent), make, "n_bus bigint").collect()


def build(
    spark: SparkSession, lake: Lake, regions: Iterable[Region], first: date, days: int, run_id: str = ""
) -> Iterator[Commit]:
    """Build what the lake lacks of `days` days from `first` on: one commit a region and month; yields after each.

    A day is complete when all its tiles are in the table. A region whose source, seed or noise is not what it was built
    with is emptied first. Interrupted anywhere, another call completes it.
    """
    wanted = [first + timedelta(days=k) for k in range(days)]
    lake.create("snapshot_tile")
    for region in regions:
        source = Path(region.source)
        _begin(spark, lake, region, source.parent, first, run_id)
        n_bus = int(np.load(source)["n_bus"])
        present = tile_counts(lake)
        missing = [day for day in wanted if present[region.name, day] != _tile_count(day, region.time_zone)]
        for chunk in chunks(missing):
            files = write_tiles(spark, lake, region, chunk)
            parts.commit(lake, "snapshot_tile", files, regions=[region.name], days=chunk, run_id=run_id)
            yield Commit(region.name, len(chunk), sum(_tile_count(day, region.time_zone) for day in chunk), n_bus)


def write_tiles(spark: SparkSession, lake: Lake, region: Region, days: list[date]) -> list[Part]:
    """Writes the region's tiles of `days` beside the table's files, one task and one file a day; not yet committed."""
    roots = {"snapshot_tile": lake.path("snapshot_tile")}

    def make(task: int) -> Iterator[pa.RecordBatch]:
        writer = PartWriter(roots, region.name, days[task])
        try:
            for rows in tiles(_load(region.source), region, days[task]):
                writer.add("snapshot_tile", rows, {})
            written = writer.close()
        except BaseException:
            writer.discard()
            raise
        yield pa.RecordBatch.from_pylist([part.to_json() for part in written])

    schema = "table string, region string, date string, path string, size bigint, rows bigint, digest string"
    return [Part(**row.asDict()) for row in _run(spark, len(days), make, schema).collect()]


def tile_counts(lake: Lake) -> Counter[tuple[str, date]]:
    """Tiles in the table's snapshot by (region, date); all zero if there is no table."""
    found: Counter[tuple[str, date]] = Counter()
    if lake.exists("snapshot_tile"):
        files = pa.table(lake.snapshot("snapshot_tile").get_add_actions(flatten=True))
        for it in files.select(["partition.region", "partition.date", "num_records"]).to_pylist():
            found[it["partition.region"], it["partition.date"]] += it["num_records"]
    return found


def chunks(days: list[date]) -> list[list[date]]:
    """Runs of consecutive days within one month: what one commit may replace without touching a day that is there."""
    runs: list[list[date]] = []
    for day in days:
        if runs and day - runs[-1][-1] == timedelta(days=1) and day.month == runs[-1][-1].month:
            runs[-1].append(day)
        else:
            runs.append([day])
    return runs


def holds(lake: Lake, region: str) -> bool:
    """Whether the lake's networks and tiles of the region are the demo's."""
    return _record(Path(lake.root.removeprefix("file://")) / "_demo", region).exists()


def _record(folder: Path, region: str) -> Path:
    return folder / f"{region}.json"


def _begin(spark: SparkSession, lake: Lake, region: Region, folder: Path, first: date, run_id: str) -> None:
    """Write the region's network, unless the region was begun with the same recipe already.

    Raises GridsinkError where the region's networks came from source systems.
    """
    record = _record(folder, region.name)
    recipe = json.dumps(asdict(region) | {"source": Path(region.source).name, "valid_from": first}, default=str)
    if lake.exists("network") and record.exists() and record.read_text() == recipe:
        return
    if not record.exists() and region.name in _landed_regions(lake):
        raise GridsinkError(
            f"region {region.name} has networks and tiles from source systems", lake.root,
            "set lake.path to another folder for the demo lake: what was loaded is never replaced by it",
        )  # fmt: skip
    record.unlink(missing_ok=True)
    if any(name == region.name for name, _ in tile_counts(lake)):
        nothing = spark.createDataFrame([], SCHEMAS["snapshot_tile"])
        replace(lake, "snapshot_tile", nothing, region=region.name, run_id=run_id)
    network = _run(spark, 1, lambda _: iter([network_row(_load(region.source), region, first)]), SCHEMAS["network"])
    replace(lake, "network", network, region=region.name, run_id=run_id)
    record.write_text(recipe)


def _landed_regions(lake: Lake) -> set[str]:
    """Regions of which ingest.load has taken network models."""
    if not (lake.exists("networks") and lake.exists("network")):
        return set()
    return {it["region"] for it in lake.snapshot("networks").partitions()}


def _tile_count(day: date, time_zone: str) -> int:
    return -(-day_slots(day, time_zone, INTERVAL_S) // LANES)


@lru_cache(maxsize=2)
def _load(path: str) -> Source:
    return Source.load(Path(path))


def _run(spark: SparkSession, tasks: int, make: Callable[[int], Iterator[pa.RecordBatch]], schema: Any) -> DataFrame:
    """`make(0)`, `make(1)` ... in the workers, one task each."""

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for task in batch.column(0).to_pylist():
                yield from make(task)

    return spark.range(0, tasks, 1, tasks).mapInArrow(run, schema)


def regions_of(settings: Any, names: Iterable[str] = ()) -> list[Region]:
    """The demo's regions of the settings, or those named. Raises GridsinkError for an unknown one or a remote lake."""
    path = settings.lake.path.removeprefix("file://")
    if "://" in path:
        raise GridsinkError(
            "the demo lake is built in a folder that all workers see",
            path,
            "set lake.path to a local folder or a shared mount; the finished tables can be copied to any file system",
        )
    known: Mapping[str, Any] = settings.regions
    unknown = [name for name in names if name not in known]
    if unknown:
        raise GridsinkError(f"there is no region {', '.join(unknown)}", "regions", f"regions are {', '.join(known)}")
    folder, demo = Path(path) / "_demo", settings.demo
    return [
        Region(name, it.simbench_code, it.time_zone, str(source_path(folder, it.simbench_code)), demo.seed, demo.noise)
        for name, it in known.items()
        if not names or name in names
    ]
