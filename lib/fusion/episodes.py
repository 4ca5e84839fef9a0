"""Episodes: what operators found as runs of one day, sewn over midnights.

An operator sees one civil day, so it gives runs: quarter-hours in a row, those too short to count as well where they
reach the day's begin or end. A run that reaches the end and one of the next day that begins with it are one episode.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date

import pandas as pd
import pyarrow as pa

from lib.fusion.result import replace_days
from lib.tables import ARROW, TABLES, Lake, Table
from lib.tables.tiles import day_start

_INTERVAL = pd.Timedelta(minutes=15)
_MERGE = {
    "points": "sum", "points_estimated": "sum", "kvah": "sum", "excess_kwh": "sum", "wh": "sum", "peak_kva": "max",
    "u_min_v": "min", "u_max_v": "max", "worst_percent": "max", "first_slot": "first", "slots": "first",
}  # fmt: skip
"""How columns of an episode's runs combine; of all others the first run's value holds."""


def sew(runs: pa.Table, episodes: Table, time_zone: str) -> pa.Table:
    """Rows of `episodes` out of one region's runs, in order of their keys.

    runs: a run table, whose columns besides date, first_slot, slots, worst_slot are those of `episodes`; its rows in
    any order. Runs are sewn where a day's last slot and the next day's first are in them. An episode with fewer points
    than min_points is left out.
    """
    frame = runs.to_pandas()
    if frame.empty:
        return episodes.arrow.empty_table()
    what = [name for name in episodes.key if name not in ("date", "start_ts")]
    frame = frame.sort_values([*what, "date", "first_slot"], ignore_index=True)
    day = pd.to_datetime(frame["date"])
    begins = {it: pd.Timestamp(day_start(it, time_zone)) for it in set(frame["date"])}
    midnight = frame["date"].map(begins)
    before = frame.shift()
    same = (frame[what].fillna("") == before[what].fillna("")).all(axis=1)
    goes_on = (
        same & (day - day.shift() == pd.Timedelta(days=1)) & (frame["first_slot"] == 0)
        & (before["first_slot"] + before["points"] == before["slots"])
    )  # fmt: skip
    frame["start_ts"] = midnight + frame["first_slot"] * _INTERVAL
    frame["end_ts"] = midnight + (frame["first_slot"] + frame["points"]) * _INTERVAL
    frame["worst_ts"] = midnight + (frame["worst_slot"] + 1) * _INTERVAL
    number = (~goes_on).cumsum()
    grouped = frame.groupby(number)
    how = {name: _MERGE.get(name, "first") for name in frame.columns if name not in ("worst_slot", "end_ts")}
    found = grouped.agg(how | {"end_ts": "last"})
    found["worst_ts"] = frame.loc[grouped["worst_percent"].idxmax(), "worst_ts"].to_numpy()
    found = found[found["points"] >= found["min_points"]]
    table = pa.Table.from_pandas(found[episodes.arrow.names], schema=episodes.arrow, preserve_index=False)
    return table.sort_by([(name, "ascending") for name in episodes.key])


def update(
    lake: Lake, runs: str, episodes: str, time_zones: dict[str, str], regions: Collection[str], run_id: str
) -> pa.Table:
    """Makes table `episodes` of these regions what table `runs` says now; days that hold it already stay as they are.

    Returns the episodes of these regions. time_zones: by region.
    """
    table, found = TABLES[episodes], [TABLES[episodes].arrow.empty_table()]
    for region in sorted(regions):
        rows = pa.table(lake.snapshot(runs).to_pyarrow_table(partitions=[("region", "=", region)]))
        made = sew(rows.select(ARROW[runs].names).cast(ARROW[runs]), table, time_zones[region])
        replace_days(lake, table, made, region, run_id)
        found.append(made)
    return pa.concat_tables(found)


def between(episodes: pa.Table, time_zones: dict[str, str], first: date | None, last: date | None) -> pa.Table:
    """Those that touch the civil days `first` to `last`, both included, open if None."""
    frame = episodes.to_pandas()
    keep = pd.Series(True, index=frame.index)
    for region in frame["region"].unique():
        here = frame["region"] == region
        if first is not None:
            keep &= ~here | (frame["end_ts"] > pd.Timestamp(day_start(first, time_zones[region])))
        if last is not None:
            keep &= ~here | (frame["date"] <= last)
    return episodes.filter(pa.array(keep.to_numpy()))
