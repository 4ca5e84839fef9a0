"""Weighted least squares state estimation of many snapshots of one network at once."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import gammaincc

from lib.grid.estimation import bad_data, robust
from lib.grid.estimation.gain import build_gain
from lib.grid.estimation.measurements import place
from lib.grid.estimation.model import build_model, linearise
from lib.grid.estimation.observability import Observability, observe
from lib.grid.estimation.tiles import solve_pattern
from lib.grid.network import Network
from lib.grid.sweep import LANES
from lib.grid.voltages import Voltages


class EstimateStatus(enum.IntEnum):
    """What became of one snapshot."""

    OK = 0
    REFRESHED = 1
    """Converged, by a matrix of the snapshot's own: it lies far from the network's typical load."""
    DIVERGED = 2
    """No optimum found: voltages are NaN."""
    NO_MEASUREMENT = 3
    """Nothing is measured: voltages are NaN."""


@dataclass(frozen=True, eq=False)
class StateEstimate(Voltages):
    """Estimated snapshots; voltages of unobservable buses are NaN."""

    network: Network
    n_snapshot: int
    e: NDArray[np.float64]
    f: NDArray[np.float64]
    status: NDArray[np.uint8]
    """(n_snapshot,) values of EstimateStatus."""
    iterations: NDArray[np.int32]
    """(n_snapshot,) linear solves spent."""
    objective: NDArray[np.float64]
    """(n_snapshot,) sum of squared residuals over sigma^2 of the measurements left in, or Huber's sum where residuals
    are bounded; NaN where not converged."""
    degrees_of_freedom: NDArray[np.int64]
    """(n_snapshot,) of the chi-square law that `objective` follows if errors are as their sigmas say; 0 where residuals
    are bounded: then it follows none."""
    pattern: NDArray[np.int64]
    """(n_snapshot,) index into `observability`."""
    observability: list[Observability]
    """One for every set of measurements that were available together."""
    removed: pd.DataFrame
    """Measurements taken out as bad: snapshot, measurement (index of the table), residual (table's units),
    normalised_residual; in the order they were found."""
    bounded: pd.DataFrame
    """Measurements whose pull Huber's estimator bounds: snapshot, measurement, residual (table's units), weight (which
    multiplies its own)."""

    @property
    def converged(self) -> NDArray[np.bool_]:
        return self.status <= EstimateStatus.REFRESHED

    @cached_property
    def p_value(self) -> NDArray[np.float64]:
        """(n_snapshot,) probability of an objective this large by chance; NaN where nothing is redundant."""
        with np.errstate(invalid="ignore"):
            p = gammaincc(self.degrees_of_freedom / 2, self.objective / 2)
        return np.where(self.degrees_of_freedom > 0, p, np.nan)


class Estimator:
    """The estimation of one network with one table of measurements, for any number of batches.

    measurements: columns measurement_type, element_type, element, side, std_dev as in pandapower's `net.measurement`
        (signs and units too: docs/state_estimation.md); `pseudo`, optional: the line counts only in snapshots where
        nothing else measures its quantity.
    zero_injection: buses where nothing is fed in or drawn, exactly; of fused buses all must be named to count. Hidden
        rows of the network are so without being named.

    Raises ValueError naming every line that cannot be placed, SingularNetworkError where the network cannot be
    factorised.
    """

    def __init__(self, network: Network, measurements: pd.DataFrame, *, zero_injection: Iterable[int] = ()) -> None:
        self.network = network
        self.measurements = place(network, measurements)
        buses = np.unique([int(bus) for bus in zero_injection]).astype(np.int64)
        unknown = [int(bus) for bus in buses if int(bus) not in network.row_of]
        if unknown:
            raise ValueError(f"zero_injection: buses {unknown} are not in service in this network: leave them out")
        rows = np.setdiff1d(network.member_row, network.member_row[~np.isin(network.member_bus, buses)])
        at = self.measurements.at[self.measurements.component <= 1]
        both = np.intersect1d(at, rows)
        if len(both):
            raise ValueError(
                f"zero_injection: power is measured at buses {network.bus_ids[both].tolist()}: be it one or the other"
            )
        self.model = build_model(network, self.measurements, rows)
        factors = network.factorisation
        start = np.full(network.n_row, np.nan, dtype=complex)
        start[factors.elimination.row] = factors.start_voltage @ np.array([1, 1j])
        start[network.fixed_row] = network.fixed_v_pu
        self.linearisation = linearise(self.model, start)
        self._patterns: dict[bytes, Observability] = {}

    def observability(self, available: NDArray[np.bool_]) -> Observability:
        """What the measurements `available` (m,) determine; kept."""
        key = np.packbits(available).tobytes()
        if key not in self._patterns:
            self._patterns[key] = observe(build_gain(self.linearisation, available))
        return self._patterns[key]

    def forget_patterns(self) -> None:
        """Drops what is kept of the patterns seen so far."""
        self._patterns.clear()

    def estimate(
        self,
        values: NDArray[np.floating],
        *,
        tolerance: float = 1e-8,
        max_iterations: int = 30,
        bad_data_alpha: float | None = None,
        huber: float | None = None,
    ) -> StateEstimate:
        """As `estimate`."""
        if huber is not None and (bad_data_alpha is not None or not huber > 0):
            raise ValueError(f"huber is {huber}: give a positive number of sigmas, such as 1.5, and no bad_data_alpha")
        n = len(self.measurements.table)
        measured = np.asarray(values, dtype=np.float64)
        if measured.ndim != 2 or len(measured) != n:
            raise ValueError(f"values has shape {measured.shape}: expected ({n}, n_snapshot), a row per measurement")
        if not tolerance > 0:
            raise ValueError(f"tolerance is {tolerance}: give a positive number of per-unit volts, such as 1e-8")
        z = self.measurements.gather(measured)
        s = z.shape[1]
        shape = (-(-s // LANES), self.network.n_row, LANES)
        e, f = np.full(shape, np.nan), np.full(shape, np.nan)
        status = np.full(s, EstimateStatus.NO_MEASUREMENT, dtype=np.uint8)
        iterations, degrees = np.zeros(s, dtype=np.int32), np.zeros(s, dtype=np.int64)
        objective = np.full(s, np.nan)
        removals: list[bad_data.Removal] = []
        bounded: list[robust.Bounded] = []
        groups = _patterns(z)
        seen: list[Observability] = []
        which = np.zeros(s, dtype=np.int64)
        for number, (available, chosen) in enumerate(groups):
            seen.append(self.observability(available))
            which[chosen] = number
            if not seen[-1].gain.used.any():
                continue
            gain, spare = seen[-1].gain, seen[-1].degrees_of_freedom
            part = z if len(chosen) == s else np.ascontiguousarray(z[:, _run(chosen)])
            if huber is None:
                deviation = np.full(len(z), np.nan) if bad_data_alpha is None else bad_data.residual_std(gain)
                solved = solve_pattern(gain, part, deviation, tolerance, max_iterations)
                degrees[chosen] = spare
            else:
                solved, held = robust.bound_residuals(gain, part, huber, tolerance, max_iterations)
                bounded += [replace(b, snapshot=int(chosen[b.snapshot])) for b in held]
            if bad_data_alpha is not None:
                found = bad_data.remove_bad_data(gain, part, solved, bad_data_alpha, tolerance, max_iterations, spare)
                removals += [replace(r, snapshot=int(chosen[r.snapshot])) for r in found]
                np.subtract.at(degrees, [chosen[r.snapshot] for r in found], 1)
            hidden = ~seen[-1].observable
            solved.e[:, hidden] = solved.f[:, hidden] = np.nan
            if len(chosen) == s:
                e, f = solved.e, solved.f
            else:
                _put(e, chosen, solved.e)
                _put(f, chosen, solved.f)
            status[chosen] = np.where(
                solved.converged,
                np.where(solved.refreshed, EstimateStatus.REFRESHED, EstimateStatus.OK),
                EstimateStatus.DIVERGED,
            )
            iterations[chosen], objective[chosen] = solved.iterations, solved.objective
        return StateEstimate(
            self.network, s, e, f, status, iterations, objective, degrees, which, seen,
            self._listed(removals, ("residual", "normalised_residual")), self._listed(bounded, ("residual", "weight")),
        )  # fmt: skip

    def _listed(
        self, lines: Sequence[bad_data.Removal | robust.Bounded], columns: tuple[str, ...]
    ) -> pd.DataFrame:  # fmt: skip
        names = self.measurements.table.index[self.measurements.position]
        return pd.DataFrame({
            "snapshot": np.array([x.snapshot for x in lines], dtype=np.int64),
            "measurement": names[[x.measurement for x in lines]],
            **{name: np.array([getattr(x, name) for x in lines], dtype=float) for name in columns},
        })  # fmt: skip


def _patterns(z: NDArray[np.float64]) -> list[tuple[NDArray[np.bool_], NDArray[np.int64]]]:
    """Sets of measurements that are available together, and the snapshots of each, in order of first appearance."""
    available = np.isfinite(z)
    if available.all():
        return [(np.ones(len(z), dtype=bool), np.arange(z.shape[1]))] if z.shape[1] else []
    packed = np.packbits(available, axis=0)
    start = np.append(0, 1 + np.flatnonzero((packed[:, 1:] != packed[:, :-1]).any(axis=0)))
    runs: dict[bytes, list[NDArray[np.int64]]] = {}
    for first, last in zip(start, np.append(start[1:], z.shape[1]), strict=True):
        runs.setdefault(packed[:, first].tobytes(), []).append(np.arange(first, last))
    groups = [np.concatenate(parts) for parts in runs.values()]
    return [(available[:, chosen[0]], chosen) for chosen in groups]


def _run(chosen: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """As a slice where they follow each other: copied by rows, not one by one."""
    first, last = int(chosen[0]), int(chosen[-1]) + 1
    return slice(first, last) if last - first == len(chosen) else chosen


def _put(whole: NDArray[np.float64], chosen: NDArray[np.int64], part: NDArray[np.float64]) -> None:
    """Puts tiles of a part where its snapshots belong."""
    run, n = _run(chosen), len(chosen)
    if isinstance(run, slice) and run.start % LANES == 0:
        tile, full = run.start // LANES, n // LANES
        whole[tile : tile + full] = part[:full]
        if n % LANES:
            whole[tile + full, :, : n % LANES] = part[full, :, : n % LANES]
        return
    at = np.arange(n)
    whole[chosen // LANES, :, chosen % LANES] = part[at // LANES, :, at % LANES]


def estimate(
    network: Network,
    measurements: pd.DataFrame,
    values: NDArray[np.floating],
    *,
    zero_injection: Iterable[int] = (),
    tolerance: float = 1e-8,
    max_iterations: int = 30,
    bad_data_alpha: float | None = None,
    huber: float | None = None,
) -> StateEstimate:
    """Estimates the voltages of every snapshot.

    measurements, zero_injection: as of `Estimator`, which see; use that for several batches of the same measurements.
    values: (n_measurement, n_snapshot) what was measured, NaN where missing.
    tolerance: bound on the voltage error of the optimum in per unit, judged by each snapshot's own contraction.
    max_iterations: linear solves after which a snapshot gets a matrix of its own.
    bad_data_alpha: take out bad data by the largest normalised residual; the probability that a clean snapshot loses a
        measurement is at most this (0.005, say). None: no test.
    huber: bound the pull of residuals beyond this many sigmas (1.5 to 3), by Huber's estimator, which see in
        `lib.grid.estimation.robust`; instead of taking out bad data.

    A snapshot's result is the same bits whatever else is in the batch. Raises ValueError on a wrong table or shape,
    SingularNetworkError on a network that cannot be factorised.
    """
    return Estimator(network, measurements, zero_injection=zero_injection).estimate(
        values, tolerance=tolerance, max_iterations=max_iterations, bad_data_alpha=bad_data_alpha, huber=huber
    )
