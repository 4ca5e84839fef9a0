"""One day of one region as it truly was, and as faultless meters would count it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from lib.grid.powerflow import solve
from lib.ingest.landing.customers import Customers, Recipe, gate_ratio
from lib.ingest.landing.faults import NEVER, Plan, energy_wh
from lib.ingest.landing.source import LandingSource
from lib.ingest.source import INTERVAL_S

_HOURS = INTERVAL_S / 3600
_VOLT_NOISE = 0.3
GATE_STEP_WH = 0.01
"""Wh, secondary: smallest step of a gate meter's energy."""


@dataclass(frozen=True, eq=False)
class Day:
    """n customers, n_area areas, n_slot slots; energies in Wh on the primary side."""

    slots: slice
    energy_wh: NDArray[np.float64]
    """(n, n_slot) true energy of each customer, generators' fed in."""
    q_kvar: NDArray[np.float64]
    """(n, n_slot) true reactive power, from the network positive."""
    u_v: NDArray[np.float64]
    """(n, n_slot) true phase voltage at the meter, 0 without supply."""
    gate_kw: NDArray[np.float64]
    """(n_area, n_slot) into the area; gate meters sit on the low-voltage side ..."""
    gate_kvar: NDArray[np.float64]
    gate_i_a: NDArray[np.float64]
    gate_u_v: NDArray[np.float64]
    technical_wh: NDArray[np.float64]
    """(n_area,) losses of the area's lines that day, by power flow."""
    infeed_kw: NDArray[np.float64]
    """(n_slot,) delivered by the external grid."""
    feed_mva: NDArray[np.complex128]
    """(n_feed, n_slot) into each feeding transformer at its upper side."""
    hv_pu: NDArray[np.float64]
    """(n_area, n_slot) voltage at each transformer's upper side."""


def energies(
    source: LandingSource, recipe: Recipe, customers: Customers, plan: Plan, day: date
) -> tuple[slice, NDArray[np.float64], NDArray[np.float64]]:
    """Slots, energy_wh and q_kvar of the day, both (n, n_slot), without the power flow.

    Noise moves energy within the day and never changes the day's sum, so that every register is known at each day's
    start without the days before.
    """
    slots = source.slots_of(day, recipe.time_zone)
    profile = source.meter_profile[customers.meter]
    factor = recipe.stream("noise", day).standard_normal((len(customers), slots.stop - slots.start), dtype=np.float32)
    factor = np.maximum(1 + np.float32(recipe.noise) * factor, 0).astype(np.float64)
    for area, first, stop in plan.outages:
        if first < slots.stop and stop > slots.start:
            dark = slice(max(first - slots.start, 0), min(stop, slots.stop) - slots.start)
            factor[customers.area == area, dark] = 0
    noisy = source.profile_p[:, slots][profile] * factor
    total = noisy.sum(axis=1, keepdims=True)
    day_wh = true_wh(source, customers, plan, slots.stop) - true_wh(source, customers, plan, slots.start)
    energy = noisy * np.divide(day_wh[:, None], total, out=np.zeros_like(total), where=total > 0)
    power = -source.meter_q_kvar[customers.meter].astype(np.float64) * customers.share
    q = power[:, None] * source.profile_q[:, slots][profile] * factor
    return slots, energy, q


def true_wh(source: LandingSource, customers: Customers, plan: Plan, slot: int) -> NDArray[np.float64]:
    """(n,) Wh from the profiles' start to the slot's start, outages left out; exact only at a day's start."""
    total = energy_wh(source, customers, slot)
    for area, first, stop in plan.outages:
        if first < slot:
            of = customers.area == area
            dark = energy_wh(source, customers, min(stop, slot)) - energy_wh(source, customers, first)
            total[of] -= dark[of]
    return total


def metered_wh(source: LandingSource, customers: Customers, plan: Plan, slot: int) -> NDArray[np.float64]:
    """(n,) Wh that passed the meters' counters up to a day's start: stopped meters and thefts left out."""
    total = true_wh(source, customers, plan, slot)
    for begin in np.unique(np.minimum(plan.stop_slot, plan.theft_slot)):
        if begin != NEVER and begin < slot:
            of = np.minimum(plan.stop_slot, plan.theft_slot) == begin
            lost = np.where(plan.stop_slot == begin, 1.0, plan.theft_share)[of]
            total[of] -= lost * (total[of] - true_wh(source, customers, plan, int(begin))[of])
    return total


def counts(
    start_wh: NDArray[np.float64],
    end_wh: NDArray[np.float64],
    energy: NDArray[np.float64],
    step_wh: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(n, n_slot + 1) steps on each counter at the slots' boundaries: it shows whole steps, and keeps what remains."""
    summed = np.cumsum(energy, axis=1)
    total = summed[:, -1:]
    part = np.divide(summed, total, out=np.zeros_like(summed), where=total > 0)
    register = start_wh[:, None] + np.concatenate([np.zeros_like(total), part], axis=1) * (end_wh - start_wh)[:, None]
    register[:, -1] = end_wh
    return np.floor(register / step_wh[:, None])


def solve_day(source: LandingSource, recipe: Recipe, customers: Customers, plan: Plan, day: date) -> Day:
    """The day by power flow, so that losses and voltages are those of the network."""
    slots, energy, q = energies(source, recipe, customers, plan, day)
    n_slot = slots.stop - slots.start
    network = source.solver_network
    row = source.meter_row[customers.meter]
    sign = np.where(source.meter_generates[customers.meter], 1.0, -1.0)
    p_mw, q_mvar = np.zeros((2, network.n_bus, n_slot))
    np.add.at(p_mw, row, sign[:, None] * energy / _HOURS * 1e-6)
    np.add.at(q_mvar, row, -q * 1e-3)
    flow = solve(network, p_mw, q_mvar)
    if not flow.converged.all():
        raise ValueError(f"region {recipe.region}: {day} has snapshots without a solution")
    branches = flow.branches()
    phase_v = network.vn_kv[: network.n_bus] * 1e3 / np.sqrt(3)
    u_v = (flow.vm_pu * phase_v[:, None])[row]
    gate_u_v = flow.vm_pu[source.area_row] * phase_v[source.area_row, None]
    gate_kw = -branches.p_to_mw[source.area_branch] * 1e3
    gate_kvar = -branches.q_to_mvar[source.area_branch] * 1e3
    gate_i_a = branches.i_to_ka[source.area_branch] * 1e3
    for area, first, stop in plan.outages:
        dark = slice(max(first - slots.start, 0), max(min(stop, slots.stop) - slots.start, 0))
        for values in (gate_u_v, gate_kw, gate_kvar, gate_i_a):
            values[area, dark] = 0
        u_v[customers.area == area, dark] = 0
    in_area = customers.area >= 0
    signed = (-sign[:, None] * energy).sum(axis=1)
    used = np.bincount(customers.area[in_area], weights=signed[in_area], minlength=source.n_area)
    return Day(
        slots=slots,
        energy_wh=energy,
        q_kvar=q,
        u_v=u_v,
        gate_kw=gate_kw,
        gate_kvar=gate_kvar,
        gate_i_a=gate_i_a,
        gate_u_v=gate_u_v,
        technical_wh=gate_kw.sum(axis=1) * _HOURS * 1e3 - used,
        infeed_kw=flow.slack_p_mw.sum(axis=0) * 1e3,
        feed_mva=branches.p_from_mw[source.feed_branch] + 1j * branches.q_from_mvar[source.feed_branch],
        hv_pu=flow.vm_pu[source.area_hv_row],
    )


def gate_counts(source: LandingSource, day: Day) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Forward and reverse energy of each gate meter, both (n_area, n_slot), in steps of GATE_STEP_WH, secondary."""
    ratio = gate_ratio(source)
    result = []
    for kw in (np.maximum(day.gate_kw, 0), np.maximum(-day.gate_kw, 0)):
        steps = np.floor(np.cumsum(kw * _HOURS * 1e3 / ratio[:, None] / GATE_STEP_WH, axis=1))
        result.append(np.diff(steps, axis=1, prepend=0))
    return result[0], result[1]


def noisy_volts(
    u_v: NDArray[np.float64], random: np.random.Generator, ratio: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Voltages as read on the secondary side: 0.3 V of noise at a direct meter, steps of 0.1 V; 0 stays 0."""
    noise = random.standard_normal(u_v.shape, dtype=np.float32) * _VOLT_NOISE
    return np.where(u_v > 0, np.round(u_v / ratio[:, None] + noise, 1), 0.0)
