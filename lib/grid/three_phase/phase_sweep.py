"""The batched unbalanced power flow wire by wire: as `lib.grid.three_phase.sweep`, with a block of wires per entry.

Rows of lanes: w i + wire for node i of w wires. There is no chord: the fixed point V = Y^-1 (I(V) + I0) itself.
"""

from __future__ import annotations

import threading

import numpy as np
from numba import njit

from lib.grid.simd import load, select, splat, store
from lib.grid.sweep import ACTIVE, CHUNK, CONVERGED, IM, LANES, PADDING, kept_arrays
from lib.grid.three_phase.convergence import judge
from lib.grid.three_phase.sweep import (
    DELTA,
    DELTA_DEPENDENT,
    ROOT3,
    WYE,
    WYE_DEPENDENT,
    constant_power,
    dependent,
    gather,
)

_jit = njit(cache=True, error_model="numpy", nogil=True)


@_jit
def _inject(v, w, i, one, other, k, lane, scale, powered, dependent_too, s, z, c, per_z, per_i, a, b):
    """Adds a load's current to accumulator b: in at wire `one`, out at wire `other` (-1: earth)."""
    e, f = load(v, w * i + one, lane), load(v, w * i + one, IM + lane)
    if other >= 0:
        e, f = e - load(v, w * i + other, lane), f - load(v, w * i + other, IM + lane)
    m = e * e + f * f
    some = m > splat(0.0)
    h = select(some, splat(1.0) / select(some, m, splat(1.0)), splat(0.0))  # a wire that is not there
    re, im = splat(0.0), splat(0.0)
    if powered:
        re, im = constant_power(s, k, lane, scale, e, f, h)
    if dependent_too:
        re, im = dependent(z, c, k, per_z, per_i, e, f, h, re, im)
    store(a, b + one, lane, load(a, b + one, lane) + re)
    store(a, b + one, IM + lane, load(a, b + one, IM + lane) + im)
    if other >= 0:
        store(a, b + other, lane, load(a, b + other, lane) - re)
        store(a, b + other, IM + lane, load(a, b + other, IM + lane) - im)


@_jit
def _currents(i, w, lane, flag, scale, s, sd, loads, v, a, b):
    """Adds the currents of node i's loads at voltages v to accumulator b."""
    neutral = 3 if w == 4 else -1
    if flag & (WYE | WYE_DEPENDENT):
        for ph in range(3):
            _inject(v, w, i, ph, neutral, 3 * i + ph, lane, 3.0 * scale, flag & WYE, flag & WYE_DEPENDENT, s,
                    loads[0], loads[1], 3.0, 3.0, a, b)  # fmt: skip
    if flag & (DELTA | DELTA_DEPENDENT):
        for ph in range(3):
            _inject(v, w, i, ph, (ph + 1) % 3, 3 * i + ph, lane, 3.0 * scale, flag & DELTA, flag & DELTA_DEPENDENT, sd,
                    loads[2], loads[3], 1.0, ROOT3, a, b)  # fmt: skip


@_jit
def _voltage(i, r, w, lane, k0, k1, anc, up, c, v):
    """The iterate's voltage of wire r of node i from its eliminated right-hand side and its ancestors'."""
    e, f = load(c, w * i + r, lane), load(c, w * i + r, IM + lane)
    for k in range(k0, k1):
        m = w * anc[k]
        for t in range(w):
            re, im = load(v, m + t, lane), load(v, m + t, IM + lane)
            e = e - re * up[k, r, t, 0] + im * up[k, r, t, 1]
            f = f - re * up[k, r, t, 1] - im * up[k, r, t, 0]
    return e, f


@_jit
def _down(first, last, w, begin, busy, some_frozen, flags, acc, start, anc, up, source, v0, loads,
          scale, frozen, s, sd, c, v, a, peak):  # fmt: skip
    """Voltages of this iterate (of the start where `begin`), their change, and the currents drawn at them."""
    for i in range(first, last):
        k0, k1, b, flag = start[i], start[i + 1], w * acc[i], flags[i]
        for lane in range(0, LANES, CHUNK):
            if not busy[lane // CHUNK]:
                continue
            for r in range(w):
                if begin:
                    e, f = splat(v0[i, r, 0]), splat(v0[i, r, 1])
                else:
                    e, f = _voltage(i, r, w, lane, k0, k1, anc, up, c, v)
                    x, y = load(v, w * i + r, lane), load(v, w * i + r, IM + lane)
                    if some_frozen:
                        hold = load(frozen, 0, lane) > splat(0.0)
                        e, f = select(hold, x, e), select(hold, y, f)
                    x, y = e - x, f - y
                    change = x * x + y * y
                    old = load(peak, 0, lane)
                    store(peak, 0, lane, select(change > old, change, old))
                store(v, w * i + r, lane, e)
                store(v, w * i + r, IM + lane, f)
                store(a, b + r, lane, splat(source[i, r, 0]))
                store(a, b + r, IM + lane, splat(source[i, r, 1]))
            if flag:
                _currents(i, w, lane, flag, scale, s, sd, loads, v, a, b)


@_jit
def _up(first, last, w, busy, some_frozen, acc, start, anc, inverse, low, held, frozen, c, a):
    """Eliminates the currents towards the roots. Frozen lanes keep their last right-hand side."""
    for i in range(last - 1, first - 1, -1):
        k0, k1, b = start[i], start[i + 1], w * acc[i]
        for lane in range(0, LANES, CHUNK):
            if not busy[lane // CHUNK]:
                continue
            for r in range(w):
                x, y = splat(held[i, r, 0]), splat(held[i, r, 1])
                for t in range(w):
                    re, im = load(a, b + t, lane), load(a, b + t, IM + lane)
                    x = x + re * inverse[i, r, t, 0] - im * inverse[i, r, t, 1]
                    y = y + re * inverse[i, r, t, 1] + im * inverse[i, r, t, 0]
                if some_frozen:
                    hold = load(frozen, 0, lane) > splat(0.0)
                    x = select(hold, load(c, w * i + r, lane), x)
                    y = select(hold, load(c, w * i + r, IM + lane), y)
                store(c, w * i + r, lane, x)
                store(c, w * i + r, IM + lane, y)
            for k in range(k0, k1):
                m = w * acc[anc[k]]
                for r in range(w):
                    x, y = load(a, m + r, lane), load(a, m + r, IM + lane)
                    for t in range(w):
                        re, im = load(c, w * i + t, lane), load(c, w * i + t, IM + lane)
                        x = x - re * low[k, r, t, 0] + im * low[k, r, t, 1]
                        y = y - re * low[k, r, t, 1] - im * low[k, r, t, 0]
                    store(a, m + r, lane, x)
                    store(a, m + r, IM + lane, y)


@_jit
def _write(n, w, row, flags, held, start, anc, up, loads, scale, s, sd, c, v, a, keep, e_out, f_out, worst):
    """Voltages of the last iterate in the network's row order, and the power mismatch they leave: the linear system
    holds exactly for the iterate, so it is what the currents changed since the voltages before."""
    nan, none = splat(np.nan), splat(0.0)
    for i in range(n):
        flag = flags[i] if held[i, 0, 0] == 0.0 and held[i, 0, 1] == 0.0 else 0  # an external grid takes any mismatch
        for lane in range(0, LANES, CHUNK):
            ok = load(keep, 0, lane) > none
            for r in range(2 * w):
                store(a, r, lane, none)
                store(a, r, IM + lane, none)
            if flag:
                _currents(i, w, lane, flag, scale, s, sd, loads, v, a, 0)
            for r in range(w):
                e, f = _voltage(i, r, w, lane, start[i], start[i + 1], anc, up, c, v)
                store(v, w * i + r, lane, e)
                store(v, w * i + r, IM + lane, f)
                store(e_out, w * row[i] + r, lane, select(ok, e, nan))
                store(f_out, w * row[i] + r, lane, select(ok, f, nan))
            if flag:
                _currents(i, w, lane, flag, scale, s, sd, loads, v, a, w)
                for r in range(3):
                    e, f = load(v, w * i + r, lane), load(v, w * i + r, IM + lane)
                    x = load(a, w + r, lane) - load(a, r, lane)
                    y = load(a, w + r, IM + lane) - load(a, r, IM + lane)
                    miss = (x * x + y * y) * (e * e + f * f)
                    old = load(worst, 0, lane)
                    store(worst, 0, lane, select(miss > old, miss, old))


_kept = threading.local()


def scratch_arrays(n: int, n_accumulator: int, w: int, with_delta: bool, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """Rows of lanes as in `lib.grid.three_phase.sweep.scratch_arrays`, w a node."""
    wanted = (
        (3 * n, dtype),
        (3 * n if with_delta else 0, dtype),
        (w * n, np.float64),
        (w * n + w, np.float64),
        (w * max(n_accumulator, 2), np.float64),
    )
    return kept_arrays(_kept, wanted)


@_jit
def solve_tiles(elimination, factors, flags, scratch, p, q, p_delta, q_delta, scale, tolerance, max_iterations, n_tile,
                n_lane, e_out, f_out, state_out, iterations_out, mismatch_out):  # fmt: skip
    """As `lib.grid.three_phase.sweep.solve_tiles`, voltages of wires into e_out, f_out (n_tile, w n_row, 32).

    `factors`: (inverse, lower, upper, source, held, start_voltage, loads).
    """
    row, start, anc, acc, segment = elimination
    inverse, low, up, source, held, v0, loads = factors
    n, w = len(row), inverse.shape[1]
    s, sd, c, v, a = scratch
    v[w * n :] = 0.0
    frozen, keep, worst = np.zeros((1, LANES)), np.zeros((1, LANES)), np.zeros((1, LANES))
    busy = np.zeros(LANES // CHUNK, dtype=np.bool_)  # groups of lanes with one that is active
    peak, last_peak, last_ratio = np.zeros((2, LANES)), np.zeros((2, LANES)), np.zeros((2, LANES))
    for tile in range(n_tile):
        col = tile * LANES
        state, iterations = state_out[col : col + LANES], iterations_out[col : col + LANES]
        state[:] = ACTIVE
        iterations[:] = 0
        last_ratio[:] = 0.0
        a[:w] = 0.0  # the dummy's: not finite once any root's currents are not
        if tile == n_tile - 1:
            state[n_lane:] = PADDING
        gather(row, flags, p, q, p_delta, q_delta, col, s, sd)
        iterate = 0
        active = 1
        while active > 0:
            iterate += 1
            peak[:] = 0.0
            some_frozen = False
            busy[:] = False
            for lane in range(LANES):
                frozen[0, lane] = 0.0 if state[lane] == ACTIVE else 1.0
                busy[lane // CHUNK] |= state[lane] == ACTIVE
                some_frozen |= state[lane] == CONVERGED
            for k in range(len(segment)):
                first, last = segment[k, 0], segment[k, 1]
                if segment[k, 2] == 1:
                    _up(first, last, w, busy, some_frozen, acc, start, anc, inverse, low, held, frozen, c, a)
                else:
                    _down(first, last, w, iterate == 1, busy, some_frozen, flags, acc, start, anc, up, source,
                          v0, loads, scale, frozen, s, sd, c, v, a, peak)  # fmt: skip
            for r in range(1, w):
                a[0] += a[r]
            active = judge(iterate, max_iterations, tolerance, peak, last_peak, last_ratio, a, state, iterations)
        for lane in range(LANES):
            keep[0, lane] = 1.0 if state[lane] == CONVERGED else 0.0
        worst[:] = 0.0
        _write(n, w, row, flags, held, start, anc, up, loads, scale, s, sd, c, v, a, keep, e_out[tile], f_out[tile],
               worst)  # fmt: skip
        for lane in range(LANES):
            mismatch_out[col + lane] = np.sqrt(worst[0, lane]) / 3.0 if state[lane] == CONVERGED else np.nan
