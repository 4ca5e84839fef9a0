"""Gold: results of calculations, and what could not be used."""

from __future__ import annotations

from lib.tables.schema import DATE, NETWORK_ID, NETWORK_VERSION, REGION, Column, Table
from lib.tables.silver import SLOT_STATUS, TILE_COLUMNS

_NETWORK_DAY = (REGION, DATE, NETWORK_ID, NETWORK_VERSION)
_NETWORK_DAY_KEY = tuple(c.name for c in _NETWORK_DAY)
_SLOTS_VALID = Column("slots_valid", "int", "slots of the day that were solved; the figures cover these")

BUS_DAY = Table(
    layer="gold",
    name="bus_day",
    comment="voltage of each bus over one day",
    key=(*_NETWORK_DAY_KEY, "bus"),
    partition_by=("region", "date"),
    columns=(
        *_NETWORK_DAY,
        Column("bus", "bigint", "bus index in the source model (lowest of a fused set)"),
        Column("vn_kv", "double", "kV, nominal voltage, the base of the per-unit values"),
        Column("vm_min_pu", "double", "pu, lowest voltage magnitude"),
        Column("vm_min_ts", "timestamp", "UTC end of the first interval with the lowest magnitude"),
        Column("vm_mean_pu", "double", "pu, mean voltage magnitude"),
        Column("vm_max_pu", "double", "pu, highest voltage magnitude"),
        Column("vm_max_ts", "timestamp", "UTC end of the first interval with the highest magnitude"),
        Column("vm_p95_pu", "double", "pu, 95th percentile of the magnitude"),
        Column("minutes_below", "double", "min, time below the band"),
        Column("minutes_above", "double", "min, time above the band"),
        _SLOTS_VALID,
    ),
)

BRANCH_DAY = Table(
    layer="gold",
    name="branch_day",
    comment="loading, energy and losses of each branch over one day; interval means understate I2R losses",
    key=(*_NETWORK_DAY_KEY, "element_type", "element", "side"),
    partition_by=("region", "date"),
    columns=(
        *_NETWORK_DAY,
        Column("element_type", "string", "source table: line, trafo, trafo3w, impedance, switch, tcsc"),
        Column("element", "bigint", "index in the source table"),
        Column("side", "int", "0, or winding 0/1/2 (hv/mv/lv) of a three-winding transformer's leg"),
        Column("loading_max_percent", "double", "%, highest loading"),
        Column("loading_max_ts", "timestamp", "UTC end of the first interval with the highest loading"),
        Column("loading_basis", "string", "what loading compares with the rating: current"),
        Column("minutes_heavy", "double", "min, time above the heavy-load threshold"),
        Column("minutes_overload", "double", "min, time above the overload threshold"),
        Column("energy_kwh", "double", "kWh, sum of |P| at the from side"),
        Column("loss_kwh", "double", "kWh, active losses"),
        Column("loss_copper_kwh", "double", "kWh, losses that grow with the current (transformers)"),
        Column("loss_iron_kwh", "double", "kWh, losses of magnetisation (transformers)"),
        Column("loss_line_kwh", "double", "kWh, losses of lines"),
        Column("reverse_power", "boolean", "whether power flowed from the to side to the from side in any slot"),
        _SLOTS_VALID,
    ),
)

NETWORK_RESULT = Table(
    layer="gold",
    name="network_result",
    comment="one network and day solved; committed last, so a row here marks its (region, date) complete",
    key=_NETWORK_DAY_KEY,
    partition_by=("region", "date"),
    columns=(
        *_NETWORK_DAY,
        Column("slots", "int", "slots of the day"),
        Column("slots_converged", "int", "slots solved, by whichever method"),
        Column("slots_newton", "int", "of these, slots solved by the Newton fallback"),
        Column("slots_diverged", "int", "slots without a solution"),
        Column("slots_bad", "int", "slots with unusable input"),
        Column("infeed_p_kwh", "double", "kWh, active energy from the external grids"),
        Column("infeed_q_kvarh", "double", "kvarh, reactive energy from the external grids"),
        Column("cos_phi", "double", "power factor of the day's infeed"),
        Column("loss_kwh", "double", "kWh, active losses"),
        Column("loss_is_lower_bound", "boolean", "whether losses come from interval means, which understate I2R"),
        Column("measured_share", "double", "share of injections that were measured rather than estimated, 0 to 1"),
        Column("iterations_mean", "double", "mean iterations of the solved slots"),
        Column("iterations_max", "int", "most iterations of a solved slot"),
        Column("max_mismatch_kva", "double", "kVA, largest power mismatch at any bus of any solved slot"),
        Column("engine", "string", "solver and kernel"),
    ),
)

STATE_TILE = Table(
    layer="gold",
    name="state_tile",
    comment="32 consecutive slots of one network: voltage of every bus",
    key=(*_NETWORK_DAY_KEY, "first_slot"),
    partition_by=("region", "date"),
    columns=(
        *TILE_COLUMNS,
        Column("vm_pu", "binary", "pu, voltage magnitude, NaN where unsolved: little-endian float32 [n_bus][32]"),
        Column("va_degree", "binary", "degree, voltage angle, NaN where unsolved: little-endian float32 [n_bus][32]"),
        SLOT_STATUS,
    ),
    large_rows=True,
)

QUARANTINE = Table(
    layer="gold",
    name="quarantine",
    comment="pointers to rows that a job could not use, with reason and remedy",
    key=("region", "date", "job", "table", "key"),
    partition_by=("region", "date", "job"),
    columns=(
        REGION,
        DATE,
        Column("job", "string", "job that could not use the row"),
        Column("table", "string", "table of the row"),
        Column("key", "string", "key of the row, JSON with sorted names"),
        Column("reason", "string", "what is wrong"),
        Column("remedy", "string", "what to do about it"),
    ),
)

STATE_DAY = Table(
    layer="gold",
    name="state_day",
    comment="estimated voltage of each bus over one day, and what it rests on",
    key=(*_NETWORK_DAY_KEY, "bus"),
    partition_by=("region", "date"),
    columns=(
        *_NETWORK_DAY,
        Column("bus", "bigint", "bus index in the source model (lowest of a fused set)"),
        Column("vn_kv", "double", "kV, nominal voltage, the base of the per-unit values"),
        Column("vm_min_pu", "double", "pu, lowest voltage magnitude; null where no slot could be estimated"),
        Column("vm_min_ts", "timestamp", "UTC end of the first interval with the lowest magnitude"),
        Column("vm_mean_pu", "double", "pu, mean voltage magnitude"),
        Column("vm_max_pu", "double", "pu, highest voltage magnitude"),
        Column("vm_max_ts", "timestamp", "UTC end of the first interval with the highest magnitude"),
        Column("minutes_below", "double", "min, time below the band"),
        Column("minutes_above", "double", "min, time above the band"),
        Column("slots_valid", "int", "slots of the day with an estimate of this bus; the figures cover these"),
        Column("slots_voltage_measured", "int", "of these with a voltage measured here"),
        Column("slots_power_measured", "int", "of these with an active power measured here"),
        Column("slots_pseudo", "int", "of these with a pseudo-measurement of the power instead"),
        Column("slots_zero_injection", "int", "of these in which nothing is fed in or drawn here, exactly"),
    ),
)

BAD_MEASUREMENT = Table(
    layer="gold",
    name="bad_measurement",
    comment="measurements that state estimation took out of a snapshot, in the order in which they were found",
    key=(*_NETWORK_DAY_KEY, "slot", "measurement_type", "element_type", "element", "side", "source", "point_id"),
    partition_by=("region", "date"),
    columns=(
        *_NETWORK_DAY,
        Column("slot", "int", "quarter-hour of the day, counted from 0"),
        Column("ts", "timestamp", "UTC end of the interval"),
        Column("measurement_type", "string", "v, p, q, i: pandapower's names"),
        Column("element_type", "string", "bus, line, trafo, trafo3w"),
        Column("element", "bigint", "index in that table"),
        Column("side", "string", "from, to, hv, mv or lv; null for a bus"),
        Column("source", "string", "meter, telemetry, pseudo, or set-point of the model"),
        Column("point_id", "string", "measured point of telemetry; null otherwise"),
        Column("unit", "string", "of the values: pu (v), MW (p), Mvar (q), kA (i); drawn at a bus, into a branch"),
        Column("value", "double", "what was measured, in unit"),
        Column("estimated", "double", "what the remaining measurements say, in unit; null where they say nothing"),
        Column("std_dev", "double", "standard deviation that it counted with, in unit"),
        Column("residual", "double", "value less its estimate when it was found, in unit"),
        Column("normalised_residual", "double", "size of the residual in its own standard deviations"),
    ),
)

UNOBSERVABLE_ISLAND = Table(
    layer="gold",
    name="unobservable_island",
    comment="buses that hang together and whose voltages the measurements of some slots leave open",
    key=(*_NETWORK_DAY_KEY, "island"),
    partition_by=("region", "date"),
    columns=(
        *_NETWORK_DAY,
        Column("island", "int", "number within the network and day, from 0"),
        Column("bus", "bigint", "lowest of its buses; null where it is a hidden row of the model alone"),
        Column("buses", "int", "number of its buses"),
        Column("bus_ids", "array<bigint>", "its buses"),
        Column("remedies", "string", "measurements that together would determine it, such as p at bus 5; v at bus 9"),
        Column("slots", "int", "slots in which it is open"),
        Column("first_slot", "int", "first of these, counted from 0"),
        Column("first_ts", "timestamp", "UTC end of that interval"),
    ),
)

NETWORK_ESTIMATE = Table(
    layer="gold",
    name="network_estimate",
    comment="one network and day estimated; committed last, so a row here marks its (region, date) complete",
    key=_NETWORK_DAY_KEY,
    partition_by=("region", "date"),
    columns=(
        *_NETWORK_DAY,
        Column("slots", "int", "slots of the day"),
        Column("slots_estimated", "int", "slots with an estimate of at least some buses"),
        Column("slots_refreshed", "int", "of these, slots that needed a matrix of their own"),
        Column("slots_partly", "int", "of these, slots with buses that nothing determines"),
        Column("slots_pseudo", "int", "of these, slots marked missing: powers are pseudo-measurements"),
        Column("slots_diverged", "int", "slots without a solution"),
        Column("slots_missing", "int", "slots without any measurement"),
        Column("slots_tested", "int", "slots estimated with redundant measurements"),
        Column("slots_suspect", "int", "of these with an objective beyond chance, bad data removed"),
        Column("suspect_share", "double", "slots_suspect in slots_tested, 0 to 1; null if none is tested"),
        Column("objective_mean", "double", "mean of the tested slots' sums of squared residuals over sigma^2"),
        Column("degrees_of_freedom_mean", "double", "mean of the tested slots': what the objective is about"),
        Column("measurements_removed", "int", "rows of bad_measurement"),
        Column("islands", "int", "rows of unobservable_island"),
        Column("points", "int", "points of telemetry that measure something of the network"),
        Column("points_unplaced", "int", "points that cannot be placed on the network: see quarantine"),
        Column("buses_open_max", "int", "most buses that nothing determines in one slot"),
        Column("engine", "string", "estimator and kernel"),
    ),
)

_AREA = (REGION, DATE, NETWORK_ID, Column("transformer_id", "string", "transformer whose area it is, as recorded"))
_IN_DAY = (
    Column("first_slot", "int", "first quarter-hour of the day, counted from 0"),
    Column("slots", "int", "quarter-hours of the day"),
    Column("worst_slot", "int", "quarter-hour of the worst value, the first of equal ones"),
)
_IN_TIME = (
    Column("start_ts", "timestamp", "UTC begin"),
    Column("end_ts", "timestamp", "UTC end"),
    Column("worst_ts", "timestamp", "UTC end of the quarter-hour with the worst value"),
)
_LOAD = (
    Column("points", "int", "consecutive quarter-hours above the limit"),
    Column("points_estimated", "int", "of these with an estimated value"),
    Column("worst_percent", "double", "%, highest apparent power in the rating"),
    Column("peak_kva", "double", "kVA, highest apparent power"),
    Column("kvah", "double", "kVAh, apparent energy"),
    Column("excess_kwh", "double", "kWh, active energy above the limit"),
    Column("s_rated_kva", "double", "kVA, rating"),
    Column("limit_percent", "double", "%, limit: what is above it counts"),
    Column("min_points", "int", "points from which on it is an episode"),
)
_LOAD_KIND = Column("kind", "string", "heavy or overload; an overload lies within a heavy load")


def _area_table(name: str, comment: str, key: tuple[str, ...], columns: tuple[Column, ...]) -> Table:
    return Table("gold", name, comment, tuple(c.name for c in _AREA) + key, ("region", "date"), (*_AREA, *columns))


_METER = (Column("meter_id", "string", "meter"), Column("phase", "string", "A, B or C"))
_VOLTAGE_KIND = Column("kind", "string", "low or high")
_VOLTAGE = (
    Column("points", "int", "consecutive quarter-hours outside the limit"),
    Column("worst_percent", "double", "%, largest deviation from the nominal voltage"),
    Column("u_min_v", "double", "V, lowest voltage"),
    Column("u_max_v", "double", "V, highest voltage"),
    Column("nominal_v", "double", "V, phase to neutral"),
    Column("limit_v", "double", "V, limit that the voltage is below or above"),
    Column("min_points", "int", "points from which on it is an episode"),
)

LOAD_RUN = _area_table(
    "load_run", "quarter-hours of one day in a row above a limit of a transformer's load: what episodes are made of",
    ("kind", "first_slot"), (_LOAD_KIND, *_IN_DAY, *_LOAD),
)  # fmt: skip
LOAD_EPISODE = _area_table(
    "load_episode", "heavy load or overload of a transformer, over midnights too; date is that of its begin",
    ("kind", "start_ts"), (_LOAD_KIND, *_IN_TIME, *_LOAD),
)  # fmt: skip

VOLTAGE_DAY = _area_table(
    "voltage_day", "voltages and currents of one meter and day against their limits", ("meter_id",),
    (
        _METER[0],
        Column("is_gate", "boolean", "gate meter of the transformer, or of the network"),
        Column("phases", "int", "phases with a voltage"),
        Column("nominal_v", "double", "V, phase to neutral"),
        Column("low_v", "double", "V, lower limit"),
        Column("high_v", "double", "V, upper limit"),
        Column("slots", "int", "quarter-hours of the day times phases"),
        Column("slots_outage", "int", "of these without supply, or next to such"),
        Column("slots_valid", "int", "of the others with a measured voltage: what the pass rate is of"),
        Column("slots_low", "int", "of these below the lower limit"),
        Column("slots_high", "int", "of these above the upper limit"),
        Column("pass_percent", "double", "%, share of valid slots within the limits; null if none is valid"),
        Column("u_min_v", "double", "V, lowest valid voltage"),
        Column("u_max_v", "double", "V, highest valid voltage"),
        Column("low_h", "double", "h, time with a phase below the lower limit"),
        Column("high_h", "double", "h, time with a phase above the upper limit"),
        Column("outside_wh", "bigint", "Wh, drawn or fed in while a phase was outside the limits"),
        Column("unbalance_slots", "int", "quarter-hours with three valid voltages"),
        Column("unbalance_above", "int", "of these with an unbalance above the limit"),
        Column("unbalance_max_percent", "double", "%, largest deviation of a phase from the mean"),
        Column("imbalance_slots", "int", "quarter-hours with currents and enough load"),
        Column("imbalance_above", "int", "of these with an imbalance above the limit"),
        Column("imbalance_max_percent", "double", "%, largest (Imax - Imin) / Imax"),
    ),
)  # fmt: skip
VOLTAGE_RUN = _area_table(
    "voltage_run", "quarter-hours of one day in a row outside a limit of a voltage: what episodes are made of",
    ("meter_id", "phase", "kind", "first_slot"), (*_METER, _VOLTAGE_KIND, *_IN_DAY, *_VOLTAGE),
)  # fmt: skip
VOLTAGE_EPISODE = _area_table(
    "voltage_episode", "voltage of a meter's phase outside the limits, over midnights too; date is that of its begin",
    ("meter_id", "phase", "kind", "start_ts"), (*_METER, _VOLTAGE_KIND, *_IN_TIME, *_VOLTAGE),
)  # fmt: skip

TABLES = (
    BUS_DAY, BRANCH_DAY, NETWORK_RESULT, STATE_TILE, STATE_DAY, BAD_MEASUREMENT, UNOBSERVABLE_ISLAND, NETWORK_ESTIMATE,
    LOAD_RUN, LOAD_EPISODE, VOLTAGE_DAY, VOLTAGE_RUN, VOLTAGE_EPISODE,
    QUARANTINE,
)  # fmt: skip
