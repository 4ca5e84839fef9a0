"""Tap changers and inverters of a pandapower net, from the controllers in service in `net.controller`.

DiscreteTapControl keeps its band. ContinuousTapControl, whose tap may rest between positions, becomes a tap changer
with the band that DiscreteTapControl.from_tap_step_percent gives its set-point: half a step and `tol` to either side.
DERController with a Q(V) curve (QModelQVCurve) becomes one inverter per static generator. Controllers of other kinds
are not the network's: they change data, or act in pandapower only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.grid.network import BRANCH_KINDS, Network
from lib.grid.regulators import Inverters, TapChangers

_WINDINGS = {"trafo": {"hv": (0, 0), "lv": (0, 1)}, "trafo3w": {"hv": (0, 0), "mv": (1, 1), "lv": (2, 1)}}
"""(side of the branch, its end) where each winding is connected."""


def droop_sgens(net: Any) -> NDArray[np.int64]:
    """Static generators whose reactive power a Q(V) controller sets. Raises ValueError for settings that have no place
    in a `Network`."""
    found = [np.asarray(control.element_index) for control, _ in _q_of_v(net)]
    return np.unique(np.concatenate(found)).astype(np.int64) if found else np.zeros(0, dtype=np.int64)


def regulators(net: Any, network: Network) -> tuple[TapChangers, Inverters]:
    """What regulates in the net, on the rows and branches of the network made from it.

    Raises ValueError for settings that have no place in a `Network`. Controllers of what is out of service are left
    out.
    """
    return _tap_changers(net, network), _inverters(net, network)


def _tap_changers(net: Any, network: Network) -> TapChangers:
    columns: list[tuple[Any, ...]] = []
    for control, lower, upper in _tap_controls(net):
        table = net[control.element]
        elements = np.atleast_1d(control.element_index)
        bands = zip(elements, np.broadcast_to(lower, len(elements)), np.broadcast_to(upper, len(elements)), strict=True)
        for element, vm_lower, vm_upper in bands:
            trafo = table.loc[element]
            name = f"{type(control).__name__} of {control.element} {element}"
            _require_ratio_taps(trafo, name)
            side, end = _WINDINGS[control.element][trafo.tap_side]
            branch = np.flatnonzero(
                (network.branch_kind == BRANCH_KINDS.index(control.element))
                & (network.branch_element == element)
                & (network.branch_side == side)
            )
            bus = int(trafo[f"{control.side}_bus"])
            if not len(branch) or bus not in network.row_of:
                continue
            neutral = int(trafo.tap_neutral)
            columns.append((
                branch[0], end, neutral, int(trafo.tap_min), int(trafo.tap_max),
                neutral if np.isnan(trafo.tap_pos) else int(trafo.tap_pos), float(trafo.tap_step_percent),
                float(np.nan_to_num(trafo.get("tap_step_degree", 0.0))), network.row_of[bus], vm_lower, vm_upper,
            ))  # fmt: skip
    return TapChangers(*(np.array(column) for column in zip(*columns, strict=True))) if columns else TapChangers()


def _tap_controls(net: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Controllers of taps and their bands."""
    if not len(net.controller):
        return
    from pandapower.control import ContinuousTapControl, DiscreteTapControl

    for control in net.controller.object[net.controller.in_service.astype(bool)]:
        if isinstance(control, DiscreteTapControl):
            yield control, control.vm_lower_pu, control.vm_upper_pu
        elif isinstance(control, ContinuousTapControl):
            step = net[control.element].tap_step_percent.loc[np.atleast_1d(control.element_index)].abs().to_numpy()
            half = step / 200 + control.tol
            yield control, control.vm_set_pu - half, control.vm_set_pu + half


def _require_ratio_taps(trafo: Any, name: str) -> None:
    kind = trafo.get("tap_changer_type")
    wanted = trafo[["tap_neutral", "tap_min", "tap_max", "tap_step_percent"]]
    for bad, problem in (
        (trafo.get("tap_dependency_table") is True or kind == "Tabular", "taps with a table of their own: give a step"),
        (kind not in ("Ratio", "Symmetrical"), f"tap_changer_type {kind!r} does not change a voltage: take it out"),
        (trafo.get("tap_at_star_point") is True, "taps at the star point: give them at the terminal"),
        (wanted.isna().any(), f"{', '.join(wanted.index[wanted.isna()])} is missing"),
        (trafo.tap_pos % 1 > 0, f"tap_pos {trafo.tap_pos} lies between two positions: round it"),
    ):
        if bad:
            raise ValueError(f"the pandapower net cannot be made a network: {name}: {problem}")


def _inverters(net: Any, network: Network) -> Inverters:
    row, sn_mva, curves = [], [], []
    for control, curve in _q_of_v(net):
        for element in control.element_index:
            sgen = net.sgen.loc[element]
            if not sgen.in_service or int(sgen.bus) not in network.row_of:
                continue
            row.append(network.row_of[int(sgen.bus)])
            sn_mva.append(float(sgen.sn_mva * sgen.scaling))
            curves.append(curve)
    if not row:
        return Inverters()
    width = max(len(vm) for vm, _ in curves)
    vm_pu, q_pu = (np.full((len(row), width), np.nan) for _ in range(2))
    for i, (vm, q) in enumerate(curves):
        vm_pu[i, : len(vm)], q_pu[i, : len(q)] = vm, q
    return Inverters(
        np.array(row), np.array(sn_mva), vm_pu, q_pu, np.zeros((len(row), 0)), np.zeros((len(row), 0))
    )  # fmt: skip


def _q_of_v(net: Any) -> Iterator[tuple[Any, tuple[Any, Any]]]:
    """Controllers of reactive power by voltage, and their curves."""
    if not len(net.controller):
        return
    from pandapower.control.controller.DERController import DERController, QModelQVCurve

    for control in net.controller.object[net.controller.in_service.astype(bool)]:
        if not isinstance(control, DERController):
            continue
        if not isinstance(control.q_model, QModelQVCurve):
            problem = f"q_model {control.q_model}: only Q(V) curves are solved: give the reactive power as data"
        elif control.element != "sgen":
            problem = f"element {control.element}: only sgen"
        elif control.pqv_area is not None or np.isfinite(control.saturate_sn_mva).any():
            problem = "pqv_area and saturate_sn_mva are not solved: give a Q(V) curve within them"
        else:
            yield control, (control.q_model.qv_curve.vm_points_pu, control.q_model.qv_curve.q_points_pu)
            continue
        raise ValueError(f"the pandapower net cannot be made a network: DERController: {problem}")
