"""What regulates voltage in a network: on-load tap changers and inverters with voltage droop, as plain arrays.

Signs: generation is positive, so a falling Q(V) characteristic absorbs where the voltage is high. Default settings:
IEEE 1547-2018, tables 8 (voltage-reactive power) and 10 (voltage-active power).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from lib.grid.network import Network

IEEE_1547_QV_A = ((0.9, 1.0, 1.1), (0.25, 0.0, -0.25))
IEEE_1547_QV_B = ((0.92, 0.98, 1.02, 1.08), (0.44, 0.0, 0.0, -0.44))
IEEE_1547_PV = ((1.06, 1.10), (1.0, 0.2))
"""(vm_pu, share of the rated MVA) of IEEE 1547-2018's default settings, categories A and B of reactive power."""


_ROUNDING_PU = 1e-9


def _floats() -> NDArray[np.float64]:
    return np.zeros(0)


def _indices() -> NDArray[np.int64]:
    return np.zeros(0, dtype=np.int64)


def _points() -> NDArray[np.float64]:
    return np.zeros((0, 0))


@dataclass(frozen=True, eq=False)
class TapChangers:
    """On-load tap changers, each with the voltage band it keeps. All arrays are (k,)."""

    branch: NDArray[np.int64] = field(default_factory=_indices)
    """branch of the network that is the transformer."""
    end: NDArray[np.int64] = field(default_factory=_indices)
    """winding with the taps: 0 at the branch's from end (pandapower's hv), 1 at its to end."""
    tap_neutral: NDArray[np.int64] = field(default_factory=_indices)
    tap_min: NDArray[np.int64] = field(default_factory=_indices)
    tap_max: NDArray[np.int64] = field(default_factory=_indices)
    tap_pos: NDArray[np.int64] = field(default_factory=_indices)
    """position that the branch's admittance holds, and from which a snapshot starts."""
    tap_step_percent: NDArray[np.float64] = field(default_factory=_floats)
    """voltage added per step, percent of the winding's nominal voltage ..."""
    tap_step_degree: NDArray[np.float64] = field(default_factory=_floats)
    """... and its angle to it; 0 for a plain ratio changer."""
    regulated_row: NDArray[np.int64] = field(default_factory=_indices)
    vm_lower_pu: NDArray[np.float64] = field(default_factory=_floats)
    vm_upper_pu: NDArray[np.float64] = field(default_factory=_floats)
    """band of the regulated row's voltage, edges inside. One narrower than a step makes the changer hunt."""

    def __len__(self) -> int:
        return len(self.branch)

    def ratio(self, tap_pos: NDArray[np.integer]) -> NDArray[np.complex128]:
        """Voltage of the tapped winding at positions (..., k), as a multiple of that at the neutral position."""
        steps = (np.asarray(tap_pos) - self.tap_neutral) * self.tap_step_percent / 100
        return np.asarray(1 + steps * np.exp(1j * np.deg2rad(self.tap_step_degree)), dtype=complex)

    def check(self, network: Network) -> None:
        """Raises ValueError, naming the first tap changer that does not fit the network."""
        _same_length(self, "tap changers")
        rules = (
            ((self.branch >= 0) & (self.branch < network.n_branch), "branch is none of the network's"),
            (np.isin(self.end, (0, 1)), "end must be 0 (from) or 1 (to)"),
            (
                (self.regulated_row >= 0) & (self.regulated_row < network.n_row),
                "regulated_row is no row of the network",
            ),
            (self.tap_min <= self.tap_max, "tap_min is above tap_max"),
            (np.isfinite(self.tap_step_percent) & np.isfinite(self.tap_step_degree), "its step is not finite"),
            (self.ratio(self.tap_min).real > 0.1, "at tap_min its ratio vanishes"),
            (self.ratio(self.tap_max).real > 0.1, "at tap_max its ratio vanishes"),
            (self.ratio(self.tap_pos).real > 0.1, "at tap_pos its ratio vanishes"),
            (self.vm_lower_pu <= self.vm_upper_pu, "vm_lower_pu is above vm_upper_pu, or one is missing"),
        )
        _require(rules, "tap changer")
        twice = np.flatnonzero(np.bincount(self.branch, minlength=1) > 1)
        if len(twice):
            raise ValueError(f"branch {int(twice[0])} has two tap changers: only one may regulate")


@dataclass(frozen=True, eq=False)
class Inverters:
    """Inverters whose power follows the voltage of their row. Shapes: m inverters, points padded with NaN at the end.

    Characteristics are piecewise linear and constant beyond their ends. Q(V) comes on top of the row's q_mvar. P(V) is
    an upper limit of what the row feeds in: p = min(p_mw, limit), the sum of the limits where several share a row.
    """

    row: NDArray[np.int64] = field(default_factory=_indices)
    """(m,) a visible row."""
    sn_mva: NDArray[np.float64] = field(default_factory=_floats)
    """(m,) rated apparent power, which the characteristics' shares are of."""
    qv_vm_pu: NDArray[np.float64] = field(default_factory=_points)
    """(m, a) voltages of the Q(V) characteristic, rising ..."""
    qv_q_pu: NDArray[np.float64] = field(default_factory=_points)
    """(m, a) ... and its reactive power, generation positive. No point: no reactive power."""
    pv_vm_pu: NDArray[np.float64] = field(default_factory=_points)
    """(m, b) voltages of the P(V) characteristic, rising ..."""
    pv_p_pu: NDArray[np.float64] = field(default_factory=_points)
    """(m, b) ... and its limit of active power. No point: no limit."""

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def alike(
        cls,
        row: NDArray[np.integer],
        sn_mva: NDArray[np.floating],
        qv: tuple[tuple[float, ...], tuple[float, ...]] | None = IEEE_1547_QV_B,
        pv: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    ) -> Inverters:
        """Inverters of one characteristic each: qv, pv as (vm_pu, share of sn_mva), None for none."""
        m = len(row)

        def repeated(points: tuple[float, ...]) -> NDArray[np.float64]:
            return np.tile(np.asarray(points, dtype=float), (m, 1))

        return cls(
            np.asarray(row, dtype=np.int64), np.asarray(sn_mva, dtype=float),
            *(repeated(points) for curve in (qv, pv) for points in (curve or ((), ()))),
        )  # fmt: skip

    def check(self, network: Network) -> None:
        """Raises ValueError, naming the first inverter that does not fit the network."""
        _same_length(self, "inverters")
        rules: list[tuple[Any, str]] = [
            ((self.row >= 0) & (self.row < network.n_bus), "row is no bus of the network"),
            (~np.isin(self.row, network.pv_row), "its row's voltage is held by a generator"),
            (np.isfinite(self.sn_mva) & (self.sn_mva > 0), "sn_mva must be positive"),
        ]
        for name, vm, share in (("Q(V)", self.qv_vm_pu, self.qv_q_pu), ("P(V)", self.pv_vm_pu, self.pv_p_pu)):
            if vm.shape != share.shape:
                raise ValueError(f"inverters: {name} has {vm.shape} voltages and {share.shape} shares")
            given = np.isfinite(vm)
            rising = (np.diff(vm, axis=1) > 0) | ~given[:, 1:]
            padded = given[:, :-1] | ~given[:, 1:]
            rules.append(((rising & padded).all(axis=1), f"the voltages of {name} must rise, NaN at the end only"))
            rules.append(((np.isfinite(share) == given).all(axis=1), f"{name} lacks a share or a voltage"))
        _require(rules, "inverter")

    def reactive_mvar(self, vm_pu: NDArray[np.float64]) -> NDArray[np.float64]:
        """(m, n) reactive power at the voltages (m, n) of their rows."""
        return self.sn_mva[:, None] * _interpolate(vm_pu, self.qv_vm_pu, self.qv_q_pu, without=0.0)

    def limit_mw(self, vm_pu: NDArray[np.float64]) -> NDArray[np.float64]:
        """(m, n) limit of active power at the voltages (m, n) of their rows; inf where there is none."""
        return self.sn_mva[:, None] * _interpolate(vm_pu, self.pv_vm_pu, self.pv_p_pu, without=np.inf)

    @cached_property
    def droop(self) -> Droop:
        """The characteristics, summed per row, as the kernels take them."""
        rows, place = np.unique(self.row, return_inverse=True)
        base = np.zeros((len(rows), 2))
        start = np.zeros((len(rows), 3), dtype=np.int64)
        ramps: list[tuple[float, float, float]] = []
        curves = ((self.qv_vm_pu, self.qv_q_pu, 0.0), (self.pv_vm_pu, self.pv_p_pu, np.inf))
        for d in range(len(rows)):
            for column, (vm_pu, share, without) in enumerate(curves):
                own: dict[tuple[float, float], float] = {}
                for i in np.flatnonzero(place == d):
                    base[d, column] += _add_ramps(own, vm_pu[i], share[i] * self.sn_mva[i], without)
                ramps += [(v0, width, slope) for (v0, width), slope in own.items()]
                start[d, column + 1] = len(ramps)
        start[1:, 0] = start[:-1, 2]
        return Droop(rows, base, start, np.array(ramps, dtype=float).reshape(-1, 3))


@dataclass(frozen=True, eq=False)
class Droop:
    """Characteristics of d rows as sums of ramps: value(v) = base + sum of slope * clip(v - v0, 0, width)."""

    row: NDArray[np.int64]
    """(d,) rising"""
    base: NDArray[np.float64]
    """(d, 2) reactive power (MVAr) and limit of active power (MW, inf for none) at low voltage."""
    start: NDArray[np.int64]
    """(d, 3) a row's ramps of Q are [start 0, start 1), of P [start 1, start 2)."""
    ramp: NDArray[np.float64]
    """(n, 3) v0 (pu), width (pu), slope (MW or MVAr per pu)."""

    @cached_property
    def mean_slope(self) -> NDArray[np.float64]:
        """(d,) middle between the steepest and the flattest part of Q(V), flat ends included, in MVAr per pu.

        A linearisation at this slope is off by the same amount on both, so that it converges wherever the voltage lies:
        for one inverter behind a reactance x by |k|x/(1 + |k|x) < 1 per step, k being the middle.
        """
        out = np.zeros(len(self.row))
        for d, (first, last, _) in enumerate(self.start):
            v0, width, slope = self.ramp[first:last].T
            steps = np.unique(np.concatenate([v0, v0 + width]))
            middle = ((steps[1:] + steps[:-1]) / 2)[np.diff(steps) > _ROUNDING_PU]
            slopes = (slope * ((middle[:, None] > v0) & (middle[:, None] < v0 + width))).sum(axis=1)
            out[d] = (slopes.min(initial=0.0) + slopes.max(initial=0.0)) / 2
        return out

    def at(self, vm_pu: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(d,) reactive power and limit of active power at voltages (d,)."""
        out = self.base.copy()
        for column, (ramp, d) in enumerate(self._owners):
            v0, width, slope = self.ramp[ramp].T
            out[:, column] += np.bincount(d, slope * np.clip(vm_pu[d] - v0, 0, width), len(self.row))
        return out[:, 0], out[:, 1]

    @cached_property
    def _owners(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Every ramp and the row it belongs to, of Q and of P."""
        return [
            (
                np.concatenate([np.arange(a, b) for a, b in spans]),
                np.repeat(np.arange(len(spans)), np.ptp(spans, axis=1)),
            )
            for spans in (self.start[:, :2], self.start[:, 1:])
        ]


def with_regulators(
    network: Network, tap_changers: TapChangers | None = None, inverters: Inverters | None = None
) -> Network:
    """The network with these regulators instead of its own; None leaves a kind as it is.

    Raises ValueError where one does not fit the network.
    """
    own = dataclasses.replace(
        network,
        tap_changers=network.tap_changers if tap_changers is None else tap_changers,
        inverters=network.inverters if inverters is None else inverters,
    )
    own.tap_changers.check(own)
    own.inverters.check(own)
    return own


def _same_length(regulators: TapChangers | Inverters, name: str) -> None:
    lengths = {f.name: len(getattr(regulators, f.name)) for f in dataclasses.fields(regulators)}
    if not len(regulators):  # tables of points have no line either, whatever their width
        lengths = {key: n for key, n in lengths.items() if n}
    if len(set(lengths.values())) > (1 if len(regulators) else 0):
        raise ValueError(f"{name}: arrays of different length: {lengths}")


def _require(rules: Iterable[tuple[Any, str]], name: str) -> None:
    for good, problem in rules:
        if not np.all(good):
            raise ValueError(f"{name} {int(np.flatnonzero(~good)[0])}: {problem}")


def _interpolate(
    vm_pu: NDArray[np.float64], points: NDArray[np.float64], values: NDArray[np.float64], without: float
) -> NDArray[np.float64]:
    out = np.full(vm_pu.shape, without)
    for i, given in enumerate(np.isfinite(points)):
        if given.any():
            out[i] = np.interp(vm_pu[i], points[i, given], values[i, given])
    return out


def _add_ramps(
    ramps: dict[tuple[float, float], float], vm_pu: NDArray[np.float64], value: NDArray[np.float64], without: float
) -> float:
    """Adds the sloping parts of a characteristic, (v0, width) to slope; returns its value at low voltage."""
    vm_pu, value = vm_pu[np.isfinite(vm_pu)], value[np.isfinite(vm_pu)]
    if not len(vm_pu):
        return without
    for v0, v1, a, b in zip(vm_pu[:-1], vm_pu[1:], value[:-1], value[1:], strict=True):
        if a != b:
            place = (float(v0), float(v1 - v0))
            ramps[place] = ramps.get(place, 0.0) + float((b - a) / (v1 - v0))
    return float(value[0])
