"""Newton's method, eight snapshots at a time: for what the sweep gives up, and for voltage-controlled generators.

Power mismatch at load rows, active power and squared magnitude at voltage-controlled rows; unknowns are rectangular, a
step is applied as growth and turn, which makes it the step of the polar form without its trigonometry. Each lane
factorises its own Jacobian on the network's elimination structure, freezes when it has converged, and turns generators
that leave their reactive limits into loads at the limit, as pandapower's `enforce_q_lims` does. Characteristics
of inverters enter with their slopes at the present voltage.

Source: Tinney, Hart: power flow solution by Newton's method (1967).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lib.grid.factorisation import linear_start
from lib.grid.simd import WIDTH, load, select, splat, sqrt, store
from lib.grid.sweep import ramps, regulated

if TYPE_CHECKING:
    from lib.grid.powerflow import PowerFlow

MAX_STEPS = 12
_STEPS_TO_SETTLE, _SETTLED_PU = 7, 0.1
"""Newton halves its step at worst (where there is but one solution); one still this large then is wandering."""
_LANES_AT_ONCE = 512
_LARGEST_VOLTAGE_PU = 10.0

_jit = njit(cache=True, error_model="numpy", nogil=True)


def solve_newton(flow: PowerFlow, snapshots: NDArray[np.int64], tolerance: float) -> None:
    """Solves the named snapshots of `flow` and writes voltages, status, iterations and mismatch into it."""
    from lib.grid.powerflow import LANES, SlotStatus

    network, factors = flow.network, flow.network.factorisation
    el = factors.elimination
    p, q, scale = flow.injected_mva
    finite = np.isfinite(p[:, snapshots]).all(axis=0) & np.isfinite(q[:, snapshots]).all(axis=0)
    flow.status[snapshots[~finite]] = SlotStatus.BAD_INPUT
    snapshots = snapshots[finite]

    visible = el.row < network.n_bus
    node_of = np.full(network.n_row, -1)
    node_of[el.row] = np.arange(el.n)
    pv_node = node_of[network.pv_row]
    live = pv_node >= 0
    pv_p, pv_vm = network.pv_p_mw[live], network.pv_vm_pu[live]
    pv_q = np.stack([network.pv_q_min_mvar[live], network.pv_q_max_mvar[live]])
    pv_node = pv_node[live]
    start = factors.start_voltage[:, 0] + 1j * factors.start_voltage[:, 1]
    structure = (el.start, el.ancestor, factors.y_diagonal, factors.y_lower, factors.y_upper)
    starts = [(start, 0)]
    if factors.droop is not None:  # steps that jump between the corners of characteristics settle when halved
        starts.append((start, MAX_STEPS))
    if len(pv_node):  # where the loaded start misleads (negative resistances of equivalents), the unloaded may not
        starts.append((linear_start(network, el.row, loaded=False), 0))

    def gather(injected: NDArray[np.floating], picked: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n_group, n, 8) in node order."""
        out = np.zeros((el.n, len(picked)))
        out[visible] = injected[np.ix_(el.row[visible], picked)].astype(np.float64) * scale
        return np.ascontiguousarray(out.reshape(el.n, -1, WIDTH).transpose(1, 0, 2))

    for begin, halved in starts:
        for at in range(0, len(snapshots), _LANES_AT_ONCE):
            lanes = snapshots[at : at + _LANES_AT_ONCE]
            picked = np.concatenate([lanes, np.repeat(lanes[-1:], -len(lanes) % WIDTH)])
            pn, qn = gather(p, picked), gather(q, picked)
            pn[:, pv_node] += pv_p[:, None]
            e, f = (np.tile(a[:, None], (len(pn), 1, WIDTH)) for a in (begin.real, begin.imag))
            fed = (factors.source_current, factors.constant_current, factors.droop)
            outcome = _newton_groups(structure, *fed, pv_node, pv_vm, pv_q, pn, qn, e, f, tolerance, halved)
            done, steps, worst = (a.reshape(-1)[: len(lanes)] for a in outcome)
            flow.status[lanes] = np.where(done, SlotStatus.NEWTON, SlotStatus.DIVERGED)
            flow.iterations[lanes] += steps
            flow.max_mismatch_mva[lanes] = np.where(done, worst, np.nan)
            place = ((lanes // LANES)[:, None], el.row, (lanes % LANES)[:, None])
            flow.e[place] = e.transpose(0, 2, 1).reshape(-1, el.n)[: len(lanes)]
            flow.f[place] = f.transpose(0, 2, 1).reshape(-1, el.n)[: len(lanes)]
        snapshots = snapshots[flow.status[snapshots] == SlotStatus.DIVERGED]


@_jit
def _currents(structure, source, e, f, ir, ii):
    """(n, 8) current each row must be given from outside: Y V - I0."""
    start, anc, yd, yl, yu = structure
    n = len(yd)
    for i in range(n):
        a, b = load(e, i, 0), load(f, i, 0)
        store(ir, i, 0, a * yd[i].real - b * yd[i].imag - splat(source[i, 0]))
        store(ii, i, 0, a * yd[i].imag + b * yd[i].real - splat(source[i, 1]))
    for i in range(n):
        a, b = load(e, i, 0), load(f, i, 0)
        for k in range(start[i], start[i + 1]):
            j = anc[k]
            if j == n:
                continue
            x, y = load(e, j, 0), load(f, j, 0)
            store(ir, i, 0, load(ir, i, 0) + x * yu[k].real - y * yu[k].imag)
            store(ii, i, 0, load(ii, i, 0) + x * yu[k].imag + y * yu[k].real)
            store(ir, j, 0, load(ir, j, 0) + a * yl[k].real - b * yl[k].imag)
            store(ii, j, 0, load(ii, j, 0) + a * yl[k].imag + b * yl[k].real)


@_jit
def _block(m, k, y, e, f, controlled):
    """Block k of a row at voltage e + jf: d(V conj(y dV)); its second row is 0, the magnitude's, where `controlled`."""
    u, w = e * y.real + f * y.imag, f * y.real - e * y.imag
    free = splat(1.0) - controlled
    store(m, 4 * k, 0, u)
    store(m, 4 * k + 1, 0, w)
    store(m, 4 * k + 2, 0, w * free)
    store(m, 4 * k + 3, 0, (splat(0.0) - u) * free)


@_jit
def _slope(ramp, first, last, vm):
    """Slope of a characteristic at voltage vm: that of the ramps it is on."""
    out = splat(0.0)
    for r in range(first, last):
        x = vm - splat(ramp[r, 0])
        on = select(x > splat(0.0), select(x < splat(ramp[r, 1]), splat(1.0), splat(0.0)), splat(0.0))
        out = out + on * ramp[r, 2]
    return out


@_jit
def _slopes(droop, k, p, vm):
    """d P / d|V| and d Q / d|V| of droop row k with p available."""
    base, start, ramp = droop[1], droop[2], droop[3]
    limit = ramps(ramp, start[k, 1], start[k, 2], base[k, 1], vm)
    limited = select(p > limit, splat(1.0), splat(0.0))
    return limited * _slope(ramp, start[k, 1], start[k, 2], vm), _slope(ramp, start[k, 0], start[k, 1], vm)


@_jit
def _assemble(structure, ci, droop, pv_of, controlled, pv_vm, p, q, e, f, ir, ii, d, low, up, x):
    """Jacobian blocks and right-hand side (the negative residual), (4n, 8) / (4nnz, 8) / (2n, 8)."""
    start, anc, yd, yl, yu = structure
    n = len(yd)
    zero = splat(0.0)
    for i in range(n):
        a, b = load(e, i, 0), load(f, i, 0)
        cr, cim = load(ir, i, 0), load(ii, i, 0)
        m = a * a + b * b
        size = sqrt(m)
        c0, c1 = ci[i, 0], ci[i, 1]
        u, w = a * yd[i].real + b * yd[i].imag, b * yd[i].real - a * yd[i].imag
        j0, j1 = u + cr + a * c0 / size, w + cim + b * c0 / size
        j2, j3 = w - cim + a * c1 / size, cr - u + b * c1 / size
        pi, qi = load(p, i, 0), load(q, i, 0)
        if droop is not None:
            k = droop[0][i]
            if k >= 0:
                dp, dq = _slopes(droop, k, pi, size)
                j0, j1 = j0 - a * dp / size, j1 - b * dp / size
                j2, j3 = j2 - a * dq / size, j3 - b * dq / size
                pi, qi = regulated(droop[1], droop[2], droop[3], k, pi, qi, size)
        r0 = pi - size * c0 - (a * cr + b * cim)
        r1 = qi - size * c1 - (b * cr - a * cim)
        c = pv_of[i]
        mine = zero
        if c >= 0:
            mine = load(controlled, c, 0)
            is_pv = mine > zero
            j2, j3 = select(is_pv, a * 2.0, j2), select(is_pv, b * 2.0, j3)
            r1 = select(is_pv, splat(pv_vm[c] * pv_vm[c]) - m, r1)
        store(d, 4 * i, 0, j0)
        store(d, 4 * i + 1, 0, j1)
        store(d, 4 * i + 2, 0, j2)
        store(d, 4 * i + 3, 0, j3)
        store(x, 2 * i, 0, r0)
        store(x, 2 * i + 1, 0, r1)
        for k in range(start[i], start[i + 1]):
            j = anc[k]
            _block(up, k, yu[k], a, b, mine)
            if j < n:
                cj = pv_of[j]
                theirs = load(controlled, cj, 0) if cj >= 0 else zero
                _block(low, k, yl[k], load(e, j, 0), load(f, j, 0), theirs)


@_jit
def _minus_product(target, t, left, k, right, m):
    """target[t] -= left[k] right[m], 2x2 blocks."""
    a, b, c, d = load(left, 4 * k, 0), load(left, 4 * k + 1, 0), load(left, 4 * k + 2, 0), load(left, 4 * k + 3, 0)
    w, x, y, z = load(right, 4 * m, 0), load(right, 4 * m + 1, 0), load(right, 4 * m + 2, 0), load(right, 4 * m + 3, 0)
    store(target, 4 * t, 0, load(target, 4 * t, 0) - a * w - b * y)
    store(target, 4 * t + 1, 0, load(target, 4 * t + 1, 0) - a * x - b * z)
    store(target, 4 * t + 2, 0, load(target, 4 * t + 2, 0) - c * w - d * y)
    store(target, 4 * t + 3, 0, load(target, 4 * t + 3, 0) - c * x - d * z)


@_jit
def _minus_vector(x, i, left, k, j):
    """x[i] -= left[k] x[j]."""
    a, b = load(x, 2 * j, 0), load(x, 2 * j + 1, 0)
    store(x, 2 * i, 0, load(x, 2 * i, 0) - load(left, 4 * k, 0) * a - load(left, 4 * k + 1, 0) * b)
    store(x, 2 * i + 1, 0, load(x, 2 * i + 1, 0) - load(left, 4 * k + 2, 0) * a - load(left, 4 * k + 3, 0) * b)


@_jit
def _step(start, anc, d, low, up, x):
    """Factorises and solves in place, eight systems at once."""
    n = len(start) - 1
    for i in range(n - 1, -1, -1):
        a, b, c, e = load(d, 4 * i, 0), load(d, 4 * i + 1, 0), load(d, 4 * i + 2, 0), load(d, 4 * i + 3, 0)
        det = splat(1.0) / (a * e - b * c)
        w0, w1, w2, w3 = e * det, splat(0.0) - b * det, splat(0.0) - c * det, a * det
        y, z = load(x, 2 * i, 0), load(x, 2 * i + 1, 0)
        store(x, 2 * i, 0, w0 * y + w1 * z)
        store(x, 2 * i + 1, 0, w2 * y + w3 * z)
        if anc[start[i]] == n:
            continue
        for k in range(start[i], start[i + 1]):
            u0, u1, u2, u3 = load(up, 4 * k, 0), load(up, 4 * k + 1, 0), load(up, 4 * k + 2, 0), load(up, 4 * k + 3, 0)
            store(up, 4 * k, 0, w0 * u0 + w1 * u2)
            store(up, 4 * k + 1, 0, w0 * u1 + w1 * u3)
            store(up, 4 * k + 2, 0, w2 * u0 + w3 * u2)
            store(up, 4 * k + 3, 0, w2 * u1 + w3 * u3)
        for k in range(start[i], start[i + 1]):
            j = anc[k]
            _minus_vector(x, j, low, k, i)
            for m in range(start[i], start[i + 1]):
                jj = anc[m]
                if j == jj:
                    _minus_product(d, j, low, k, up, m)
                    continue
                deep, high = max(j, jj), min(j, jj)
                at = start[deep]
                while anc[at] != high:
                    at += 1
                if j > jj:
                    _minus_product(up, at, low, k, up, m)
                else:
                    _minus_product(low, at, low, k, up, m)
    for i in range(n):
        for k in range(start[i], start[i + 1]):
            if anc[k] < n:
                _minus_vector(x, i, up, k, anc[k])


@_jit
def _newton_groups(structure, source, ci, droop, pv_node, pv_vm, pv_q, p, q, e, f, tolerance, halved):
    """Group after group of eight: p, q, e, f are (n_group, n, 8), what is returned (n_group, 8)."""
    m = len(p)
    done, steps, worst = np.zeros((m, WIDTH), np.bool_), np.zeros((m, WIDTH), np.int32), np.zeros((m, WIDTH))
    for k in range(m):
        done[k], steps[k], worst[k] = _newton(
            structure, source, ci, droop, pv_node, pv_vm, pv_q, p[k], q[k], e[k], f[k], tolerance, halved
        )
    return done, steps, worst


@_jit
def _newton(structure, source, ci, droop, pv_node, pv_vm, pv_q, p, q, e, f, tolerance, halved):
    """Iterates e, f (n, 8) in place; returns (converged, steps, worst mismatch in MVA), each (8,).

    halved: steps at the start that go half the way only.
    """
    start, anc, yd, yl, _ = structure
    n, nnz, n_pv = len(yd), len(yl), len(pv_node)
    ir, ii = np.empty((n, WIDTH)), np.empty((n, WIDTH))
    d, low, up, x = (
        np.empty((4 * n, WIDTH)),
        np.empty((4 * nnz, WIDTH)),
        np.empty((4 * nnz, WIDTH)),
        np.empty((2 * n, WIDTH)),
    )
    controlled = np.ones((n_pv, WIDTH))
    pv_of = np.full(n, -1)
    for c in range(n_pv):
        pv_of[pv_node[c]] = c
    done, alive = np.zeros(WIDTH, np.bool_), np.ones(WIDTH, np.bool_)
    steps, budget = np.zeros(WIDTH, np.int32), np.full(WIDTH, MAX_STEPS + halved)
    taken = 0
    active, peak = np.ones((1, WIDTH)), np.zeros((1, WIDTH))
    while alive.any():
        _currents(structure, source, e, f, ir, ii)
        _assemble(structure, ci, droop, pv_of, controlled, pv_vm, p, q, e, f, ir, ii, d, low, up, x)
        _step(start, anc, d, low, up, x)
        for lane in range(WIDTH):
            active[0, lane] = 1.0 if alive[lane] else 0.0
        peak[:] = 0.0
        on = load(active, 0, 0) > splat(0.0)
        taken += 1
        share = 0.5 if taken <= halved else 1.0
        biggest, poison = splat(0.0), splat(0.0)
        for i in range(n):
            a, b = load(x, 2 * i, 0), load(x, 2 * i + 1, 0)
            change = a * a + b * b
            biggest = select(change > biggest, change, biggest)
            poison = poison + change * 0.0
            if droop is not None:
                a, b = a * share, b * share
            # The step as a growth and a turn (Cayley's form of the rotation): angles may be large, magnitudes stay.
            re, im = load(e, i, 0), load(f, i, 0)
            g = splat(1.0) / (re * re + im * im)
            grow, turn = (a * re + b * im) * g + 1.0, (b * re - a * im) * g * 0.5
            h = grow / (turn * turn + 1.0)
            c, t = (splat(1.0) - turn * turn) * h, turn * h * 2.0
            store(e, i, 0, select(on, re * c - im * t, re))
            store(f, i, 0, select(on, re * t + im * c, im))
        store(peak, 0, 0, biggest + poison)
        settled = False
        for lane in range(WIDTH):
            if not alive[lane]:
                continue
            steps[lane] += 1
            budget[lane] -= 1
            change = np.sqrt(peak[0, lane])
            if not change < _LARGEST_VOLTAGE_PU * 1e3:
                alive[lane] = False
            elif change <= tolerance:
                alive[lane], done[lane], settled = False, True, True
            elif budget[lane] == 0 or (budget[lane] <= MAX_STEPS - _STEPS_TO_SETTLE and change > _SETTLED_PU):
                alive[lane] = False
        if settled and n_pv:
            _currents(structure, source, e, f, ir, ii)
            for lane in range(WIDTH):
                if done[lane] and not alive[lane] and _hit_limits(lane, pv_node, pv_q, ci, controlled, q, e, f, ir, ii):
                    alive[lane], done[lane], budget[lane] = True, False, MAX_STEPS
    _currents(structure, source, e, f, ir, ii)
    if droop is not None:
        for i in range(n):
            k = droop[0][i]
            if k >= 0:
                a, b = load(e, i, 0), load(f, i, 0)
                vm = sqrt(a * a + b * b)
                pi, qi = regulated(droop[1], droop[2], droop[3], k, load(p, i, 0), load(q, i, 0), vm)
                store(p, i, 0, pi)
                store(q, i, 0, qi)
    worst = np.zeros(WIDTH)
    for i in range(n):
        for lane in range(WIDTH):
            size = np.hypot(e[i, lane], f[i, lane])
            miss_p = p[i, lane] - ci[i, 0] * size - (e[i, lane] * ir[i, lane] + f[i, lane] * ii[i, lane])
            miss_q = q[i, lane] - ci[i, 1] * size - (f[i, lane] * ir[i, lane] - e[i, lane] * ii[i, lane])
            if pv_of[i] >= 0 and controlled[pv_of[i], lane] > 0.0:
                miss_q = 0.0
            worst[lane] = max(worst[lane], np.hypot(miss_p, miss_q))
    for lane in range(WIDTH):
        for i in range(n):  # a root of the equations that no network works at
            if e[i, lane] ** 2 + f[i, lane] ** 2 > _LARGEST_VOLTAGE_PU**2:
                done[lane] = False
    return done, steps, worst


@_jit
def _hit_limits(lane, pv_node, pv_q, ci, controlled, q, e, f, ir, ii):
    """Turns this lane's generators beyond a reactive limit into loads at it; whether there were any."""
    any_hit = False
    for c in range(len(pv_node)):
        if controlled[c, lane] == 0.0:
            continue
        i = pv_node[c]
        drawn = ci[i, 1] * np.hypot(e[i, lane], f[i, lane])
        made = f[i, lane] * ir[i, lane] - e[i, lane] * ii[i, lane] + drawn - q[i, lane]
        limit = min(max(made, pv_q[0, c]), pv_q[1, c])
        if made != limit:
            controlled[c, lane] = 0.0
            q[i, lane] += limit
            any_hit = True
    return any_hit
