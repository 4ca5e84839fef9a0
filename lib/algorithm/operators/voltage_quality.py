"""Voltages of every meter and day against their limits, and how evenly the phases of a transformer are loaded.

Limits after GB/T 12325-2008: single-phase supply at 220 V +7 / -10 %, three-phase supply up to 20 kV +-7 % of the
nominal voltage. Meters know magnitudes only, so the unbalance of voltages is the largest deviation from the mean of the
three phases in that mean, not |V2| / |V1|. Neutral currents are not in meter_day and not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from lib.algorithm.equivalence import identical
from lib.algorithm.operator import Day, Examples, Figure, Rejected, Side
from lib.algorithm.operators import _meter
from lib.algorithm.operators._meter import EXAMPLE_DAY, Meters
from lib.algorithm.operators._voltage_rows import Limits, day_rows, run_rows, schema, supplied

_COLUMNS = {
    "arrays": ("u_a_v", "u_b_v", "u_c_v", "i_a_a", "i_b_a", "i_c_a", "import_wh", "export_wh"),
    "codes": ("u_quality", "i_quality"),
}
_Percent = Annotated[float, Field(ge=0, le=100)]


@dataclass(frozen=True)
class Partial:
    """Some meters of an area: how many customers', and rows of voltage_day and voltage_run in order of their keys."""

    meters: int = 0
    days: pa.Table = field(default_factory=lambda: schema("voltage_day").empty_table())
    runs: pa.Table = field(default_factory=lambda: schema("voltage_run").empty_table())


@dataclass(frozen=True)
class VoltageQuality:
    """Voltage quality of every meter and area: share of time within limits, episodes outside, evenness of phases."""

    nominal_v: Annotated[float, Field(gt=0, description="low voltage: nominal, phase to neutral, V")] = 230.0
    medium_nominal_kv: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...],
        Field(min_length=1, description="nominal between phases where meters are in no transformer's area, kV"),
    ] = (10.0, 20.0)
    low_percent: Annotated[_Percent, Field(description="single-phase supply: voltage may be so far below")] = 10.0
    high_percent: Annotated[_Percent, Field(description="single-phase supply: voltage may be so far above")] = 7.0
    three_phase_percent: Annotated[_Percent, Field(description="three-phase supply: may be so far off")] = 7.0
    outage_percent: Annotated[_Percent, Field(description="below this part of the nominal there is no supply")] = 5.0
    episode_points: Annotated[int, Field(ge=1, description="points in a row that make an episode outside")] = 1
    unbalance_percent: Annotated[_Percent, Field(description="highest deviation of a phase from their mean")] = 2.0
    imbalance_percent: Annotated[_Percent, Field(description="highest (Imax - Imin) / Imax of a transformer")] = 15.0
    imbalance_load_percent: Annotated[
        _Percent, Field(description="currents are judged above this load, mean current in the rated one")
    ] = 30.0
    min_pass_percent: Annotated[_Percent, Field(description="an area's least share of time within the limits")] = 95.0
    min_coverage_percent: Annotated[_Percent, Field(description="share of meters needed to call it normal")] = 90.0
    price_per_kwh: Annotated[float, Field(ge=0, description="price of the energy at stake, per kWh")] = 0.3

    name: ClassVar[str] = "voltage_quality"
    version: ClassVar[int] = 1
    table: ClassVar[str] = _meter.TABLE
    columns: ClassVar[tuple[str, ...]] = (
        *_meter.COLUMNS, "phase", "last_gasps", *_COLUMNS["arrays"], *_COLUMNS["codes"],
    )  # fmt: skip
    group: ClassVar[tuple[str, ...]] = _meter.GROUP
    key: ClassVar[tuple[str, ...]] = _meter.KEY
    side: ClassVar[Side | None] = Side("transformer", ("s_rated_kva",), ("valid_from", "valid_to"), optional=True)
    outputs: ClassVar[tuple[str, ...]] = ("voltage_run", "voltage_day")
    figures: ClassVar[Mapping[str, Figure]] = {
        "meters": Figure("sum", "bigint", "", "customers' meters, times days", 0),
        "meters_covered": Figure("sum", "bigint", "", "of these with a valid voltage; what follows covers them", 0),
        "meters_outside": Figure("sum", "bigint", "", "of these with a voltage outside the limits", 0),
        "slots": Figure("sum", "bigint", "", "their quarter-hours times phases", 0),
        "slots_outage": Figure("sum", "bigint", "", "of these without supply, or next to such", 0),
        "slots_valid": Figure("sum", "bigint", "", "of the others with a measured voltage", 0),
        "slots_low": Figure("sum", "bigint", "", "of these below the lower limit", 0),
        "slots_high": Figure("sum", "bigint", "", "of these above the upper limit", 0),
        "area_nominal_v": Figure("max", "double", "V", "nominal voltage of the area's meters, phase to neutral", 0),
        "u_min_v": Figure("min", "double", "V", "lowest valid voltage", 0),
        "u_max_v": Figure("max", "double", "V", "highest valid voltage", 0),
        "low_h": Figure("sum", "double", "h", "time below the lower limit, summed over meters", 0),
        "high_h": Figure("sum", "double", "h", "time above the upper limit, summed over meters", 0),
        "outside_wh": Figure("sum", "bigint", "Wh", "energy of meters while outside the limits", 0),
        "at_stake": Figure("sum", "double", "", "price of outside_wh", 0),
        "unbalance_slots": Figure("sum", "bigint", "", "gate meter: quarter-hours with three valid voltages", 0),
        "unbalance_above": Figure("sum", "bigint", "", "of these with an unbalance above the limit", 0),
        "unbalance_max_percent": Figure("max", "double", "%", "largest deviation from the phases' mean", 0),
        "imbalance_slots": Figure("sum", "bigint", "", "gate meter: quarter-hours with currents and enough load", 0),
        "imbalance_above": Figure("sum", "bigint", "", "of these with an imbalance above the limit", 0),
        "imbalance_max_percent": Figure("max", "double", "%", "largest (Imax - Imin) / Imax", 0),
    }

    def prepare(self, side: Mapping[str, Any]) -> float:
        """Rated current of a phase in A; NaN where no transformer is recorded."""
        rated = side.get("s_rated_kva")
        return rated * 1000 / (3 * self.nominal_v) if rated else np.nan

    def map(self, rows: pa.Table, state: float, day: Day) -> tuple[Partial | None, list[Rejected]]:
        meters, rejected = _meter.read(rows, _COLUMNS["arrays"], _COLUMNS["codes"], day)
        if meters is None:
            return None, rejected
        limits = self._limits(meters)
        voltages = supplied(meters, limits)
        days = day_rows(meters, voltages, limits, state, self)
        runs = run_rows(meters, voltages, limits, self.episode_points)
        return Partial(
            int((~meters.is_gate).sum()), _sorted(days, "voltage_day"), _sorted(runs, "voltage_run")
        ), rejected

    def _limits(self, meters: Meters) -> Limits:
        """Of each meter: single-phase or three-phase supply, low or medium voltage."""
        medium = meters.rows["transformer_id"].is_null().to_numpy().astype(bool)
        nominal = np.where(medium, self._medium_nominal_v(meters), self.nominal_v)
        phases = np.sum([meters.has(name) for name in _COLUMNS["arrays"][:3]], axis=0)
        recorded = pc.fill_null(pc.equal(meters.rows["phase"], "ABC"), False).to_numpy().astype(bool)
        three = (phases > 1) | recorded | medium
        low = np.where(three, self.three_phase_percent, self.low_percent)
        high = np.where(three, self.three_phase_percent, self.high_percent)
        return Limits(
            nominal, nominal * (100 - low) / 100, nominal * (100 + high) / 100, nominal * self.outage_percent / 100
        )

    def _medium_nominal_v(self, meters: Meters) -> NDArray[np.float64]:
        """(n,) V, phase to neutral: of the nominal voltages given the one nearest to the day's highest voltage."""
        nominal = np.array(self.medium_nominal_kv) * 1000 / np.sqrt(3)
        values = np.concatenate([meters.values(name) for name in _COLUMNS["arrays"][:3]], axis=1)
        highest = np.max(values, axis=1, where=values > 0, initial=1e-3)
        return nominal[np.argmin(np.abs(np.log(highest[:, None] / nominal)), axis=1)]

    def merge(self, a: Partial, b: Partial) -> Partial:
        days, runs = pa.concat_tables([a.days, b.days]), pa.concat_tables([a.runs, b.runs])
        return Partial(a.meters + b.meters, _sorted(days, "voltage_day"), _sorted(runs, "voltage_run"))

    def finish(self, partial: Partial, state: float, day: Day) -> tuple[dict[str, pa.RecordBatch], dict[str, Any]]:
        outputs = {
            name: rows.combine_chunks().to_batches()[0]
            for name, rows in (("voltage_run", partial.runs), ("voltage_day", partial.days))
            if rows.num_rows
        }
        valid = partial.days.filter(pc.greater(partial.days["slots_valid"], 0))
        customers, gates = (valid.filter(mask) for mask in (pc.invert(valid["is_gate"]), valid["is_gate"]))
        sums = ("slots", "slots_outage", "slots_valid", "slots_low", "slots_high", "low_h", "high_h", "outside_wh")
        of_gate = ("unbalance_slots", "unbalance_above", "imbalance_slots", "imbalance_above")
        figures: dict[str, Any] = {"meters": partial.meters, "meters_covered": customers.num_rows}
        figures |= {name: pc.sum(customers[name]).as_py() for name in sums}
        figures |= {name: pc.sum(gates[name]).as_py() for name in of_gate}
        for name in ("unbalance_max_percent", "imbalance_max_percent"):
            figures[name] = pc.max(gates[name]).as_py()
        figures["area_nominal_v"] = pc.max(partial.days["nominal_v"]).as_py()
        figures["u_min_v"], figures["u_max_v"] = (
            pc.min(customers["u_min_v"]).as_py(),
            pc.max(customers["u_max_v"]).as_py(),
        )
        outside = pc.greater(pc.add(customers["slots_low"], customers["slots_high"]), 0)
        figures["meters_outside"] = pc.sum(outside).as_py() or 0
        figures["at_stake"] = (figures["outside_wh"] or 0) / 1000 * self.price_per_kwh
        return outputs, figures

    def equivalent(self, a: Partial, b: Partial) -> bool:
        return identical(a, b)

    @classmethod
    def examples(cls, seed: int) -> Examples:
        """A gate meter, a single-phase and a three-phase customer, each in a block of its own."""
        random, slots = np.random.default_rng(seed), EXAMPLE_DAY.length_s // _meter.INTERVAL_S
        volts = {f"u_{phase}_v": random.normal(230, 15, slots) for phase in "abc"}
        amperes = {f"i_{phase}_a": random.normal(100, 20, slots) for phase in "abc"}
        meters: list[dict[str, Any]] = [{"is_gate": True, **volts, **amperes}, {"u_b_v": volts["u_a_v"]}, {**volts}]
        rows, operator = _meter.example_rows(EXAMPLE_DAY, meters), cls()
        state = operator.prepare({"s_rated_kva": 100.0})
        partials = (operator.map(rows.slice(i, 1), state, EXAMPLE_DAY)[0] for i in range(rows.num_rows))
        return Examples(Partial(), tuple(partials))

    @classmethod
    def from_settings(cls, settings: Any, **overrides: Any) -> VoltageQuality:
        """The operator that `mining.voltage_quality` and `mining.price_per_kwh` of the settings describe."""
        chosen = settings.mining
        return cls(**dict(chosen.voltage_quality) | {"price_per_kwh": chosen.price_per_kwh} | overrides)


def _sorted(rows: pa.Table, table: str) -> pa.Table:
    keys = [name for name in ("meter_id", "phase", "kind", "first_slot") if name in schema(table).names]
    return rows.sort_by([(name, "ascending") for name in keys])


OPERATOR = VoltageQuality
