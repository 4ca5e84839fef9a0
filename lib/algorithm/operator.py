"""What an operator is: the unit of calculation that sinks to where the data lies.

An operator is a frozen dataclass: its fields are its typed parameters. It works on arrays and Arrow alone, holds no
session and opens no file, so that any engine can run it: `lib.calculation` hands it rows and takes rows away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, ClassVar, Literal, Protocol

import pyarrow as pa


class Unusable(ValueError):
    """Input that an operator cannot use; the rows concerned go to quarantine with `reason` and `remedy`."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


@dataclass(frozen=True)
class Rejected:
    """Pointer to what could not be used: `key` finds it in `table`, `rows` says how many rows it stands for.

    Of a second table (`Beside`) rows is 0: only rows of the operator's own table are counted.
    """

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
    beside: pa.Table | None = field(default=None, compare=False)
    """In `map` of an operator with a `Beside`: that table's rows of the group, sorted by their key."""


@dataclass(frozen=True)
class Side:
    """A side input: one row per group and day, found by the group's key among the rows valid on the day.

    `valid` names the columns of the first day on which a row holds and of the first on which it no longer does (null:
    open). A group without a row cannot be used, unless the side is `optional`: `prepare` then gets {}.
    """

    table: str
    columns: tuple[str, ...]
    valid: tuple[str, str]
    optional: bool = False


@dataclass(frozen=True)
class Beside:
    """A second table of the cell, partitioned by region and date too: `map` finds the group's rows in `Day.beside`.

    They are those with the group's values in the columns `on`; a group may have none, a lake no such table. All of a
    group's rows come with every block, so they should be few.
    """

    table: str
    columns: tuple[str, ...]
    on: tuple[str, ...]
    key: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """A column of a cell's partial: its type (a Spark SQL name), unit and range, and how two of them combine.

    Null stands for no value and combines with any other to that other.
    """

    merge: Literal["sum", "min", "max"]
    type: Literal["bigint", "double", "timestamp", "date", "boolean"]
    unit: str
    comment: str
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Examples:
    """Partials of one group that may be merged in any order, and the neutral element among them."""

    identity: Any
    partials: tuple[Any, ...]


class Operator(Protocol):
    """One calculation: `prepare` once per group, `map` blocks of its rows, `merge` their partials, `finish` to rows.

    Rows of `table` with equal `group` columns within a cell are one group; `key` tells rows of a group apart. The
    partial of a cell is a table of one row per group: the group's columns and `figures`; partials of several cells
    combine figure by figure (`lib.algorithm.figures`). An operator may also name a second table, `beside: Beside`.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    table: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    group: ClassVar[tuple[str, ...]]
    key: ClassVar[tuple[str, ...]]
    side: ClassVar[Side | None]
    figures: ClassVar[Mapping[str, Figure]]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Tables that `finish` makes rows for, in the order of their commits: the last one marks a cell complete."""

    def prepare(self, side: Mapping[str, Any]) -> Any:
        """State of one group from its side row ({} where there is none); kept in the process. Raises Unusable."""

    def map(self, rows: pa.Table, state: Any, day: Day) -> tuple[Any, list[Rejected]]:
        """Partial of one block: some or all rows of a group; None if none of them can be used."""

    def merge(self, a: Any, b: Any) -> Any:
        """Both partials in one: associative and commutative, bit for bit. Raises Unusable if they do not fit."""

    def finish(self, partial: Any, state: Any, day: Day) -> tuple[dict[str, pa.RecordBatch], dict[str, Any]]:
        """Rows per output table, without `region` and `date`, and the figures (None where there is no value)."""

    def equivalent(self, a: Any, b: Any) -> bool:
        """Whether two partials stand for the same result."""

    @classmethod
    def examples(cls, seed: int) -> Examples:
        """Partials to check the laws of `merge` with, made without a lake."""


def beside(operator: Any) -> Beside | None:
    """The operator's second table, if it reads one."""
    return getattr(operator, "beside", None)


def inputs(operator: Any) -> dict[str, tuple[str, ...]]:
    """Columns that count of each input table, sorted: what the operator reads, and what decides whether it does."""
    found = {operator.table: tuple(sorted({*operator.group, *operator.key, *operator.columns}))}
    side = operator.side
    if side is not None:
        found[side.table] = tuple(sorted({*operator.group, *side.valid, *side.columns}))
    second = beside(operator)
    if second is not None:
        found[second.table] = tuple(sorted({*second.on, *second.key, *second.columns}))
    return found
