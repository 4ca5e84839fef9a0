"""Meters' readings to days: ratios, cumulative registers, rules, estimates. numpy and pyarrow, no Spark.

`day_rows` takes the readings of any number of whole meters; every step works on all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lib.ingest import quality
from lib.ingest.devices import Devices
from lib.ingest.readings import PHASES, Channel, Fate, Received, arrange, receipt
from lib.ingest.span import Span
from lib.setting_groups import RuleSettings
from lib.tables.quality import Quality

QUANTITIES = ("p_kw", "q_kvar", "u_a_v", "u_b_v", "u_c_v", "i_a_a", "i_b_a", "i_c_a", "import_wh", "export_wh")
_POWERS = {"p_kw": "p_kw", "q_kvar": "q_kvar", "import_wh": "import_kwh", "export_wh": "export_kwh"}
_TOTALS = {"import_wh": "import_total_kwh", "export_wh": "export_total_kwh"}
_QUALITY = {
    "p_quality": ("p_kw",),
    "q_quality": ("q_kvar",),
    "u_quality": QUANTITIES[2:5],
    "i_quality": QUANTITIES[5:8],
    "import_quality": ("import_wh",),
    "export_quality": ("export_wh",),
}

DAY_ROWS = pa.schema(
    [
        ("kind", pa.string()),  # "day", or "rejected": rows of one file that are not used
        ("meter_id", pa.string()),
        ("date", pa.date32()),
        ("use", pa.string()),
        ("interval_s", pa.int32()),
        ("slots", pa.int32()),
        *((name, pa.list_(pa.int64() if name.endswith("_wh") else pa.float32())) for name in QUANTITIES),
        *((name, pa.binary()) for name in _QUALITY),
        ("readings", pa.int64()),
        ("duplicates", pa.int64()),
        ("superseded", pa.int64()),
        ("rejected", pa.int64()),
        ("source_file", pa.string()),
        ("line", pa.int64()),
    ]
)


def day_rows(readings: pa.Table, devices: pa.Table, span: Span, rules: RuleSettings) -> pa.Table:
    """One row per meter and wanted day, and one per file, meter and day with conflicting rows.

    readings: readings.READINGS, devices: devices.DEVICES, both of the same meters; returns DAY_ROWS.
    """
    if not readings.num_rows:
        return DAY_ROWS.empty_table()
    received = arrange(readings, span)
    hung = Devices.of(devices, received.meters, span)
    made = _Quantities(received, hung, span, rules).all()
    return pa.concat_tables([_days(received, hung, made, span), _conflicts(readings, received, span)])


@dataclass(frozen=True, eq=False)
class _Counted:
    """What cumulative registers counted from the end of slot `before` to that of `after`; flags of both readings."""

    meter: NDArray[np.int64]
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    wh: NDArray[np.int64]
    flags: NDArray[np.uint8]

    def where(self, mask: NDArray[np.bool_]) -> _Counted:
        """Those for which mask holds."""
        return _Counted(self.meter[mask], self.before[mask], self.after[mask], self.wh[mask], self.flags[mask])


class _Quantities:
    """The quantities of all meters, (meter, slot) each, at the primary side, gaps filled."""

    def __init__(self, received: Received, hung: Devices, span: Span, rules: RuleSettings) -> None:
        self.received, self.hung, self.span, self.rules = received, hung, span, rules
        self.shape = len(received.meters), span.width
        self.hours = span.interval_s / 3600

    def all(self) -> dict[str, Channel]:
        both, ct, pt = self.hung.ct * self.hung.pt, self.hung.ct, self.hung.pt
        found = {name: self._power(register, both) for name, register in _POWERS.items()}
        counted: dict[str, _Counted] = {}
        for name, register in _TOTALS.items():
            direct, counted[name] = self._register(register)
            found[name] = _first(found[name], direct)
        for k, phase in enumerate(PHASES):
            found[QUANTITIES[2 + k]] = self._channel("u_v", phase, pt)
            found[QUANTITIES[5 + k]] = self._channel("i_a", phase, ct)
        exported = self._measured(found["export_wh"]) | self._measured(self._channel("export_total_kwh", "ABC", both))
        for name, it in found.items():
            some = np.asarray(np.isfinite(it.values).any(axis=1))  # most meters have few of the quantities
            if name in counted:
                some[counted[name].meter] = True
            has = np.flatnonzero(some)
            part = Channel(it.values[has], it.flags[has])
            self._judge(name, part, self.hung.is_customer[has, None] & ~exported[has])
            measured = part.values
            self._fill(part)
            if name in counted:
                self._share_out(part, measured, counted[name], np.cumsum(some) - 1)
            it.values[has], it.flags[has] = part.values, part.flags
            it.flags[np.isnan(it.values)] |= np.uint8(Quality.MISSING)
        self._derive(found)
        return found

    def _channel(self, register: str, phase: str, ratio: NDArray) -> Channel:
        it = self.received.channels.get((register, phase))
        if it is None:
            return Channel(np.full(self.shape, np.nan), np.zeros(self.shape, np.uint8))
        return Channel(it.values * ratio, it.flags)

    def _power(self, register: str, ratio: NDArray) -> Channel:
        """All phases together, else the sum of those that the meter has on the day."""
        total = self._channel(register, "ABC", ratio)
        parts = [self._channel(register, p, ratio) for p in PHASES if (register, p) in self.received.channels]
        if not parts:
            return total
        value, flags, some = np.zeros(self.shape), np.zeros(self.shape, np.uint8), np.zeros(self.shape, bool)
        for part in parts:
            has = self._measured(part)
            value += np.where(has, part.values, 0)  # NaN, and so the sum, where a phase of the day is missing
            flags |= part.flags
            some |= has
        return _first(total, Channel(np.where(some, value, np.nan), flags))

    def _measured(self, channel: Channel) -> NDArray[np.bool_]:
        """(meter, slot) whether the meter has any value on the slot's day."""
        present = np.isfinite(channel.values)
        days = [present[:, first:end].any(axis=1) for first, end in self.span.bounds]
        return np.stack(days, axis=1)[:, self.span.day_of_slot]

    def _register(self, name: str) -> tuple[Channel, _Counted]:
        """A cumulative register to kWh of slots that it was read before and after, and what it counted over more."""
        result = Channel(np.full(self.shape, np.nan), np.zeros(self.shape, np.uint8))
        channel = self._channel(name, "ABC", np.ones((1, 1)))
        meter, column = np.nonzero(np.isfinite(channel.values))
        pair = np.flatnonzero(meter[1:] == meter[:-1])
        meter, before, after = (np.asarray(it) for it in (meter[pair], column[pair], column[pair + 1]))
        kwh = self.hung.energy(name, meter, before, after, channel.values)
        fell = np.isnan(kwh)
        result.flags[meter[fell], after[fell]] |= np.uint8(Quality.REFUSED)
        wh = np.rint(np.where(fell, 0, kwh) * 1000).astype(np.int64)
        at_once = ~fell & (after - before == 1)
        cell = meter[at_once], after[at_once]
        result.values[cell] = wh[at_once] / 1000
        result.flags[cell] = channel.flags[cell]
        day = self.span.day_of_slot
        longer = ~fell & ~at_once & (after - before <= self.rules.register_slots) & (day[after] - day[before] <= 1)
        longer &= self.hung.follows(meter, before, after, name)
        flags = channel.flags[meter, before] | channel.flags[meter, after]
        return result, _Counted(meter, before, after, wh, flags.astype(np.uint8)).where(longer)

    def _share_out(self, it: Channel, measured: NDArray, counted: _Counted, row_of: NDArray[np.int64]) -> None:
        """What a register counted and no slot measured goes to the slots that lack a value, in whole Wh.

        In proportion to what the other rules estimate, evenly where they do not; row_of: the meters' rows in `it`.
        """
        row, day = row_of[counted.meter], self.span.day_of_slot
        lacks = np.isnan(measured)
        known = np.cumsum(np.rint(np.where(lacks, 0, measured) * 1000).astype(np.int64), axis=1)
        lacking = np.cumsum(lacks, axis=1)
        midnight = np.maximum(
            counted.before, np.array([first for first, _ in self.span.bounds])[day[counted.after]] - 1
        )
        before, after = (row, counted.before), (row, counted.after)
        rest = counted.wh - (known[after] - known[before])
        missing = lacking[after] - lacking[before]
        late = lacking[after] - lacking[row, midnight]  # on the day of the second reading
        use = (missing > 0) & (rest >= 0)
        within = ((late == 0) | (late == missing))[use]  # all on one day, so that its sum is exact
        row, rest, counted = row[use], rest[use], counted.where(use)
        length = counted.after - counted.before
        at = np.repeat(np.arange(len(row)), length)
        slot = counted.before[at] + 1 + np.arange(len(at)) - np.repeat(np.cumsum(length) - length, length)
        here = lacks[row[at], slot]
        at, slot = at[here], slot[here]
        cell = row[at], slot
        shaped = (np.bincount(at, np.isnan(it.values[cell]), len(row)) == 0) & within
        weight = np.where(shaped[at], it.values[cell], 0.0)
        it.values[cell] = quality.shares(rest, at, weight) / 1000
        origin = np.where(within, Quality.REGISTER, Quality.LINEAR).astype(np.uint8)[at]
        it.flags[cell] &= ~np.uint8(Quality.LINEAR | Quality.LAST_WEEK)
        it.flags[cell] |= origin | counted.flags[at]

    def _judge(self, name: str, it: Channel, only_draws: NDArray[np.bool_]) -> None:
        """Takes out what cannot be, and marks what is suspect."""
        rules, days = self.rules, self.span.bounds
        with np.errstate(invalid="ignore"):
            negative = it.values < 0
        if name == "q_kvar" or (name == "p_kw" and rules.negative_power):
            negative[:] = False
        elif name == "p_kw":
            negative &= only_draws
        self._refuse(it, negative)
        if name.startswith("u_"):
            spike = quality.spikes(it.values, days, rules.spike_voltage_factor, 0.0, rules.spike_slots)
        elif name.startswith("i_"):
            spike = quality.spikes(it.values, days, rules.spike_factor, rules.spike_floor_kw / 0.23, rules.spike_slots)
        else:
            floor = rules.spike_floor_kw * (self.hours if name.endswith("_wh") else 1)
            spike = quality.spikes(it.values, days, rules.spike_factor, floor, rules.spike_slots)
        self._refuse(it, spike)
        it.flags[quality.frozen(it.values, days, rules.frozen_slots)] |= np.uint8(Quality.SUSPECT)

    def _refuse(self, it: Channel, mask: NDArray[np.bool_]) -> None:
        it.values[mask] = np.nan
        it.flags[mask] |= np.uint8(Quality.REFUSED)

    def _fill(self, it: Channel) -> None:
        measured = it.values
        week, by_week = quality.from_week_before(measured, self.span.week_before, self.rules.week_slots)
        line, by_line = quality.linear(measured, self.rules.linear_slots)
        it.values = np.where(by_line, line, week)
        it.flags[by_line] |= np.uint8(Quality.LINEAR)
        it.flags[by_week & ~by_line] |= np.uint8(Quality.LAST_WEEK)

    def _derive(self, found: dict[str, Channel]) -> None:
        """Power from energy and energy from power, on days on which a meter has but one of them."""
        p, drawn, fed = found["p_kw"], found["import_wh"], found["export_wh"]
        has_p, has_in, has_out = (self._measured(it) for it in (p, drawn, fed))
        from_energy = (has_in | has_out) & ~has_p
        net = np.where(has_in, drawn.values, 0) - np.where(has_out, fed.values, 0)
        marks = np.where(has_in, drawn.flags, 0) | np.where(has_out, fed.flags, 0)
        from_power = has_p & ~(has_in | has_out)
        for it, value in ((drawn, np.maximum(p.values, 0)), (fed, np.maximum(-p.values, 0))):
            it.values = np.where(from_power, value * self.hours, it.values)
            it.flags = np.where(from_power, p.flags, it.flags)
        p.values = np.where(from_energy, net / self.hours, p.values)
        p.flags = np.where(from_energy, marks, p.flags).astype(np.uint8)


def _first(a: Channel, b: Channel) -> Channel:
    """Values of `a`, where it has none those of `b`."""
    other = np.isnan(a.values) & np.isfinite(b.values)
    flags = np.where(other, b.flags, np.where(np.isnan(a.values), a.flags | b.flags, a.flags))
    return Channel(np.where(other, b.values, a.values), flags.astype(np.uint8))


def _days(received: Received, hung: Devices, made: dict[str, Channel], span: Span) -> pa.Table:
    counts = np.zeros((len(received.meters), len(span.days), len(Fate)), np.int64)
    np.add.at(counts, (received.meter_of_row, received.day_of_row, received.fate), 1)
    tables = [
        _day(received.meters, hung, made, span, k, counts[:, k])
        for k, day in enumerate(span.days)
        if day in span.wanted and counts[:, k].any()
    ]
    return pa.concat_tables([DAY_ROWS.empty_table(), *tables])


def _day(
    meters: Sequence[str], hung: Devices, made: dict[str, Channel], span: Span, k: int, counts: NDArray[np.int64]
) -> pa.Table:
    at = np.flatnonzero(counts.any(axis=1))
    first, end = span.bounds[k]
    columns: dict[str, Any] = {
        "kind": pa.repeat(pa.scalar("day"), len(at)),
        "meter_id": pa.array(meters).take(pa.array(at)),
        "date": pa.repeat(pa.scalar(span.days[k], pa.date32()), len(at)),
        "use": pa.array(hung.use).take(pa.array(at)),
        "interval_s": pa.repeat(pa.scalar(span.interval_s, pa.int32()), len(at)),
        "slots": pa.repeat(pa.scalar(end - first, pa.int32()), len(at)),
        "readings": pa.array(counts[at, Fate.OUT]),
        "duplicates": pa.array(counts[at, Fate.DUPLICATE]),
        "superseded": pa.array(counts[at, Fate.SUPERSEDED]),
    }
    has: dict[str, NDArray[np.bool_]] = {}
    for name in QUANTITIES:
        values = made[name].values[at, first:end]
        has[name] = np.asarray(np.isfinite(values).any(axis=1))
        columns[name] = _lists(values, has[name], DAY_ROWS.field(name).type, 1000 if name.endswith("_wh") else 1)
    for name, quantities in _QUALITY.items():
        columns[name] = _flags([(made[q].flags[at, first:end], has[q]) for q in quantities])
    return pa.table(
        [columns[f.name] if f.name in columns else pa.nulls(len(at), f.type) for f in DAY_ROWS], schema=DAY_ROWS
    )


def _lists(values: NDArray, has: NDArray[np.bool_], kind: pa.DataType, scale: int) -> pa.Array:
    """A list of each row's values, null where the row has none at all."""
    missing = np.isnan(values)
    if pa.types.is_integer(kind.value_type):
        values = np.rint(np.where(missing, 0, values) * scale).astype(np.int64)
    flat = pa.array(values[has].ravel().astype(kind.value_type.to_pandas_dtype()), mask=missing[has].ravel())
    offsets = np.concatenate([[0], np.cumsum(has * values.shape[1])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets, mask=np.append(~has, False)), flat)


def _flags(parts: list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]) -> pa.Array:
    """The flags of the quantities that a row has, together; null where it has none."""
    merged = np.zeros_like(parts[0][0])
    some = np.zeros(len(merged), bool)
    for flags, has in parts:
        merged |= np.where(has[:, None], flags, 0).astype(np.uint8)
        some |= has
    return pa.array([bytes(row) if it else None for row, it in zip(merged, some, strict=True)], pa.binary())


def _conflicts(readings: pa.Table, received: Received, span: Span) -> pa.Table:
    """Where rows lie that contradict a later row of their own file."""
    wanted = np.array([day in span.wanted for day in span.days])
    at = np.flatnonzero((received.fate == Fate.CONFLICT) & wanted[received.day_of_row])
    if not len(at):
        return DAY_ROWS.empty_table()
    rows = readings.take(pa.array(receipt(readings)[at])).select(["meter_id", "date", "source_file", "line"])
    found = rows.group_by(["meter_id", "date", "source_file"]).aggregate([("line", "min"), ("line", "count")])
    columns = {
        "kind": pa.repeat(pa.scalar("rejected"), found.num_rows),
        "meter_id": found["meter_id"],
        "date": found["date"],
        "source_file": found["source_file"],
        "line": found["line_min"],
        "rejected": found["line_count"],
    }
    nulls = {f.name: pa.nulls(found.num_rows, f.type) for f in DAY_ROWS if f.name not in columns}
    return pa.table({f.name: (columns | nulls)[f.name] for f in DAY_ROWS}, schema=DAY_ROWS)
