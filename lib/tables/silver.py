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

_VALID = (
    Column("valid_from", "date", "first civil day on which the row holds"),
    Column("valid_to", "date", "first civil day on which it no longer holds; null if open"),
)
_TRANSFORMER_ID = Column("transformer_id", "string", "transformer whose area it is, as recorded")
_PHASE = Column("phase", "string", "phases as recorded: A, B, C or ABC; null if not recorded")

# One quality code per slot and quantity: lib.tables.quality.Quality, bits that add up.
_QUALITY = "uint8 [slots], bits: 1 missing, 2 linear estimate, 4 last week's value, 8 refused, 16 suspect, 32 register,"
METER_DAY = Table(
    layer="silver",
    name="meter_day",
    comment="one meter and civil day: values per slot at the primary side, estimated where marked",
    key=("region", "date", "meter_id"),
    partition_by=("region", "date"),
    columns=(
        REGION,
        DATE,
        Column("meter_id", "string", "meter"),
        Column("network_id", "string", "network of the meter's transformer, as recorded for the day; null if none"),
        Column("transformer_id", "string", "transformer whose area the meter is in, as recorded for the day"),
        Column("is_gate", "boolean", "whether it is the transformer's own gate meter rather than a customer's"),
        _PHASE,
        Column("interval_s", "int", "s, length of a slot"),
        Column("slots", "int", "slots of the day: length of every array"),
        Column("p_kw", "array<float>", "kW, mean active power of all phases, drawn from the network positive"),
        Column("q_kvar", "array<float>", "kvar, mean reactive power of all phases, drawn positive"),
        Column("u_a_v", "array<float>", "V, phase A to neutral; null if not measured in any slot"),
        Column("u_b_v", "array<float>", "V, phase B to neutral; null if not measured in any slot"),
        Column("u_c_v", "array<float>", "V, phase C to neutral; null if not measured in any slot"),
        Column("i_a_a", "array<float>", "A, phase A; null if not measured in any slot"),
        Column("i_b_a", "array<float>", "A, phase B; null if not measured in any slot"),
        Column("i_c_a", "array<float>", "A, phase C; null if not measured in any slot"),
        Column("import_wh", "array<bigint>", "Wh, drawn from the network in the slot"),
        Column("export_wh", "array<bigint>", "Wh, fed into the network in the slot"),
        Column("p_quality", "binary", f"of p_kw: {_QUALITY} 64 corrected, 128 substitute"),
        Column("q_quality", "binary", "of q_kvar: as p_quality"),
        Column("u_quality", "binary", "of the phase voltages together: as p_quality"),
        Column("i_quality", "binary", "of the phase currents together: as p_quality"),
        Column("import_quality", "binary", "of import_wh: as p_quality"),
        Column("export_quality", "binary", "of export_wh: as p_quality"),
        Column("readings", "bigint", "readings that the row is made of; 0 where none came"),
        Column("last_gasps", "array<timestamp>", "UTC times at which the meter reported that it lost supply"),
    ),
)

METER_CONNECTION = Table(
    layer="silver",
    name="meter_connection",
    comment="where each meter is connected, as recorded by marketing; no names, no addresses",
    key=("region", "meter_id", "valid_from"),
    partition_by=("region",),
    columns=(
        REGION,
        Column("meter_id", "string", "meter"),
        Column("customer_id", "string", "customer, a pseudonym of marketing's"),
        _TRANSFORMER_ID,
        _PHASE,
        Column("tariff", "string", "tariff code"),
        *_VALID,
    ),
)

METER_BUS = Table(
    layer="silver",
    name="meter_bus",
    comment="at which bus of a network's model each meter hangs, as recorded by asset management",
    key=("region", "meter_id", "valid_from"),
    partition_by=("region",),
    columns=(
        REGION,
        Column("meter_id", "string", "meter"),
        NETWORK_ID,
        Column("bus", "bigint", "index of the bus in the network's model"),
        *_VALID,
    ),
)

TRANSFORMER = Table(
    layer="silver",
    name="transformer",
    comment="distribution transformers and their gate meters, as recorded by asset management",
    key=("region", "transformer_id", "valid_from"),
    partition_by=("region",),
    columns=(
        REGION,
        Column("transformer_id", "string", "transformer"),
        NETWORK_ID,
        Column("s_rated_kva", "double", "kVA, rating"),
        Column("gate_meter_id", "string", "meter at its low-voltage side; null if none"),
        Column("longitude", "double", "degree, WGS 84"),
        Column("latitude", "double", "degree, WGS 84"),
        Column("element", "bigint", "index in the table trafo of the network's model; null if not recorded"),
        Column("area_type", "string", "urban or rural: which limits of line loss hold; null if not recorded"),
        *_VALID,
    ),
)

TELEMETRY_DAY = Table(
    layer="silver",
    name="telemetry_day",
    comment="one measured point and civil day, in order of time",
    key=("region", "date", "point_id"),
    partition_by=("region", "date"),
    columns=(
        REGION,
        DATE,
        Column("point_id", "string", "measured point"),
        NETWORK_ID,
        Column("element_type", "string", "pandapower's table: bus, line, trafo"),
        Column("element", "bigint", "index in that table"),
        Column("side", "string", "from, to, hv or lv; null for a bus"),
        Column("measurement_type", "string", "v, p, q, i: pandapower's names"),
        Column("unit", "string", "of the values: kV or pu (v), MW (p), Mvar (q), kA (i)"),
        Column("ts", "array<timestamp>", "UTC times"),
        Column("value", "array<double>", "values in unit"),
        Column("std_dev", "array<double>", "standard deviations in unit; null where not known"),
        Column("valid", "array<boolean>", "whether the source called the value good"),
    ),
)

_NETWORK_EVENT = (REGION, DATE, NETWORK_ID)

SWITCH_STATE = Table(
    layer="silver",
    name="switch_state",
    comment="states that switches reported",
    key=("region", "date", "network_id", "switch_id", "ts"),
    partition_by=("region", "date"),
    columns=(
        *_NETWORK_EVENT,
        Column("switch_id", "string", "switch"),
        Column("ts", "timestamp", "UTC time from which the state holds"),
        Column("closed", "boolean", "whether it is closed"),
        Column("element", "bigint", "index in the table switch of the network's model; null if not recorded"),
    ),
)

ALARM = Table(
    layer="silver",
    name="alarm",
    comment="alarms of distribution automation",
    key=("region", "date", "network_id", "device_id", "ts", "code"),
    partition_by=("region", "date"),
    columns=(
        *_NETWORK_EVENT,
        Column("device_id", "string", "device that raised it"),
        Column("ts", "timestamp", "UTC time"),
        Column("code", "string", "what happened"),
        Column("severity", "string", "as the source grades it"),
        Column("text", "string", "the source's words"),
    ),
)

OUTAGE = Table(
    layer="silver",
    name="outage",
    comment="interruptions of supply as recorded by outage management; date is that of the start",
    key=("region", "date", "outage_id"),
    partition_by=("region", "date"),
    columns=(
        *_NETWORK_EVENT,
        Column("outage_id", "string", "outage"),
        Column("transformer_id", "string", "transformer without supply; null if the whole network"),
        Column("start_ts", "timestamp", "UTC begin"),
        Column("end_ts", "timestamp", "UTC end; null if it lasts"),
        Column("reported_ts", "timestamp", "UTC time of the report"),
        Column("cause", "string", "cause as recorded"),
    ),
)

TABLES = (
    NETWORK,
    SNAPSHOT_TILE,
    METER_DAY,
    METER_CONNECTION,
    METER_BUS,
    TRANSFORMER,
    TELEMETRY_DAY,
    SWITCH_STATE,
    ALARM,
    OUTAGE,
)
