"""The options by which jobs on a lake choose days and regions."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from lib.calculation.located import Selection


def options() -> list[click.Option]:
    """--from, --to and --region, as `first`, `last` and `regions`."""
    kind = click.DateTime(["%Y-%m-%d"])
    return [
        click.Option(["--from", "first"], type=kind, help="First day.  [default: the lake's first]"),
        click.Option(["--to", "last"], type=kind, help="Last day, included.  [default: the lake's last]"),
        click.Option(["--region", "regions"], multiple=True, help="Only this region; may be given again."),
    ]


class PipelineName(click.ParamType[str]):
    """A file in conf/pipelines, or any path that ends in .yaml; told at once where it is neither."""

    name = "pipeline"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from lib.algorithm import pipeline

        known = pipeline.names()
        if not str(value).endswith(".yaml") and value not in known:
            near = difflib.get_close_matches(str(value), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            self.fail(f"there is no pipeline {value}; {hint}", param, ctx)
        return str(value)


def day(value: datetime | date | None) -> date | None:
    """The day that --from or --to names, None where it was not given."""
    return value.date() if isinstance(value, datetime) else value


def chosen(options: Mapping[str, Any]) -> Selection:
    """The days and regions that the options name."""
    from lib.calculation.located import Selection

    first, last = (day(options.get(name)) for name in ("first", "last"))
    return Selection(tuple(options.get("regions") or ()), first, last)
