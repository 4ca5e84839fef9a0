"""What a step came to, region by region: its figures over all cells, and how many of them had to be calculated."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pyarrow as pa

from lib.algorithm import figures
from lib.fusion.step import StepRun


def by_region(step: StepRun) -> dict[str, dict[str, Any]]:
    """Region -> `days`, what became of them, `rows_quarantined`, and each figure combined over cells and groups.

    A figure without a value is left out. Cells whose partial cannot be had are counted and not in the figures.
    """
    wanted = sorted(key for key in step.cells if step.only.wants(*key))
    partials = step.partials(wanted)
    found: dict[str, dict[str, Any]] = {}
    for region, counts in sorted(step.counts.items()):
        keys = [key for key in wanted if key[0] == region]
        if not keys:
            continue
        tables = [figures.from_bytes(partials[key]) for key in keys if key in partials]
        merged: list[dict[str, Any]] = []
        if tables:
            merged = figures.merge([pa.concat_tables(tables)], (), step.operator.figures).to_pylist()
        values = {name: value for row in merged for name, value in row.items() if value is not None}
        quarantined = sum(step.quarantined.get(key, 0) for key in keys)
        found[region] = {"days": len(keys), "rows_quarantined": quarantined} | asdict(counts) | values
    return found
