"""Cache: what was already calculated."""

from __future__ import annotations

from lib.tables.schema import DATE, REGION, Column, Table

PARTIAL = Table(
    layer="cache",
    name="partial",
    comment="partial result of one operator and cell; rows of equal key are the same result, the last one holds",
    key=("operator", "fingerprint", "region", "date", "digest"),
    partition_by=("operator",),
    columns=(
        Column("operator", "string", "name of the operator"),
        Column("fingerprint", "string", "of the operator: its sources, parameters and library versions"),
        REGION,
        DATE,
        Column("digest", "string", "of everything that the operator read of the cell"),
        Column("inputs", "string", "JSON: each input's table, columns, table id, version and digest"),
        Column("outputs", "string", "JSON: each output's table, version, and files with size, rows and digest"),
        Column("rows_in", "bigint", "rows read"),
        Column("rows_out", "bigint", "rows used"),
        Column("rows_quarantined", "bigint", "rows in quarantine"),
        Column("rejected", "string", "JSON: rows of quarantine"),
        Column("figures", "binary", "the partial: Arrow IPC stream, one row per group"),
        Column("manifest", "string", "JSON: what the fingerprint is made of"),
        Column("checksum", "string", "of all other columns, hexadecimal"),
    ),
)

TABLES = (PARTIAL,)
