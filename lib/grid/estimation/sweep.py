"""The iteration of state estimation: one factorisation, 32 snapshots at a time, one SIMD lane each.

Unknowns of a lane are the relative voltages v and the multipliers of its power equations. Every pass evaluates the
optimality conditions of the nonlinear least squares exactly at the lane's own point, with its own Jacobian, and solves
with the frozen augmented matrix for the step; so what it converges to is the optimum itself, and the matrix only
decides how soon. Down the elimination tree goes the step, the new point and the currents; up goes the residual,
eliminated on the way. Rows of four: a bus's e, f and two multipliers; a branch end's three multipliers.

A power equation enters as c = conj(I) - s / v with s = z + R nu, where nu is the multiplier in the lane's own frame: in
this form everything but the load current conj(s / v) and the few voltage terms is linear, which is why few passes are
enough. The multipliers are iterated, not computed from residuals: an error in the frozen Jacobian then reaches the
voltages unamplified by the ratio of weights (a chord iteration on the normal equations stalls or diverges there).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lib.grid.simd import load, select, splat, sqrt, store
from lib.grid.sweep import ACTIVE, CHUNK, CONVERGED, EJECTED, LANES, PADDING, SAFETY

NO_POWER, BOTH, ZERO, ONE, BRANCH_END = 0, 1, 2, 3, 4
"""What is known of a bus's injection: nothing, P and Q, that it is zero, one of P and Q; or what is no bus."""

SLOWEST = 0.1
"""Contraction that is assumed at least: few voltages that settle slowly hide behind the first, quick changes of all."""

SMALL = 1e-3
"""Share of the tolerance below which a change is taken for rounding, whose ratios say nothing."""

_jit = njit(cache=True, error_model="numpy", nogil=True)


@_jit
def _value(z, zrow, zscale, zoffset, i, c, lane):
    """Measured value of component c at node i, in the units of the equations. `lane` counts through all tiles."""
    return load(z, zrow[i, c], lane) * zscale[i, c] + splat(zoffset[i, c])


@_jit
def _end(t, col, on, r, zrow, zscale, zoffset, end_node, y_end, z, x, b):
    """Residual of a measured branch end, and its pull on the voltages of its two buses."""
    i, a, o = end_node[t, 0], end_node[t, 1], end_node[t, 2]
    ya, yo = y_end[t, 0], y_end[t, 1]
    for lane in range(0, LANES, CHUNK):
        e, f = load(x, 4 * a, lane), load(x, 4 * a + 1, lane)
        p, q = load(x, 4 * o, lane), load(x, 4 * o + 1, lane)
        re = e * ya.real - f * ya.imag + p * yo.real - q * yo.imag
        im = e * ya.imag + f * ya.real + p * yo.imag + q * yo.real
        mr, mi, gr, gi = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        if on[i, 0] > 0.0 or on[i, 1] > 0.0:
            h = splat(1.0) / (e * e + f * f)
            tr, ti = e * h, splat(0.0) - f * h
            u, w = load(x, 4 * i, lane), load(x, 4 * i + 1, lane)
            n0, n1 = (u * tr + w * ti) * on[i, 0], (w * tr - u * ti) * on[i, 1]
            c0, c1 = splat(0.0), splat(0.0)
            if on[i, 0] > 0.0:
                c0 = e * re + f * im - _value(z, zrow, zscale, zoffset, i, 0, col + lane) - n0 * r[i, 0]
            if on[i, 1] > 0.0:
                c1 = f * re - e * im - _value(z, zrow, zscale, zoffset, i, 1, col + lane) - n1 * r[i, 1]
            c0, c1 = c0 * tr - c1 * ti, c0 * ti + c1 * tr
            store(b, 4 * i, lane, load(b, 4 * i, lane) - c0)
            store(b, 4 * i + 1, lane, load(b, 4 * i + 1, lane) - c1)
            mr, mi = n0 * e + n1 * f, n0 * f - n1 * e
            u, w = re - c0, im + c1  # conj(s / v), which is the current once c is zero
            gr, gi = n0 * u - n1 * w, n0 * w + n1 * u
        if on[i, 2] > 0.0:
            m = load(x, 4 * i + 2, lane)
            size = sqrt(re * re + im * im + 1e-300)
            c2 = size - _value(z, zrow, zscale, zoffset, i, 2, col + lane) - m * r[i, 2]
            store(b, 4 * i + 2, lane, load(b, 4 * i + 2, lane) - c2)
            m = m / size
            mr, mi = mr + m * re, mi + m * im
        store(b, 4 * a, lane, load(b, 4 * a, lane) - gr - (mr * ya.real + mi * ya.imag))
        store(b, 4 * a + 1, lane, load(b, 4 * a + 1, lane) - gi - (mi * ya.real - mr * ya.imag))
        store(b, 4 * o, lane, load(b, 4 * o, lane) - (mr * yo.real + mi * yo.imag))
        store(b, 4 * o + 1, lane, load(b, 4 * o + 1, lane) - (mi * yo.real - mr * yo.imag))


@_jit
def _own_frame(i, lane, p_on, q_on, x):
    """Takes from the multipliers of bus i what belongs to the power that is not measured, in the lane's own frame."""
    e, f, u, w = load(x, 4 * i, lane), load(x, 4 * i + 1, lane), load(x, 4 * i + 2, lane), load(x, 4 * i + 3, lane)
    h = splat(1.0) / (e * e + f * f)
    n0, n1 = (u * e - w * f) * h * p_on, (w * e + u * f) * h * q_on
    store(x, 4 * i + 2, lane, n0 * e + n1 * f)
    store(x, 4 * i + 3, lane, n1 * e - n0 * f)


@_jit
def _move(first, last, depth, start, anc, up, kind, on, hold, x, b, d, peak):
    """Steps of nodes [first, last), from their own right-hand sides and their ancestors' steps, kept by depth; and the
    new points of the lanes that are not held."""
    for i in range(first, last):
        k0, k1, level = start[i], start[i + 1], 4 * depth[i]
        bus = kind[i] != BRANCH_END
        for lane in range(0, LANES, CHUNK):
            s0, s1, s2, s3 = (
                load(b, 4 * i, lane), load(b, 4 * i + 1, lane), load(b, 4 * i + 2, lane), load(b, 4 * i + 3, lane),
            )  # fmt: skip
            for k in range(k0, k1):
                m = 4 * depth[anc[k]]
                a0, a1, a2, a3 = load(d, m, lane), load(d, m + 1, lane), load(d, m + 2, lane), load(d, m + 3, lane)
                s0 = s0 - a0 * up[k, 0] - a1 * up[k, 1] - a2 * up[k, 2] - a3 * up[k, 3]
                s1 = s1 - a0 * up[k, 4] - a1 * up[k, 5] - a2 * up[k, 6] - a3 * up[k, 7]
                s2 = s2 - a0 * up[k, 8] - a1 * up[k, 9] - a2 * up[k, 10] - a3 * up[k, 11]
                s3 = s3 - a0 * up[k, 12] - a1 * up[k, 13] - a2 * up[k, 14] - a3 * up[k, 15]
            store(d, level, lane, s0)
            store(d, level + 1, lane, s1)
            store(d, level + 2, lane, s2)
            store(d, level + 3, lane, s3)
            if bus:
                change, old = s0 * s0 + s1 * s1, load(peak, 0, lane)
                store(peak, 0, lane, select(change > old, change, old) + change * 0.0)  # NaN sticks
            held = load(hold, 0, lane) > splat(0.0)
            x0, x1, x2, x3 = (
                load(x, 4 * i, lane), load(x, 4 * i + 1, lane), load(x, 4 * i + 2, lane), load(x, 4 * i + 3, lane),
            )  # fmt: skip
            store(x, 4 * i, lane, select(held, x0, x0 + s0))
            store(x, 4 * i + 1, lane, select(held, x1, x1 + s1))
            store(x, 4 * i + 2, lane, select(held, x2, x2 + s2))
            store(x, 4 * i + 3, lane, select(held, x3, x3 + s3))
        if kind[i] == ONE:
            for lane in range(0, LANES, CHUNK):
                _own_frame(i, lane, on[i, 0], on[i, 1], x)


@_jit
def _down(first, last, col, step, depth, start, anc, up, kind, on, r, zrow, zscale, zoffset, y_self, edge_start,
          edge_other, y_up, y_low, end_start, end_order, end_node, y_end, hold, z, x, b, d, current, peak):  # fmt: skip
    """New points, and all of the residual that couples neighbours."""
    if step:
        _move(first, last, depth, start, anc, up, kind, on, hold, x, b, d, peak)
    zero = splat(0.0)
    for i in range(first, last):
        if kind[i] == BRANCH_END:
            for lane in range(0, LANES, CHUNK):
                store(b, 4 * i, lane, zero)
                store(b, 4 * i + 1, lane, zero)
                store(b, 4 * i + 2, lane, zero)
            continue
        k0, k1 = edge_start[i], edge_start[i + 1]
        gi, si = y_self[i].real, y_self[i].imag
        for lane in range(0, LANES, CHUNK):
            e, f, u, w = (
                load(x, 4 * i, lane), load(x, 4 * i + 1, lane), load(x, 4 * i + 2, lane), load(x, 4 * i + 3, lane),
            )  # fmt: skip
            # mu = u - jw, and the gradient is minus the sum of conj(y) mu
            re, im = e * gi - f * si, e * si + f * gi
            b0, b1 = w * si - u * gi, u * si + w * gi
            for k in range(k0, k1):
                j = edge_other[k]
                g, s = y_up[k].real, y_up[k].imag
                p, q = load(x, 4 * j, lane), load(x, 4 * j + 1, lane)
                re, im = re + p * g - q * s, im + p * s + q * g
                store(b, 4 * j, lane, load(b, 4 * j, lane) + w * s - u * g)
                store(b, 4 * j + 1, lane, load(b, 4 * j + 1, lane) + u * s + w * g)
                g, s = y_low[k].real, y_low[k].imag
                p, q = load(x, 4 * j + 2, lane), load(x, 4 * j + 3, lane)
                b0, b1 = b0 + q * s - p * g, b1 + p * s + q * g
                store(current, 2 * j, lane, load(current, 2 * j, lane) + e * g - f * s)
                store(current, 2 * j + 1, lane, load(current, 2 * j + 1, lane) + e * s + f * g)
            store(current, 2 * i, lane, re)
            store(current, 2 * i + 1, lane, im)
            store(b, 4 * i, lane, b0)
            store(b, 4 * i + 1, lane, b1)
            store(b, 4 * i + 2, lane, zero)
            store(b, 4 * i + 3, lane, zero)
        for k in range(end_start[i], end_start[i + 1]):
            _end(end_order[k], col, on, r, zrow, zscale, zoffset, end_node, y_end, z, x, b)


@_jit
def _magnitude(i, lane, value, weight, x, b):
    e, f = load(x, 4 * i, lane), load(x, 4 * i + 1, lane)
    g = (value * sqrt(splat(1.0) / (e * e + f * f)) - splat(1.0)) * weight
    store(b, 4 * i, lane, load(b, 4 * i, lane) + e * g)
    store(b, 4 * i + 1, lane, load(b, 4 * i + 1, lane) + f * g)


@_jit
def _angle(i, lane, value, weight, angle, x, b):
    e, f = load(x, 4 * i, lane), load(x, 4 * i + 1, lane)
    g = (value - angle) / (e * e + f * f) * weight
    store(b, 4 * i, lane, load(b, 4 * i, lane) - f * g)
    store(b, 4 * i + 1, lane, load(b, 4 * i + 1, lane) + e * g)


@_jit
def _injection(i, lane, p, q, p_variance, q_variance, x, b, current):
    """P and Q measured at a bus whose current is complete."""
    e, f, u, w = load(x, 4 * i, lane), load(x, 4 * i + 1, lane), load(x, 4 * i + 2, lane), load(x, 4 * i + 3, lane)
    re, im = load(current, 2 * i, lane), load(current, 2 * i + 1, lane)
    h = splat(1.0) / (e * e + f * f)
    tr, ti = e * h, splat(0.0) - f * h
    n0, n1 = u * tr + w * ti, w * tr - u * ti
    s0, s1 = p + n0 * p_variance, q + n1 * q_variance
    i0, i1 = s0 * tr - s1 * ti, splat(0.0) - (s0 * ti + s1 * tr)  # conj(s / v), the current where all is well
    store(b, 4 * i, lane, load(b, 4 * i, lane) - (n0 * i0 - n1 * i1))
    store(b, 4 * i + 1, lane, load(b, 4 * i + 1, lane) - (n0 * i1 + n1 * i0))
    store(b, 4 * i + 2, lane, load(b, 4 * i + 2, lane) - re + i0)
    store(b, 4 * i + 3, lane, load(b, 4 * i + 3, lane) + im - i1)


@_jit
def _one_power(i, lane, value, variance, p_on, q_on, x, b, current):
    """P or Q measured alone; the other is what it is."""
    e, f, u, w = load(x, 4 * i, lane), load(x, 4 * i + 1, lane), load(x, 4 * i + 2, lane), load(x, 4 * i + 3, lane)
    re, im = load(current, 2 * i, lane), load(current, 2 * i + 1, lane)
    h = splat(1.0) / (e * e + f * f)
    tr, ti = e * h, splat(0.0) - f * h
    n0, n1 = (u * tr + w * ti) * p_on, (w * tr - u * ti) * q_on
    c = (e * re + f * im) * p_on + (f * re - e * im) * q_on - value - (n0 + n1) * variance
    c0, c1 = c * tr * p_on - c * ti * q_on, c * ti * p_on + c * tr * q_on
    i0, i1 = re - c0, im + c1
    store(b, 4 * i, lane, load(b, 4 * i, lane) - (n0 * i0 - n1 * i1))
    store(b, 4 * i + 1, lane, load(b, 4 * i + 1, lane) - (n0 * i1 + n1 * i0))
    store(b, 4 * i + 2, lane, load(b, 4 * i + 2, lane) - c0)
    store(b, 4 * i + 3, lane, load(b, 4 * i + 3, lane) - c1)


@_jit
def _up(first, last, col, start, anc, up, inverse, kind, on, r, weight, zrow, zscale, zoffset, z, x, b, current,
        scratch):  # fmt: skip
    """Completes the residuals and eliminates them towards the roots."""
    for i in range(last - 1, first - 1, -1):
        known = kind[i]
        k0, k1 = start[i], start[i + 1]
        if known == BOTH:
            for lane in range(0, LANES, CHUNK):
                p = load(z, zrow[i, 0], col + lane) * zscale[i, 0]
                q = load(z, zrow[i, 1], col + lane) * zscale[i, 1]
                _injection(i, lane, p, q, r[i, 0], r[i, 1], x, b, current)
        elif known == ZERO:
            for lane in range(0, LANES, CHUNK):
                store(b, 4 * i + 2, lane, load(b, 4 * i + 2, lane) - load(current, 2 * i, lane))
                store(b, 4 * i + 3, lane, load(b, 4 * i + 3, lane) + load(current, 2 * i + 1, lane))
        elif known == ONE:
            c = 0 if on[i, 0] > 0.0 else 1
            for lane in range(0, LANES, CHUNK):
                value = load(z, zrow[i, c], col + lane) * zscale[i, c]
                _one_power(i, lane, value, r[i, c], on[i, 0], on[i, 1], x, b, current)
        if known != BRANCH_END and weight[i, 0] > 0.0:
            for lane in range(0, LANES, CHUNK):
                value = load(z, zrow[i, 2], col + lane) * zscale[i, 2]
                _magnitude(i, lane, value, weight[i, 0], x, b)
        if known != BRANCH_END and weight[i, 1] > 0.0:
            for lane in range(LANES):
                scratch[0, lane] = np.arctan2(x[4 * i + 1, lane], x[4 * i, lane])
            for lane in range(0, LANES, CHUNK):
                value = load(z, zrow[i, 3], col + lane) * zscale[i, 3] + splat(zoffset[i, 3])
                _angle(i, lane, value, weight[i, 1], load(scratch, 0, lane), x, b)
        for lane in range(0, LANES, CHUNK):
            b0, b1, b2, b3 = (
                load(b, 4 * i, lane), load(b, 4 * i + 1, lane), load(b, 4 * i + 2, lane), load(b, 4 * i + 3, lane),
            )  # fmt: skip
            for k in range(k0, k1):
                m = 4 * anc[k]
                y = load(b, m, lane) - b0 * up[k, 0] - b1 * up[k, 4] - b2 * up[k, 8] - b3 * up[k, 12]
                store(b, m, lane, y)
                y = load(b, m + 1, lane) - b0 * up[k, 1] - b1 * up[k, 5] - b2 * up[k, 9] - b3 * up[k, 13]
                store(b, m + 1, lane, y)
                y = load(b, m + 2, lane) - b0 * up[k, 2] - b1 * up[k, 6] - b2 * up[k, 10] - b3 * up[k, 14]
                store(b, m + 2, lane, y)
                y = load(b, m + 3, lane) - b0 * up[k, 3] - b1 * up[k, 7] - b2 * up[k, 11] - b3 * up[k, 15]
                store(b, m + 3, lane, y)
            y = b0 * inverse[i, 0] + b1 * inverse[i, 1] + b2 * inverse[i, 2] + b3 * inverse[i, 3]
            store(b, 4 * i, lane, y)
            y = b0 * inverse[i, 4] + b1 * inverse[i, 5] + b2 * inverse[i, 6] + b3 * inverse[i, 7]
            store(b, 4 * i + 1, lane, y)
            y = b0 * inverse[i, 8] + b1 * inverse[i, 9] + b2 * inverse[i, 10] + b3 * inverse[i, 11]
            store(b, 4 * i + 2, lane, y)
            y = b0 * inverse[i, 12] + b1 * inverse[i, 13] + b2 * inverse[i, 14] + b3 * inverse[i, 15]
            store(b, 4 * i + 3, lane, y)


@_jit
def _judge(iterate, max_iterations, tolerance, peak, last_peak, last_ratio, state, iterations):
    """Freezes lanes that are done and ejects those that will not be; how many are still active.

    The next step is already there when this one is judged, and is taken on writing: the error left is bounded by
    change * rho^2 / (1 - rho), rho the larger of the last two ratios of changes, but no less than SLOWEST.
    """
    active = 0
    for lane in range(LANES):
        if state[lane] != ACTIVE:
            continue
        change = np.sqrt(peak[0, lane])
        if np.isnan(change):
            state[lane] = EJECTED
            continue
        if iterate >= 3:
            ratio = change / last_peak[lane] if last_peak[lane] > 0.0 else 0.0
            rho = max(ratio, last_ratio[lane])
            last_ratio[lane] = ratio
            safe = SAFETY * max(rho, SLOWEST)
            if iterate >= 4 and (
                change <= SMALL * tolerance or (safe < 1.0 and change * safe * safe <= tolerance * (1.0 - safe))
            ):
                state[lane] = CONVERGED
            elif iterate >= 6 and rho >= 0.8:
                state[lane] = EJECTED
        last_peak[lane] = change
        if state[lane] == ACTIVE and iterate > max_iterations:
            state[lane] = EJECTED
        iterations[lane] = iterate
        if state[lane] == ACTIVE:
            active += 1
    return active


@_jit
def estimate_tiles(elimination, factors, numbers, edges, ends, v0, z, tolerance, max_iterations, n_lane,
                   row, e_out, f_out, x_out, state_out, iterations_out):  # fmt: skip
    """Estimates all snapshots of z (n_value_row, 32 n_tile); `n_lane` lanes of the last tile are snapshots.

    elimination: (start, ancestor, depth, segment); factors: (inverse (n, 16), upper (nnz, 16)); numbers: (kind, on,
    y_self, r, weight, zrow, zscale, zoffset); edges: (start, other, y_up, y_low); ends: (start, order, node, y).
    x_out: (n_tile, 4 n, 32) relative voltages and multipliers; e_out, f_out: (n_tile, n_row, 32) voltages, NaN where
    not converged.
    """
    start, anc, depth, segment = elimination
    inverse, up = factors
    kind, on, y_self, r, weight, zrow, zscale, zoffset = numbers
    edge_start, edge_other, y_up, y_low = edges
    end_start, end_order, end_node, y_end = ends
    n = len(inverse)
    n_depth = depth.max() + 1
    b, current = np.zeros((4 * n + 4, LANES)), np.zeros((2 * n + 2, LANES))
    d = np.zeros((4 * n_depth, LANES))
    peak, hold, scratch = np.zeros((1, LANES)), np.zeros((1, LANES)), np.zeros((1, LANES))
    last_peak, last_ratio = np.zeros(LANES), np.zeros(LANES)
    n_tile = len(e_out)
    nan = splat(np.nan)
    for tile in range(n_tile):
        col = tile * LANES
        x = x_out[tile]
        state, iterations = state_out[col : col + LANES], iterations_out[col : col + LANES]
        state[:] = ACTIVE
        iterations[:] = 0
        last_ratio[:] = 0.0
        last_peak[:] = 0.0
        if tile == n_tile - 1:
            state[n_lane:] = PADDING
        b[4 * n :] = 0.0
        x[:] = 0.0
        for i in range(n):
            if kind[i] != BRANCH_END:
                x[4 * i] = 1.0
        iterate = 0
        active = 1
        while active > 0:
            iterate += 1
            peak[:] = 0.0
            for lane in range(LANES):
                hold[0, lane] = 0.0 if state[lane] == ACTIVE else 1.0
            for k in range(len(segment)):
                first, last = segment[k, 0], segment[k, 1]
                if segment[k, 2] == 0:
                    _down(first, last, col, iterate > 1, depth, start, anc, up, kind, on, r, zrow, zscale, zoffset,
                          y_self, edge_start, edge_other, y_up, y_low, end_start, end_order, end_node, y_end, hold, z,
                          x, b, d, current, peak)  # fmt: skip
                else:
                    _up(first, last, col, start, anc, up, inverse, kind, on, r, weight, zrow, zscale, zoffset, z, x, b,
                        current, scratch)  # fmt: skip
            active = _judge(iterate, max_iterations, tolerance, peak, last_peak, last_ratio, state, iterations)
        for lane in range(LANES):
            hold[0, lane] = 0.0 if state[lane] == CONVERGED else 1.0
        _move(0, n, depth, start, anc, up, kind, on, hold, x, b, d, peak)
        e_tile, f_tile = e_out[tile], f_out[tile]
        for i in range(n):
            if kind[i] == BRANCH_END:
                continue
            re, im = v0[i].real, v0[i].imag
            for lane in range(0, LANES, CHUNK):
                bad = load(hold, 0, lane) > splat(0.0)
                p, q = load(x, 4 * i, lane), load(x, 4 * i + 1, lane)
                store(e_tile, row[i], lane, select(bad, nan, p * re - q * im))
                store(f_tile, row[i], lane, select(bad, nan, p * im + q * re))
