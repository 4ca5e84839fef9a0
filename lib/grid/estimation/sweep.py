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

NO_POWER, BOTH, ZERO, ONE = 0, 1, 2, 3
"""What is known of a bus's injection: nothing, P and Q, that it is zero, one of P and Q."""

_jit = njit(cache=True, error_model="numpy", nogil=True)


@_jit
def _value(z, zrow, zscale, zoffset, i, c, lane):
    """Measured value of component c at node i, in the units of the equations. `lane` counts through all tiles."""
    return load(z, zrow[i, c], lane) * zscale[i, c] + splat(zoffset[i, c])


@_jit
def _angle(x, i, lane, scratch):
    """Angle of v at bus i into the first row of scratch."""
    for k in range(lane, lane + CHUNK):
        scratch[0, k] = np.arctan2(x[4 * i + 1, k], x[4 * i, k])


@_jit
def _end(t, lane, col, numbers, ends, z, x, b):
    """Residual of a measured branch end, and its pull on the voltages of its two buses."""
    _, on, _, r, _, zrow, zscale, zoffset = numbers
    _, _, end_node, y_end = ends
    i, a, o = end_node[t, 0], end_node[t, 1], end_node[t, 2]
    ya, yo = y_end[t, 0], y_end[t, 1]
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
def _move(i, lane, bus, depth, start, anc, up, numbers, hold, x, b, d, peak):
    """The step of node i, from its ancestors', and the new point of every lane that is not held."""
    kind, on = numbers[0], numbers[1]
    s0, s1, s2, s3 = load(b, 4 * i, lane), load(b, 4 * i + 1, lane), load(b, 4 * i + 2, lane), load(b, 4 * i + 3, lane)
    for k in range(start[i], start[i + 1]):
        m = 4 * depth[anc[k]]
        a0, a1, a2, a3 = load(d, m, lane), load(d, m + 1, lane), load(d, m + 2, lane), load(d, m + 3, lane)
        s0 = s0 - a0 * up[k, 0, 0] - a1 * up[k, 0, 1] - a2 * up[k, 0, 2] - a3 * up[k, 0, 3]
        s1 = s1 - a0 * up[k, 1, 0] - a1 * up[k, 1, 1] - a2 * up[k, 1, 2] - a3 * up[k, 1, 3]
        s2 = s2 - a0 * up[k, 2, 0] - a1 * up[k, 2, 1] - a2 * up[k, 2, 2] - a3 * up[k, 2, 3]
        s3 = s3 - a0 * up[k, 3, 0] - a1 * up[k, 3, 1] - a2 * up[k, 3, 2] - a3 * up[k, 3, 3]
    m = 4 * depth[i]
    store(d, m, lane, s0)
    store(d, m + 1, lane, s1)
    store(d, m + 2, lane, s2)
    store(d, m + 3, lane, s3)
    held = load(hold, 0, lane) > splat(0.0)
    x0, x1, x2, x3 = load(x, 4 * i, lane), load(x, 4 * i + 1, lane), load(x, 4 * i + 2, lane), load(x, 4 * i + 3, lane)
    y0, y1, y2, y3 = x0 + s0, x1 + s1, x2 + s2, x3 + s3
    if bus:
        change = s0 * s0 + s1 * s1
        old = load(peak, 0, lane)
        store(peak, 0, lane, select(change > old, change, old) + change * 0.0)  # NaN sticks
        if kind[i] == ONE:  # what is not measured has no multiplier, in the lane's own frame
            h = splat(1.0) / (y0 * y0 + y1 * y1)
            n0, n1 = (y2 * y0 - y3 * y1) * h * on[i, 0], (y3 * y0 + y2 * y1) * h * on[i, 1]
            y2, y3 = n0 * y0 + n1 * y1, n1 * y0 - n0 * y1
    store(x, 4 * i, lane, select(held, x0, y0))
    store(x, 4 * i + 1, lane, select(held, x1, y1))
    store(x, 4 * i + 2, lane, select(held, x2, y2))
    store(x, 4 * i + 3, lane, select(held, x3, y3))


@_jit
def _down(first, last, col, step, depth, start, anc, up, is_bus, numbers, edges, ends, hold, z, x, b, d, current, peak):
    """New point, and all of the residual that couples neighbours."""
    y_self = numbers[2]
    edge_start, edge_other, y_up, y_low = edges
    end_start, end_order = ends[0], ends[1]
    zero = splat(0.0)
    for i in range(first, last):
        bus = is_bus[i]
        for lane in range(0, LANES, CHUNK):
            if step:
                _move(i, lane, bus, depth, start, anc, up, numbers, hold, x, b, d, peak)
            store(b, 4 * i + 2, lane, zero)
            store(b, 4 * i + 3, lane, zero)
            if not bus:
                store(b, 4 * i, lane, zero)
                store(b, 4 * i + 1, lane, zero)
                continue
            e, f, u, w = (
                load(x, 4 * i, lane), load(x, 4 * i + 1, lane), load(x, 4 * i + 2, lane), load(x, 4 * i + 3, lane),
            )  # fmt: skip
            # mu = u - jw, and the gradient is minus the sum of conj(y) mu
            g, s = y_self[i].real, y_self[i].imag
            re, im = e * g - f * s, e * s + f * g
            b0, b1 = w * s - u * g, u * s + w * g
            for k in range(edge_start[i], edge_start[i + 1]):
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
        if bus:
            for k in range(end_start[i], end_start[i + 1]):
                for lane in range(0, LANES, CHUNK):
                    _end(end_order[k], lane, col, numbers, ends, z, x, b)


@_jit
def _bus(i, lane, col, numbers, z, x, b, current, scratch):
    """What a bus's own measurements add to the residual, once its current is complete."""
    kind, on, _, r, weight, zrow, zscale, zoffset = numbers
    e, f = load(x, 4 * i, lane), load(x, 4 * i + 1, lane)
    h = splat(1.0) / (e * e + f * f)
    b0, b1 = load(b, 4 * i, lane), load(b, 4 * i + 1, lane)
    known = kind[i]
    if known == ZERO:
        store(b, 4 * i + 2, lane, load(b, 4 * i + 2, lane) - load(current, 2 * i, lane))
        store(b, 4 * i + 3, lane, load(b, 4 * i + 3, lane) + load(current, 2 * i + 1, lane))
    elif known != NO_POWER:
        re, im = load(current, 2 * i, lane), load(current, 2 * i + 1, lane)
        u, w = load(x, 4 * i + 2, lane), load(x, 4 * i + 3, lane)
        tr, ti = e * h, splat(0.0) - f * h
        n0, n1 = u * tr + w * ti, w * tr - u * ti
        if known == BOTH:
            s0 = _value(z, zrow, zscale, zoffset, i, 0, col + lane) + n0 * r[i, 0]
            s1 = _value(z, zrow, zscale, zoffset, i, 1, col + lane) + n1 * r[i, 1]
            c0, c1 = re - (s0 * tr - s1 * ti), splat(0.0) - im - (s0 * ti + s1 * tr)
        elif on[i, 0] > 0.0:
            n1 = splat(0.0)
            c = e * re + f * im - _value(z, zrow, zscale, zoffset, i, 0, col + lane) - n0 * r[i, 0]
            c0, c1 = c * tr, c * ti
        else:
            n0 = splat(0.0)
            c = f * re - e * im - _value(z, zrow, zscale, zoffset, i, 1, col + lane) - n1 * r[i, 1]
            c0, c1 = splat(0.0) - c * ti, c * tr
        store(b, 4 * i + 2, lane, load(b, 4 * i + 2, lane) - c0)
        store(b, 4 * i + 3, lane, load(b, 4 * i + 3, lane) - c1)
        re, im = re - c0, im + c1  # conj(s / v), which is the current once c is zero
        b0, b1 = b0 - (n0 * re - n1 * im), b1 - (n0 * im + n1 * re)
    if weight[i, 0] > 0.0:
        inverse = sqrt(h)
        g = (_value(z, zrow, zscale, zoffset, i, 2, col + lane) * inverse - splat(1.0)) * weight[i, 0]
        b0, b1 = b0 + e * g, b1 + f * g
    if weight[i, 1] > 0.0:
        _angle(x, i, lane, scratch)
        g = (_value(z, zrow, zscale, zoffset, i, 3, col + lane) - load(scratch, 0, lane)) * h * weight[i, 1]
        b0, b1 = b0 - f * g, b1 + e * g
    store(b, 4 * i, lane, b0)
    store(b, 4 * i + 1, lane, b1)


@_jit
def _up(first, last, col, start, anc, up, inverse, is_bus, numbers, z, x, b, current, scratch):
    """Completes the residuals and eliminates them towards the roots."""
    for i in range(last - 1, first - 1, -1):
        for lane in range(0, LANES, CHUNK):
            if is_bus[i]:
                _bus(i, lane, col, numbers, z, x, b, current, scratch)
            b0, b1, b2, b3 = (
                load(b, 4 * i, lane), load(b, 4 * i + 1, lane), load(b, 4 * i + 2, lane), load(b, 4 * i + 3, lane),
            )  # fmt: skip
            for k in range(start[i], start[i + 1]):
                m = 4 * anc[k]
                for c in range(4):
                    pulled = b0 * up[k, 0, c] + b1 * up[k, 1, c] + b2 * up[k, 2, c] + b3 * up[k, 3, c]
                    store(b, m + c, lane, load(b, m + c, lane) - pulled)
            for c in range(4):
                store(
                    b, 4 * i + c, lane,
                    b0 * inverse[i, c, 0] + b1 * inverse[i, c, 1] + b2 * inverse[i, c, 2] + b3 * inverse[i, c, 3],
                )  # fmt: skip


@_jit
def _judge(iterate, max_iterations, tolerance, peak, last_peak, last_ratio, state, iterations):
    """Freezes lanes that are done and ejects those that will not be; how many are still active.

    The error left is bounded by change * rho / (1 - rho), rho the larger of the last two ratios of changes, but no less
    than a tenth: few voltages that settle slowly hide behind the first, quick changes of all. The next step is already
    there when this one is judged, and is taken on writing, in reserve.
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
            safe = max(SAFETY * rho, 0.1)
            if iterate >= 4 and safe < 1.0 and change * safe <= tolerance * (1.0 - safe):
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
def estimate_tiles(elimination, factors, is_bus, numbers, edges, ends, v0, z, tolerance, max_iterations, n_lane,
                   row, e_out, f_out, x_out, state_out, iterations_out):  # fmt: skip
    """Estimates all snapshots of z (n_value_row, 32 n_tile); `n_lane` lanes of the last tile are snapshots.

    elimination: (start, ancestor, depth, segment); factors: (inverse, upper); numbers: (kind, on, y_self, r, weight,
    zrow, zscale, zoffset); edges: (start, other, y_up, y_low); ends: (start, order, node, y). x_out: (n_tile, 4 n, 32)
    relative voltages and multipliers; e_out, f_out: (n_tile, n_row, 32) voltages, NaN where not converged.
    """
    start, anc, depth, segment = elimination
    inverse, up = factors
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
            if is_bus[i]:
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
                    _down(first, last, col, iterate > 1, depth, start, anc, up, is_bus, numbers, edges, ends, hold, z,
                          x, b, d, current, peak)  # fmt: skip
                else:
                    _up(first, last, col, start, anc, up, inverse, is_bus, numbers, z, x, b, current, scratch)
            active = _judge(iterate, max_iterations, tolerance, peak, last_peak, last_ratio, state, iterations)
        for lane in range(LANES):
            hold[0, lane] = 0.0 if state[lane] == CONVERGED else 1.0
        for i in range(n):
            for lane in range(0, LANES, CHUNK):
                _move(i, lane, is_bus[i], depth, start, anc, up, numbers, hold, x, b, d, peak)
                if is_bus[i]:
                    bad = load(hold, 0, lane) > splat(0.0)
                    p, q = load(x, 4 * i, lane), load(x, 4 * i + 1, lane)
                    re, im = v0[i].real, v0[i].imag
                    store(e_out[tile], row[i], lane, select(bad, nan, p * re - q * im))
                    store(f_out[tile], row[i], lane, select(bad, nan, p * im + q * re))
