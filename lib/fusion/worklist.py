"""Work lists out of a pipeline's rows: many days of one area to one entry, what is most at stake first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lib.tables import TABLES, Lake

QUIET = ("normal", "no area")
"""Classes that nobody needs to look at."""


def ranked(rows: pa.Table, by: Sequence[str], sums: Sequence[str]) -> list[dict[str, Any]]:
    """One entry per region and `by`: class, reason and action of the day with most at stake, sums over all such days.

    rows: date, class, reason, action, at_stake and the columns in `by` and `sums`. Entries with equal amounts at stake,
    or none, come in the order of their keys.
    """
    frame = rows.to_pandas()
    frame = frame[~frame["class"].isin(QUIET)].sort_values(["at_stake", "date"], ascending=[False, True])
    keys = ["region", *by]
    grouped = frame.groupby(keys, dropna=False)
    kinds = {"days": ("date", "size"), "worst_day": ("date", "first")}
    kinds |= {name: (name, "first") for name in ("class", "reason", "action")}
    found = grouped.agg(**kinds).join(grouped[list(sums)].sum(min_count=1)).reset_index()
    found = found.sort_values(["at_stake", *keys], ascending=[False] + [True] * len(keys))
    return _plain(found[[*keys, "days", "worst_day", "class", *sums, "reason", "action"]], sums)


def classes(rows: pa.Table, sums: Sequence[str]) -> list[dict[str, Any]]:
    """Rows and sums of each class."""
    frame = rows.to_pandas()
    grouped = frame.groupby("class")
    found = grouped.agg(rows=("class", "size")).join(grouped[list(sums)].sum(min_count=1)).reset_index()
    return _plain(found.sort_values("rows", ascending=False), sums)


def _plain(frame: pd.DataFrame, sums: Sequence[str], digits: int = 2) -> list[dict[str, Any]]:
    rounded = frame.round(dict.fromkeys(sums, digits)).astype(object)
    return rounded.where(rounded.notna(), None).to_dict("records")


def largest(
    lake: Lake, table: str, order: str, columns: Sequence[str], wants: Callable[[str, date], bool], top: int
) -> list[dict[str, Any]]:
    """The `top` rows of a table with the largest values in `order`, of the wanted regions and days; equal ones by key.

    Timestamps are UTC texts to the minute, so that they read well in a terminal.
    """
    rows = lake.snapshot(table).to_pyarrow_table(columns=[*dict.fromkeys((*columns, order, *TABLES[table].key))])
    frame = pa.table(rows).to_pandas()
    frame = frame[np.array([wants(*cell) for cell in zip(frame["region"], frame["date"], strict=True)], bool)]
    keys = list(TABLES[table].key)
    frame = frame.sort_values([order, *keys], ascending=[False, *[True] * len(keys)])[list(columns)].head(top)
    for name in frame.select_dtypes("datetimetz"):
        frame[name] = frame[name].dt.tz_convert("UTC").dt.strftime("%Y-%m-%d %H:%M")
    return _plain(frame, list(frame.select_dtypes("float")), 4)
