"""Load of every transformer and day against its rating, from the gate meter on its low-voltage side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from lib.algorithm.equivalence import identical
from lib.algorithm.operator import Day, Examples, Figure, Rejected, Side, Unusable
from lib.algorithm.operators import _meter
from lib.algorithm.operators._meter import EXAMPLE_DAY, HOURS, ROUNDING
from lib.algorithm.operators._runs import longest, runs
from lib.tables import ARROW
from lib.tables.quality import ESTIMATED_SLOT


@dataclass(frozen=True, eq=False)
class Gate:
    """A gate meter's day: (slots,) powers, NaN where there is none, and whether one of them is an estimate."""

    meter_id: str
    p_kw: NDArray[np.float64]
    q_kvar: NDArray[np.float64]
    estimated: NDArray[np.bool_]


@dataclass(frozen=True)
class Partial:
    """The gate meters among some meters of an area, in order of their ids."""

    gates: tuple[Gate, ...] = ()


@dataclass(frozen=True)
class TransformerLoad:
    """Heavy load and overload of every transformer: apparent power at its gate meter against the rating."""

    heavy_percent: Annotated[float, Field(gt=0, description="load above it is heavy, % of the rating")] = 80.0
    heavy_points: Annotated[int, Field(ge=1, description="points in a row from which on it is a heavy load")] = 3
    overload_percent: Annotated[float, Field(gt=0, description="load above it is an overload, % of the rating")] = 100.0
    overload_points: Annotated[int, Field(ge=1, description="points in a row from which on it is an overload")] = 1
    min_coverage_percent: Annotated[
        float, Field(ge=0, le=100, description="share of the day's points needed to call it normal")
    ] = 98.0
    price_per_kwh: Annotated[float, Field(ge=0, description="price of the energy at stake, per kWh")] = 0.3

    name: ClassVar[str] = "transformer_load"
    version: ClassVar[int] = 1
    table: ClassVar[str] = _meter.TABLE
    columns: ClassVar[tuple[str, ...]] = (*_meter.COLUMNS, "p_kw", "q_kvar", "p_quality", "q_quality")
    group: ClassVar[tuple[str, ...]] = _meter.GROUP
    key: ClassVar[tuple[str, ...]] = _meter.KEY
    side: ClassVar[Side | None] = Side("transformer", ("s_rated_kva",), ("valid_from", "valid_to"), optional=True)
    outputs: ClassVar[tuple[str, ...]] = ("load_run",)
    figures: ClassVar[Mapping[str, Figure]] = {
        "gates": Figure("sum", "bigint", "", "gate meters, times days", 0),
        "slots": Figure("sum", "bigint", "", "quarter-hours of the day", 0),
        "slots_valid": Figure("sum", "bigint", "", "of these with a power", 0),
        "slots_estimated": Figure("sum", "bigint", "", "of these with an estimated one", 0),
        "slots_without_q": Figure("sum", "bigint", "", "of these without reactive power: the load is a lower bound", 0),
        "s_rated_kva": Figure("max", "double", "kVA", "rating", 0),
        "peak_kva": Figure("max", "double", "kVA", "highest apparent power", 0),
        "peak_percent": Figure("max", "double", "%", "the same in the rating", 0),
        "kvah": Figure("sum", "double", "kVAh", "apparent energy", 0),
        "heavy_h": Figure("sum", "double", "h", "time above heavy_percent", 0),
        "overload_h": Figure("sum", "double", "h", "time above overload_percent", 0),
        "heavy_longest": Figure("max", "bigint", "", "most points of a day in a row above heavy_percent", 0),
        "overload_longest": Figure("max", "bigint", "", "most points of a day in a row above overload_percent", 0),
        "excess_kwh": Figure("sum", "double", "kWh", "active energy above heavy_percent", 0),
        "at_stake": Figure("sum", "double", "", "price of excess_kwh", 0),
    }

    def __post_init__(self) -> None:
        if self.heavy_percent > self.overload_percent:
            raise ValueError(
                f"heavy_percent {self.heavy_percent} must not exceed overload_percent {self.overload_percent}"
            )

    def prepare(self, side: Mapping[str, Any]) -> float | None:
        """The rating in kVA; None for meters that are in no area of a recorded transformer."""
        if not side:
            return None
        rated = side["s_rated_kva"]
        if rated is None or not rated > 0:
            raise Unusable(f"the transformer's s_rated_kva is {rated}", "correct its row in table transformer")
        return float(rated)

    def map(self, rows: pa.Table, state: float | None, day: Day) -> tuple[Partial | None, list[Rejected]]:
        if state is None:
            return None, []
        gates = rows.filter(rows["is_gate"])
        meters, rejected = _meter.read(gates, ("p_kw", "q_kvar"), ("p_quality", "q_quality"), day)
        if meters is None:
            return Partial(), rejected
        p, q = meters.values("p_kw"), meters.values("q_kvar")
        estimated = meters.marked("p_quality", ESTIMATED_SLOT) | meters.marked("q_quality", ESTIMATED_SLOT)
        return _partial(Gate(*it) for it in zip(meters.meter_id, p, q, estimated, strict=True)), rejected

    def merge(self, a: Partial, b: Partial) -> Partial:
        return _partial((*a.gates, *b.gates))

    def finish(
        self, partial: Partial, state: float | None, day: Day
    ) -> tuple[dict[str, pa.RecordBatch], dict[str, Any]]:
        if state is None:
            raise AssertionError("meters without a transformer have no partial")
        if len(partial.gates) > 1:
            names = ", ".join(gate.meter_id for gate in partial.gates)
            raise Unusable(f"the area has several gate meters: {names}", "leave one of them in the records (ingest)")
        slots = day.length_s // _meter.INTERVAL_S
        figures = dict.fromkeys(self.figures) | {"gates": 0, "slots": slots, "slots_valid": 0, "s_rated_kva": state}
        if not partial.gates:
            return {}, figures
        gate = partial.gates[0]
        power = np.hypot(gate.p_kw, np.where(np.isnan(gate.q_kvar), 0.0, gate.q_kvar))
        known = ~np.isnan(power)
        s = np.where(known, power, 0.0)
        limits = {"heavy": self.heavy_percent, "overload": self.overload_percent}
        excess, above = {}, {}
        for kind, percent in limits.items():
            limit = percent * state / 100
            above[kind] = s > limit * (1 + ROUNDING)
            share = np.divide(s - limit, s, out=np.zeros_like(s), where=above[kind])
            excess[kind] = np.where(known, np.abs(gate.p_kw), 0.0) * share * HOURS
        rows = [
            row
            for kind, percent in limits.items()
            for row in self._rows(kind, percent, above[kind], s, excess[kind], gate, state)
        ]
        figures |= {
            "gates": 1, "slots_valid": int(known.sum()), "slots_estimated": int((gate.estimated & known).sum()),
            "slots_without_q": int((np.isnan(gate.q_kvar) & known).sum()),
        }  # fmt: skip
        if known.any():
            kwh = float(excess["heavy"].sum())
            figures |= {
                "peak_kva": float(s.max()), "peak_percent": float(100 * s.max() / state),
                "kvah": float(s.sum()) * HOURS, "excess_kwh": kwh, "at_stake": kwh * self.price_per_kwh,
            }  # fmt: skip
            figures |= {f"{kind}_h": int(it.sum()) * HOURS for kind, it in above.items()}
            figures |= {f"{kind}_longest": longest(it[None]) for kind, it in above.items()}
        return ({"load_run": _batch(rows)} if rows else {}), figures

    def _rows(
        self, kind: str, percent: float, above: NDArray[np.bool_], s: NDArray[np.float64],
        excess: NDArray[np.float64], gate: Gate, rated: float,
    ) -> list[dict[str, Any]]:  # fmt: skip
        least = self.heavy_points if kind == "heavy" else self.overload_points
        return [
            {
                "kind": kind, "first_slot": at.start, "slots": len(s), "worst_slot": at.start + int(np.argmax(s[at])),
                "points": at.stop - at.start, "points_estimated": int(gate.estimated[at].sum()),
                "worst_percent": float(100 * s[at].max() / rated), "peak_kva": float(s[at].max()),
                "kvah": float(s[at].sum()) * HOURS, "excess_kwh": float(excess[at].sum()), "s_rated_kva": rated,
                "limit_percent": percent, "min_points": least,
            }
            for _, at in runs(above[None], least).slices
        ]  # fmt: skip

    def equivalent(self, a: Partial, b: Partial) -> bool:
        return identical(a, b)

    @classmethod
    def examples(cls, seed: int) -> Examples:
        """Three gate meters, each in a block of its own."""
        random, slots = np.random.default_rng(seed), EXAMPLE_DAY.length_s // _meter.INTERVAL_S
        meters = [
            {"is_gate": True, "p_kw": random.normal(50, 30, slots), "q_kvar": random.normal(5, 3, slots)}
            for _ in range(3)
        ]
        rows, operator = _meter.example_rows(EXAMPLE_DAY, meters), cls()
        partials = (operator.map(rows.slice(i, 1), 100.0, EXAMPLE_DAY)[0] for i in range(rows.num_rows))
        return Examples(Partial(), tuple(partials))

    @classmethod
    def from_settings(cls, settings: Any, **overrides: Any) -> TransformerLoad:
        """The operator that `mining.transformer_load` and `mining.price_per_kwh` of the settings describe."""
        chosen = settings.mining
        return cls(**dict(chosen.transformer_load) | {"price_per_kwh": chosen.price_per_kwh} | overrides)


def _partial(gates: Any) -> Partial:
    return Partial(tuple(sorted(gates, key=lambda gate: gate.meter_id)))


def _batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    left_out = ("region", "date", *_meter.GROUP)
    return pa.RecordBatch.from_pylist(rows, schema=pa.schema([f for f in ARROW["load_run"] if f.name not in left_out]))


OPERATOR = TransformerLoad
