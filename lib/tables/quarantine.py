"""Rows of the quarantine table: pointers to what a job could not use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from typing import Any


def quarantine_row(
    *, region: str, day: date, job: str, table: str, key: Mapping[str, Any], reason: str, remedy: str
) -> dict[str, Any]:
    """One row of `quarantine`. `key` holds the columns that find the row in `table`; dates in it become ISO text.

    Rows hold no clock time or run id, so that the same run twice quarantines the same rows.
    """
    if not reason or not remedy:
        raise ValueError(f"a quarantined row of {table} needs a reason and a remedy: {dict(key)}")
    return {
        "region": region,
        "date": day,
        "job": job,
        "table": table,
        "key": json.dumps(dict(key), sort_keys=True, default=str),
        "reason": reason,
        "remedy": remedy,
    }
