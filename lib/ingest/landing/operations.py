"""A day's files of the operating systems: last gasps, outages, alarms, telemetry."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from lib.ingest.landing import files
from lib.ingest.landing.customers import transformer_ids
from lib.ingest.landing.day import Day
from lib.ingest.landing.faults import STORM_S
from lib.ingest.landing.region import DemoRegion

_GASPS = 0.8
"""Share of the meters without supply whose last gasp arrives."""
_STORM_AREAS = 3
_BACKGROUND_ALARMS = 10


def operation_files(region: DemoRegion, day: date, it: Day) -> list[tuple[str, str, pa.Table]]:
    """Source, file name and rows of what these systems deliver for this day."""
    received = region.seconds(it.slots.stop) + 2 * 3600
    found = [
        ("meters", "events", ".jsonl", _events(region, it)),
        ("outages", "outages", ".csv", _outages(region, it)),
        ("alarms", "alarms", ".jsonl", _alarms(region, day, it)),
        ("telemetry", "telemetry", ".jsonl", _telemetry(region, day, it)),
    ]
    return [(source, files.name(feed, received, end), rows) for source, feed, end, rows in found if rows.num_rows]


def _today(region: DemoRegion, it: Day) -> list[tuple[int, int, int]]:
    """The outages that begin on this day."""
    return [outage for outage in region.plan.outages if it.slots.start <= outage[1] < it.slots.stop]


def _events(region: DemoRegion, it: Day) -> pa.Table:
    rows: list[tuple[str, int, str]] = []
    for area, first, stop in _today(region, it):
        random = region.recipe.stream("gasps", area, first)
        meters = region.customers.meter_id[region.customers.area == area]
        heard = random.random(len(meters)) < _GASPS
        delay = random.integers(0, 10, (2, len(meters)))
        rows += [
            (m, region.seconds(first) + d, "last_gasp") for m, d in zip(meters[heard], delay[0][heard], strict=True)
        ]
        rows += [(m, region.seconds(stop) + d, "power_restored") for m, d in zip(meters, delay[1], strict=True)]
    rows.sort(key=lambda row: row[1])
    return pa.table(
        {
            "meter_id": pa.array([str(row[0]) for row in rows], pa.string()),
            "ts": files.with_offset([row[1] for row in rows], region.recipe.time_zone),
            "event": pa.array([row[2] for row in rows], pa.string()),
        }
    )


def _outages(region: DemoRegion, it: Day) -> pa.Table:
    """As OMS has them: some minutes beside the truth."""
    rows: list[dict[str, Any]] = []
    ids = transformer_ids(region.source, region.recipe.region)
    for area, first, stop in _today(region, it):
        random = region.recipe.stream("oms", area, first)
        start = region.seconds(first) + int(random.integers(-120, 600))
        times = (start, region.seconds(stop) + int(random.integers(-300, 300)), start + int(random.integers(60, 900)))
        texts = files.with_offset(list(times), region.recipe.time_zone).to_pylist()
        rows.append(
            {
                "outage_id": f"{region.recipe.region}-o{region.source.area_element[area]:05d}-{first}",
                "network_id": region.recipe.network_id,
                "transformer_id": ids[area],
                **dict(zip(("start_ts", "end_ts", "reported_ts"), texts, strict=True)),
                "cause": str(random.choice(["fault", "storm", "unknown"])),
            }
        )
    return pa.Table.from_pylist(rows)


def _alarms(region: DemoRegion, day: date, it: Day) -> pa.Table:
    """Supply lost and restored, a few of every day's, and the storm: some areas' devices, over and over."""
    random = region.recipe.stream("alarms", day)
    ids = transformer_ids(region.source, region.recipe.region)
    begin, end = region.seconds(it.slots.start), region.seconds(it.slots.stop)
    rows: set[tuple[int, str, str, str]] = set()
    for area, first, stop in _today(region, it):
        rows.add((region.seconds(first), ids[area], "SUPPLY_LOST", "critical"))
        rows.add((region.seconds(stop), ids[area], "SUPPLY_RESTORED", "info"))
    for _ in range(_BACKGROUND_ALARMS):
        rows.add((int(random.integers(begin, end)), ids[random.integers(len(ids))], "COMM_LOST", "minor"))
    storm, count = region.plan.storm
    if begin <= storm < end:
        struck = random.choice(len(ids), min(_STORM_AREAS, len(ids)), replace=False)
        before = len(rows)
        while len(rows) < before + count:
            device = ids[struck[random.integers(len(struck))]]
            code = str(random.choice(["UNDERVOLTAGE", "EARTH_FAULT", "OVERCURRENT"]))
            rows.add((storm + int(random.integers(STORM_S)), device, code, "major"))
    ordered = sorted(rows)
    ts, device, codes, severity = zip(*ordered, strict=True)
    return pa.table(
        {
            "device_id": list(device),
            "network_id": [region.recipe.network_id] * len(ordered),
            "ts": files.with_offset(list(ts), region.recipe.time_zone),
            "code": list(codes),
            "severity": list(severity),
            "text": [text.lower().replace("_", " ") for text in codes],
        }
    )


def _telemetry(region: DemoRegion, day: date, it: Day) -> pa.Table:
    """P and Q of the feeding transformers, voltage above every distribution transformer, with measuring errors."""
    random = region.recipe.stream("telemetry", day)
    source, n_slot = region.source, it.slots.stop - it.slots.start
    vn_kv = source.solver_network.vn_kv
    points: list[tuple[str, int, str | None, str, np.ndarray, str, float]] = []
    for k, element in enumerate(source.feed_element.tolist()):
        for kind, values, unit in (("p", it.feed_mva[k].real, "MW"), ("q", it.feed_mva[k].imag, "Mvar")):
            points.append(("trafo", element, "hv", kind, values, unit, 0.02))
    buses, which = np.unique(source.area_hv_bus, return_index=True)
    for bus, k in zip(buses.tolist(), which.tolist(), strict=True):
        base = float(vn_kv[source.area_hv_row[k]])
        points.append(("bus", bus, None, "v", it.hv_pu[k] * base, "kV", round(0.002 * base, 4)))
    ts = files.with_offset(region.ends(day), region.recipe.time_zone)
    tables = []
    for number, (element_type, element, side, kind, values, unit, deviation) in enumerate(points):
        noisy = np.round(values + deviation * random.standard_normal(n_slot), 5)
        constants: dict[str, Any] = {
            "point_id": f"{region.recipe.region}-p{number:05d}", "network_id": region.recipe.network_id,
            "element_type": element_type, "element": element, "side": side, "measurement_type": kind,
        }  # fmt: skip
        types = {"element": pa.int64()}
        table = {
            key: pa.repeat(pa.scalar(value, types.get(key, pa.string())), n_slot) for key, value in constants.items()
        }
        table |= {"ts": ts, "value": pa.array(noisy), "unit": pa.repeat(unit, n_slot)}
        tables.append(pa.table(table | {"std_dev": pa.repeat(deviation, n_slot), "quality": pa.repeat("good", n_slot)}))
    return pa.concat_tables(tables)
