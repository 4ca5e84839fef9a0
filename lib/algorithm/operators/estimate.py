"""State estimation of every snapshot of a network and day: voltages from meters and telemetry, and what to doubt."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from lib.algorithm.equivalence import identical
from lib.algorithm.operator import Beside, Day, Examples, Figure, Rejected, Side, Unusable
from lib.algorithm.operators import _measured, _state, _telemetry, _tile
from lib.algorithm.operators._measured import Accuracy, Lines
from lib.algorithm.operators._state import Partial
from lib.algorithm.operators._telemetry import Points
from lib.algorithm.operators._tile import Tile, in_order
from lib.grid.network import Network

_POWERS = ("p_kw", "q_kvar")
_KEPT = 4
"""Estimators of a network: of different sets of metered buses or points."""
_Percent = Annotated[float, Field(gt=0, le=100)]


@dataclass(eq=False)
class State:
    """A network and the estimators made for it so far."""

    network: Network
    known: OrderedDict[Any, Lines] = field(default_factory=OrderedDict)
    lock: Any = field(default_factory=threading.Lock)
    """One tile at a time: an estimator is lent to a tile with the tile's own sigmas."""

    def lines(self, metered: NDArray[np.bool_], points: Points) -> Lines:
        """Raises ValueError where the network cannot be estimated."""
        at = metered.tobytes(), points.place
        if at not in self.known:
            self.known[at] = _measured.lines(self.network, metered, points)
            while len(self.known) > _KEPT:
                self.known.popitem(last=False)
        self.known.move_to_end(at)
        return self.known[at]


@dataclass(frozen=True)
class Estimate:
    """State estimation: voltages from meters and telemetry, bad measurements, what cannot be observed."""

    power_class_percent: Annotated[
        _Percent, Field(description="class of active energy meters: limit of the error, % of the reading")
    ] = 1.0
    reactive_class_percent: Annotated[
        _Percent, Field(description="class of reactive energy meters: limit of the error, % of the reading")
    ] = 2.0
    voltage_class_percent: Annotated[
        _Percent, Field(description="class of voltages: limit of the error, % of the nominal voltage")
    ] = 0.5
    power_floor_kw: Annotated[float, Field(gt=0, description="a power's limit of error is no less, kW or kvar")] = 0.05
    pseudo_percent: Annotated[
        float, Field(gt=0, description="standard deviation of powers in slots marked missing, % of the mean power")
    ] = 50.0
    set_point_percent: Annotated[
        _Percent, Field(description="limit of the error of the model's set-points of voltages, which count unmeasured")
    ] = 1.0
    bad_data_alpha: Annotated[
        float, Field(gt=0, lt=1, description="probability that a clean snapshot loses a measurement")
    ] = 0.005
    tolerance: Annotated[float, Field(gt=0, le=1e-3, description="bound of the voltage error, per unit")] = 1e-8
    max_iterations: Annotated[int, Field(ge=1, description="linear solves before a snapshot gets its own matrix")] = 30
    v_min_pu: Annotated[float, Field(gt=0, description="lower edge of the voltage band, per unit")] = 0.9
    v_max_pu: Annotated[float, Field(gt=0, description="upper edge of the voltage band, per unit")] = 1.1

    name: ClassVar[str] = "estimate"
    version: ClassVar[int] = 1
    table: ClassVar[str] = _tile.TABLE
    columns: ClassVar[tuple[str, ...]] = (*_tile.COLUMNS, *_POWERS, "u_v")
    group: ClassVar[tuple[str, ...]] = _tile.GROUP
    key: ClassVar[tuple[str, ...]] = _tile.KEY
    side: ClassVar[Side | None] = Side("network", ("content",), ("valid_from", "valid_to"))
    beside: ClassVar[Beside | None] = _telemetry.BESIDE
    outputs: ClassVar[tuple[str, ...]] = ("state_day", "bad_measurement", "unobservable_island", "network_estimate")
    figures: ClassVar[Mapping[str, Figure]] = {
        "networks": Figure("sum", "bigint", "", "networks with a result", 0),
        "snapshots": Figure("sum", "bigint", "", "slots of the day", 0),
        "estimated": Figure("sum", "bigint", "", "slots estimated", 0),
        "partly": Figure("sum", "bigint", "", "of these with buses that nothing determines", 0),
        "pseudo": Figure("sum", "bigint", "", "of these marked missing: powers are pseudo-measurements", 0),
        "diverged": Figure("sum", "bigint", "", "slots without a solution", 0),
        "missing": Figure("sum", "bigint", "", "slots without any measurement", 0),
        "tested": Figure("sum", "bigint", "", "slots estimated with redundant measurements", 0),
        "suspect": Figure("sum", "bigint", "", "of these with an objective beyond chance, bad data removed", 0),
        "removed": Figure("sum", "bigint", "", "measurements removed as bad", 0),
        "bus_snapshots": Figure("sum", "bigint", "", "buses times slots estimated", 0),
        "bus_snapshots_known": Figure("sum", "bigint", "", "of these with an estimate", 0),
        "islands": Figure("max", "bigint", "", "most unobservable islands of a network and day", 0),
        "points": Figure("sum", "bigint", "", "points of telemetry that measure something, times days", 0),
        "points_unplaced": Figure("sum", "bigint", "", "points that cannot be placed on the network, times days", 0),
        "objective": Figure("sum", "double", "", "sum of the tested slots' objectives", 0),
        "degrees_of_freedom": Figure("sum", "bigint", "", "sum of theirs", 0),
        "vm_min_pu": Figure("min", "double", "pu", "lowest voltage of any bus", 0),
        "vm_max_pu": Figure("max", "double", "pu", "highest voltage of any bus", 0),
    }

    def __post_init__(self) -> None:
        if self.v_min_pu >= self.v_max_pu:
            raise ValueError(f"v_min_pu {self.v_min_pu} must be below v_max_pu {self.v_max_pu}")

    def prepare(self, side: Mapping[str, Any]) -> State:
        try:
            network = Network.from_bytes(side["content"] or b"")
            _ = network.factorisation
        except ValueError as e:
            raise Unusable(f"its network cannot be estimated: {e}", "mend this network's row in table network") from e
        return State(network)

    def map(self, rows: pa.Table, state: State, day: Day) -> tuple[Partial | None, list[Rejected]]:
        """Estimates the tiles in `rows`, each a row of snapshot_tile, with the day's telemetry."""
        tiles, rejected = _tile.read(rows, _POWERS, day, state.network.n_bus, optional=("u_v",))
        points, unplaced = _telemetry.read(day.beside, state.network)
        if not tiles:
            return None, rejected + unplaced
        partial = _state.empty(state.network.n_bus, tiles[0].interval_s)
        partial.points, partial.unplaced = len(points.point_id), len(unplaced)
        for tile in tiles:
            self._add(partial, tile, points, state)
        return partial, rejected + unplaced

    def _add(self, partial: Partial, tile: Tile, points: Points, state: State) -> None:
        accuracy = Accuracy(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Accuracy)})
        try:
            with state.lock:
                lines = state.lines(_measured.metered_rows(state.network, tile), points)
                values, std = _measured.values(lines, tile, points, accuracy)
                found = _measured.estimate(
                    lines, values, std, tolerance=self.tolerance, max_iterations=self.max_iterations,
                    bad_data_alpha=self.bad_data_alpha,
                )  # fmt: skip
        except ValueError as e:
            raise Unusable(f"its network cannot be estimated: {e}", "mend this network's row in table network") from e
        band = self.v_min_pu, self.v_max_pu
        _state.add_tile(partial, tile, lines, values, std, found, band, self.bad_data_alpha)

    def merge(self, a: Partial, b: Partial) -> Partial:
        return _state.merge(a, b)

    def finish(self, partial: Partial, state: State, day: Day) -> tuple[dict[str, pa.RecordBatch], dict[str, Any]]:
        slots = day.length_s // partial.interval_s
        ok, refreshed, diverged, _ = partial.status.tolist()
        estimated, tested = ok + refreshed, partial.tested
        objective = float(in_order(partial.objective))
        known = partial.slots > 0
        counts = {
            "slots": slots, "slots_estimated": estimated, "slots_refreshed": refreshed, "slots_partly": partial.partly,
            "slots_pseudo": partial.with_pseudo, "slots_diverged": diverged,
            "slots_missing": slots - estimated - diverged, "slots_tested": tested, "slots_suspect": partial.suspect,
        }  # fmt: skip
        result = counts | {
            "objective_mean": objective / tested if tested else None,
            "degrees_of_freedom_mean": partial.degrees_of_freedom / tested if tested else None,
            "suspect_share": partial.suspect / tested if tested else None,
            "measurements_removed": len(partial.bad), "islands": len(partial.islands),
            "buses_open_max": partial.open_buses, "points": partial.points, "points_unplaced": partial.unplaced,
            "engine": f"gridsink {self.name} {self.version}, float64",
        }  # fmt: skip
        figures = {name: counts[f"slots_{name}"] for name in (
            "estimated", "partly", "pseudo", "diverged", "missing", "tested", "suspect",
        )} | {
            "networks": 1, "snapshots": slots, "removed": len(partial.bad), "islands": len(partial.islands),
            "bus_snapshots": state.network.n_bus * estimated, "bus_snapshots_known": int(partial.slots.sum()),
            "points": partial.points, "points_unplaced": partial.unplaced,
            "objective": objective, "degrees_of_freedom": partial.degrees_of_freedom,
            "vm_min_pu": float(partial.vm_min_pu[known].min()) if known.any() else None,
            "vm_max_pu": float(partial.vm_max_pu[known].max()) if known.any() else None,
        }  # fmt: skip
        outputs = {"state_day": _state.state_rows(partial, state.network)}
        for table, rows in (
            ("bad_measurement", _state.bad_rows(partial)), ("unobservable_island", _state.island_rows(partial)),
            ("network_estimate", [result]),
        ):  # fmt: skip
            if rows:
                outputs[table] = _state.table_rows(table, rows)
        return outputs, figures

    def equivalent(self, a: Partial, b: Partial) -> bool:
        return identical(a, b)

    @classmethod
    def examples(cls, seed: int) -> Examples:
        """The three tiles of a day of two buses."""
        from lib.grid.warm import two_bus_network

        operator, day = cls(), Day("example", date(2016, 1, 1), 86_400)
        state = operator.prepare({"content": two_bus_network().to_bytes()})
        rows = _tile.example_rows(seed, state.network.n_bus, day)
        rows = rows.append_column("u_v", pa.nulls(rows.num_rows, pa.binary()))
        partials = (operator.map(rows.slice(i, 1), state, day)[0] for i in range(rows.num_rows))
        return Examples(_state.empty(state.network.n_bus, 900), tuple(partials))

    @classmethod
    def from_settings(cls, settings: Any, **overrides: Any) -> Estimate:
        """The operator that group `estimate` of `lib.settings.Settings` describes, with the voltage band of `solve`."""
        names = {f.name for f in dataclasses.fields(cls)} - {"v_min_pu", "v_max_pu"}
        given = {name: getattr(settings.estimate, name) for name in names}
        return cls(**given | {"v_min_pu": settings.solve.v_min_pu, "v_max_pu": settings.solve.v_max_pu} | overrides)


OPERATOR = Estimate
