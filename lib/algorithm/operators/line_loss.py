"""Line loss of every transformer area and day: what its gate meter delivered against what its customers' meters count.

The statistical line loss: (in - out) / in, with in = gate forward + customers' export, out = gate reverse + customers'
import.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from lib.algorithm.equivalence import identical
from lib.algorithm.operator import Day, Examples, Figure, Rejected, Side
from lib.algorithm.operators import _meter
from lib.algorithm.operators._meter import EXAMPLE_DAY, Meters
from lib.tables.quality import ESTIMATED

_Percent = Annotated[float, Field(ge=0, le=100)]


@dataclass(frozen=True)
class Area:
    """A transformer's area: the highest normal loss, and whether a gate meter is recorded."""

    limit_percent: float
    has_gate: bool


@dataclass(frozen=True)
class Partial:
    """Sums over some meters of a group; energies in whole Wh, so that they are exact."""

    meters: int = 0
    meters_covered: int = 0
    gates: int = 0
    gates_covered: int = 0
    forward_wh: int = 0
    reverse_wh: int = 0
    import_wh: int = 0
    export_wh: int = 0
    estimated_wh: int = 0


@dataclass(frozen=True)
class LineLoss:
    """Line loss of every transformer's area: energy in and out, coverage, whether it can be judged, and how far off."""

    normal_urban_percent: Annotated[_Percent, Field(description="highest normal loss of an urban area")] = 7.0
    normal_rural_percent: Annotated[_Percent, Field(description="highest normal loss of any other area")] = 10.0
    negative_percent: Annotated[float, Field(ge=-100, le=0, description="a loss below it is no metering noise")] = -1.0
    min_coverage_percent: Annotated[
        _Percent, Field(description="an area is judged from this share of meters with a whole day of values on")
    ] = 98.0
    max_estimated_percent: Annotated[
        _Percent, Field(description="an area is judged up to this share of estimated energy in the energy in")
    ] = 2.0
    price_per_kwh: Annotated[float, Field(ge=0, description="price of the energy at stake, per kWh")] = 0.3

    name: ClassVar[str] = "line_loss"
    version: ClassVar[int] = 1
    table: ClassVar[str] = _meter.TABLE
    columns: ClassVar[tuple[str, ...]] = (
        *_meter.COLUMNS, "import_wh", "export_wh", "import_quality", "export_quality",
    )  # fmt: skip
    group: ClassVar[tuple[str, ...]] = _meter.GROUP
    key: ClassVar[tuple[str, ...]] = _meter.KEY
    side: ClassVar[Side | None] = Side(
        "transformer", ("area_type", "gate_meter_id"), ("valid_from", "valid_to"), optional=True
    )
    outputs: ClassVar[tuple[str, ...]] = ()
    figures: ClassVar[Mapping[str, Figure]] = {
        "meters": Figure("sum", "bigint", "", "customers' meters recorded here, times days", 0),
        "meters_covered": Figure("sum", "bigint", "", "of these with a value in every slot of the day", 0),
        "gates": Figure("sum", "bigint", "", "gate meters recorded, times days", 0),
        "gates_covered": Figure("sum", "bigint", "", "of these with a value in every slot of the day", 0),
        "forward_wh": Figure("sum", "bigint", "Wh", "gate meter: into the area", 0),
        "reverse_wh": Figure("sum", "bigint", "Wh", "gate meter: out of the area", 0),
        "import_wh": Figure("sum", "bigint", "Wh", "customers: drawn from the network", 0),
        "export_wh": Figure("sum", "bigint", "Wh", "customers: fed into the network", 0),
        "estimated_wh": Figure("sum", "bigint", "Wh", "estimated part of all these energies", 0),
        "network_gates": Figure("sum", "bigint", "", "gate meters of the network, times days", 0),
        "network_gates_covered": Figure("sum", "bigint", "", "of these with a value in every slot of the day", 0),
        "network_forward_wh": Figure("sum", "bigint", "Wh", "the network's gate meter: into the network", 0),
        "network_reverse_wh": Figure("sum", "bigint", "Wh", "the network's gate meter: out of the network", 0),
        "days": Figure("sum", "bigint", "", "areas times days", 0),
        "days_assessed": Figure("sum", "bigint", "", "of these that can be judged; the figures below cover them", 0),
        "days_high": Figure("sum", "bigint", "", "of these with a loss above the limit", 0),
        "days_negative": Figure("sum", "bigint", "", "of these with a loss below negative_percent", 0),
        "in_wh": Figure("sum", "bigint", "Wh", "energy in: gate forward and customers' export", 0),
        "out_wh": Figure("sum", "bigint", "Wh", "energy out: gate reverse and customers' import", 0),
        "stake_wh": Figure("sum", "bigint", "Wh", "loss above the limit, or below negative_percent", 0),
        "at_stake": Figure("sum", "double", "", "price of stake_wh", 0),
        "limit_percent": Figure("max", "double", "%", "highest normal loss of the area"),
    }

    def prepare(self, side: Mapping[str, Any]) -> Area | None:
        """None for meters that are in no area of a recorded transformer."""
        if not side:
            return None
        urban = side["area_type"] == "urban"
        limit = self.normal_urban_percent if urban else self.normal_rural_percent
        return Area(limit, side["gate_meter_id"] is not None)

    def map(self, rows: pa.Table, state: Area | None, day: Day) -> tuple[Partial | None, list[Rejected]]:
        names = ("import_wh", "export_wh"), ("import_quality", "export_quality")
        meters, rejected = _meter.read(rows, *names, day)
        return (_sums(meters) if meters else None), rejected

    def merge(self, a: Partial, b: Partial) -> Partial:
        pairs = zip(dataclasses.astuple(a), dataclasses.astuple(b), strict=True)
        return Partial(*(x + y for x, y in pairs))

    def finish(
        self, partial: Partial, state: Area | None, day: Day
    ) -> tuple[dict[str, pa.RecordBatch], dict[str, Any]]:
        figures = dict.fromkeys(self.figures) | {
            name: getattr(partial, name)
            for name in ("meters", "meters_covered", "import_wh", "export_wh", "estimated_wh")
        }
        gate = {name: getattr(partial, name) for name in ("gates", "gates_covered", "forward_wh", "reverse_wh")}
        if state is None:
            return {}, figures | {f"network_{name}": value for name, value in gate.items()}
        gate["gates"] = max(partial.gates, int(state.has_gate))
        return {}, figures | gate | {"days": 1} | self._judged(partial, gate["gates"], state.limit_percent)

    def _judged(self, it: Partial, gates: int, limit_percent: float) -> dict[str, Any]:
        """The day's verdict: of figures that only days that can be judged add to."""
        enter, leave = it.forward_wh + it.export_wh, it.reverse_wh + it.import_wh
        usable = (
            0 < gates == it.gates_covered
            and enter > 0 < it.meters
            and 100 * it.meters_covered >= self.min_coverage_percent * it.meters
            and 100 * it.estimated_wh <= self.max_estimated_percent * enter
        )
        figures: dict[str, Any] = {"days_assessed": int(usable), "limit_percent": limit_percent}
        if not usable:
            return figures
        percent, lowest, highest = 100 * (enter - leave), self.negative_percent * enter, limit_percent * enter
        beyond = round(max(percent - highest, lowest - percent, 0.0) / 100)
        return figures | {
            "days_high": int(percent > highest), "days_negative": int(percent < lowest), "in_wh": enter,
            "out_wh": leave, "stake_wh": beyond, "at_stake": beyond / 1000 * self.price_per_kwh,
        }  # fmt: skip

    def equivalent(self, a: Partial, b: Partial) -> bool:
        return identical(a, b)

    @classmethod
    def examples(cls, seed: int) -> Examples:
        """A gate meter, a customer and a generator, each in a block of its own."""
        random, slots = np.random.default_rng(seed), EXAMPLE_DAY.length_s // _meter.INTERVAL_S
        energy = random.integers(1, 1 << 40, (3, slots)).tolist()
        meters = [{"is_gate": True, "import_wh": energy[0]}, {"import_wh": energy[1]}, {"export_wh": energy[2]}]
        rows = _meter.example_rows(EXAMPLE_DAY, meters)
        operator = cls()
        partials = (operator.map(rows.slice(i, 1), None, EXAMPLE_DAY)[0] for i in range(rows.num_rows))
        return Examples(Partial(), tuple(partials))

    @classmethod
    def from_settings(cls, settings: Any, **overrides: Any) -> LineLoss:
        """The operator that `mining.line_loss` and `mining.price_per_kwh` of the settings describe."""
        chosen = settings.mining
        return cls(**dict(chosen.line_loss) | {"price_per_kwh": chosen.price_per_kwh} | overrides)


def _sums(meters: Meters) -> Partial:
    drawn, has_drawn = meters.wh("import_wh")
    fed, has_fed = meters.wh("export_wh")
    estimated = drawn * meters.marked("import_quality", ESTIMATED) + fed * meters.marked("export_quality", ESTIMATED)
    # A quantity that the meter has must be there in every slot; it need not have both.
    holes = (meters.has("import_wh") & ~has_drawn.all(axis=1)) | (meters.has("export_wh") & ~has_fed.all(axis=1))
    covered = (meters.has("import_wh") | meters.has("export_wh")) & ~holes
    gate, customer = meters.is_gate, ~meters.is_gate
    return Partial(
        meters=int(customer.sum()), meters_covered=int((covered & customer).sum()),
        gates=int(gate.sum()), gates_covered=int((covered & gate).sum()),
        forward_wh=int(drawn[gate].sum()), reverse_wh=int(fed[gate].sum()),
        import_wh=int(drawn[customer].sum()), export_wh=int(fed[customer].sum()), estimated_wh=int(estimated.sum()),
    )  # fmt: skip


OPERATOR = LineLoss
