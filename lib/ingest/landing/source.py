"""What the demo landing is made from: the demo's source, and which meter hangs under which distribution transformer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.grid.network import BRANCH_KINDS, Network
from lib.ingest.source import INTERVAL_S, SIMBENCH_START, Source, from_net, simbench_net
from lib.tables.tiles import day_slots, day_start

LOW_VOLTAGE_KV = 1.0


@dataclass(frozen=True, eq=False)
class LandingSource(Source):
    """Adds n_area distribution transformers, n_feed transformers above them and n_switch medium-voltage switches."""

    meter_generates: NDArray[np.bool_]
    """(n_meter,) generator (True) or load."""
    meter_bus: NDArray[np.int64]
    """(n_meter,) bus of the net."""
    meter_area: NDArray[np.int32]
    """(n_meter,) position of its transformer, -1 at medium voltage."""
    area_element: NDArray[np.int64]
    """(n_area,) index in the net's table trafo ..."""
    area_branch: NDArray[np.int64]
    """(n_area,) ... in the network's branches ..."""
    area_row: NDArray[np.int64]
    """(n_area,) ... and row, bus of its low-voltage side ..."""
    area_bus: NDArray[np.int64]
    area_hv_bus: NDArray[np.int64]
    """(n_area,) ... bus, row of its upper side."""
    area_hv_row: NDArray[np.int64]
    area_rated_kva: NDArray[np.float64]
    area_longitude: NDArray[np.float64]
    """(n_area,) degree, NaN where the net has no place."""
    area_latitude: NDArray[np.float64]
    feed_element: NDArray[np.int64]
    """(n_feed,) index in trafo ..."""
    feed_branch: NDArray[np.int64]
    """(n_feed,) ... and in the network's branches."""
    switch_element: NDArray[np.int64]
    """(n_switch,) index in the net's table switch ..."""
    switch_closed: NDArray[np.bool_]
    """(n_switch,) ... and its state."""
    network_json: NDArray[np.uint8]
    """The net as pandapower writes it."""

    @property
    def n_area(self) -> int:
        return len(self.area_element)

    @cached_property
    def solver_network(self) -> Network:
        return Network.from_bytes(self.network.tobytes())

    @cached_property
    def hours(self) -> NDArray[np.float64]:
        """(n_profile, n_interval + 1) h at full active power from the profiles' start to each slot's start."""
        summed = np.cumsum(self.profile_p, axis=1, dtype=np.float64) * (INTERVAL_S / 3600)
        return np.concatenate([np.zeros((len(summed), 1)), summed], axis=1)

    def slots_of(self, day: date, time_zone: str) -> slice:
        """Columns of the profiles that are this civil day. Raises ValueError where the profiles do not cover it."""
        first = (int(day_start(day, time_zone).timestamp()) - self.start_s) // INTERVAL_S
        slots = slice(first, first + day_slots(day, time_zone, INTERVAL_S))
        if first < 0 or slots.stop > self.profile_p.shape[1]:
            raise ValueError(f"the profiles do not cover {day} in {time_zone}")
        return slots


def landing_source(net: Any, profiles: dict[str, Any], start: datetime) -> LandingSource:
    """LandingSource of a pandapower net with profiles as `lib.ingest.source.from_net` takes them.

    A transformer's area is what its low-voltage bus reaches over lines and closed switches. Raises ValueError for a net
    with no distribution transformer, or with two that feed one area: a gate meter would then see but a part of it.
    """
    import networkx as nx
    import pandapower
    from pandapower import topology

    source = from_net(net, profiles, start)
    network = Network.from_bytes(source.network.tobytes())
    graph = topology.create_nxgraph(net, include_trafos=False, include_trafo3ws=False)
    component = {bus: k for k, buses in enumerate(nx.connected_components(graph)) for bus in buses}
    trafo = net.trafo[net.trafo.in_service & net.trafo.lv_bus.isin(list(network.row_of))]
    areas = trafo[trafo.vn_lv_kv < LOW_VOLTAGE_KV]
    area_of = {component[bus]: k for k, bus in enumerate(areas.lv_bus)}
    if len(area_of) < max(1, len(areas)):
        raise ValueError(f"{net.name}: each low-voltage area needs one transformer of its own")
    branch = {
        element: k
        for k, (kind, element) in enumerate(zip(network.branch_kind, network.branch_element.tolist(), strict=True))
        if BRANCH_KINDS[kind] == "trafo"
    }
    meters = [
        (network.row_of[bus], kind == "sgen", bus, area_of.get(component[bus], -1))
        for kind in ("load", "sgen")
        for bus in net[kind].bus[net[kind].in_service].tolist()
        if bus in network.row_of
    ]
    row, generates, bus, area = (np.array(column) for column in zip(*meters, strict=True))
    order = np.argsort(row, kind="stable")  # as from_net sorts them
    places = [_place(net, bus) for bus in areas.lv_bus]
    feeds = trafo[trafo.vn_lv_kv >= LOW_VOLTAGE_KV]
    switches = net.switch[net.bus.vn_kv.loc[net.switch.bus].to_numpy() >= LOW_VOLTAGE_KV]
    return LandingSource(
        **{name: getattr(source, name) for name in Source.__dataclass_fields__},
        meter_generates=generates[order],
        meter_bus=bus[order].astype(np.int64),
        meter_area=area[order].astype(np.int32),
        area_element=areas.index.to_numpy(np.int64),
        area_branch=np.array([branch[element] for element in areas.index], dtype=np.int64),
        area_row=np.array([network.row_of[bus] for bus in areas.lv_bus], dtype=np.int64),
        area_bus=areas.lv_bus.to_numpy(np.int64),
        area_hv_bus=areas.hv_bus.to_numpy(np.int64),
        area_hv_row=np.array([network.row_of[bus] for bus in areas.hv_bus], dtype=np.int64),
        area_rated_kva=areas.sn_mva.to_numpy(np.float64) * 1e3,
        area_longitude=np.array([place[0] for place in places]),
        area_latitude=np.array([place[1] for place in places]),
        feed_element=feeds.index.to_numpy(np.int64),
        feed_branch=np.array([branch[element] for element in feeds.index], dtype=np.int64),
        switch_element=switches.index.to_numpy(np.int64),
        switch_closed=switches.closed.to_numpy(dtype=bool),
        network_json=np.frombuffer(str(pandapower.to_json(net)).encode(), dtype=np.uint8),
    )


def from_simbench(code: str) -> LandingSource:
    """LandingSource of a SimBench network with its profiles of 2016."""
    net = simbench_net(code)
    profiles = net.pop("profiles")  # a year of them would be most of the model's file
    profiles = {"load": profiles["load"], "sgen": profiles["renewables"]}
    return landing_source(net, profiles, SIMBENCH_START)


def _place(net: Any, bus: int) -> tuple[float, float]:
    place = net.bus.geo.get(bus) if "geo" in net.bus else None
    return tuple(json.loads(place)["coordinates"][:2]) if isinstance(place, str) else (np.nan, np.nan)
