"""All tables by name."""

from __future__ import annotations

from lib.tables import bronze, cache, gold, silver
from lib.tables.schema import Table

TABLES: dict[str, Table] = {
    table.name: table for table in (*bronze.TABLES, *silver.TABLES, *gold.TABLES, *cache.TABLES)
}
SCHEMAS = {name: table.schema for name, table in TABLES.items()}
ARROW = {name: table.arrow for name, table in TABLES.items()}
