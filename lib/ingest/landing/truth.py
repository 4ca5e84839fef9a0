"""What truly happened, for checking results against: Parquet apart from the landing, where no job reads it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lib.ingest.landing.customers import gate_ratio, transformer_ids
from lib.ingest.landing.day import GATE_STEP_WH, Day, gate_counts
from lib.ingest.landing.faults import Fault
from lib.ingest.landing.region import DemoRegion

_INSTANT = pa.timestamp("us", tz="UTC")


def fault_table(region: DemoRegion, faults: Sequence[Fault]) -> pa.Table:
    """One row per fault; docs/landing.md says what `size` means for each kind."""

    def instants(seconds: list[int | None]) -> pa.Array:
        return pa.array([None if s is None else s * 1_000_000 for s in seconds], pa.int64()).cast(_INSTANT)

    return pa.table(
        {
            "region": pa.repeat(pa.scalar(region.recipe.region), len(faults)),
            "kind": pa.array([it.kind for it in faults], pa.string()),
            "meter_id": pa.array([it.meter_id for it in faults], pa.string()),
            "transformer_id": pa.array([it.transformer_id for it in faults], pa.string()),
            "recorded_transformer_id": pa.array([it.recorded_transformer_id for it in faults], pa.string()),
            "from_ts": instants([it.from_s for it in faults]),
            "to_ts": instants([it.to_s for it in faults]),
            "size": pa.array([it.size for it in faults], pa.float64()),
        }
    )


def area_loss(region: DemoRegion, day: date, it: Day) -> pa.Table:
    """Energies and losses of each area's day, as faultless meters measured them and as the faulty ones and records say.

    Values lost, delayed or spoilt on the way do not count here: the registers would still show the energy.
    """
    source, customers, slots = region.source, region.customers, it.slots
    forward, reverse = (
        steps.sum(axis=1) * GATE_STEP_WH / 1e3 * gate_ratio(source) for steps in gate_counts(source, it)
    )
    step_kwh = customers.step_wh / 1e3
    true, metered = (
        np.diff(region.counted(day, it.energy_wh, faultless)[:, [0, -1]], axis=1)[:, 0] * step_kwh
        for faultless in (True, False)
    )
    generates = source.meter_generates[customers.meter]

    def sums(area: NDArray[np.int32], energy: NDArray[np.float64], of: NDArray[np.bool_]) -> NDArray[np.float64]:
        chosen = of & (area >= 0)
        return np.bincount(area[chosen], weights=energy[chosen], minlength=source.n_area).astype(np.float64)

    imported, exported = sums(customers.area, true, ~generates), sums(customers.area, true, generates)
    loss = forward + exported - reverse - imported
    factor = np.where(region.plan.gate_slot <= slots.start, region.plan.gate_factor, 1.0)
    recorded = region.plan.recorded_area
    observed = (forward - reverse) * factor + sums(recorded, metered, generates) - sums(recorded, metered, ~generates)
    n = source.n_area
    return pa.table(
        {
            "region": pa.repeat(pa.scalar(region.recipe.region), n),
            "date": pa.repeat(pa.scalar(day), n),
            "transformer_id": transformer_ids(source, region.recipe.region),
            "customers": pa.array(np.bincount(customers.area[customers.area >= 0], minlength=n)),
            "gate_forward_kwh": forward,
            "gate_reverse_kwh": reverse,
            "import_kwh": imported,
            "export_kwh": exported,
            "loss_kwh": loss,
            "observed_loss_kwh": observed,
            "technical_loss_kwh": it.technical_wh / 1e3,
        }
    )
