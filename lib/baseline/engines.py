"""The three ways to calculate on collected snapshots. Each gives the same figures per bus and day, and its seconds.

`pandapower`: the loop, one process, on a sample; its time is scaled to all snapshots and labelled so.
`power-grid-model`: its batch calculation (iterative current, its fastest method) on all cores.
`gridsink`: the sunk calculation's own solver and summaries on all cores, so that what is left of the difference to the
sunk run is what moving the data costs.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lib.baseline.collect import Collected, DayKey, NetworkDay, NetworkKey
from lib.settings import Settings
from lib.tables.tiles import LANES

ENGINES = ("pandapower", "power-grid-model", "gridsink")

TIMED = {
    "pandapower": "collect; then runpp per sampled snapshot and vm_pu, scaled to all snapshots; no summaries, no write",
    "power-grid-model": "collect; then batches: voltage magnitudes, minimum, mean, maximum per bus and day; no write",
    "gridsink": "collect; then voltages and the whole day summaries of buses and branches; no write",
}

Sample = Mapping[DayKey, NDArray[np.int64]]
"""network-day key -> positions among its tiles' slots"""


@dataclass
class Outcome:
    """What an engine found and what it took."""

    engine: str
    bus_day: pa.Table
    """region, date, network_id, network_version, bus, vm_min_pu, vm_mean_pu, vm_max_pu; empty for pandapower"""
    sample: pa.Table
    """region, date, network_id, network_version, bus, slot, vm_pu of the sampled snapshots"""
    snapshots: int
    bus_snapshots: int
    failed: int
    """Snapshots without a solution."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Per phase; "solve" is scaled where `solved_snapshots` is not `snapshots`."""
    solved_snapshots: int = 0
    measured_solve_s: float = 0.0

    @property
    def scaled(self) -> bool:
        """Whether the time stands for more snapshots than were solved."""
        return self.solved_snapshots < self.snapshots


def choose_sample(collected: Collected, per_network: int) -> dict[DayKey, NDArray[np.int64]]:
    """`per_network` snapshots of each network, evenly over its days and slots; all where it has no more."""
    positions: dict[NetworkKey, list[tuple[DayKey, int]]] = {}
    for key in collected.rows:
        region, _, network_id, version = key
        slots = np.flatnonzero(collected.used(key)).tolist()
        positions.setdefault((region, network_id, version), []).extend((key, slot) for slot in slots)
    chosen: dict[DayKey, NDArray[np.int64]] = {}
    for of_network in positions.values():
        count = min(per_network, len(of_network))
        for i in ((np.arange(count) + 0.5) * len(of_network) / max(count, 1)).astype(int).tolist():
            key, slot = of_network[i]
            chosen[key] = np.append(chosen.get(key, np.empty(0, np.int64)), slot)
    return chosen


def run(engine: str, collected: Collected, settings: Settings, per_network: int) -> Outcome:
    """Calculate every network-day (pandapower: its sample of `per_network` snapshots a network)."""
    sample = choose_sample(collected, per_network)
    calculate = {"pandapower": _pandapower, "power-grid-model": _power_grid_model, "gridsink": _gridsink}[engine]
    return calculate(collected, settings, sample)


class _Gathering:
    """Rows of an outcome as they come."""

    def __init__(self, engine: str) -> None:
        self.engine, self.failed, self.snapshots, self.bus_snapshots = engine, 0, 0, 0
        self._bus_day: list[pa.Table] = []
        self._sample: list[pa.Table] = []

    def count(self, day: NetworkDay) -> None:
        self.snapshots += day.n_snapshot
        self.bus_snapshots += day.n_snapshot * day.network.n_bus

    def add_bus_day(self, day: NetworkDay, **columns: NDArray[np.float64]) -> None:
        self._bus_day.append(_table(day, day.network.bus_ids, **columns))

    def add_sample(self, day: NetworkDay, slots: NDArray[np.int64], vm_pu: NDArray[np.float64]) -> None:
        """vm_pu: (n_bus, len(slots))."""
        bus, slot = np.repeat(day.network.bus_ids, len(slots)), np.tile(day.slot[slots], day.network.n_bus)
        self._sample.append(_table(day, bus, slot=slot, vm_pu=vm_pu.ravel()))

    def outcome(self, seconds: dict[str, float], **figures: Any) -> Outcome:
        bus_day, sample = (pa.concat_tables(t) if t else pa.table({}) for t in (self._bus_day, self._sample))
        return Outcome(
            self.engine, bus_day, sample, self.snapshots, self.bus_snapshots, self.failed, seconds,
            **({"solved_snapshots": self.snapshots, "measured_solve_s": seconds["solve"]} | figures),
        )  # fmt: skip


def _table(day: NetworkDay, bus: NDArray[np.int64], **columns: NDArray[Any]) -> pa.Table:
    n = len(bus)
    key = {
        "region": pa.array([day.region] * n).dictionary_encode(),
        "date": pa.array([day.date] * n, pa.date32()),
        "network_id": pa.array([day.network_id] * n).dictionary_encode(),
        "network_version": pa.array(np.full(n, day.network_version, np.int32)),
    }
    return pa.table(key | {"bus": bus} | columns)


# -- pandapower -------------------------------------------------------------------------------------------------------


def _pandapower(collected: Collected, settings: Settings, sample: Sample) -> Outcome:
    from lib.baseline.pandapower_loop import PandapowerLoop
    from lib.ingest.source import simbench_net

    gathering = _Gathering("pandapower")
    loops: dict[NetworkKey, PandapowerLoop] = {}
    totals: dict[NetworkKey, int] = {}
    spent: dict[NetworkKey, tuple[float, int]] = {}
    build_s = 0.0
    for day in collected.network_days():
        gathering.count(day)
        key = day.network_key
        totals[key] = totals.get(key, 0) + day.n_snapshot
        slots = sample.get(day.key)
        if slots is None:
            continue
        p, q = day.p_kw[:, slots] * np.float64(1e-3), day.q_kvar[:, slots] * np.float64(1e-3)
        if key not in loops:
            begin = time.perf_counter()
            loops[key] = PandapowerLoop(simbench_net(settings.regions[day.region].simbench_code), day.network)
            loops[key].solve(p[:, :1], q[:, :1])  # its first run compiles; every later one is what is timed
            build_s += time.perf_counter() - begin
        begin = time.perf_counter()
        vm_pu = loops[key].solve(p, q)
        seconds, solved = spent.get(key, (0.0, 0))
        spent[key] = seconds + time.perf_counter() - begin, solved + len(slots)
        gathering.failed += int(np.isnan(vm_pu).all(axis=0).sum())
        gathering.add_sample(day, slots, vm_pu)
    scaled_s = sum(seconds / solved * totals[key] for key, (seconds, solved) in spent.items())
    return gathering.outcome(
        {"build": build_s, "solve": scaled_s},
        solved_snapshots=sum(solved for _, solved in spent.values()),
        measured_solve_s=sum(seconds for seconds, _ in spent.values()),
    )


# -- power-grid-model -------------------------------------------------------------------------------------------------


def _power_grid_model(collected: Collected, settings: Settings, sample: Sample) -> Outcome:
    from lib.baseline.power_grid_model import BatchModel

    gathering = _Gathering("power-grid-model")
    models: dict[NetworkKey, BatchModel] = {}
    timed = _Timer()
    for day in timed.over("arrange", collected.network_days()):
        gathering.count(day)
        key = day.network_key
        with timed("build"):
            if key not in models:
                models[key] = BatchModel(day.network)
        with timed("arrange"):
            scale = np.float64(1e-3)
            p, q = day.p_kw[:, day.used] * scale, day.q_kvar[:, day.used] * scale
        with timed("solve"):
            result = models[key].solve(p, q, tolerance=settings.solve.tolerance, threads=0)
        with timed("summarise"):
            vm_pu = result.vm_pu
            alive = vm_pu[result.converged] if result.converged.any() else vm_pu[:1]  # a line of NaN
            figures = {"vm_min_pu": alive.min(0), "vm_mean_pu": alive.mean(0), "vm_max_pu": alive.max(0)}
            gathering.add_bus_day(day, **figures)
        gathering.failed += int((~result.converged).sum())
        if (slots := sample.get(day.key)) is not None:
            gathering.add_sample(day, slots, vm_pu[np.searchsorted(np.flatnonzero(day.used), slots)].T)
    return gathering.outcome(timed.seconds)


# -- gridsink, collected ----------------------------------------------------------------------------------------------


def _gridsink(collected: Collected, settings: Settings, sample: Sample) -> Outcome:
    from lib.grid.powerflow import solve
    from lib.grid.summary import DaySummary, Limits, Summariser, vm_mean_pu

    gathering = _Gathering("gridsink")
    options = settings.solve
    summarisers: dict[NetworkKey, Summariser] = {}

    def calculate(
        item: tuple[NetworkDay, Summariser],
    ) -> tuple[NetworkDay, DaySummary, NDArray[np.float64] | None, int]:
        day, summariser = item
        result = solve(
            day.network, day.p_kw, day.q_kvar, scale=1e-3, tolerance=options.tolerance,
            max_iterations=options.max_iterations, fallback=options.fallback,
        )  # fmt: skip
        counted = result.converged & day.used
        summary = summariser.empty()
        for tile, first_slot in enumerate(day.first_slot.tolist()):
            lanes = slice(tile * LANES, (tile + 1) * LANES)
            summariser.add_tile(summary, result.e[tile], result.f[tile], counted[lanes], first_slot)
        slots = sample.get(day.key)
        vm_pu = None
        if slots is not None:
            of_tile, lane, n = slots // LANES, slots % LANES, day.network.n_bus
            vm_pu = np.hypot(result.e[of_tile, :n, lane], result.f[of_tile, :n, lane]).T
        return day, summary, vm_pu, int((day.used & ~result.converged).sum())

    def items() -> Iterator[tuple[NetworkDay, Summariser]]:
        for day in collected.network_days():
            key = day.network_key
            if key not in summarisers:
                low, high = (np.full(day.network.n_bus, v) for v in (options.v_min_pu, options.v_max_pu))
                limits = Limits(low, high, options.heavy_percent, options.overload_percent)
                summarisers[key] = Summariser(day.network, limits)
            yield day, summarisers[key]

    begin = time.perf_counter()
    for day, summary, vm_pu, failed in _map_on_all_cores(calculate, items()):
        gathering.count(day)
        gathering.failed += failed
        low, high = (np.where(summary.bus_slots > 0, v, np.nan) for v in (summary.vm_min_pu, summary.vm_max_pu))
        gathering.add_bus_day(day, vm_min_pu=low, vm_mean_pu=vm_mean_pu(summary), vm_max_pu=high)
        if vm_pu is not None:
            gathering.add_sample(day, sample[day.key], vm_pu)
    return gathering.outcome({"solve": time.perf_counter() - begin})


def _map_on_all_cores(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Results in order, a few items ahead: the kernels release Python's lock, so threads share the collected table."""
    cores = len(os.sched_getaffinity(0))
    pending: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > cores:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class _Timer:
    """Seconds per phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - begin

    def over(self, phase: str, items: Iterable[Any]) -> Iterator[Any]:
        """The items, the time they take to come counted."""
        iterator = iter(items)
        while True:
            with self(phase):
                item = next(iterator, None)
            if item is None:
                return
            yield item
