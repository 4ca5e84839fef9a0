"""Silver: cleaned inputs, in the shape the calculations eat."""

from __future__ import annotations

from lib.tables.schema import DATE, NETWORK_ID, NETWORK_VERSION, REGION, Column, Table

_TILE_KEY = ("region", "date", "network_id", "network_version", "first_slot")

TILE_COLUMNS = (
    REGION,
    DATE,
    NETWORK_ID,
    NETWORK_VERSION,
    Column("first_slot", "int", "first slot of the tile within the day, a multiple of 32, counted from 0"),
    Column("slot_count", "int", "slots of the day in this tile, 1 to 32; the rest is padding"),
    Column("first_ts", "timestamp", "UTC end of the first slot's interval"),
    Column("interval_s", "int", "s, length of an interval"),
    Column("n_bus", "int", "rows of the matrices: buses in the order of the network's bus_ids"),
)

SLOT_STATUS = Column("slot_status", "binary", "uint8 [32]: 0 valid, 1 missing, 2 padded")

SNAPSHOT_TILE = Table(
    layer="silver",
    name="snapshot_tile",
    comment="32 consecutive slots of one network: net injection per bus",
    key=_TILE_KEY,
    partition_by=("region", "date"),
    columns=(
        *TILE_COLUMNS,
        Column("p_kw", "binary", "kW, net injection, generation positive: little-endian float32 [n_bus][32]"),
        Column("q_kvar", "binary", "kvar, net injection, generation positive: little-endian float32 [n_bus][32]"),
        Column(
            "u_v",
            "binary",
            "V, measured, NaN where none: little-endian float32 [n_bus][32]; null if none at all",
        ),
        SLOT_STATUS,
    ),
    large_rows=True,
)

NETWORK = Table(
    layer="silver",
    name="network",
    comment="electrical model of each network and validity period",
    key=("region", "network_id", "network_version"),
    partition_by=("region",),
    columns=(
        REGION,
        NETWORK_ID,
        NETWORK_VERSION,
        Column("valid_from", "date", "first civil day on which the model holds"),
        Column("valid_to", "date", "first civil day on which it no longer holds; null if open"),
        Column("n_bus", "int", "visible buses"),
        Column("n_row", "int", "solver rows: visible buses and hidden ones (open line ends, star points)"),
        Column("n_branch", "int", "two-port branches"),
        Column("digest", "string", "SHA-256 of content, hexadecimal"),
        Column("content", "binary", "lib.grid.Network as bytes (Network.from_bytes)"),
    ),
    large_rows=True,
)

TABLES = (NETWORK, SNAPSHOT_TILE)
