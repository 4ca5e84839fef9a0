"""Load statistics of a network and day: energy drawn and fed back, highest and lowest demand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from lib.algorithm.equivalence import identical
from lib.algorithm.operator import Day, Examples, Figure, Rejected, Side
from lib.algorithm.operators import _tile
from lib.algorithm.operators._tile import TILES, Tile, in_order
from lib.tables.tiles import Slot


@dataclass(eq=False)
class Partial:
    """What some tiles of a day came to. Arrays of (4,) hold one value per tile; sums are in kW x slots."""

    interval_s: int
    slots: NDArray[np.int64]
    bad: NDArray[np.int64]
    high: NDArray[np.int64]
    drawn: NDArray[np.float64]
    fed_back: NDArray[np.float64]
    squared: NDArray[np.float64]
    demand_max_kw: float
    demand_min_kw: float


@dataclass(frozen=True)
class NetworkLoad:
    """Load of every network: energy drawn and fed back at its buses, extremes of its demand, lost slots."""

    high_kw: Annotated[float, Field(ge=0, description="demand above this counts as high, kW")] = 1000.0

    name: ClassVar[str] = "network_load"
    version: ClassVar[int] = 1
    table: ClassVar[str] = _tile.TABLE
    columns: ClassVar[tuple[str, ...]] = (*_tile.COLUMNS, "p_kw")
    group: ClassVar[tuple[str, ...]] = _tile.GROUP
    key: ClassVar[tuple[str, ...]] = _tile.KEY
    side: ClassVar[Side | None] = None
    outputs: ClassVar[tuple[str, ...]] = ()
    figures: ClassVar[Mapping[str, Figure]] = {
        "slots": Figure("sum", "bigint", "", "slots of the day", 0),
        "slots_valid": Figure("sum", "bigint", "", "slots with data: what the other figures cover", 0),
        "slots_bad": Figure("sum", "bigint", "", "slots with a power that is no number", 0),
        "slots_missing": Figure("sum", "bigint", "", "slots without data", 0),
        "drawn_kwh": Figure("sum", "double", "kWh", "energy drawn at the buses that draw", 0),
        "fed_back_kwh": Figure("sum", "double", "kWh", "energy fed in at the buses that feed in", 0),
        "demand_max_kw": Figure("max", "double", "kW", "highest demand of the whole network"),
        "demand_min_kw": Figure("min", "double", "kW", "lowest demand, negative where more is fed in than drawn"),
        "demand_squared_kw2": Figure("sum", "double", "kW²", "sum of the slots' squared demand, for its spread", 0),
        "minutes_high": Figure("sum", "double", "min", "time with a demand above high_kw", 0),
    }

    def prepare(self, side: Mapping[str, Any]) -> None:
        """No side input, so nothing to prepare."""

    def map(self, rows: pa.Table, state: None, day: Day) -> tuple[Partial | None, list[Rejected]]:
        tiles, rejected = _tile.read(rows, ["p_kw"], day)
        if not tiles:
            return None, rejected
        partial = _empty(tiles[0].interval_s)
        for tile in tiles:
            self._add(partial, tile)
        return partial, rejected

    def _add(self, partial: Partial, tile: Tile) -> None:
        p_kw, k = tile.powers["p_kw"], tile.index
        with np.errstate(invalid="ignore"):
            injected = p_kw.sum(axis=0, dtype=np.float64)
        valid = tile.status == Slot.VALID
        used = valid & np.isfinite(injected)  # not finite where any bus is not
        partial.slots[k] += used.sum()
        partial.bad[k] += (valid & ~used).sum()
        if used.any():
            demand = 0.0 - injected[used]  # never -0.0, which is equal to 0.0 and not the same bits
            partial.high[k] += (demand > self.high_kw).sum()
            partial.drawn[k] -= np.minimum(p_kw, 0).sum(axis=0, dtype=np.float64)[used].sum()
            partial.fed_back[k] += np.maximum(p_kw, 0).sum(axis=0, dtype=np.float64)[used].sum()
            partial.squared[k] += (demand**2).sum()
            partial.demand_max_kw = max(partial.demand_max_kw, float(demand.max()))
            partial.demand_min_kw = min(partial.demand_min_kw, float(demand.min()))

    def merge(self, a: Partial, b: Partial) -> Partial:
        _tile.require_equal_intervals(a.interval_s, b.interval_s)
        return Partial(
            a.interval_s, a.slots + b.slots, a.bad + b.bad, a.high + b.high, a.drawn + b.drawn,
            a.fed_back + b.fed_back, a.squared + b.squared,
            max(a.demand_max_kw, b.demand_max_kw), min(a.demand_min_kw, b.demand_min_kw),
        )  # fmt: skip

    def finish(self, partial: Partial, state: None, day: Day) -> tuple[dict[str, pa.RecordBatch], dict[str, Any]]:
        valid, bad = int(partial.slots.sum()), int(partial.bad.sum())
        slots, hours = day.length_s // partial.interval_s, partial.interval_s / 3600
        known = {
            "drawn_kwh": float(in_order(partial.drawn)) * hours,
            "fed_back_kwh": float(in_order(partial.fed_back)) * hours,
            "demand_max_kw": partial.demand_max_kw, "demand_min_kw": partial.demand_min_kw,
            "demand_squared_kw2": float(in_order(partial.squared)),
            "minutes_high": int(partial.high.sum()) * partial.interval_s / 60,
        }  # fmt: skip
        counts = {"slots": slots, "slots_valid": valid, "slots_bad": bad, "slots_missing": slots - valid - bad}
        return {}, counts | (known if valid else dict.fromkeys(known))

    def equivalent(self, a: Partial, b: Partial) -> bool:
        return identical(a, b)

    @classmethod
    def examples(cls, seed: int) -> Examples:
        """The three tiles of a day of five buses."""
        operator, day = cls(high_kw=10.0), Day("example", date(2016, 1, 1), 86_400)
        rows = _tile.example_rows(seed, 5, day)
        partials = (operator.map(rows.slice(i, 1), None, day)[0] for i in range(rows.num_rows))
        return Examples(_empty(900), tuple(partials))


def _empty(interval_s: int) -> Partial:
    slots, bad, high = np.zeros((3, TILES), np.int64)
    drawn, fed_back, squared = np.zeros((3, TILES))
    return Partial(interval_s, slots, bad, high, drawn, fed_back, squared, -np.inf, np.inf)


OPERATOR = NetworkLoad
