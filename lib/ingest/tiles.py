"""Meters' days to snapshot_tile: long rows to [bus][slot] matrices, as a salted group.

A key is a network and day. Its meters are parted by the row of the matrices that their bus is, so that every part gives
finished rows of the result: parts are laid side by side, never added, and together they are as large as the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from lib.calculation.frames import read
from lib.calculation.replace import replace
from lib.ingest.silver import Counts, between, quarantine, runs
from lib.ingest.times import day_begin
from lib.salting import SaltPlan, plan, profile, salted_group_map
from lib.salting.profile import MOST_REDUCERS
from lib.setting_groups import IngestSettings
from lib.tables import SCHEMAS, Lake
from lib.tables.tiles import LANES, encode, slot_status

KEYS = ("date", "network_id", "network_version")
ROWS = pa.schema(
    [
        ("row", pa.int32()),  # of the matrices
        ("n_bus", pa.int32()),
        ("start_s", pa.int64()),  # of the day, UTC, s since 1970
        ("interval_s", pa.int32()),
        ("slots", pa.int32()),
        *((name, pa.list_(pa.float32())) for name in ("p_kw", "q_kvar", "u_a_v", "u_b_v", "u_c_v")),
    ]
)
"""One meter and day: what `partial` needs."""
_CONSTANTS = ("n_bus", "start_s", "interval_s", "slots")
_RESULT = (
    "first_slot int, slot_count int, first_us bigint, interval_s int, n_bus int, p_kw binary, q_kvar binary,"
    " u_v binary, slot_status binary"
)
_SLOTS = 96  # of an ordinary day
_PLACES = (
    "network_id string, network_version int, model_from date, model_to date, n_bus int, kind string, element bigint,"
    " row int"
)


def load(
    spark: SparkSession, lake: Lake, settings: IngestSettings, region: str, zone: str, days: set[date], run_id: str
) -> Counts:
    """snapshot_tile of these days from meter_day, network and meter_bus; counts of customers' meter-days."""
    total = Counts(region, "snapshot_tile")
    places = _buses(read(spark, lake, "network", region)).persist()
    try:
        for first, last in runs(days):
            total += _run(spark, lake, settings, region, zone, first, last, places, run_id)
    finally:
        places.unpersist()
    return total


def _run(
    spark: SparkSession, lake: Lake, settings: IngestSettings, region: str, zone: str,
    first: date, last: date, places: DataFrame, run_id: str,
) -> Counts:  # fmt: skip
    meters = _placed(spark, lake, region, first, last, places)
    keys = meters.select(*KEYS, "kind", "element", "row").persist()
    try:
        lost = keys.where("row IS NULL")
        outside = lost.count()
        quarantine(spark, lake, "snapshot_tile", _told(lost) if outside else None, region, between(first, last), run_id)
        found = profile(keys.where("row IS NOT NULL"), KEYS)
    finally:
        keys.unpersist()
    rows = meters.where("row IS NOT NULL").withColumns(
        {"start_s": f.unix_seconds(day_begin(f.col("date"), f.lit(zone))), "row": f.col("row").cast("int")}
    )
    rows = rows.select(*KEYS, *ROWS.names)
    tasks = spark.sparkContext.defaultParallelism
    reducers = min(MOST_REDUCERS, max(tasks, -(-found.rows * _SLOTS // settings.rows_per_task)))
    made = tiles(rows, plan(found, reducers), settings.least_share)
    replace(
        lake, "snapshot_tile", made.withColumn("region", f.lit(region)).select(*SCHEMAS["snapshot_tile"].names),
        region=region, first=first, last=last, run_id=run_id,
    )  # fmt: skip
    return Counts(region, "snapshot_tile", found.rows + outside, found.rows, outside)


def tiles(rows: DataFrame, how: SaltPlan, least_share: float) -> DataFrame:
    """Tiles of all networks and days in rows (KEYS and ROWS)."""
    made = salted_group_map(
        rows, KEYS, partial, lambda partials: merge(partials, least_share), _RESULT, row_key=["row"],
        plan=how, columns=ROWS.names, ordered=False,
    )  # fmt: skip
    return made.withColumn("first_ts", f.timestamp_micros("first_us")).drop("first_us")


def partial(meters: pa.Table) -> pa.Table:
    """Rows of the matrices from all the meters of some of a network's buses (ROWS), as one row of bytes.

    Sums are of whole mW and mvar and means of whole mV, so that the order of meters cannot show.
    """
    slots = meters["slots"][0].as_py()
    row, place = np.unique(meters["row"].to_numpy(), return_inverse=True)
    drawn = _matrix(meters["p_kw"], slots)
    present = np.isfinite(drawn)
    powers = [_sums(it, place, len(row)) / -1e6 + 0.0 for it in (drawn, _matrix(meters["q_kvar"], slots))]
    phases = [_matrix(meters[name], slots) for name in ("u_a_v", "u_b_v", "u_c_v")]
    measured = sum(np.isfinite(it).astype(np.int64) for it in phases)
    volts = sum(np.where(np.isfinite(it), np.rint(it * 1e3), 0).astype(np.int64) for it in phases)
    known = np.asarray(measured > 0)
    mean_mv = np.where(known, volts // np.maximum(measured, 1), 0)
    count, total = np.zeros((2, len(row), slots), np.int64)
    np.add.at(count, place, known)
    np.add.at(total, place, mean_mv)
    u_v = np.where(count > 0, total / np.maximum(count, 1) / 1e3, np.nan)
    has = np.flatnonzero((count > 0).any(axis=1))
    columns = {
        "row": row.astype("<i4"), "p_kw": powers[0].astype("<f4"), "q_kvar": powers[1].astype("<f4"),
        "u_row": row[has].astype("<i4"), "u_v": u_v[has].astype("<f4"), "present": present.sum(axis=0, dtype="<i4"),
    }  # fmt: skip
    constants = {name: meters[name].combine_chunks()[:1] for name in _CONSTANTS}
    return pa.table(
        {name: pa.array([it.tobytes()], pa.binary()) for name, it in columns.items()}
        | constants
        | {"meters": pa.array([meters.num_rows], pa.int64())}
    )


def merge(partials: list[pa.Table], least_share: float) -> pa.Table:
    """The tiles of one network and day, none where no slot can be solved.

    Raises ValueError where two partials have a row in common.
    """
    slots, n_bus, start_s, interval_s = (partials[0][name][0].as_py() for name in ("slots", *_CONSTANTS[:3]))
    p_kw, q_kvar = np.zeros((2, n_bus, slots), np.float32)
    u_v = np.full((n_bus, -(-slots // LANES) * LANES), np.nan, np.float32)
    present, seen = np.zeros(slots, np.int64), np.zeros(n_bus, bool)
    measured = False
    for it in partials:
        row, u_row, here = (np.frombuffer(it[name][0].as_buffer(), "<i4") for name in ("row", "u_row", "present"))
        if seen[row].any():
            raise ValueError("meters of one bus came in two parts: raise ingest.rows_per_task")
        seen[row] = True
        for name, matrix in (("p_kw", p_kw), ("q_kvar", q_kvar)):
            matrix[row] = np.frombuffer(it[name][0].as_buffer(), "<f4").reshape(-1, slots)
        u_v[u_row, :slots] = np.frombuffer(it["u_v"][0].as_buffer(), "<f4").reshape(-1, slots)
        measured |= len(u_row) > 0
        present += here
    missing = present < least_share * sum(it["meters"][0].as_py() for it in partials)
    if missing.all():
        return _TILES.empty_table()
    rows = []
    for first in range(0, slots, LANES):
        part = slice(first, min(first + LANES, slots))
        end_us = (start_s + interval_s * (first + 1)) * 1_000_000
        rows.append(
            {
                "first_slot": first, "slot_count": part.stop - first, "first_us": end_us, "interval_s": interval_s,
                "n_bus": n_bus, "p_kw": encode(p_kw[:, part]), "q_kvar": encode(q_kvar[:, part]),
                "u_v": encode(u_v[:, first : first + LANES]) if measured else None,
                "slot_status": slot_status(part.stop - first, np.flatnonzero(missing[part])),
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=_TILES)


_TILES = pa.schema(
    [
        *((name, pa.int32()) for name in ("first_slot", "slot_count")),
        ("first_us", pa.int64()),
        *((name, pa.int32()) for name in ("interval_s", "n_bus")),
        *((name, pa.binary()) for name in ("p_kw", "q_kvar", "u_v", "slot_status")),
    ]
)


def _matrix(column: pa.ChunkedArray, slots: int) -> NDArray[np.float64]:
    """(meter, slot), NaN where there is no value."""
    lists = column.combine_chunks()
    has = lists.is_valid().to_numpy(zero_copy_only=False)
    values = np.full((len(has), slots), np.nan)
    values[has] = pc.list_flatten(lists).to_numpy(zero_copy_only=False).reshape(-1, slots)
    return values


def _sums(values: NDArray[np.float64], place: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Per bus and slot, in millionths."""
    result = np.zeros((count, values.shape[1]), np.int64)
    np.add.at(result, place, np.rint(np.where(np.isfinite(values), values, 0) * 1e6).astype(np.int64))
    return result


def _placed(spark: SparkSession, lake: Lake, region: str, first: date, last: date, places: DataFrame) -> DataFrame:
    """Customers' meter-days with the row of the matrices at which each hangs, null where no model says so.

    That is the bus that meter_bus names, else the low-voltage bus of the transformer that the records name.
    """
    day = f.col("date")
    days = read(spark, lake, "meter_day", region, first, last).where("NOT is_gate")
    days = days.select("date", "meter_id", "transformer_id", "interval_s", *ROWS.names[4:])
    period = f.struct("valid_from", "network_id", "bus", "valid_to")
    buses = read(spark, lake, "meter_bus", region)
    buses = buses.groupBy("meter_id").agg(f.collect_list(period).alias("buses"))
    # of those that hold, the one that began last
    bus = f.array_max(
        f.filter("buses", lambda it: (day >= it.valid_from) & (it.valid_to.isNull() | (day < it.valid_to)))
    )
    element = read(spark, lake, "transformer", region).where("element IS NOT NULL")
    element = element.select("transformer_id", f.struct("network_id", "element").alias("trafo"))
    meters = days.join(buses, "meter_id", "left").withColumn("bus", bus)
    meters = meters.join(f.broadcast(element), "transformer_id", "left")
    named = f.col("bus").isNotNull()
    meters = meters.select(
        "date", "meter_id", *ROWS.names[3:],
        f.when(named, f.col("bus.network_id")).otherwise(f.col("trafo.network_id")).alias("network_id"),
        f.when(named, "bus").when(f.col("trafo").isNotNull(), "trafo").alias("kind"),
        f.when(named, f.col("bus.bus")).otherwise(f.col("trafo.element")).alias("element"),
    )  # fmt: skip
    same = [meters[name] == places[name] for name in ("network_id", "kind", "element")]
    holds = (day >= places.model_from) & (places.model_to.isNull() | (day < places.model_to))
    found = meters.join(places, [*same, holds], "left")
    return found.select(meters["*"], places.network_version, places.n_bus, places.row)


def _told(lost: DataFrame) -> DataFrame:
    """Meters that hang nowhere, as date, source_file, line, problem, rows."""
    where = f.concat_ws(" ", "kind", f.col("element").cast("string"), f.lit("in the model of"), "network_id")
    reason = f.when(f.col("kind").isNull(), "no connection and no transformer says at which bus the meter hangs")
    reason = reason.otherwise(f.concat(f.lit("the meter's bus is not in service or not there: "), where))
    remedy = f.lit("mend connections, customers or transformers, or the network's model, and send them again")
    return lost.select(
        "date", f.lit(None).cast("string").alias("source_file"), f.lit(None).cast("bigint").alias("line"),
        f.struct(reason.alias("reason"), remedy.alias("remedy")).alias("problem"),
        f.lit(1).cast("bigint").alias("rows"),
    )  # fmt: skip


def _buses(networks: DataFrame) -> DataFrame:
    """Rows of the matrices by what a record may name: buses, and transformers' low-voltage sides."""

    def listed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for k in range(batch.num_rows):
                yield _listed({name: batch.column(name)[k] for name in batch.schema.names})

    names = ("network_id", "network_version", "valid_from", "valid_to", "n_bus", "content")
    return networks.select(*names).mapInArrow(listed, _PLACES)


def _listed(row: dict[str, pa.Scalar]) -> pa.RecordBatch:
    from lib.grid.network import BRANCH_KINDS, Network

    network = Network.from_bytes(row["content"].as_py())
    two_winding = network.branch_kind == BRANCH_KINDS.index("trafo")
    kinds = ["bus"] * len(network.member_bus) + ["trafo"] * int(two_winding.sum())
    element = np.concatenate([network.member_bus, network.branch_element[two_winding]])
    at = np.concatenate([network.member_row, network.branch_to[two_winding]])
    visible = at < network.n_bus
    n = int(visible.sum())
    constants = {"network_id": "network_id", "network_version": "network_version", "model_from": "valid_from"}
    constants |= {"model_to": "valid_to", "n_bus": "n_bus"}
    columns = {name: pa.repeat(row[of], n) for name, of in constants.items()}
    columns["kind"] = pa.array(kinds).filter(pa.array(visible))
    columns["element"] = pa.array(element[visible], pa.int64())
    columns["row"] = pa.array(at[visible], pa.int32())
    return pa.RecordBatch.from_pydict(columns)
