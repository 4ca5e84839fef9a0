"""The options by which jobs on a lake choose days and regions."""

from __future__ import annotations

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


def day(value: datetime | date | None) -> date | None:
    """The day that --from or --to names, None where it was not given."""
    return value.date() if isinstance(value, datetime) else value


def chosen(options: Mapping[str, Any]) -> Selection:
    """The days and regions that the options name."""
    from lib.calculation.located import Selection

    first, last = (day(options.get(name)) for name in ("first", "last"))
    return Selection(tuple(options.get("regions") or ()), first, last)
