"""power-grid-model as an engine: the same admittances, its batch calculation, its own data layout.

Its input is built from the network's admittances, not from element tables, so that both engines solve the same
equations. Model: https://power-grid-model.readthedocs.io (components `generic_branch`, `source`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import power_grid_model as pgm
from numpy.typing import NDArray

from lib.grid.network import Network

Method = Literal["iterative_current", "newton_raphson", "linear_current", "linear"]

STIFF_SHORT_CIRCUIT_VA = 1e18
"""Short-circuit power of the sources: an impedance of 1e-12 pu, an external grid's fixed voltage for all purposes."""
BASE_VA = 1e6
ROUNDING = 1e-12
"""Relative size below which a two-port's asymmetry is rounding and no shunt is worth adding."""


class UnsupportedNetworkError(ValueError):
    """The network holds something this engine is not given: the message says what and where."""


@dataclass(frozen=True)
class Voltages:
    """Result of a batch, in power-grid-model's own order: one line per snapshot, one column per bus."""

    vm_pu: NDArray[np.float64]
    """(n_snapshot, n_bus) magnitude; NaN where the snapshot failed or the bus has no source."""
    va_rad: NDArray[np.float64] | None
    """(n_snapshot, n_bus) angle, or None where it was not asked for."""
    converged: NDArray[np.bool_]
    """(n_snapshot,)"""


class BatchModel:
    """A `Network` as a power-grid-model, ready for batches.

    Raises UnsupportedNetworkError for voltage-controlled generators, regulators, constant-current load shares and
    branches that are not a pi two-port with a complex ratio.
    """

    def __init__(self, network: Network, loaded: NDArray[np.bool_] | None = None) -> None:
        """`loaded` (n_bus,): the buses that ever have an injection; the others get no load to update. Default: all."""
        _refuse(network)
        self.network = network
        self.loaded = np.ones(network.n_bus, bool) if loaded is None else np.asarray(loaded, bool)
        self.input = _input(network, self.loaded)
        self.model = pgm.PowerGridModel(self.input)

    def update(self, p_mw: NDArray[Any], q_mvar: NDArray[Any]) -> dict[Any, Any]:
        """The batch for injections p_mw, q_mvar (n_bus, n_snapshot), generation positive: columns, one line a snapshot.

        Raises ValueError where a bus that was declared without load has an injection.
        """
        for name, values in (("p_mw", p_mw), ("q_mvar", q_mvar)):
            if np.any(values[~self.loaded]):
                raise ValueError(f"{name}: an injection at a bus declared without load")
        scale = -BASE_VA  # loads consume
        columns = {
            "p_specified": np.multiply(p_mw[self.loaded].T, scale, order="C", dtype=np.float64),
            "q_specified": np.multiply(q_mvar[self.loaded].T, scale, order="C", dtype=np.float64),
        }
        return {pgm.ComponentType.sym_load: columns}  # every load in input order: ids may be left out, which is faster

    def run(
        self,
        update: dict[Any, Any],
        *,
        method: Method = "iterative_current",
        tolerance: float = 1e-8,
        max_iterations: int = 100,
        threads: int = -1,
        angles: bool = False,
    ) -> dict[str, NDArray[np.float64]]:
        """The bare calculation: columns `u_pu` (and `u_angle`), each (n_snapshot, n_row), as the library gives them.

        `tolerance` is the change of U between iterates, in pu; `threads` -1 is sequential, 0 all hardware threads.
        """
        wanted = ["u_pu", "u_angle"] if angles else ["u_pu"]
        result = self.model.calculate_power_flow(
            update_data=update,
            calculation_method=method,
            error_tolerance=tolerance,
            max_iterations=max_iterations,
            threading=threads,
            output_component_types={pgm.ComponentType.node: wanted},
            continue_on_batch_error=True,
        )
        return cast("dict[str, NDArray[np.float64]]", result[pgm.ComponentType.node])

    def solve(self, p_mw: NDArray[Any], q_mvar: NDArray[Any], **options: Any) -> Voltages:
        """Injections (n_bus, n_snapshot) to voltages; options as in `run`."""
        nodes = self.run(self.update(p_mw, q_mvar), **options)
        n_bus = self.network.n_bus
        vm_pu = nodes["u_pu"][:, :n_bus]
        converged = np.ones(len(vm_pu), bool)
        if (error := self.model.batch_error) is not None:
            converged[error.failed_scenarios] = False
        dead = (vm_pu == 0.0) | ~converged[:, None]
        va_rad = nodes["u_angle"][:, :n_bus] if "u_angle" in nodes else None
        return Voltages(
            np.where(dead, np.nan, vm_pu), None if va_rad is None else np.where(dead, np.nan, va_rad), converged
        )


def _refuse(network: Network) -> None:
    where = f" in {network.source}" if network.source else ""
    if len(network.pv_row):
        raise UnsupportedNetworkError(
            f"voltage-controlled generator at row {int(network.pv_row[0])}{where}: "
            "power-grid-model is given constant power only"
        )
    if len(network.tap_changers) or len(network.inverters):
        raise UnsupportedNetworkError(f"tap changers or inverters{where}: power-grid-model is given none that regulate")
    current = np.flatnonzero(network.s_constant_current_mva)
    if len(current):
        raise UnsupportedNetworkError(
            f"constant-current load at row {int(current[0])}{where}: power-grid-model is given constant power only"
        )


def _input(network: Network, loaded: NDArray[np.bool_]) -> dict[Any, Any]:
    """Component arrays; ids run through node, branch, source, load, shunt; a node's id is its row."""
    kind = pgm.ComponentType
    n_branch, n_fixed, n_load = network.n_branch, len(network.fixed_row), int(loaded.sum())
    first_branch = network.n_row
    first_source = first_branch + n_branch
    first_load = first_source + n_fixed
    first_shunt = first_load + n_load

    nodes = pgm.initialize_array(pgm.DatasetType.input, kind.node, network.n_row)
    nodes["id"] = np.arange(network.n_row)
    nodes["u_rated"] = network.vn_kv * 1e3

    branches, from_shunt_pu = _branches(network)
    branches["id"] = first_branch + np.arange(n_branch)

    sources = pgm.initialize_array(pgm.DatasetType.input, kind.source, n_fixed)
    sources["id"] = first_source + np.arange(n_fixed)
    sources["node"] = network.fixed_row
    sources["status"] = 1
    sources["u_ref"] = np.abs(network.fixed_v_pu)
    sources["u_ref_angle"] = np.angle(network.fixed_v_pu)
    sources["sk"] = STIFF_SHORT_CIRCUIT_VA

    loads = pgm.initialize_array(pgm.DatasetType.input, kind.sym_load, n_load)
    loads["id"] = first_load + np.arange(n_load)
    loads["node"] = np.flatnonzero(loaded)
    loads["status"] = 1
    loads["type"] = pgm.LoadGenType.const_power
    loads["p_specified"] = loads["q_specified"] = 0.0

    y_pu = network.y_shunt_pu + from_shunt_pu
    shunt_row = np.flatnonzero(y_pu)
    y_siemens = y_pu[shunt_row] * BASE_VA / nodes["u_rated"][shunt_row] ** 2
    shunts = pgm.initialize_array(pgm.DatasetType.input, kind.shunt, len(shunt_row))
    shunts["id"] = first_shunt + np.arange(len(shunt_row))
    shunts["node"] = shunt_row
    shunts["status"] = 1
    shunts["g1"], shunts["b1"] = y_siemens.real, y_siemens.imag
    components = (nodes, branches, sources, loads, shunts)
    return dict(zip((kind.node, kind.generic_branch, kind.source, kind.sym_load, kind.shunt), components, strict=True))


def _branches(network: Network) -> tuple[NDArray[Any], NDArray[np.complex128]]:
    """Every two-port as pi behind a complex ratio N at its from side; what its from end has beyond that (n_row,), pu.

    With Y the two-port and ys, ysh the pi's series and total shunt admittance (power-grid-model, `generic_branch`):
    Y11 = (ys + ysh/2)/|N|^2, Y12 = -ys/conj(N), Y21 = -ys/N, Y22 = ys + ysh/2.
    """
    y = network.branch_y_pu
    y11, y12, y21, y22 = y[:, 0, 0], y[:, 0, 1], y[:, 1, 0], y[:, 1, 1]
    odd = np.flatnonzero(~np.isclose(np.abs(y12), np.abs(y21), rtol=1e-9, atol=0.0) | (y12 == 0.0))
    if len(odd):
        raise UnsupportedNetworkError(
            f"branch {int(odd[0])} (element {int(network.branch_element[odd[0]])}) of "
            f"{network.source or 'the network'} is no pi two-port with a complex ratio"
        )
    ratio = np.sqrt(np.abs(y22 / y11)) * np.exp(0.5j * np.angle(y12 / y21))
    series = -y21 * ratio
    turned = series.real - series.imag < 0  # the half angle is known up to 180 degrees: take the passive one
    ratio, series = np.where(turned, -ratio, ratio), np.where(turned, -series, series)
    shunt = 2.0 * (y22 - series)
    excess = y11 - y22 / np.abs(ratio) ** 2
    excess[np.abs(excess) < ROUNDING * np.abs(y11)] = 0.0
    from_shunt_pu = np.zeros(network.n_row, complex)
    np.add.at(from_shunt_pu, network.branch_from, excess)

    branches = pgm.initialize_array(pgm.DatasetType.input, pgm.ComponentType.generic_branch, network.n_branch)
    y_base = BASE_VA / (network.vn_kv[network.branch_to] * 1e3) ** 2
    z_ohm, y_siemens = 1.0 / (series * y_base), shunt * y_base
    branches["from_node"], branches["to_node"] = network.branch_from, network.branch_to
    branches["from_status"] = branches["to_status"] = 1
    branches["r1"], branches["x1"] = z_ohm.real, z_ohm.imag
    branches["g1"], branches["b1"] = y_siemens.real, y_siemens.imag
    branches["k"], branches["theta"] = np.abs(ratio), np.angle(ratio)
    return branches, from_shunt_pu
