"""The batched power flow: one factorisation, 32 snapshots at a time, one SIMD lane each.

Each pass walks the elimination tree once, small subtrees down then up: down gives the voltages of this iterate and from
them the currents, up eliminates those currents for the next iterate. Between passes a node keeps only its eliminated
right-hand side and, in single precision, that side's last change; the change of voltage follows from it by the same
recursion, so convergence is judged without storing a second set of voltages.

Sources: fixed point V = Y^-1 (conj(S/V) + I0) and its convergence: Bazrafshan, Gatsis: convergence of the Z-bus method
(2018); chord Newton: Kelley (1995), ch. 5, whose a-posteriori bound |V - V*| <= d rho / (1 - rho) is the stopping rule.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import DTypeLike

from lib.grid.simd import load, select, splat, sqrt, store

LANES = 32
CHUNK = 8
IM = LANES
"""A row of lanes holds 32 real parts, then 32 imaginary parts."""

SAFETY = 1.25
"""The contraction seen so far may still grow a little towards its limit."""

ACTIVE, CONVERGED, BAD_INPUT, EJECTED, PADDING = 0, 1, 2, 3, 4

_jit = njit(cache=True, error_model="numpy", nogil=True)


@_jit
def _down_first(first, last, row, acc, p, q, col, scale, weight, constant, droop, s, a):
    """Currents at the start voltage, where all that does not depend on the snapshot is known: conj(s) w + k.

    Gathers the tile's powers into node order on the way.
    """
    n_bus = p.shape[0]
    if droop is not None:
        limits = droop[4]
    for i in range(first, last):
        b, r = acc[i], row[i]
        if droop is not None:
            most = limits[i]
        wr, wi = weight[i, 0], weight[i, 1]
        kr, ki = splat(constant[i, 0]), splat(constant[i, 1])
        for lane in range(0, LANES, CHUNK):
            pl, ql = splat(0.0), splat(0.0)
            if r < n_bus:
                pl, ql = load(p, r, col + lane), load(q, r, col + lane)
            store(s, i, lane, pl)
            store(s, i, IM + lane, ql)
            pl, ql = pl * scale, ql * scale
            if droop is not None:
                pl = select(pl > splat(most), splat(most), pl)
            store(a, b, lane, kr + pl * wr + ql * wi)
            store(a, b, IM + lane, ki + pl * wi - ql * wr)


@_jit
def ramps(ramp, first, last, base, vm):
    """A characteristic at voltage vm: base plus the sum of its ramps (`lib.grid.regulators.Droop`)."""
    out = splat(base)
    for r in range(first, last):
        x = vm - splat(ramp[r, 0])
        width = splat(ramp[r, 1])
        x = select(x > splat(0.0), x, splat(0.0))
        x = select(x > width, width, x)
        out = out + x * ramp[r, 2]
    return out


@_jit
def regulated(base, start, ramp, k, pl, ql, vm):
    """Powers of droop row k at voltage vm: P below its limit, Q with its characteristic on top."""
    if base[k, 1] < np.inf:
        limit = ramps(ramp, start[k, 1], start[k, 2], base[k, 1], vm)
        pl = select(pl > limit, limit, pl)
    return pl, ql + ramps(ramp, start[k, 0], start[k, 1], base[k, 0], vm)


@_jit
def _drawn(e, f, c0, c1, d0, d1, base, start, ramp, k, pl, ql):
    """Current of droop row k at voltage e + jf, with what the linearisation took to the other side."""
    m = e * e + f * f
    pl, ql = regulated(base, start, ramp, k, pl, ql, sqrt(m))
    h = splat(1.0) / m
    re = e * (c0 + d0) + f * (c1 - d1) + (pl * e + ql * f) * h
    im = e * (c1 + d1) - f * (c0 - d0) + (pl * f - ql * e) * h
    return re, im


@_jit
def _down(first, last, second, acc, depth, start, anc, up, chord, source, ci, v0, scale, droop, s, c, g, v, d, a, peak):
    """Voltages of this iterate, their change, and the currents they draw."""
    if droop is not None:  # taken out of their tuple once: that counts references
        droop_of, base, ramp_start, ramp, slope = droop[0], droop[1], droop[2], droop[3], droop[5]
    for i in range(first, last):
        k0, k1 = start[i], start[i + 1]
        b, level, above = acc[i], depth[i], depth[anc[k0]]
        u0, u1, u2, u3 = up[k0, 0], up[k0, 1], up[k0, 2], up[k0, 3]
        c0, c1, s0, s1 = chord[i, 0], chord[i, 1], splat(source[i, 0]), splat(source[i, 1])
        z0, z1 = v0[i, 0], v0[i, 1]
        has_ci = ci[i, 0] != 0.0 or ci[i, 1] != 0.0
        if droop is not None:
            k_droop = droop_of[i]
            d0, d1 = (slope[k_droop, 0], slope[k_droop, 1]) if k_droop >= 0 else (0.0, 0.0)
        for lane in range(0, LANES, CHUNK):
            re, im = load(v, above, lane), load(v, above, IM + lane)
            e = load(c, i, lane) - re * u0 - im * u1
            f = load(c, i, IM + lane) - re * u2 - im * u3
            for k in range(k0 + 1, k1):
                m = depth[anc[k]]
                re, im = load(v, m, lane), load(v, m, IM + lane)
                e = e - re * up[k, 0] - im * up[k, 1]
                f = f - re * up[k, 2] - im * up[k, 3]
            store(v, level, lane, e)
            store(v, level, IM + lane, f)
            if second:
                x, y = e - splat(z0), f - splat(z1)
            else:
                re, im = load(d, above, lane), load(d, above, IM + lane)
                x = load(g, i, lane) - re * u0 - im * u1
                y = load(g, i, IM + lane) - re * u2 - im * u3
                for k in range(k0 + 1, k1):
                    m = depth[anc[k]]
                    re, im = load(d, m, lane), load(d, m, IM + lane)
                    x = x - re * up[k, 0] - im * up[k, 1]
                    y = y - re * up[k, 2] - im * up[k, 3]
                store(d, level, lane, x)
                store(d, level, IM + lane, y)
            change = x * x + y * y
            old = load(peak, 0, lane)
            store(peak, 0, lane, select(change > old, change, old))
            pl, ql = load(s, i, lane) * scale, load(s, i, IM + lane) * scale
            m = e * e + f * f
            if droop is not None:  # noqa: SIM102 (settled when compiled, the inner one when run)
                if k_droop >= 0:
                    pl, ql = regulated(base, ramp_start, ramp, k_droop, pl, ql, sqrt(m))
            h = splat(1.0) / m
            ar = s0 + e * c0 + f * c1 + (pl * e + ql * f) * h
            ai = s1 + e * c1 - f * c0 + (pl * f - ql * e) * h
            if droop is not None:
                ar, ai = ar + e * d0 - f * d1, ai + e * d1 + f * d0
            if has_ci:  # conj(s |V| / V) = conj(s) V / |V|
                h = sqrt(h)
                ar = ar - (e * ci[i, 0] + f * ci[i, 1]) * h
                ai = ai - (f * ci[i, 0] - e * ci[i, 1]) * h
            store(a, b, lane, ar)
            store(a, b, IM + lane, ai)


@_jit
def _up(first, last, iterate, some_frozen, acc, start, anc, inverse, low, frozen, c, g, a):
    """Eliminates the currents towards the roots. Frozen lanes keep their last right-hand side and its last change."""
    for i in range(last - 1, first - 1, -1):
        k0, k1 = start[i], start[i + 1]
        b = acc[i]
        w0, w1, w2, w3 = inverse[i, 0], inverse[i, 1], inverse[i, 2], inverse[i, 3]
        for lane in range(0, LANES, CHUNK):
            re, im = load(a, b, lane), load(a, b, IM + lane)
            x = re * w0 + im * w1
            y = re * w2 + im * w3
            if iterate > 1:
                oe, of = load(c, i, lane), load(c, i, IM + lane)
                if some_frozen:
                    hold = load(frozen, 0, lane) > splat(0.0)
                    store(g, i, lane, select(hold, load(g, i, lane), x - oe))
                    store(g, i, IM + lane, select(hold, load(g, i, IM + lane), y - of))
                    x, y = select(hold, oe, x), select(hold, of, y)
                else:
                    store(g, i, lane, x - oe)
                    store(g, i, IM + lane, y - of)
            store(c, i, lane, x)
            store(c, i, IM + lane, y)
            for k in range(k0, k1):
                m = acc[anc[k]]
                store(a, m, lane, load(a, m, lane) - x * low[k, 0] - y * low[k, 1])
                store(a, m, IM + lane, load(a, m, IM + lane) - x * low[k, 2] - y * low[k, 3])


@_jit
def _write(n, row, depth, start, anc, up, chord, scale, droop, s, c, g, v, d, keep, e_out, f_out, worst):
    """Voltages of the last iterate in the network's row order, and the power mismatch they leave.

    The linear system holds exactly for the iterate, so its current mismatch is what the currents changed since the
    voltages before: conj(dV) (c - conj(S) / conj(V)^2), times |V|.
    """
    nan = splat(np.nan)
    if droop is not None:
        droop_of, base, ramp_start, ramp, slope = droop[0], droop[1], droop[2], droop[3], droop[5]
    for i in range(n):
        k0, k1 = start[i], start[i + 1]
        r, level = row[i], depth[i]
        c0, c1 = chord[i, 0], chord[i, 1]
        if droop is not None:
            k_droop = droop_of[i]
            d0, d1 = (slope[k_droop, 0], slope[k_droop, 1]) if k_droop >= 0 else (0.0, 0.0)
        for lane in range(0, LANES, CHUNK):
            e, f = load(c, i, lane), load(c, i, IM + lane)
            x, y = load(g, i, lane), load(g, i, IM + lane)
            for k in range(k0, k1):
                b = depth[anc[k]]
                re, im = load(v, b, lane), load(v, b, IM + lane)
                e = e - re * up[k, 0] - im * up[k, 1]
                f = f - re * up[k, 2] - im * up[k, 3]
                re, im = load(d, b, lane), load(d, b, IM + lane)
                x = x - re * up[k, 0] - im * up[k, 1]
                y = y - re * up[k, 2] - im * up[k, 3]
            store(v, level, lane, e)
            store(v, level, IM + lane, f)
            store(d, level, lane, x)
            store(d, level, IM + lane, y)
            m = e * e + f * f
            pl, ql = load(s, i, lane) * scale, load(s, i, IM + lane) * scale
            h = splat(1.0) / (m * m)  # conj(S) / conj(V)^2 = conj(S) V^2 / |V|^4
            sr, si = (e * e - f * f) * h, (e * f * 2.0) * h
            tr = splat(c0) - (pl * sr + ql * si)
            ti = splat(c1) - (pl * si - ql * sr)
            miss = m * (x * x + y * y) * (tr * tr + ti * ti)
            if droop is not None:  # noqa: SIM102
                if k_droop >= 0:  # a characteristic has corners, so its currents are taken at both voltages
                    ar, ai = _drawn(e, f, c0, c1, d0, d1, base, ramp_start, ramp, k_droop, pl, ql)
                    br, bi = _drawn(e - x, f - y, c0, c1, d0, d1, base, ramp_start, ramp, k_droop, pl, ql)
                    br, bi = br - ar, bi - ai
                    miss = m * (br * br + bi * bi)
            old = load(worst, 0, lane)
            store(worst, 0, lane, select(miss > old, miss, old))
            ok = load(keep, 0, lane) > splat(0.0)
            store(e_out, r, lane, select(ok, e, nan))
            store(f_out, r, lane, select(ok, f, nan))


@_jit
def _judge(iterate, max_iterations, tolerance, droop, peak, last_peak, last_ratio, a, state, iterations):
    """Freezes lanes that are done and ejects those that will not be; how many lanes are still active.

    The next iterate is already eliminated when this one is judged, so it is the one returned: its error is bounded by
    change * rho^2 / (1 - rho).
    """
    active = 0
    for lane in range(LANES):
        if state[lane] != ACTIVE:
            continue
        if np.isnan(a[0, lane] + a[0, IM + lane]):
            state[lane] = BAD_INPUT if iterate == 1 else EJECTED
            iterations[lane] = iterate
            continue
        change = np.sqrt(peak[0, lane])
        if iterate >= 3:
            ratio = change / last_peak[lane] if last_peak[lane] > 0.0 else 0.0
            rho = max(ratio, last_ratio[lane])
            last_ratio[lane] = ratio
            safe = SAFETY * rho
            if droop is not None:  # what inverters still do may show only when the loads have settled
                known = max(rho, droop[6])
                safe = min(SAFETY * known, known * (2.0 - known))
            if safe < 1.0 and change * safe * safe <= tolerance * (1.0 - safe):
                state[lane] = CONVERGED
            elif rho >= 0.95 or change * rho ** (max_iterations - iterate + 2.0) > tolerance * (1.0 - rho):
                state[lane] = EJECTED
            if state[lane] != ACTIVE:
                iterations[lane] = iterate + 1
        last_peak[lane] = change
        if state[lane] == ACTIVE:
            active += 1
    return active


@_jit
def magnitudes(e, f, out):
    """|V| of e, f (n_tile, n_row, 32) into out (n_bus, 32 n_tile)."""
    for tile in range(len(e)):
        et, ft = e[tile], f[tile]
        for i in range(len(out)):
            for lane in range(0, LANES, CHUNK):
                x, y = load(et, i, lane), load(ft, i, lane)
                store(out, i, tile * LANES + lane, sqrt(x * x + y * y))


@_jit
def scatter(e, f, lanes, e_out, f_out):
    """Snapshot i of e, f (n_tile, n_row, 32) to snapshot lanes[i] of e_out, f_out; n_row may be that of a part."""
    for first in range(0, len(lanes), LANES):
        some = min(LANES, len(lanes) - first)
        tile = first // LANES
        for row in range(e_out.shape[1]):
            for k in range(some):
                to = lanes[first + k]
                e_out[to // LANES, row, to % LANES] = e[tile, row, k]
                f_out[to // LANES, row, to % LANES] = f[tile, row, k]


def aligned(rows: int, kind: DTypeLike) -> np.ndarray:
    """Zeros (rows, 64) that start on a cache line, so that no vector lies across two."""
    size = rows * 2 * LANES * np.dtype(kind).itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    first = -raw.ctypes.data % 64
    return raw[first : first + size].view(kind).reshape(rows, 2 * LANES)


def kept_arrays(kept: threading.local, wanted: Sequence[tuple[int, DTypeLike]]) -> tuple[np.ndarray, ...]:
    """`aligned` arrays of the rows and types wanted, their content left over from the last use.

    Kept per thread, as large as the largest asked for: fresh pages for every call would cost as much as a pass.
    """
    held = getattr(kept, "arrays", None)
    if held is None or any(len(a) < rows or a.dtype != kind for a, (rows, kind) in zip(held, wanted, strict=True)):
        held = kept.arrays = tuple(aligned(rows, kind) for rows, kind in wanted)
    return tuple(a[:rows] for a, (rows, _) in zip(held, wanted, strict=True))


_kept = threading.local()


def scratch_arrays(n: int, n_depth: int, n_accumulator: int, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """Rows of lanes the sweep works in: powers, eliminated right-hand sides and their last change by node; voltages and
    their change by depth; accumulators."""
    wanted = (
        (n, dtype),
        (n, np.float64),
        (n, np.float32),
        (n_depth, np.float64),
        (n_depth, np.float64),
        (n_accumulator, np.float64),
    )
    return kept_arrays(_kept, wanted)


@_jit
def solve_tiles(elimination, factors, droop, scratch, p, q, scale, tolerance, max_iterations, first_tile, last_tile,
                n_lane, e_out, f_out, state_out, iterations_out, mismatch_out):  # fmt: skip
    """Solves tiles [first_tile, last_tile) of p, q (n_bus, n) into e_out, f_out (n_tile, n_row, 32).

    `n_lane`: lanes of the last tile that are snapshots; the rest is padding. `elimination`: (row, start, ancestor,
    depth, accumulator, segment); `factors`: (inverse, lower, upper, chord, source, constant_current, start_voltage,
    weight, constant); `droop`: None, which compiles to a kernel that knows nothing of it, or (droop row of each node or
    -1, base, start, ramp as in `lib.grid.regulators.Droop`, limit of P of each node at the start voltage, what the
    matrix's diagonal holds of each droop row's slope, contraction to expect of them); `scratch`: as `scratch_arrays`
    gives.
    """
    row, start, anc, depth, acc, segment = elimination
    inverse, low, up, chord, source, ci, v0, weight, constant = factors
    n = len(row)
    s, c, g, v, d, a = scratch
    v[0], d[0] = 0.0, 0.0  # level 0 is the dummy's
    peak, frozen, keep, worst = np.zeros((1, LANES)), np.zeros((1, LANES)), np.zeros((1, LANES)), np.zeros((1, LANES))
    last_peak, last_ratio = np.zeros(LANES), np.zeros(LANES)
    for tile in range(first_tile, last_tile):
        col = tile * LANES
        state, iterations = state_out[col : col + LANES], iterations_out[col : col + LANES]
        e_tile, f_tile = e_out[tile], f_out[tile]
        state[:] = ACTIVE
        iterations[:] = 0
        last_ratio[:] = 0.0
        frozen[:] = 0.0
        a[0] = 0.0  # the dummy's: takes 0 x every root's currents, so it is 0 until one of them is not finite
        if tile == last_tile - 1:
            state[n_lane:] = PADDING
        iterate = 0
        active = 1
        while active > 0:
            iterate += 1
            peak[:] = 0.0
            some_frozen = False
            for lane in range(LANES):
                frozen[0, lane] = 0.0 if state[lane] == ACTIVE else 1.0
                some_frozen |= state[lane] == CONVERGED
            for k in range(len(segment)):
                first, last = segment[k, 0], segment[k, 1]
                if segment[k, 2] == 1:
                    _up(first, last, iterate, some_frozen, acc, start, anc, inverse, low, frozen, c, g, a)
                elif iterate == 1:
                    _down_first(first, last, row, acc, p, q, col, scale, weight, constant, droop, s, a)
                else:
                    _down(first, last, iterate == 2, acc, depth, start, anc, up, chord, source, ci, v0, scale, droop,
                          s, c, g, v, d, a, peak)  # fmt: skip
            active = _judge(
                iterate, max_iterations, tolerance, droop, peak, last_peak, last_ratio, a, state, iterations
            )
        for lane in range(LANES):
            keep[0, lane] = 1.0 if state[lane] == CONVERGED else 0.0
        worst[:] = 0.0
        _write(n, row, depth, start, anc, up, chord, scale, droop, s, c, g, v, d, keep, e_tile, f_tile, worst)
        for lane in range(LANES):
            mismatch_out[col + lane] = np.sqrt(worst[0, lane]) if state[lane] == CONVERGED else np.nan
