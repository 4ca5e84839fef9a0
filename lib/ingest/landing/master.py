"""Files that are delivered once: customers, devices, assets, the network's model, switches."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from lib.ingest.landing import files
from lib.ingest.landing.customers import PHASES, REGISTER_DIGITS, gate_ids, gate_ratio, transformer_ids
from lib.ingest.landing.faults import NEVER
from lib.ingest.landing.readings import infeed_meter, secondary_kwh
from lib.ingest.landing.region import DemoRegion

SINCE = 2015
"""Year from whose first day on everything is valid."""


def master_files(region: DemoRegion, area_type: str) -> list[tuple[str, str, pa.Table | bytes]]:
    """Source, file name and rows of what is delivered a day before the first; devices' changes come afterwards."""
    before = region.seconds(region.slots(region.first).start) - 86400
    after = region.seconds(region.slots(region.days[-1]).stop) + 4 * 3600
    model = f"{region.recipe.network_id}.json"
    result: list[tuple[str, str, pa.Table | bytes]] = [
        ("customers", files.name("customers", before, ".csv"), _customers(region)),
        ("meters", files.name("devices", before, ".csv"), _devices(region)),
        ("assets", files.name("transformers", before, ".csv"), _transformers(region, area_type)),
        ("assets", files.name("connections", before, ".csv"), _connections(region)),
        ("assets", files.name("networks", before, ".csv"), _networks(region, model)),
        ("assets/networks", model, region.source.network_json.tobytes()),
        ("switches", files.name("switches", before, ".csv"), _switches(region, before)),
    ]
    changes = _device_changes(region)
    if changes.num_rows:
        result.append(("meters", files.name("devices", after, "-changes.csv"), changes))
    return [it for it in result if isinstance(it[2], bytes) or it[2].num_rows]


def _same(value: str | None, n: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.string()), n)


def _customers(region: DemoRegion) -> pa.Table:
    it, n = region.customers, len(region.customers)
    ids = np.array([*transformer_ids(region.source, region.recipe.region), None], dtype=object)
    power = np.abs(region.source.meter_p_kw[it.meter]) * it.share
    tariff = np.where(
        region.source.meter_generates[it.meter], "generation", np.where(power > 30, "business", "residential")
    )
    return pa.table(
        {
            "customer_id": pa.array(it.customer_id, pa.string()),
            "meter_id": pa.array(it.meter_id, pa.string()),
            "transformer_id": pa.array(ids[region.plan.recorded_area], pa.string()),
            "phase": pa.array(np.array(PHASES)[it.phase], pa.string()),
            "tariff": pa.array(tariff, pa.string()),
            "valid_from": _same(f"{SINCE}-01-01", n),
            "valid_to": _same(None, n),
        }
    )


def _device_id(region: DemoRegion, number: int, device: int = 0) -> str:
    return f"{region.recipe.region}-d{number:07d}-{device}"


def _devices(region: DemoRegion) -> pa.Table:
    """Customers' meters, gate meters, the infeed's."""
    it, n_area = region.customers, region.source.n_area
    gates = gate_ids(region.source, region.recipe.region)
    meters = [*it.meter_id.tolist(), *gates, infeed_meter(region.recipe.region)]
    n = len(meters)
    use = np.where(region.source.meter_generates[it.meter], "generation", "customer").tolist()
    since = datetime(SINCE, 1, 1, tzinfo=ZoneInfo(region.recipe.time_zone)).isoformat()
    return pa.table(
        {
            "meter_id": pa.array(meters, pa.string()),
            "device_id": pa.array([_device_id(region, k) for k in range(n)], pa.string()),
            "valid_from": _same(since, n),
            "valid_to": _same(None, n),
            "ct_ratio": pa.array([*it.ct_ratio.tolist(), *gate_ratio(region.source).tolist(), 1.0]),
            "pt_ratio": pa.array([*it.pt_ratio.tolist(), *[1.0] * (n_area + 1)]),
            "register_digits": pa.array([REGISTER_DIGITS] * n, pa.int64()),
            "start_import_total_kwh": pa.array([0.0] * n),
            "end_import_total_kwh": pa.array([None] * n, pa.float64()),
            "use": pa.array([*use, *["gate"] * (n_area + 1)], pa.string()),
        }
    )


def _device_changes(region: DemoRegion) -> pa.Table:
    """Swapped devices, and CT ratios that the records change though nobody changed the CT."""
    devices = {row["meter_id"]: (k, row) for k, row in enumerate(_devices(region).to_pylist())}
    gates = gate_ids(region.source, region.recipe.region)
    changes: list[tuple[str, int, dict[str, float], dict[str, float], int]] = []
    for m, slot in region.plan.swaps.items():
        steps = np.zeros(len(region.customers))
        steps[m] = region.swap_steps[m]
        end = float(secondary_kwh(region, steps)[m]) % 10.0**REGISTER_DIGITS
        changes.append((str(region.customers.meter_id[m]), slot, {"end_import_total_kwh": round(end, 5)}, {}, 1))
    for area in np.flatnonzero(region.plan.gate_slot != NEVER).tolist():
        ratio = gate_ratio(region.source)[area] * region.plan.gate_factor[area]
        changes.append((gates[area], int(region.plan.gate_slot[area]), {}, {"ct_ratio": float(ratio)}, 0))
    rows = []
    for meter, slot, ended, begun, device in changes:
        number, row = devices[meter]
        text = files.with_offset([region.seconds(slot)], region.recipe.time_zone)[0].as_py()
        rows.append(row | ended | {"valid_to": text})
        rows.append(row | begun | {"valid_from": text, "device_id": _device_id(region, number, device)})
    return pa.Table.from_pylist(rows, schema=_devices(region).schema)


def _transformers(region: DemoRegion, area_type: str) -> pa.Table:
    source = region.source
    ids = transformer_ids(source, region.recipe.region)
    return pa.table(
        {
            "transformer_id": ids,
            "network_id": _same(region.recipe.network_id, len(ids)),
            "s_rated_kva": pa.array(np.round(source.area_rated_kva, 6)),
            "gate_meter_id": gate_ids(source, region.recipe.region),
            "longitude": pa.array(source.area_longitude, mask=np.isnan(source.area_longitude)),
            "latitude": pa.array(source.area_latitude, mask=np.isnan(source.area_latitude)),
            "element": pa.array(source.area_element),
            "area_type": _same(area_type, len(ids)),
        }
    )


def _connections(region: DemoRegion) -> pa.Table:
    it, n = region.customers, len(region.customers)
    return pa.table(
        {
            "meter_id": pa.array(it.meter_id, pa.string()),
            "network_id": _same(region.recipe.network_id, n),
            "bus": pa.array(region.source.meter_bus[it.meter]),
            "valid_from": _same(f"{SINCE}-01-01", n),
            "valid_to": _same(None, n),
        }
    )


def _networks(region: DemoRegion, file: str) -> pa.Table:
    row = {
        "network_id": region.recipe.network_id, "valid_from": f"{SINCE}-01-01", "valid_to": None,
        "format": "pandapower", "file": file, "gate_meter_id": infeed_meter(region.recipe.region),
    }  # fmt: skip
    return pa.table({key: pa.array([value], pa.string()) for key, value in row.items()})


def _switches(region: DemoRegion, second: int) -> pa.Table:
    source = region.source
    n = len(source.switch_element)
    return pa.table(
        {
            "switch_id": pa.array(
                [f"{region.recipe.region}-s{element:05d}" for element in source.switch_element], pa.string()
            ),
            "network_id": _same(region.recipe.network_id, n),
            "ts": files.with_offset([second] * n, region.recipe.time_zone),
            "closed": pa.array(source.switch_closed),
            "element": pa.array(source.switch_element),
        }
    )
