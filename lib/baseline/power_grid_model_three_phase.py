"""power-grid-model's asymmetric batch as an engine: rival and second opinion for the unbalanced power flow.

Lines, shunts and sources are built from the network's own admittances; transformers from their nameplates, since
power-grid-model has no asymmetric two-port. Model: https://power-grid-model.readthedocs.io (`line`, `transformer`).
"""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
import power_grid_model as pgm
from numpy.typing import NDArray

from lib.baseline.power_grid_model import BASE_VA, STIFF_SHORT_CIRCUIT_VA, UnsupportedNetworkError
from lib.grid.network import BRANCH_KINDS
from lib.grid.three_phase.from_pandapower import tapped
from lib.grid.three_phase.network import SequenceNetwork
from lib.grid.three_phase.vector_groups import windings

_WINDING = {"y": "wye", "yn": "wye_n", "d": "delta", "zn": "zigzag_n"}


class PhaseBatchModel:
    """A `SequenceNetwork` as a power-grid-model, ready for asymmetric batches.

    Its transformers are without magnetising branch: give a net with i0_percent and pfe_kw zero and mag0_percent very
    large for equal equations. External grids must be stiff. Raises UnsupportedNetworkError for what it is not given.
    """

    def __init__(self, network: SequenceNetwork, net: Any, loaded: NDArray[np.bool_] | None = None) -> None:
        """net: the pandapower net the network was made from. `loaded` (n_bus,): buses that ever have an injection."""
        if any(a.any() for a in (network.z_wye_mva, network.i_wye_mva, network.z_delta_mva, network.i_delta_mva)):
            raise UnsupportedNetworkError("power-grid-model is given constant power only")
        self.network = network
        self.loaded = np.ones(network.n_bus, bool) if loaded is None else np.asarray(loaded, bool)
        self.model = pgm.PowerGridModel(_input(network, net, self.loaded), system_frequency=float(net.f_hz))

    def update(self, p_mw: NDArray[Any], q_mvar: NDArray[Any]) -> dict[Any, Any]:
        """The batch for injections (n_bus, 3, n_snapshot) between phase and neutral, generation positive."""
        columns = {
            f"{name}_specified": np.multiply(a[self.loaded].transpose(2, 0, 1), -BASE_VA, order="C", dtype=np.float64)
            for name, a in (("p", p_mw), ("q", q_mvar))
        }
        return {pgm.ComponentType.asym_load: columns}

    def run(
        self,
        update: dict[Any, Any],
        *,
        method: Literal["iterative_current", "newton_raphson"] = "iterative_current",
        tolerance: float = 1e-8,
        max_iterations: int = 100,
        angles: bool = False,
    ) -> dict[str, NDArray[np.float64]]:
        """Columns `u_pu` (and `u_angle`), each (n_snapshot, n_row, 3), on one thread."""
        result = self.model.calculate_power_flow(
            symmetric=False,
            update_data=update,
            calculation_method=method,
            error_tolerance=tolerance,
            max_iterations=max_iterations,
            threading=-1,
            output_component_types={pgm.ComponentType.node: ["u_pu", "u_angle"] if angles else ["u_pu"]},
        )
        return cast("dict[str, NDArray[np.float64]]", result[pgm.ComponentType.node])


def _input(network: SequenceNetwork, net: Any, loaded: NDArray[np.bool_]) -> dict[Any, Any]:
    kind, positive = pgm.ComponentType, network.positive
    n_row, n_branch, n_fixed, n_load = network.n_row, network.n_branch, len(positive.fixed_row), int(loaded.sum())

    def table(component: Any, first: int, count: int) -> Any:
        out = pgm.initialize_array(pgm.DatasetType.input, component, count)
        out["id"] = first + np.arange(count)
        if "status" in (out.dtype.names or ()):
            out["status"] = 1
        return out

    nodes = table(kind.node, 0, n_row)
    nodes["u_rated"] = positive.vn_kv * 1e3

    wound = positive.branch_kind == BRANCH_KINDS.index("trafo")
    lines = table(kind.line, n_row, int((~wound).sum()))
    transformers = table(kind.transformer, n_row + len(lines), int(wound.sum()))
    for part, chosen in ((lines, ~wound), (transformers, wound)):
        part["from_node"], part["to_node"] = positive.branch_from[chosen], positive.branch_to[chosen]
        part["from_status"] = part["to_status"] = 1
    _lines(lines, network, np.flatnonzero(~wound), float(net.f_hz))
    _transformers(transformers, net, net.trafo.loc[positive.branch_element[wound]])

    sources = table(kind.source, n_row + n_branch, n_fixed)
    sources["node"] = positive.fixed_row
    sources["u_ref"], sources["u_ref_angle"] = np.abs(positive.fixed_v_pu), np.angle(positive.fixed_v_pu)
    sources["sk"] = STIFF_SHORT_CIRCUIT_VA

    loads = table(kind.asym_load, n_row + n_branch + n_fixed, n_load)
    loads["node"] = np.flatnonzero(loaded)
    loads["type"] = pgm.LoadGenType.const_power
    loads["p_specified"] = loads["q_specified"] = 0.0

    rows = np.flatnonzero((positive.y_shunt_pu != 0) | (network.y0_shunt_pu != 0))
    shunts = table(kind.shunt, n_row + n_branch + n_fixed + n_load, len(rows))
    shunts["node"] = rows
    siemens = BASE_VA / nodes["u_rated"][rows] ** 2
    y1, y0 = positive.y_shunt_pu[rows] * siemens, network.y0_shunt_pu[rows] * siemens
    shunts["g1"], shunts["b1"], shunts["g0"], shunts["b0"] = y1.real, y1.imag, y0.real, y0.imag
    parts = (nodes, lines, transformers, sources, loads, shunts)
    names = (kind.node, kind.line, kind.transformer, kind.source, kind.asym_load, kind.shunt)
    return {name: part for name, part in zip(names, parts, strict=True) if len(part)}


def _lines(lines: Any, network: SequenceNetwork, chosen: NDArray[np.int64], f_hz: float) -> None:
    positive = network.positive
    base_siemens = BASE_VA / (positive.vn_kv[positive.branch_from[chosen]] * 1e3) ** 2
    for suffix, y in (("1", positive.branch_y_pu[chosen]), ("0", network.branch_y0_pu[chosen])):
        if not np.allclose(y[:, 0, 0], y[:, 1, 1], rtol=1e-9) or not np.allclose(y[:, 0, 1], y[:, 1, 0], rtol=1e-9):
            raise UnsupportedNetworkError("a branch that is neither a transformer nor a symmetric pi")
        z, shunt = -1 / (y[:, 0, 1] * base_siemens), 2 * (y[:, 0, 0] + y[:, 0, 1]) * base_siemens
        lines[f"r{suffix}"], lines[f"x{suffix}"] = z.real, z.imag
        lines[f"c{suffix}"] = shunt.imag / (2 * np.pi * f_hz)
        lines[f"tan{suffix}"] = np.where(shunt.imag != 0, shunt.real / np.where(shunt.imag != 0, shunt.imag, 1), 0.0)


def _transformers(out: Any, net: Any, trafo: Any) -> None:
    if (trafo.i0_percent != 0).any() or (trafo.pfe_kw != 0).any() or (trafo.parallel != 1).any():
        raise UnsupportedNetworkError("transformers with a magnetising branch or in parallel")
    hv, lv, shift = tapped(net, trafo)
    out["u1"], out["u2"] = hv * 1e3, lv * 1e3
    out["sn"] = trafo.sn_mva * 1e6
    out["uk"], out["pk"] = trafo.vk_percent / 100, trafo.vkr_percent / 100 * trafo.sn_mva * 1e6
    out["i0"] = out["p0"] = 0.0
    for column, side in (("winding_from", 0), ("winding_to", 1)):
        out[column] = [int(pgm.WindingType[_WINDING[windings(g)[side]]]) for g in trafo.vector_group]
    out["clock"] = np.round(shift / 30).astype(int) % 12
    for column in ("tap_side", "tap_pos", "tap_nom", "tap_min", "tap_max", "tap_size"):
        out[column] = 0  # the taps are in the rated voltages
