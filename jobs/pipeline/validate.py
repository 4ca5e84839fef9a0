"""Check a pipeline's file, or all of conf/pipelines, and tell every problem at once; nothing is calculated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jobs import selection

if TYPE_CHECKING:
    from lib.job import JobContext, JobResult


def options() -> list[click.Parameter]:
    return [click.Argument(["name"], required=False, type=selection.PipelineName())]


def run(context: JobContext) -> JobResult:
    from lib.algorithm import pipeline
    from lib.job import OK, USAGE, JobResult

    name = context.options.get("name")
    problems: dict[str, list[str]] = {}
    for it in [name] if name else pipeline.names():
        problems[it] = []
        try:
            steps = pipeline.load(it, context.settings, context.spark).steps
        except pipeline.PipelineError as e:
            problems[it] = e.problems
            context.say(f"error: {e}")
        else:
            context.say(f"{it}: valid, {len(steps)} step{'s' * (len(steps) != 1)}")
    return JobResult(summary={"problems": problems}, exit_code=USAGE if any(problems.values()) else OK)
