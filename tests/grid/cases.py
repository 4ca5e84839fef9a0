"""The networks under tests/cases: one folder each, with pandapower's own power flow as what is expected.

params.json: "network" (a function of pandapower.networks) and its "arguments", or "make" (a file with a function
`make()`); "trafo_models" (default both); "q_limits" false where pandapower finds no solution within the gens' limits.
"""

from __future__ import annotations

import copy
import functools
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandapower as pp
import pandapower.networks
from numpy.typing import NDArray

FOLDER = Path(__file__).parents[1] / "cases"


def names() -> list[str]:
    return sorted(path.parent.name for path in FOLDER.glob("*/params.json"))


def params(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name / "params.json").read_text())


@functools.cache
def _made(name: str) -> Any:
    given = params(name)
    if "make" in given:
        net = runpy.run_path(str(FOLDER / name / given["make"]))["make"]()
    else:
        net = getattr(pandapower.networks, given["network"])(**given.get("arguments", {}))
    if not given.get("q_limits", True):
        net.gen[["min_q_mvar", "max_q_mvar"]] = np.nan
    return net


def load(name: str) -> Any:
    """The case's pandapower net, a fresh copy."""
    return copy.deepcopy(_made(name))


def run_tightly(net: Any, trafo_model: str) -> float:
    """Runs pandapower's Newton as tight as it goes; returns the tolerance it reached, in MVA."""
    for tolerance_mva in (1e-11, 1e-10, 1e-9, 1e-8, 1e-7):
        try:
            pp.runpp(
                net, algorithm="nr", tolerance_mva=tolerance_mva, max_iteration=20, calculate_voltage_angles=True,
                trafo_model=trafo_model, enforce_q_lims=True, voltage_depend_loads=True,
            )  # fmt: skip
        except pp.LoadflowNotConverged:
            continue
        return tolerance_mva
    raise AssertionError("pandapower does not converge")


def voltages(net: Any, buses: NDArray[np.int64]) -> NDArray[np.complex128]:
    """pandapower's complex voltages at these buses."""
    results = net.res_bus.loc[buses]
    return (results.vm_pu * np.exp(1j * np.deg2rad(results.va_degree))).to_numpy()
