"""Rank transformer areas by the line loss that is not normal; beside it, each network's measured and technical loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jobs.mining import _work_list

if TYPE_CHECKING:
    from lib.job import JobContext, JobResult

_OF_NETWORK = ("network", "snapshot_tile")


def options() -> list[click.Parameter]:
    return _work_list.options()


def run(context: JobContext) -> JobResult:
    from lib.job import JobResult

    areas, path = _work_list.run_pipeline(context, "line_loss")
    by = ("network_id", "transformer_id")
    tables = _work_list.shown(context, "areas", areas, by, ("stake_kwh", "at_stake"))
    paths = [{"table": "pipeline_line_loss", "path": path}]
    if all(map(context.lake.exists, _OF_NETWORK)):
        networks, path = _work_list.run_pipeline(context, "network_line_loss")
        shown = ("region", "date", "network_id", "class", "measured_loss_kwh", "technical_loss_kwh",
                 "non_technical_kwh", "coverage_percent", "reason", "at_stake")  # fmt: skip
        tables["networks"] = networks.select(list(shown)).slice(0, context.options["top"]).to_pylist()
        paths.append({"table": "pipeline_network_line_loss", "path": path})
    else:
        lacking = " or ".join(_OF_NETWORK)
        context.say(f"no technical loss of networks: the lake lacks {lacking} (ingest.load makes both)")
    return JobResult({"tables": paths, "lists": tables}, tables | {"tables": paths})
