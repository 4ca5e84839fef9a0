"""What an operator is: the unit of calculation that sinks to where the data lies.

An operator is a frozen dataclass: its fields are its typed parameters. It works on arrays and Arrow alone, holds no
session and opens no file, so that any engine can run it: `lib.calculation` hands it rows and takes rows away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, ClassVar, Protocol

import pyarrow as pa


class Unusable(ValueError):
    """Input that an operator cannot use; the rows concerned go to quarantine with `reason` and `remedy`."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


@dataclass(frozen=True)
class Rejected:
    """Pointer to what could not be used: `key` finds it in `table`, `rows` says how many rows it stands for."""

    table: str
    key: Mapping[str, Any]
    reason: str
    remedy: str
    rows: int = 1


@dataclass(frozen=True)
class Day:
    """The cell that rows belong to, and the length of its civil day."""

    region: str
    date: date
    length_s: int


@dataclass(frozen=True)
class Side:
    """A side input: one row per group, found by the group's key; equal `digest` means equal content."""

    table: str
    columns: tuple[str, ...]
    digest: str


class Operator(Protocol):
    """One calculation: `prepare` once per group, `map` blocks of its rows, `merge` their partials, `finish` to rows.

    Rows of `table` with equal `group` columns within a cell are one group; `key` tells rows of a group apart.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    table: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    group: ClassVar[tuple[str, ...]]
    key: ClassVar[tuple[str, ...]]
    side: ClassVar[Side]
    figures: ClassVar[Mapping[str, str]]
    """Figures of a finished partial and how they combine: "sum", "min" or "max"."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Tables that `finish` makes rows for, in the order of their commits: the last one marks a cell complete."""

    def prepare(self, side: Mapping[str, Any]) -> Any:
        """State of one group from its side row; kept for as long as the process lives. Raises Unusable."""

    def map(self, rows: pa.Table, state: Any, day: Day) -> tuple[Any, list[Rejected]]:
        """Partial of one block: some or all rows of a group; None if none of them can be used."""

    def merge(self, a: Any, b: Any) -> Any:
        """Both partials in one: associative and commutative, bit for bit. Raises Unusable if they do not fit."""

    def finish(self, partial: Any, state: Any, day: Day) -> tuple[dict[str, pa.RecordBatch], dict[str, float]]:
        """Rows per output table, without `region` and `date`, and the figures."""
