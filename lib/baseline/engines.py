"""The three ways to calculate on collected snapshots. Each gives the same figures per bus and day, and its seconds.

`pandapower`: the loop, one process, on a sample; its time is scaled to all snapshots and labelled so.
`power-grid-model`: its batch calculation (iterative current, its fastest method) on all cores.
`gridsink`: the very operator that sinks, on all cores, so that what is left of the difference to the sunk run is where
the data are, and that the sunk run writes its tables.
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

from lib.baseline.collect import KEY, Collected, DayKey, NetworkDay, NetworkKey
from lib.settings import Settings
from lib.tables.tiles import day_slots

ENGINES = ("pandapower", "power-grid-model", "gridsink")

TIMED = {
    "pandapower": "collect; then runpp per sampled snapshot and vm_pu, scaled to all snapshots; no summaries, no write",
    "power-grid-model": "collect; then batches: voltage magnitudes, minimum, mean, maximum per bus and day; no write",
    "gridsink": "collect; then all rows of bus_day, branch_day and network_result; no write",
}

BUS_DAY = ("vm_min_pu", "vm_mean_pu", "vm_max_pu")

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

    def add_bus_day(self, key: DayKey, rows: Mapping[str, Any] | pa.RecordBatch) -> None:
        self._bus_day.append(_table(key, **{name: rows[name] for name in ("bus", *BUS_DAY)}))

    def add_sample(self, day: NetworkDay, slots: NDArray[np.int64], vm_pu: NDArray[np.float64]) -> None:
        """vm_pu: (n_bus, len(slots))."""
        bus, slot = np.repeat(day.network.bus_ids, len(slots)), np.tile(day.slot[slots], day.network.n_bus)
        self._sample.append(_table(day.key, bus=bus, slot=slot, vm_pu=vm_pu.ravel()))

    def outcome(self, seconds: dict[str, float], **figures: Any) -> Outcome:
        bus_day, sample = (pa.concat_tables(t) if t else pa.table({}) for t in (self._bus_day, self._sample))
        return Outcome(
            self.engine, bus_day, sample, self.snapshots, self.bus_snapshots, self.failed, seconds,
            **({"solved_snapshots": self.snapshots, "measured_solve_s": seconds["solve"]} | figures),
        )  # fmt: skip


def _table(key: DayKey, **columns: Any) -> pa.Table:
    n = len(columns["bus"])
    types = (pa.string(), pa.date32(), pa.string(), pa.int32())
    parts = {name: pa.repeat(pa.scalar(value, kind), n) for name, value, kind in zip(KEY, key, types, strict=True)}
    return pa.table(parts | columns)


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
            figures = dict(zip(BUS_DAY, (alive.min(0), alive.mean(0), alive.max(0)), strict=True))
            gathering.add_bus_day(day.key, figures | {"bus": day.network.bus_ids})
        gathering.failed += int((~result.converged).sum())
        if (slots := sample.get(day.key)) is not None:
            gathering.add_sample(day, slots, vm_pu[np.searchsorted(np.flatnonzero(day.used), slots)].T)
    return gathering.outcome(timed.seconds)


# -- gridsink, collected ----------------------------------------------------------------------------------------------


def _gridsink(collected: Collected, settings: Settings, sample: Sample) -> Outcome:
    """The operator that sinks, given the collected rows instead of its own files."""
    from lib.algorithm.operator import Day
    from lib.algorithm.operators.powerflow import PowerFlowOperator
    from lib.grid.powerflow import solve

    gathering = _Gathering("gridsink")
    operator = PowerFlowOperator.from_settings(settings)
    states: dict[NetworkKey, Any] = {}

    def calculate(key: DayKey) -> tuple[DayKey, pa.RecordBatch, Mapping[str, float]]:
        region, day_date, network_id, version = key
        day = Day(region, day_date, day_slots(day_date, settings.regions[region].time_zone, interval_s=1))
        state = states[region, network_id, version]
        partial, rejected = operator.map(collected.table(key), state, day)
        if partial is None or rejected:
            raise ValueError(f"snapshot_tile {key}: {rejected[0].reason if rejected else 'no rows'}")
        tables, figures = operator.finish(partial, state, day)
        return key, tables["bus_day"], figures

    timed = _Timer()
    with timed("build"):
        for network_key, network in collected.networks.items():
            states[network_key] = operator.prepare({"content": network.to_bytes()})
        for key in list(collected.rows)[:1]:
            calculate(key)  # loads the compiled kernels
    with timed("solve"):
        for key, rows, figures in _map_on_all_cores(calculate, collected.rows):
            gathering.bus_snapshots += int(figures["bus_snapshots"])
            gathering.snapshots += int(figures["converged"] + figures["diverged"] + figures["bad"])
            gathering.failed += int(figures["diverged"] + figures["bad"])
            gathering.add_bus_day(key, rows)

    # a snapshot's result is the same bits whatever shared its batch, so these stand for the ones above
    for day_key, slots in sample.items():
        day = collected.network_day(day_key)
        flow = solve(
            day.network, day.p_kw[:, slots], day.q_kvar[:, slots], scale=1e-3, tolerance=settings.solve.tolerance,
            max_iterations=settings.solve.max_iterations, fallback=settings.solve.fallback,
        )  # fmt: skip
        gathering.add_sample(day, slots, flow.vm_pu)
    return gathering.outcome(timed.seconds)


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
