"""The batched unbalanced power flow: three sequences on one elimination tree, 32 snapshots at a time.

As in `lib.grid.sweep`, each pass walks the tree once, small subtrees down (voltages, then the loads' currents by phase)
and up (elimination of those currents), each lane stops at its own convergence and a lane's result is the same bits in
any batch. Phases meet only at the loads: voltages go from 012 to abc, currents back. Rows of lanes: 3 i + sequence for
node i.

Sources: as `lib.grid.sweep`; sequence frame: Abdel-Akher, Nor, Abdul Rashid: improved three-phase power-flow methods
using sequence components (2005).
"""

from __future__ import annotations

import threading

import numpy as np
from numba import njit

from lib.grid.simd import load, select, splat, sqrt, store
from lib.grid.sweep import ACTIVE, CHUNK, CONVERGED, IM, LANES, PADDING, kept_arrays
from lib.grid.three_phase.convergence import judge

WYE, DELTA, WYE_DEPENDENT, DELTA_DEPENDENT = 1, 2, 4, 8
"""Bits of a node's `flags`: which loads it has."""

HALF_ROOT3 = np.sqrt(3.0) / 2
ROOT3 = np.sqrt(3.0)

_jit = njit(cache=True, error_model="numpy", nogil=True)


@_jit
def gather(row, flags, p, q, p_delta, q_delta, col, s, sd):
    """The tile's powers in node order, rows 3 i + phase."""
    for i in range(len(row)):
        for ph in range(3):
            if flags[i] & WYE:
                for lane in range(0, LANES, CHUNK):
                    store(s, 3 * i + ph, lane, load(p, 3 * row[i] + ph, col + lane))
                    store(s, 3 * i + ph, IM + lane, load(q, 3 * row[i] + ph, col + lane))
            if flags[i] & DELTA:
                for lane in range(0, LANES, CHUNK):
                    store(sd, 3 * i + ph, lane, load(p_delta, 3 * row[i] + ph, col + lane))
                    store(sd, 3 * i + ph, IM + lane, load(q_delta, 3 * row[i] + ph, col + lane))


@_jit
def constant_power(s, k, lane, scale, e, f, h):
    """conj(S) / conj(V), with h = 1 / |V|^2."""
    p, q = load(s, k, lane) * scale, load(s, k, IM + lane) * scale
    return (p * e + q * f) * h, (p * f - q * e) * h


@_jit
def _inverse_squares(e0, f0, e1, f1, e2, f2):
    """1 / |V|^2 of three voltages by one division."""
    m0, m1, m2 = e0 * e0 + f0 * f0, e1 * e1 + f1 * f1, e2 * e2 + f2 * f2
    m01 = m0 * m1
    r = splat(1.0) / (m01 * m2)
    r2 = r * m2
    return r2 * m1, r2 * m0, r * m01


@_jit
def dependent(z, c, k, per_z, per_i, e, f, h, re, im):
    """Current (re, im) less that of a constant-impedance and a constant-current load: conj(z) V, conj(c) V / |V|."""
    n = sqrt(h) * per_i
    gr, gi = n * c[k, 0] + z[k, 0] * per_z, n * c[k, 1] + z[k, 1] * per_z
    return re - (e * gr + f * gi), im - (f * gr - e * gi)


@_jit
def _currents(i, lane, flag, scale, s, sd, loads, e0, f0, e1, f1, e2, f2):
    """Sequence currents (six vectors) that node i's loads inject at sequence voltages e + jf."""
    sum_e, sum_f, dif_e, dif_f = e1 + e2, f1 + f2, e1 - e2, f1 - f2
    ea, fa = e0 + sum_e, f0 + sum_f
    half_e, half_f = e0 - sum_e * 0.5, f0 - sum_f * 0.5
    eb, fb = half_e + dif_f * HALF_ROOT3, half_f - dif_e * HALF_ROOT3
    ec, fc = half_e - dif_f * HALF_ROOT3, half_f + dif_e * HALF_ROOT3
    k = 3 * i
    ar, ai, br, bi, cr, ci = splat(0.0), splat(0.0), splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    if flag & (WYE | WYE_DEPENDENT):
        ha, hb, hc = _inverse_squares(ea, fa, eb, fb, ec, fc)
        if flag & WYE:
            ar, ai = constant_power(s, k, lane, scale, ea, fa, ha)
            br, bi = constant_power(s, k + 1, lane, scale, eb, fb, hb)
            cr, ci = constant_power(s, k + 2, lane, scale, ec, fc, hc)
        if flag & WYE_DEPENDENT:
            ar, ai = dependent(loads[0], loads[1], k, 1.0, 1.0, ea, fa, ha, ar, ai)
            br, bi = dependent(loads[0], loads[1], k + 1, 1.0, 1.0, eb, fb, hb, br, bi)
            cr, ci = dependent(loads[0], loads[1], k + 2, 1.0, 1.0, ec, fc, hc, cr, ci)
    if flag & (DELTA | DELTA_DEPENDENT):
        eab, fab, ebc, fbc, eca, fca = ea - eb, fa - fb, eb - ec, fb - fc, ec - ea, fc - fa
        ha, hb, hc = _inverse_squares(eab, fab, ebc, fbc, eca, fca)
        dar, dai, dbr, dbi, dcr, dci = splat(0.0), splat(0.0), splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        if flag & DELTA:
            dar, dai = constant_power(sd, k, lane, scale, eab, fab, ha)
            dbr, dbi = constant_power(sd, k + 1, lane, scale, ebc, fbc, hb)
            dcr, dci = constant_power(sd, k + 2, lane, scale, eca, fca, hc)
        if flag & DELTA_DEPENDENT:  # nominal between phases is sqrt(3)
            dar, dai = dependent(loads[2], loads[3], k, 1.0 / 3.0, 1.0 / ROOT3, eab, fab, ha, dar, dai)
            dbr, dbi = dependent(loads[2], loads[3], k + 1, 1.0 / 3.0, 1.0 / ROOT3, ebc, fbc, hb, dbr, dbi)
            dcr, dci = dependent(loads[2], loads[3], k + 2, 1.0 / 3.0, 1.0 / ROOT3, eca, fca, hc, dcr, dci)
        ar, ai = ar + dar - dcr, ai + dai - dci
        br, bi = br + dbr - dar, bi + dbi - dai
        cr, ci = cr + dcr - dbr, ci + dci - dbi
    # The third of Fortescue's transform cancels the three of V conj(I) / 3.
    sum_r, sum_i, dif_r, dif_i = br + cr, bi + ci, (br - cr) * HALF_ROOT3, (bi - ci) * HALF_ROOT3
    half_r, half_i = ar - sum_r * 0.5, ai - sum_i * 0.5
    return ar + sum_r, ai + sum_i, half_r - dif_i, half_i + dif_r, half_r + dif_i, half_i - dif_r


@_jit
def _voltages(i, lane, k0, k1, anc, up, c, v):
    """The iterate's sequence voltages of node i (six vectors) from its eliminated right-hand side and its
    ancestors'."""
    e0, f0 = load(c, 3 * i, lane), load(c, 3 * i, IM + lane)
    e1, f1 = load(c, 3 * i + 1, lane), load(c, 3 * i + 1, IM + lane)
    e2, f2 = load(c, 3 * i + 2, lane), load(c, 3 * i + 2, IM + lane)
    for k in range(k0, k1):
        m = 3 * anc[k]
        re, im = load(v, m, lane), load(v, m, IM + lane)
        e0 = e0 - re * up[0, k, 0] + im * up[0, k, 2]
        f0 = f0 - re * up[0, k, 2] - im * up[0, k, 0]
        re, im = load(v, m + 1, lane), load(v, m + 1, IM + lane)
        e1 = e1 - re * up[1, k, 0] - im * up[1, k, 1]
        f1 = f1 - re * up[1, k, 2] - im * up[1, k, 3]
        re, im = load(v, m + 2, lane), load(v, m + 2, IM + lane)
        e2 = e2 - re * up[2, k, 0] + im * up[2, k, 2]
        f2 = f2 - re * up[2, k, 2] - im * up[2, k, 0]
    return e0, f0, e1, f1, e2, f2


@_jit
def _down(first, last, begin, busy, some_frozen, flags, acc, start, anc, up, chord, source, v0, loads,
          scale, frozen, s, sd, c, v, a, peak):  # fmt: skip
    """Voltages of this iterate (of the start where `begin`), their change, and the currents drawn at them.

    Frozen lanes keep the voltages before their last.
    """
    for i in range(first, last):
        k0, k1, b, flag = start[i], start[i + 1], 3 * acc[i], flags[i]
        c0, c1, s0, s1 = chord[i, 0], chord[i, 1], splat(source[i, 0]), splat(source[i, 1])
        for lane in range(0, LANES, CHUNK):
            if not busy[lane // CHUNK]:
                continue
            if begin:
                e0, f0, e1, f1 = splat(v0[0, i, 0]), splat(v0[0, i, 1]), splat(v0[1, i, 0]), splat(v0[1, i, 1])
                e2, f2 = splat(v0[2, i, 0]), splat(v0[2, i, 1])
            else:
                e0, f0, e1, f1, e2, f2 = _voltages(i, lane, k0, k1, anc, up, c, v)
                x0, y0 = load(v, 3 * i, lane), load(v, 3 * i, IM + lane)
                x1, y1 = load(v, 3 * i + 1, lane), load(v, 3 * i + 1, IM + lane)
                x2, y2 = load(v, 3 * i + 2, lane), load(v, 3 * i + 2, IM + lane)
                if some_frozen:
                    hold = load(frozen, 0, lane) > splat(0.0)
                    e0, f0 = select(hold, x0, e0), select(hold, y0, f0)
                    e1, f1 = select(hold, x1, e1), select(hold, y1, f1)
                    e2, f2 = select(hold, x2, e2), select(hold, y2, f2)
                x0, y0, x1, y1, x2, y2 = e0 - x0, f0 - y0, e1 - x1, f1 - y1, e2 - x2, f2 - y2
                change, old = x1 * x1 + y1 * y1, load(peak, 0, lane)
                store(peak, 0, lane, select(change > old, change, old))
                change, old = x0 * x0 + y0 * y0 + x2 * x2 + y2 * y2, load(peak, 1, lane)
                store(peak, 1, lane, select(change > old, change, old))
            store(v, 3 * i, lane, e0)
            store(v, 3 * i, IM + lane, f0)
            store(v, 3 * i + 1, lane, e1)
            store(v, 3 * i + 1, IM + lane, f1)
            store(v, 3 * i + 2, lane, e2)
            store(v, 3 * i + 2, IM + lane, f2)
            r1, i1 = s0 + e1 * c0 + f1 * c1, s1 + e1 * c1 - f1 * c0
            r0, i0, r2, i2 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
            if flag:
                r0, i0, x1, y1, r2, i2 = _currents(i, lane, flag, scale, s, sd, loads, e0, f0, e1, f1, e2, f2)
                r1, i1 = r1 + x1, i1 + y1
            store(a, b, lane, r0)
            store(a, b, IM + lane, i0)
            store(a, b + 1, lane, r1)
            store(a, b + 1, IM + lane, i1)
            store(a, b + 2, lane, r2)
            store(a, b + 2, IM + lane, i2)


@_jit
def _up(first, last, busy, some_frozen, acc, start, anc, inverse, low, held, frozen, c, a):
    """Eliminates the currents towards the roots. Frozen lanes keep their last right-hand side."""
    for i in range(last - 1, first - 1, -1):
        k0, k1, b = start[i], start[i + 1], 3 * acc[i]
        w0, w1, w2, w3 = inverse[1, i, 0], inverse[1, i, 1], inverse[1, i, 2], inverse[1, i, 3]
        u0, t0, u2, t2 = inverse[0, i, 0], inverse[0, i, 2], inverse[2, i, 0], inverse[2, i, 2]
        h0, h1 = splat(held[i, 0]), splat(held[i, 1])
        for lane in range(0, LANES, CHUNK):
            if not busy[lane // CHUNK]:
                continue
            re, im = load(a, b, lane), load(a, b, IM + lane)
            x0, y0 = re * u0 - im * t0, re * t0 + im * u0
            re, im = load(a, b + 1, lane), load(a, b + 1, IM + lane)
            x1, y1 = h0 + re * w0 + im * w1, h1 + re * w2 + im * w3
            re, im = load(a, b + 2, lane), load(a, b + 2, IM + lane)
            x2, y2 = re * u2 - im * t2, re * t2 + im * u2
            if some_frozen:
                hold = load(frozen, 0, lane) > splat(0.0)
                x0, y0 = select(hold, load(c, 3 * i, lane), x0), select(hold, load(c, 3 * i, IM + lane), y0)
                x1, y1 = select(hold, load(c, 3 * i + 1, lane), x1), select(hold, load(c, 3 * i + 1, IM + lane), y1)
                x2, y2 = select(hold, load(c, 3 * i + 2, lane), x2), select(hold, load(c, 3 * i + 2, IM + lane), y2)
            store(c, 3 * i, lane, x0)
            store(c, 3 * i, IM + lane, y0)
            store(c, 3 * i + 1, lane, x1)
            store(c, 3 * i + 1, IM + lane, y1)
            store(c, 3 * i + 2, lane, x2)
            store(c, 3 * i + 2, IM + lane, y2)
            for k in range(k0, k1):
                m = 3 * acc[anc[k]]
                store(a, m, lane, load(a, m, lane) - x0 * low[0, k, 0] + y0 * low[0, k, 2])
                store(a, m, IM + lane, load(a, m, IM + lane) - x0 * low[0, k, 2] - y0 * low[0, k, 0])
                m += 1
                store(a, m, lane, load(a, m, lane) - x1 * low[1, k, 0] - y1 * low[1, k, 1])
                store(a, m, IM + lane, load(a, m, IM + lane) - x1 * low[1, k, 2] - y1 * low[1, k, 3])
                m += 1
                store(a, m, lane, load(a, m, lane) - x2 * low[2, k, 0] + y2 * low[2, k, 2])
                store(a, m, IM + lane, load(a, m, IM + lane) - x2 * low[2, k, 2] - y2 * low[2, k, 0])


@_jit
def _mismatch(x0, y0, x1, y1, x2, y2, e0, f0, e1, f1, e2, f2):
    """Largest |V|^2 |I|^2 of the three phases, from sequence currents x + jy and voltages e + jf."""
    xs, ys, xd, yd = x1 + x2, y1 + y2, (x1 - x2) * HALF_ROOT3, (y1 - y2) * HALF_ROOT3
    es, fs, ed, fd = e1 + e2, f1 + f2, (e1 - e2) * HALF_ROOT3, (f1 - f2) * HALF_ROOT3
    xa, ya, ea, fa = x0 + xs, y0 + ys, e0 + es, f0 + fs
    xh, yh, eh, fh = x0 - xs * 0.5, y0 - ys * 0.5, e0 - es * 0.5, f0 - fs * 0.5
    xb, yb, eb, fb = xh + yd, yh - xd, eh + fd, fh - ed
    xc, yc, ec, fc = xh - yd, yh + xd, eh - fd, fh + ed
    worst = (xa * xa + ya * ya) * (ea * ea + fa * fa)
    b = (xb * xb + yb * yb) * (eb * eb + fb * fb)
    worst = select(b > worst, b, worst)
    c = (xc * xc + yc * yc) * (ec * ec + fc * fc)
    return select(c > worst, c, worst)


@_jit
def _write(n, row, flags, held, start, anc, up, chord, loads, scale, s, sd, c, v, keep, e_out, f_out, worst):
    """Phase voltages of the last iterate in the network's row order, and the power mismatch they leave.

    The linear system holds exactly for the iterate, so its current mismatch is what the currents changed since the
    voltages before.
    """
    nan = splat(np.nan)
    for i in range(n):
        r, flag = 3 * row[i], flags[i]
        c0, c1 = chord[i, 0], chord[i, 1]
        mine = 0.0 if held[i, 0] != 0.0 or held[i, 1] != 0.0 else 1.0  # an external grid takes any mismatch
        for lane in range(0, LANES, CHUNK):
            e0, f0, e1, f1, e2, f2 = _voltages(i, lane, start[i], start[i + 1], anc, up, c, v)
            v0, w0 = load(v, 3 * i, lane), load(v, 3 * i, IM + lane)
            v1, w1 = load(v, 3 * i + 1, lane), load(v, 3 * i + 1, IM + lane)
            v2, w2 = load(v, 3 * i + 2, lane), load(v, 3 * i + 2, IM + lane)
            if flag:
                n0, o0, n1, o1, n2, o2 = _currents(i, lane, flag, scale, s, sd, loads, e0, f0, e1, f1, e2, f2)
                x0, y0, x1, y1, x2, y2 = _currents(i, lane, flag, scale, s, sd, loads, v0, w0, v1, w1, v2, w2)
                x1, y1 = n1 - x1 + (e1 - v1) * c0 + (f1 - w1) * c1, o1 - y1 + (e1 - v1) * c1 - (f1 - w1) * c0
                x1, y1 = x1 * mine, y1 * mine
                miss = _mismatch(n0 - x0, o0 - y0, x1, y1, n2 - x2, o2 - y2, e0, f0, e1, f1, e2, f2)
                old = load(worst, 0, lane)
                store(worst, 0, lane, select(miss > old, miss, old))
            store(v, 3 * i, lane, e0)
            store(v, 3 * i, IM + lane, f0)
            store(v, 3 * i + 1, lane, e1)
            store(v, 3 * i + 1, IM + lane, f1)
            store(v, 3 * i + 2, lane, e2)
            store(v, 3 * i + 2, IM + lane, f2)
            sum_e, sum_f, dif_e, dif_f = e1 + e2, f1 + f2, (e1 - e2) * HALF_ROOT3, (f1 - f2) * HALF_ROOT3
            half_e, half_f = e0 - sum_e * 0.5, f0 - sum_f * 0.5
            ok = load(keep, 0, lane) > splat(0.0)
            store(e_out, r, lane, select(ok, e0 + sum_e, nan))
            store(f_out, r, lane, select(ok, f0 + sum_f, nan))
            store(e_out, r + 1, lane, select(ok, half_e + dif_f, nan))
            store(f_out, r + 1, lane, select(ok, half_f - dif_e, nan))
            store(e_out, r + 2, lane, select(ok, half_e - dif_f, nan))
            store(f_out, r + 2, lane, select(ok, half_f + dif_e, nan))


_kept = threading.local()


def scratch_arrays(n: int, n_accumulator: int, with_delta: bool, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """Rows of lanes the sweep works in: powers of wye and delta loads, eliminated right-hand sides and voltages by
    node, accumulators. Kept per thread, as large as the largest asked for."""
    wanted = (
        (3 * n, dtype),
        (3 * n if with_delta else 0, dtype),
        (3 * n, np.float64),
        (3 * n + 3, np.float64),
        (3 * n_accumulator, np.float64),
    )
    return kept_arrays(_kept, wanted)


@_jit
def solve_tiles(elimination, factors, flags, scratch, p, q, p_delta, q_delta, scale, tolerance, max_iterations, n_tile,
                n_lane, e_out, f_out, state_out, iterations_out, mismatch_out):  # fmt: skip
    """Solves the first `n_tile` tiles of p, q (3 n_bus, n) into phase voltages e_out, f_out (n_tile, 3 n_row, 32).

    `n_lane`: lanes of the last tile that are snapshots; the rest is padding. `elimination`: (row, start, ancestor,
    accumulator, segment); `factors`: (inverse, lower, upper, chord, source, held, start_voltage, loads); `scratch`: as
    `scratch_arrays` gives.
    """
    row, start, anc, acc, segment = elimination
    inverse, low, up, chord, source, held, v0, loads = factors
    n = len(row)
    s, sd, c, v, a = scratch
    v[3 * n :] = 0.0
    frozen, keep, worst = np.zeros((1, LANES)), np.zeros((1, LANES)), np.zeros((1, LANES))
    busy = np.zeros(LANES // CHUNK, dtype=np.bool_)  # groups of lanes with one that is active
    peak, last_peak, last_ratio = np.zeros((2, LANES)), np.zeros((2, LANES)), np.zeros((2, LANES))
    for tile in range(n_tile):
        col = tile * LANES
        state, iterations = state_out[col : col + LANES], iterations_out[col : col + LANES]
        state[:] = ACTIVE
        iterations[:] = 0
        last_ratio[:] = 0.0
        a[:3] = 0.0  # the dummy's: take 0 x every root's currents, so they are 0 until one of them is not finite
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
                    _up(first, last, busy, some_frozen, acc, start, anc, inverse, low, held, frozen, c, a)
                else:
                    _down(first, last, iterate == 1, busy, some_frozen, flags, acc, start, anc, up, chord, source,
                          v0, loads, scale, frozen, s, sd, c, v, a, peak)  # fmt: skip
            a[0] += a[1]
            a[0] += a[2]
            for lane in range(LANES):
                peak[1, lane] *= 2.0  # |V0| + |V2| is at most sqrt(2) times their root of squares
            active = judge(iterate, max_iterations, tolerance, peak, last_peak, last_ratio, a, state, iterations)
        for lane in range(LANES):
            keep[0, lane] = 1.0 if state[lane] == CONVERGED else 0.0
        worst[:] = 0.0
        _write(n, row, flags, held, start, anc, up, chord, loads, scale, s, sd, c, v, keep, e_out[tile], f_out[tile],
               worst)  # fmt: skip
        for lane in range(LANES):
            mismatch_out[col + lane] = np.sqrt(worst[0, lane]) / 3.0 if state[lane] == CONVERGED else np.nan
