"""Rows of an operator's second table in a worker: those of one cell, found by the columns that groups share with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from lib.algorithm.operator import Operator, beside, inputs
from lib.calculation.located import File
from lib.calculation.rows import Corrupt, FileRows
from lib.calculation.storage import filesystem
from lib.tables import ARROW
from lib.tables.digest import of_rows, row_digests


class BesideRows:
    """The rows of a cell's files of the operator's second table."""

    def __init__(self, operator: Operator, root: str, files: tuple[File, ...]) -> None:
        second = beside(operator)
        assert second is not None
        self.table, self.columns = second.table, inputs(operator)[second.table]
        self._second = second
        self._source = FileRows(filesystem(root), files, second.on, self.columns, ())
        self._places = self._source.index()

    def digest(self) -> str | None:
        """Of all rows; None where a file cannot be read."""
        digests: list[bytes] = []
        try:
            for rows in self._source.row_groups():
                digests += row_digests(rows, self.columns, ARROW[self.table])
        except Corrupt:
            return None
        return of_rows(digests)

    def of(self, group: Mapping[str, Any]) -> pa.Table:
        """The group's rows in order of their key. Raises Corrupt where a file cannot be read: it may have had some."""
        if self._source.corrupt:
            raise self._source.corrupt[0]
        places = self._places.get(tuple(group[name] for name in self._second.on), [])
        schema = pa.schema([ARROW[self.table].field(name) for name in self.columns])
        found = [self._source.read(place).select(self.columns).cast(schema) for place, _ in places]
        rows = pa.concat_tables([schema.empty_table(), *found])
        return rows.sort_by([(name, "ascending") for name in self._second.key])


def beside_rows(operator: Operator, root: str, files: tuple[File, ...]) -> BesideRows | None:
    """The rows of these files; None where the operator has no second table."""
    return None if beside(operator) is None else BesideRows(operator, root, files)
