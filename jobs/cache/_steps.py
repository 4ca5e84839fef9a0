"""What the jobs on the cache look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jobs import selection

if TYPE_CHECKING:
    from lib.algorithm.pipeline import Step
    from lib.job import JobContext


def argument() -> click.Argument:
    """NAME: a pipeline, or nothing for the operator of powerflow.solve."""
    return click.Argument(["name"], required=False, type=selection.PipelineName())


def steps(context: JobContext) -> list[Step]:
    """Steps of the pipeline that was named, or the operator of powerflow.solve as the only step."""
    from lib.algorithm import pipeline
    from lib.algorithm.operators.powerflow import PowerFlowOperator

    name = context.options.get("name")
    if name:
        return list(pipeline.load(name, context.settings, context.spark).steps)
    return [pipeline.Step("powerflow.solve", PowerFlowOperator.from_settings(context.settings))]
