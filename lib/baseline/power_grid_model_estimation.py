"""power-grid-model's state estimation of a `Network`, from the same measurements, as a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import pandas as pd
import power_grid_model as pgm
from numpy.typing import NDArray

from lib.baseline.power_grid_model import BASE_VA, BatchModel, Voltages
from lib.grid.network import BRANCH_KINDS, Network

Method = Literal["iterative_linear", "newton_raphson"]

_END = {"from": 0, "hv": 0, "to": 1, "lv": 1}


class EstimationModel:
    """Magnitudes at buses and pairs of P and Q, of the same sigma, at buses and branch ends.

    Its signs: power of a node sensor counts injection, of a branch sensor into the branch; sigmas in V and VA.
    """

    def __init__(self, network: Network, measurements: pd.DataFrame, zero_injection: Iterable[int] = ()) -> None:
        loaded = np.ones(network.n_bus, dtype=bool)
        loaded[[network.row_of[bus] for bus in zero_injection]] = False
        loaded[network.fixed_row] = False  # the source is there already
        self.network = network
        component = pgm.ComponentType
        data = BatchModel(network, loaded).input
        first = 1 + max(int(array["id"].max()) for array in data.values() if len(array))
        kinds = measurements.measurement_type.to_numpy()
        self._v = np.flatnonzero(kinds == "v")
        self._p = np.flatnonzero(kinds == "p")
        place = ["element_type", "element", "side"]
        q_of = {
            tuple(map(str, key)): i
            for i, key in enumerate(measurements[place].itertuples(index=False))
            if kinds[i] == "q"
        }
        self._q = np.array(
            [q_of[tuple(map(str, key))] for key in measurements[place].iloc[self._p].itertuples(index=False)], int
        )
        rated = network.vn_kv * 1e3
        rows = [network.row_of[bus] for bus in measurements.element.iloc[self._v]]
        std = measurements.std_dev.to_numpy()
        self._rated = rated[rows]

        volt = pgm.initialize_array(pgm.DatasetType.input, component.sym_voltage_sensor, len(self._v))
        volt["id"], volt["measured_object"] = first + np.arange(len(volt)), rows
        volt["u_sigma"], volt["u_measured"] = std[self._v] * self._rated, self._rated
        power = pgm.initialize_array(pgm.DatasetType.input, component.sym_power_sensor, len(self._p))
        power["id"] = first + len(volt) + np.arange(len(power))
        power["p_sigma"], power["q_sigma"] = std[self._p] * BASE_VA, std[self._q] * BASE_VA
        power["p_measured"] = power["q_measured"] = 0.0
        self._sign = np.ones(len(power))
        branches = {
            (BRANCH_KINDS[k], int(e)): b
            for b, (k, e) in enumerate(zip(network.branch_kind, network.branch_element, strict=True))
        }
        terminal = (pgm.MeasuredTerminalType.branch_from, pgm.MeasuredTerminalType.branch_to)
        for i, line in enumerate(measurements.iloc[self._p].itertuples()):
            if line.element_type == "bus":
                power["measured_object"][i] = network.row_of[int(line.element)]
                power["measured_terminal_type"][i] = pgm.MeasuredTerminalType.node
                self._sign[i] = -1.0
            else:
                power["measured_object"][i] = network.n_row + branches[str(line.element_type), int(line.element)]
                power["measured_terminal_type"][i] = terminal[_END[str(line.side)]]
        data[component.sym_voltage_sensor], data[component.sym_power_sensor] = volt, power
        self.model = pgm.PowerGridModel(data)

    def update(self, values: NDArray[np.float64]) -> dict[Any, Any]:
        """The batch for values (n_measurement, n_snapshot): columns, one line a snapshot."""
        component, scale = pgm.ComponentType, (self._sign * BASE_VA)[:, None]
        return {
            component.sym_voltage_sensor: {
                "u_measured": np.ascontiguousarray((values[self._v] * self._rated[:, None]).T)
            },
            component.sym_power_sensor: {
                "p_measured": np.ascontiguousarray((values[self._p] * scale).T),
                "q_measured": np.ascontiguousarray((values[self._q] * scale).T),
            },
        }

    def run(
        self, update: dict[Any, Any], *, method: Method = "iterative_linear", tolerance: float = 1e-8, threads: int = -1
    ) -> Any:
        """The bare calculation: columns `u_pu` and `u_angle`, each (n_snapshot, n_row)."""
        result: Any = self.model.calculate_state_estimation(
            update_data=update, calculation_method=method, error_tolerance=tolerance, max_iterations=100,
            threading=threads, output_component_types={pgm.ComponentType.node: ["u_pu", "u_angle"]},
        )  # fmt: skip
        return result[pgm.ComponentType.node]

    def solve(self, values: NDArray[np.float64], **options: Any) -> Voltages:
        """Values (n_measurement, n_snapshot) to voltages; options as in `run`."""
        nodes = self.run(self.update(values), **options)
        n = self.network.n_bus
        return Voltages(nodes["u_pu"][:, :n], nodes["u_angle"][:, :n], np.ones(values.shape[1], bool))
