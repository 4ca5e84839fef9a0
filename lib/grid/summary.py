"""Mergeable day summaries of solved voltages: what `bus_day`, `branch_day` and `network_result` are made of.

A day is at most four tiles of 32 consecutive slots. Extrema, counts and the six highest voltages of a bus merge exactly
in any order; sums are kept per tile and added in slot order at the end, lane after lane. So a summary has the same
bits whatever order its tiles came in and however they were split over files, tasks or regions.

Six values are enough for the 95th percentile (linear interpolation, as `numpy.percentile`) of up to 101 slots: it lies
between the sixth and the first highest of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lib.grid.factorisation import admittance_matrix
from lib.grid.network import Network

LANES = 32
TILES = 4
MAX_SLOTS = 100
TOP = 6
REVERSE_MW = 1e-6
"""Power below this (1 W) towards the from side is rounding, not reverse power."""

_JIT: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


@dataclass(frozen=True, eq=False)
class Limits:
    """What is counted: voltage band per bus (n_bus,) in per unit, and loading limits in percent."""

    v_min_pu: NDArray[np.float64]
    v_max_pu: NDArray[np.float64]
    heavy_percent: float = 80.0
    overload_percent: float = 100.0


@dataclass(eq=False)
class DaySummary:
    """Partial result of one network and day; `add_tile` fills it, `merge` joins two.

    Slots are counted from 0 at the start of the day; -1 where there is none. Sums have one row per tile, in slot order.
    Powers are in MW, sums over slots in MW x slots.
    """

    tile_slots: NDArray[np.int64]
    """(4,) slots summed per tile; 0 also for a tile whose slots were all unusable."""
    tile_present: NDArray[np.bool_]
    """(4,) tiles added."""
    bus_slots: NDArray[np.int32]
    """(n_bus,) slots with a voltage: 0 for a bus of an island without a source."""
    vm_sum_pu: NDArray[np.float64]
    """(4, n_bus)"""
    vm_min_pu: NDArray[np.float64]
    vm_min_slot: NDArray[np.int32]
    vm_max_pu: NDArray[np.float64]
    vm_max_slot: NDArray[np.int32]
    vm_top_pu: NDArray[np.float64]
    """(6, n_bus) highest values, falling."""
    slots_below: NDArray[np.int32]
    slots_above: NDArray[np.int32]
    branch_slots: NDArray[np.int32]
    """(n_branch,) slots with a current."""
    energy_sum: NDArray[np.float64]
    """(4, n_branch) sum of |P_from|."""
    loss_sum: NDArray[np.float64]
    """(4, n_branch) sum of all losses."""
    iron_sum: NDArray[np.float64]
    """(4, n_branch) the part of them that is iron loss."""
    load_max_squared: NDArray[np.float64]
    """(n_branch,) square of the highest loading, as a share of the rating; -1 where no end has a rating."""
    load_max_slot: NDArray[np.int32]
    slots_heavy: NDArray[np.int32]
    slots_overload: NDArray[np.int32]
    reverse: NDArray[np.bool_]
    """(n_branch,) power flowed from the to side to the from side in some slot."""


_SUMS = ("tile_slots", "tile_present", "vm_sum_pu", "energy_sum", "loss_sum", "iron_sum")
_COUNTS = ("bus_slots", "slots_below", "slots_above", "branch_slots", "slots_heavy", "slots_overload", "reverse")


class Summariser:
    """Everything about one network and its limits that the kernels need, derived once."""

    def __init__(self, network: Network, limits: Limits) -> None:
        for name in ("v_min_pu", "v_max_pu"):
            if getattr(limits, name).shape != (network.n_bus,):
                raise ValueError(f"limits.{name} has shape {getattr(limits, name).shape}, not ({network.n_bus},)")
        self.network, self.limits = network, limits
        y = network.branch_y_pu
        # The split of `lib.grid.branches`: differences of nearly equal currents become differences of voltages.
        self._split = np.stack(
            [y[:, 0, 0] + y[:, 0, 1], y[:, 1, 1] + y[:, 1, 0], y[:, 0, 1], y[:, 1, 0], y[:, 1, 0] - y[:, 0, 1]], axis=1
        )
        ends = np.stack([network.branch_from, network.branch_to], axis=1)
        ka_per_pu = 1.0 / (math.sqrt(3.0) * network.vn_kv[ends]) if len(ends) else np.empty((0, 2))
        share = (ka_per_pu / network.branch_rated_ka) ** 2
        self._share = np.where(np.isfinite(share), share, 0.0)
        self.rated = np.asarray(np.isfinite(share).any(axis=1))
        y_fixed = admittance_matrix(network)[network.fixed_row]
        self._near = np.unique(y_fixed.indices)  # rows with a branch to an external grid
        self._y_near = y_fixed[:, self._near].toarray()
        self._has_iron = np.ascontiguousarray(network.branch_iron_pu != 0).any(axis=1)
        self._changer = np.full(network.n_branch, -1)
        self._changer[network.tap_changers.branch] = np.arange(len(network.tap_changers))

    def infeed(
        self, e: NDArray[np.float64], f: NDArray[np.float64], p: NDArray[Any], q: NDArray[Any], scale: float = 1.0
    ) -> NDArray[np.complex128]:
        """(32,) power in MVA that all external grids feed in, for one solved tile; NaN where voltages are NaN.

        e, f: (n_row, 32). p, q: (n_bus, 32) injection, in MVA once multiplied by `scale`.
        """
        rows = self.network.fixed_row
        v = e[rows] + 1j * f[rows]
        s = v * np.conj(self._y_near @ (e[self._near] + 1j * f[self._near]))
        s += self.network.s_constant_current_mva[rows, None] * np.abs(v)
        own = rows[rows < self.network.n_bus]
        injected = p[own].astype(np.float64) + 1j * q[own].astype(np.float64)
        return s.sum(axis=0) - scale * injected.sum(axis=0)

    def empty(self) -> DaySummary:
        """The summary of no slots: the neutral element of `merge`."""
        n, m = self.network.n_bus, self.network.n_branch
        return DaySummary(
            tile_slots=np.zeros(TILES, np.int64), tile_present=np.zeros(TILES, np.bool_),
            bus_slots=np.zeros(n, np.int32), vm_sum_pu=np.zeros((TILES, n)),
            vm_min_pu=np.full(n, np.inf), vm_min_slot=np.full(n, -1, np.int32),
            vm_max_pu=np.full(n, -np.inf), vm_max_slot=np.full(n, -1, np.int32),
            vm_top_pu=np.full((TOP, n), -np.inf),
            slots_below=np.zeros(n, np.int32), slots_above=np.zeros(n, np.int32),
            branch_slots=np.zeros(m, np.int32), energy_sum=np.zeros((TILES, m)), loss_sum=np.zeros((TILES, m)),
            iron_sum=np.zeros((TILES, m)), load_max_squared=np.full(m, -1.0), load_max_slot=np.full(m, -1, np.int32),
            slots_heavy=np.zeros(m, np.int32), slots_overload=np.zeros(m, np.int32), reverse=np.zeros(m, np.bool_),
        )  # fmt: skip

    def add_tile(
        self,
        day: DaySummary,
        e: NDArray[np.float64],
        f: NDArray[np.float64],
        used: NDArray[np.bool_],
        first_slot: int,
        turn: NDArray[np.complex128] | None = None,
    ) -> None:
        """Adds one solved tile to `day`, in place.

        e, f: (n_row, 32) real and imaginary voltage, per unit. used: (32,) lanes to count; others may hold anything.
        first_slot: 0, 32, 64 or 96. turn: (k, 32) as `lib.grid.regulation.turns`, where taps are not the network's.
        Raises ValueError for another shape, another first slot, and a tile added twice.
        """
        n_row = self.network.n_row
        if e.shape != (n_row, LANES) or f.shape != (n_row, LANES) or used.shape != (LANES,):
            raise ValueError(f"a tile of {self.network.source or 'this network'} has shape ({n_row}, {LANES})")
        tile, rest = divmod(first_slot, LANES)
        if rest or not 0 <= tile < TILES:
            raise ValueError(f"first_slot is {first_slot}, not 0, 32, 64 or 96")
        if day.tile_present[tile]:
            raise ValueError(f"the tile of slot {first_slot} is already in this summary")
        if first_slot + LANES > MAX_SLOTS and used[MAX_SLOTS - first_slot :].any():
            raise ValueError(f"slot {MAX_SLOTS} and above are in use: a day has at most {MAX_SLOTS} slots")
        lanes = np.flatnonzero(used)
        day.tile_present[tile] = True
        day.tile_slots[tile] = len(lanes)
        if not len(lanes):
            return
        _add_buses(
            e, f, lanes, first_slot, self.limits.v_min_pu, self.limits.v_max_pu,
            day.bus_slots, day.vm_sum_pu[tile], day.vm_min_pu, day.vm_min_slot, day.vm_max_pu, day.vm_max_slot,
            day.vm_top_pu, day.slots_below, day.slots_above,
        )  # fmt: skip
        network = self.network
        _add_branches(
            e, f, used, lanes, first_slot, network.branch_from, network.branch_to, self._split, self._share,
            network.branch_iron_pu, self._has_iron, self._changer, network.tap_changers.end,
            np.ones((len(network.tap_changers), LANES), complex) if turn is None else np.ascontiguousarray(turn),
            (self.limits.heavy_percent / 100.0) ** 2, (self.limits.overload_percent / 100.0) ** 2,
            day.branch_slots, day.energy_sum[tile], day.loss_sum[tile], day.iron_sum[tile],
            day.load_max_squared, day.load_max_slot, day.slots_heavy, day.slots_overload, day.reverse,
        )  # fmt: skip


def merge(a: DaySummary, b: DaySummary) -> DaySummary:
    """Both in one, exact: associative and commutative bit for bit. Raises ValueError if both hold the same tile."""
    both = a.tile_present & b.tile_present
    if both.any():
        raise ValueError(f"tiles {(np.flatnonzero(both) * LANES).tolist()} (first slots) are in both summaries")
    out: dict[str, Any] = {name: getattr(a, name) + getattr(b, name) for name in _SUMS + _COUNTS}
    for name, slot, sign in (("vm_min_pu", "vm_min_slot", -1), ("vm_max_pu", "vm_max_slot", 1),
                             ("load_max_squared", "load_max_slot", 1)):  # fmt: skip
        va, vb, sa, sb = getattr(a, name), getattr(b, name), getattr(a, slot), getattr(b, slot)
        take_b = (sign * vb > sign * va) | ((vb == va) & (sb < sa))
        out[name], out[slot] = np.where(take_b, vb, va), np.where(take_b, sb, sa)
    out["vm_top_pu"] = -np.sort(-np.concatenate([a.vm_top_pu, b.vm_top_pu]), axis=0)[:TOP]
    return DaySummary(**{f.name: out[f.name] for f in fields(DaySummary)})


def vm_mean_pu(day: DaySummary) -> NDArray[np.float64]:
    """(n_bus,) mean voltage over the slots; NaN where there are none."""
    with np.errstate(invalid="ignore"):
        return np.where(day.bus_slots > 0, day_sum(day.vm_sum_pu) / day.bus_slots, np.nan)


def vm_p95_pu(day: DaySummary) -> NDArray[np.float64]:
    """(n_bus,) 95th percentile, linear interpolation as `numpy.percentile`; NaN where there are no slots."""
    out = np.full(len(day.bus_slots), np.nan)
    for n in np.unique(day.bus_slots[day.bus_slots > 0]).tolist():
        position = (n - 1) * 0.95
        low = math.floor(position)
        t = position - low
        columns = day.bus_slots == n
        a = day.vm_top_pu[n - 1 - low, columns]
        b = day.vm_top_pu[n - 1 - min(low + 1, n - 1), columns]
        out[columns] = a + (b - a) * t if t < 0.5 else b - (b - a) * (1 - t)
    return out


def loading_max_percent(day: DaySummary) -> NDArray[np.float64]:
    """(n_branch,) highest loading; NaN where no end has a rating or there are no slots."""
    known = day.load_max_squared >= 0
    return np.where(known, 100.0 * np.sqrt(np.where(known, day.load_max_squared, 0.0)), np.nan)


def day_sum(per_tile: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of a (4, n) array over the tiles, in slot order."""
    return ((per_tile[0] + per_tile[1]) + per_tile[2]) + per_tile[3]


@njit(**_JIT)
def _add_buses(e, f, lanes, first_slot, v_min, v_max, slots, total, low, low_slot, high, high_slot, top, below, above):
    """Blocks of 32 buses, turned so that a slot's buses lie side by side: every step is then one vector operation over
    buses, slots follow each other in order, and an unused slot is simply left out."""
    n_bus = len(v_min)
    row = np.empty(LANES)
    vm = np.empty((LANES, LANES))
    best = np.empty((TOP, LANES))
    for start in range(0, n_bus, LANES):
        size = min(LANES, n_bus - start)
        for b in range(size):
            re, im = e[start + b], f[start + b]
            for j in range(LANES):
                row[j] = math.sqrt(re[j] * re[j] + im[j] * im[j])
            for j in range(LANES):
                vm[j, b] = row[j]
        sums, lo, lo_at = total[start : start + size], low[start : start + size], low_slot[start : start + size]
        hi, hi_at = high[start : start + size], high_slot[start : start + size]
        v_lo, v_hi = v_min[start : start + size], v_max[start : start + size]
        under, over, count = below[start : start + size], above[start : start + size], slots[start : start + size]
        for b in range(size):
            if vm[lanes[0], b] == vm[lanes[0], b]:  # NaN in an island without a source
                count[b] += np.int32(len(lanes))
            for k in range(TOP):
                best[k, b] = top[k, start + b]
        for j in lanes:
            v = vm[j]
            slot = np.int32(first_slot + j)
            for b in range(size):
                sums[b] += v[b]
            for b in range(size):
                less = v[b] < lo[b]
                lo[b] = v[b] if less else lo[b]
                lo_at[b] = slot if less else lo_at[b]
            for b in range(size):
                more = v[b] > hi[b]
                hi[b] = v[b] if more else hi[b]
                hi_at[b] = slot if more else hi_at[b]
            for b in range(size):
                under[b] += np.int32(v[b] < v_lo[b])
            for b in range(size):
                over[b] += np.int32(v[b] > v_hi[b])
            for b in range(LANES):
                x = v[b]
                for k in range(TOP):
                    t = best[k, b]
                    best[k, b] = x if x > t else t
                    x = t if x > t else x
        for k in range(TOP):
            for b in range(size):
                top[k, start + b] = best[k, b]


@njit(**_JIT)
def _add_branches(
    e, f, used, lanes, first_slot, from_row, to_row, split, share, iron, has_iron, changer, changer_end, turn, heavy,
    overload, slots, energy, loss, iron_loss, peak, peak_slot, slots_heavy, slots_overload, reverse,
):  # fmt: skip
    """One branch at a time, its 32 slots as vector lanes."""
    p_from, p_back, p_loss, p_iron = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES)
    at_from, at_to, load, half = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES // 2)
    inner_e, inner_f = np.empty(LANES), np.empty(LANES)
    n_used = np.int32(len(lanes))
    some = lanes[0]
    full = len(lanes) == LANES
    for i in range(len(from_row)):
        ef, ff, et, ft = e[from_row[i]], f[from_row[i]], e[to_row[i]], f[to_row[i]]
        if math.isnan(ef[some]) or math.isnan(et[some]):
            continue  # in an island without a source
        g_f, b_f, g_t, b_t = split[i, 0].real, split[i, 0].imag, split[i, 1].real, split[i, 1].imag
        g_ft, b_ft, g_tf, b_tf = split[i, 2].real, split[i, 2].imag, split[i, 3].real, split[i, 3].imag
        g_skew, b_skew = split[i, 4].real, split[i, 4].imag
        share_from, share_to = share[i, 0], share[i, 1]
        k = changer[i]
        if k >= 0:  # the two-port lies behind an ideal transformer: its end's current is turned back below
            e_end, f_end = (ef, ff) if changer_end[k] == 0 else (et, ft)
            for j in range(LANES):
                x, y = turn[k, j].real, turn[k, j].imag
                inner_e[j], inner_f[j] = e_end[j] * x - f_end[j] * y, e_end[j] * y + f_end[j] * x
            if changer_end[k] == 0:
                ef, ff = inner_e, inner_f
            else:
                et, ft = inner_e, inner_f
        for j in range(LANES):
            de, df = ef[j] - et[j], ff[j] - ft[j]
            re_from = g_f * ef[j] - b_f * ff[j] - (g_ft * de - b_ft * df)
            im_from = g_f * ff[j] + b_f * ef[j] - (g_ft * df + b_ft * de)
            re_to = g_t * et[j] - b_t * ft[j] + (g_tf * de - b_tf * df)
            im_to = g_t * ft[j] + b_t * et[j] + (g_tf * df + b_tf * de)
            p_from[j] = ef[j] * re_from + ff[j] * im_from
            square_f, square_t = ef[j] * ef[j] + ff[j] * ff[j], et[j] * et[j] + ft[j] * ft[j]
            re_x, im_x = de * et[j] + df * ft[j], de * ft[j] - df * et[j]
            p_loss[j] = g_f * square_f + g_t * square_t - g_ft * (de * de + df * df) + g_skew * re_x + b_skew * im_x
            at_from[j] = share_from * (re_from * re_from + im_from * im_from)
            at_to[j] = share_to * (re_to * re_to + im_to * im_to)
        if k >= 0:
            at_end = at_from if changer_end[k] == 0 else at_to
            for j in range(LANES):
                at_end[j] *= turn[k, j].real ** 2 + turn[k, j].imag ** 2
        for j in range(LANES):
            load[j] = at_from[j] if at_from[j] > at_to[j] else at_to[j]
        if not full:
            for j in range(LANES):
                p_from[j] = p_from[j] if used[j] else 0.0
                p_loss[j] = p_loss[j] if used[j] else 0.0
                load[j] = load[j] if used[j] else -1.0
        slots[i] += n_used
        for j in range(LANES):
            p_back[j] = -p_from[j]
            p_from[j] = abs(p_from[j])
        reverse[i] |= _largest(p_back, half) > REVERSE_MW
        energy[i] = _total(p_from, half)
        loss[i] = _total(p_loss, half)
        if has_iron[i]:
            a, b, c, d = iron[i, 0], iron[i, 1], 2.0 * iron[i, 2], 2.0 * iron[i, 3]
            for j in range(LANES):
                p_iron[j] = (
                    a * (ef[j] * ef[j] + ff[j] * ff[j]) + b * (et[j] * et[j] + ft[j] * ft[j])
                    + c * (ef[j] * et[j] + ff[j] * ft[j]) - d * (ff[j] * et[j] - ef[j] * ft[j])
                )  # fmt: skip
            if not full:
                for j in range(LANES):
                    p_iron[j] = p_iron[j] if used[j] else 0.0
            iron_loss[i] = _total(p_iron, half)
        if share_from > 0.0 or share_to > 0.0:
            most = _largest(load, half)
            if most > peak[i]:
                peak[i] = most
                for j in lanes:
                    if load[j] == most:
                        peak_slot[i] = first_slot + j
                        break
            if most > heavy or most > overload:
                n_heavy, n_over = np.int32(0), np.int32(0)
                for j in range(LANES):
                    n_heavy += np.int32(load[j] > heavy)
                    n_over += np.int32(load[j] > overload)
                slots_heavy[i] += n_heavy
                slots_overload[i] += n_over


@njit(**_JIT)
def _total(x, half):
    """Sum of 32 values by halves: the order is fixed and every step a vector operation. half: scratch of 16."""
    for j in range(16):
        half[j] = x[j] + x[j + 16]
    for j in range(8):
        half[j] += half[j + 8]
    for j in range(4):
        half[j] += half[j + 4]
    return (half[0] + half[2]) + (half[1] + half[3])


@njit(**_JIT)
def _largest(x, half):
    """Largest of 32 values, none of them NaN."""
    for j in range(16):
        half[j] = x[j] if x[j] > x[j + 16] else x[j + 16]
    for j in range(8):
        half[j] = half[j] if half[j] > half[j + 8] else half[j + 8]
    for j in range(4):
        half[j] = half[j] if half[j] > half[j + 4] else half[j + 4]
    a = half[0] if half[0] > half[2] else half[2]
    b = half[1] if half[1] > half[3] else half[3]
    return a if a > b else b
