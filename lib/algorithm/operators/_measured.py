"""What a tile and telemetry measure of a network, as lines of a measurement table with values and sigmas.

A class of accuracy limits a meter's error to a percentage of the reading (IEC 62053-21 and -22 for active energy, -23
for reactive energy; IEC 61557-12 for voltage). Nothing is known of the error within the limits, so it counts as evenly
distributed: sigma is the limit / sqrt(3) (JCGM 100:2008, GUM, 4.3.7).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from lib.algorithm.operators._telemetry import Points
from lib.algorithm.operators._tile import Tile
from lib.grid.estimation import Estimator, StateEstimate
from lib.grid.factorisation import admittance_matrix
from lib.grid.network import Network
from lib.tables.tiles import Slot

METER, PSEUDO, SET_POINT, TELEMETRY = "meter", "pseudo", "set-point", "telemetry"
_EVEN = 1 / math.sqrt(3)
_NO_SUPPLY_PU = 0.05
"""A meter that shows less has no supply: that is no measurement of the network as it is modelled."""


@dataclass(frozen=True)
class Accuracy:
    """How far values may be trusted: limits of error, but pseudo_percent, which is a standard deviation."""

    power_class_percent: float
    reactive_class_percent: float
    voltage_class_percent: float
    power_floor_kw: float
    pseudo_percent: float
    set_point_percent: float


@dataclass(frozen=True, eq=False)
class Lines:
    """The measurement table of one set of metered buses and points; n lines."""

    network: Network
    metered: NDArray[np.int64]
    """Rows whose power meters measure ..."""
    reactive: NDArray[np.int64]
    """... and their reactive power too."""
    zero: NDArray[np.bool_]
    """(n_bus,) nothing is fed in or drawn."""
    table: pd.DataFrame
    """Columns of `net.measurement`, pseudo, source, point_id."""
    row: NDArray[np.int64]
    """(n,) of the bus; -1 for a branch."""
    estimator: Estimator
    admittance: sp.csr_matrix
    """The network's."""


def metered_rows(network: Network, tile: Tile) -> NDArray[np.bool_]:
    """(n_bus,) buses whose power is measured: there is a load or generator in the model, or power in the tile.

    The others are zero injections, but for external grids and voltage-controlled generators.
    """
    n = network.n_bus
    known = tile.status != Slot.PADDED
    powers = [np.nan_to_num(tile.powers[name][:, known], nan=1.0) != 0 for name in ("p_kw", "q_kvar")]
    found = np.logical_or(*powers).any(axis=1)
    if len(network.s_typical_mva):
        found |= network.s_typical_mva[:n] != 0
    found[network.pv_row[network.pv_row < n]] = True
    found[network.fixed_row[network.fixed_row < n]] = False
    return np.asarray(found)


def lines(network: Network, metered: NDArray[np.bool_], points: Points) -> Lines:
    """Raises ValueError where the network cannot be estimated."""
    n, rows = network.n_bus, np.flatnonzero(metered)
    given = np.unique(np.concatenate([network.fixed_row, network.pv_row]))
    given = given[given < n]
    reactive = np.setdiff1d(rows, network.pv_row)  # what a generator feeds in to hold its voltage, nobody measures
    blocks = [
        (METER, "v", np.arange(n)), (METER, "p", rows), (METER, "q", reactive), (PSEUDO, "p", rows),
        (PSEUDO, "q", reactive), (SET_POINT, "v", given),
    ]  # fmt: skip
    tables = [
        pd.DataFrame({
            "measurement_type": kind, "element_type": "bus", "element": network.bus_ids[at], "side": None,
            "pseudo": source in (PSEUDO, SET_POINT), "source": source, "point_id": None,
        })
        for source, kind, at in blocks if len(at)
    ]  # fmt: skip
    if points.point_id:
        tables.append(pd.DataFrame({
            "measurement_type": points.measurement_type, "element_type": points.element_type,
            "element": points.element, "side": points.side, "pseudo": False, "source": TELEMETRY,
            "point_id": points.point_id,
        }))  # fmt: skip
    table = pd.concat([it.astype(object) for it in tables], ignore_index=True).assign(std_dev=1.0)
    zero = ~metered
    zero[given] = False
    zero[[r for r, kind in zip(points.row, points.measurement_type, strict=True) if r >= 0 and kind in "pq"]] = False
    hidden = network.member_row >= n
    buses = network.member_bus[~hidden][zero[network.member_row[~hidden]]]
    row = np.concatenate([*(at for _, _, at in blocks), points.row])
    estimator = Estimator(network, table, zero_injection=buses.tolist())
    return Lines(network, rows, reactive, zero, table, row, estimator, sp.csr_matrix(admittance_matrix(network)))


def values(it: Lines, tile: Tile, points: Points, accuracy: Accuracy) -> tuple[NDArray, NDArray]:
    """Values (n, slot_count), NaN where there is none, and sigmas (n,) in the table's units.

    A power's sigma is that of its mean size over the tile. In slots that are marked missing, powers are
    pseudo-measurements: their mean over the tile's other slots.
    """
    network, count = it.network, tile.slot_count
    missing = tile.status[:count] == Slot.MISSING
    floor = accuracy.power_floor_kw / 1e3
    v_std = accuracy.voltage_class_percent / 100 * _EVEN
    found, spread = [_voltages(network, tile)], [np.full(network.n_bus, v_std)]
    profiles: list[tuple[NDArray, NDArray]] = []
    generated = np.zeros(network.n_row)
    np.add.at(generated, network.pv_row, network.pv_p_mw)
    for name, rows, percent, own in (
        ("p_kw", it.metered, accuracy.power_class_percent, generated),
        ("q_kvar", it.reactive, accuracy.reactive_class_percent, np.zeros(network.n_row)),
    ):
        power = -tile.powers[name][rows, :count].astype(np.float64) / 1e3 - own[rows, None]
        power[~np.isfinite(power) | missing] = np.nan
        known = np.isfinite(power)
        n = np.maximum(known.sum(axis=1), 1)
        size = np.where(known, np.abs(power), 0).sum(axis=1) / n
        found.append(power)
        spread.append(np.maximum(percent / 100 * size, floor) * _EVEN)
        mean = np.where(known.any(axis=1), np.where(known, power, 0).sum(axis=1) / n, np.nan)
        profiles.append((np.where(missing, mean[:, None], np.nan),
                         np.maximum(accuracy.pseudo_percent / 100 * size, floor)))  # fmt: skip
    for value, std in profiles:
        found.append(value)
        spread.append(std)
    telemetry, set_points = points.in_tile(tile), _set_points(network)
    something = np.isfinite(np.concatenate([*found, telemetry])).any(axis=0)
    found += [np.where(something, set_points[:, None], np.nan), telemetry]
    spread += [np.full(len(set_points), accuracy.set_point_percent / 100 * _EVEN), _point_std(points, accuracy)]
    return np.concatenate(found), np.concatenate(spread)


def estimate(it: Lines, values: NDArray[np.float64], std_dev: NDArray[np.float64], **how: Any) -> StateEstimate:
    """The lines' estimate with these sigmas; how: as of `Estimator.estimate`. One at a time of the same lines.

    Structure and operating point are those of the lines' estimator, only weights are the tile's own.
    """
    base = it.estimator
    own = copy.copy(base)
    own.measurements = replace(base.measurements, std_dev=std_dev[base.measurements.position])
    own.model = replace(base.model, measurements=own.measurements)
    own.linearisation = replace(base.linearisation, model=own.model)
    try:
        return own.estimate(values, **how)
    finally:
        base.forget_patterns()  # they have this tile's sigmas


def _point_std(points: Points, accuracy: Accuracy) -> NDArray[np.float64]:
    """(n,) sigma of each point: its own, else that of its class."""
    size, kinds = points.mean_size(), np.array(points.measurement_type, dtype=object)
    floor = accuracy.power_floor_kw / 1e3
    limit = np.maximum(accuracy.power_class_percent / 100 * size, floor)  # i in kA: a floor of so many A
    limit[kinds == "q"] = np.maximum(accuracy.reactive_class_percent / 100 * size, floor)[kinds == "q"]
    limit[kinds == "v"] = accuracy.voltage_class_percent / 100
    return np.where(np.isfinite(points.std_dev), points.std_dev, limit * _EVEN)


def _voltages(network: Network, tile: Tile) -> NDArray[np.float64]:
    """(n_bus, slot_count) pu: measured from phase to neutral, NaN where there is none or no supply."""
    if "u_v" not in tile.powers:
        return np.full((network.n_bus, tile.slot_count), np.nan)
    base_v = network.vn_kv[: network.n_bus, None] * 1e3 * _EVEN
    vm = tile.powers["u_v"][:, : tile.slot_count].astype(np.float64) / base_v
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(vm) & (vm > _NO_SUPPLY_PU), vm, np.nan)


def _set_points(network: Network) -> NDArray[np.float64]:
    """Magnitudes that external grids and voltage-controlled generators hold, in order of their rows."""
    given: dict[int, float] = dict(zip(network.pv_row.tolist(), network.pv_vm_pu.tolist(), strict=True))
    given |= dict(zip(network.fixed_row.tolist(), np.abs(network.fixed_v_pu).tolist(), strict=True))
    return np.array([vm for row, vm in sorted(given.items()) if row < network.n_bus])
