"""The lake's tables: schemas with units, read, idempotent write.

`TABLES[name]` describes a table, `SCHEMAS[name]` is its Spark schema, `ARROW[name]` its Arrow schema.
"""

from __future__ import annotations

from lib.tables.catalog import ARROW, SCHEMAS, TABLES
from lib.tables.lake import Lake, LakeError
from lib.tables.schema import Column, Table

__all__ = ["ARROW", "SCHEMAS", "TABLES", "Column", "Lake", "LakeError", "Table"]
