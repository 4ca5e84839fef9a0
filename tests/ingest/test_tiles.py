from __future__ import annotations

from datetime import UTC, date
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from lib.ingest.tiles import KEYS, ROWS, merge, partial, tiles
from lib.salting import observe, plan, profile
from lib.tables.tiles import LANES, Slot, day_slots, day_start, decode, decode_status

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ZONE = "Europe/Berlin"
LONG = date(2016, 10, 30)
VOLTAGES = ("u_a_v", "u_b_v", "u_c_v")


def meters(day: date, n_bus: int, count: int, seed: int) -> list[dict[str, Any]]:
    """Meters of one network and day, several a bus, some without voltages, some without any value."""
    random = np.random.default_rng(seed)
    slots = day_slots(day, ZONE)
    rows = []
    for _ in range(count):
        row: dict[str, Any] = {
            "row": int(random.integers(n_bus)), "n_bus": n_bus, "start_s": int(day_start(day, ZONE).timestamp()),
            "interval_s": 900, "slots": slots,
        }  # fmt: skip
        chance = random.random()
        for name in ("p_kw", "q_kvar", *VOLTAGES):
            low, high = (225, 235) if name in VOLTAGES else (-2, 9)
            values = random.uniform(low, high, slots).astype(np.float32)
            gaps = random.random(slots) < 0.05
            absent = chance < 0.1 or (name in VOLTAGES and chance < 0.5) or (name == "u_c_v" and chance < 0.8)
            row[name] = None if absent else [None if gap else float(it) for it, gap in zip(values, gaps, strict=True)]
        rows.append(row)
    return rows


def naive(rows: list[dict[str, Any]]) -> tuple[Any, Any, Any, Any]:
    """P, Q, U [bus][slot] and how many meters have a value in each slot, one value after another."""
    n_bus, slots = rows[0]["n_bus"], rows[0]["slots"]
    p, q, u = np.zeros((n_bus, slots)), np.zeros((n_bus, slots)), np.full((n_bus, slots), np.nan)
    volts: dict[tuple[int, int], list[float]] = {}
    present = np.zeros(slots, int)
    for row in rows:
        for slot in range(slots):
            for name, matrix in (("p_kw", p), ("q_kvar", q)):
                if row[name] is not None and row[name][slot] is not None:
                    matrix[row["row"], slot] -= row[name][slot]
            present[slot] += row["p_kw"] is not None and row["p_kw"][slot] is not None
            phases = [row[name][slot] for name in VOLTAGES if row[name] is not None and row[name][slot] is not None]
            if phases:
                volts.setdefault((row["row"], slot), []).append(float(np.mean(phases)))
    for at, values in volts.items():
        u[at] = np.mean(values)
    return p, q, u, present


def check(made: list[dict[str, Any]], rows: list[dict[str, Any]], least_share: float) -> None:
    p, q, u, present = naive(rows)
    n_bus, slots = p.shape
    made = sorted(made, key=lambda row: row["first_slot"])
    assert [row["first_slot"] for row in made] == list(range(0, slots, LANES))
    for row in made:
        first, count = row["first_slot"], row["slot_count"]
        part = slice(first, first + count)
        assert count == min(LANES, slots - first)
        end = rows[0]["start_s"] + 900 * (first + 1)
        at = row["first_us"] / 1e6 if "first_us" in row else row["first_ts"].replace(tzinfo=UTC).timestamp()
        assert at == end
        assert (row["interval_s"], row["n_bus"]) == (900, n_bus)
        for name, matrix in (("p_kw", p), ("q_kvar", q)):
            found = decode(bytes(row[name]), n_bus)
            np.testing.assert_allclose(found[:, :count], matrix[:, part], atol=1e-5)
            assert not found[:, count:].any()
        np.testing.assert_allclose(decode(bytes(row["u_v"]), n_bus)[:, :count], u[:, part], atol=2e-3)
        missing = present[part] < least_share * len(rows)
        expected = np.where(missing, Slot.MISSING, Slot.VALID).tolist() + [Slot.PADDED] * (LANES - count)
        assert decode_status(bytes(row["slot_status"])).tolist() == expected


@pytest.mark.parametrize("day", [date(2016, 3, 27), date(2016, 1, 5), LONG])
def test_a_networks_day_is_that_of_adding_one_value_after_another(day: date) -> None:
    rows = meters(day, 7, 30, 3)
    share = 0.86  # about as many meters as have a value in a slot: some slots have too few
    whole = merge([partial(pa.Table.from_pylist(rows, schema=ROWS))], share).to_pylist()
    check(whole, rows, share)
    statuses = np.concatenate([decode_status(row["slot_status"]) for row in whole])
    assert {Slot.VALID, Slot.MISSING} <= set(statuses.tolist())


def test_parts_by_bus_give_the_same_bytes_and_parts_of_one_bus_are_refused() -> None:
    rows = meters(LONG, 9, 40, 4)
    table = pa.Table.from_pylist(rows, schema=ROWS)
    whole = merge([partial(table)], 0.5)
    buses = table["row"].to_numpy()
    parts = [partial(table.filter(pa.array(buses % 3 == k))) for k in (2, 0, 1)]
    assert merge(parts, 0.5).equals(whole)
    assert merge([partial(table.take(pa.array(np.random.default_rng(1).permutation(40))))], 0.5).equals(whole)
    with pytest.raises(ValueError, match="two parts"):
        merge([partial(table), partial(table.slice(0, 1))], 0.5)


def test_a_day_without_a_slot_that_can_be_solved_has_no_tile() -> None:
    rows = [row | {"p_kw": None} for row in meters(LONG, 3, 5, 5)]
    assert merge([partial(pa.Table.from_pylist(rows, schema=ROWS))], 0.5).num_rows == 0


def test_without_voltages_a_tile_has_none() -> None:
    rows = [row | dict.fromkeys(VOLTAGES) for row in meters(LONG, 3, 5, 5)]
    made = merge([partial(pa.Table.from_pylist(rows, schema=ROWS))], 0.5)
    assert made["u_v"].null_count == made.num_rows


@pytest.mark.parametrize("sizes", [(400, 10, 10, 10), (60, 60, 60, 60)], ids=["skewed", "even"])
def test_a_salted_group_gives_what_adding_gives_and_merges_no_more_than_it_makes(
    spark: SparkSession, sizes: tuple[int, ...]
) -> None:
    day = date(2016, 1, 5)
    networks = {f"n{k}": meters(day, max(5, count // 2), count, k) for k, count in enumerate(sizes)}
    rows = [
        {"date": day, "network_id": name, "network_version": 1} | row for name, it in networks.items() for row in it
    ]
    keys = [pa.field("date", pa.date32()), pa.field("network_id", pa.string()), pa.field("network_version", pa.int32())]
    frame = spark.createDataFrame(pa.Table.from_pylist(rows, schema=pa.schema([*keys, *ROWS])))
    how = plan(profile(frame, KEYS), 4)
    assert how.split or sizes[0] == sizes[1]
    with observe(spark) as report:
        made = [row.asDict() for row in tiles(frame, how, 0.5).collect()]
    for name, it in networks.items():
        check([row for row in made if row["network_id"] == name], it, 0.5)
    if how.split:
        size = sum(len(row[name]) for row in made for name in ("p_kw", "q_kvar", "u_v"))
        first, second = report.stages[-2:]
        assert sum(task.rows for task in first.tasks) == sum(sizes)
        assert first.spread("rows").max_over_mean < 1.5
        assert 0 < second.spread("bytes").total <= size
