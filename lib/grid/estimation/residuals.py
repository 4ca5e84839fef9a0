"""Residuals of estimated snapshots, their objective and the largest normalised one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lib.grid.simd import load, select, splat, sqrt, store
from lib.grid.sweep import CHUNK, LANES


class Readings(NamedTuple):
    """The measurements of one pattern as the kernel reads them: m used ones."""

    row: NDArray[np.int64]
    """(m,) row of the measured value."""
    mean_row: NDArray[np.int64]
    """(m,) row of the mean of its channel ..."""
    scale: NDArray[np.float64]
    """(m,) ... and what makes either a value of the equations: times scale, plus offset."""
    offset: NDArray[np.float64]
    quantity: NDArray[np.int64]
    """(m,) MULTIPLIER, TURNED, MAGNITUDE or ANGLE."""
    at: NDArray[np.int64]
    """(m,) row of x: of the multiplier, or of the bus's e."""
    bus: NDArray[np.int64]
    """(m,) row of x: e of the bus in whose frame the multiplier is."""
    variance: NDArray[np.float64]
    """(m,) of the channel's mean."""
    inverse_std: NDArray[np.float64]
    """(m,) 1 / sigma."""
    inverse_residual_std: NDArray[np.float64]
    """(m,) 1 / standard deviation of the residual, 0 where it cannot be tested."""


ACTIVE_POWER, REACTIVE_POWER, CURRENT, MAGNITUDE, ANGLE = 0, 1, 2, 3, 4

_jit = njit(cache=True, error_model="numpy", nogil=True)


@_jit
def residuals(readings, z, x, objective, worst, which, out):
    """Residuals z - h at x (n_tile, 4 n, 32), in the equations' units.

    A power's or current's residual is -R lambda, its multiplier's. objective, worst, which: (1, n_lane) sum of squares
    over sigma^2, largest normalised residual, and its index; out: (m, n_lane) all residuals, or (0, 0) for none.
    """
    row, mean_row, scale, offset, quantity, at, bus, variance, inverse_std, inverse_residual_std = readings
    objective[:] = 0.0
    worst[:] = 0.0
    which[:] = -1.0
    angle = np.zeros((1, LANES))
    for tile in range(len(x)):
        xt, col = x[tile], tile * LANES
        for k in range(len(row)):
            q = quantity[k]
            for lane in range(0, LANES, CHUNK):
                s = splat(offset[k])
                value = load(z, row[k], col + lane) * scale[k] + s
                e, f = load(xt, bus[k], lane), load(xt, bus[k] + 1, lane)
                if q == MAGNITUDE:
                    r = value - sqrt(e * e + f * f)
                elif q == ANGLE:
                    for c in range(lane, lane + CHUNK):
                        angle[0, c] = np.arctan2(xt[bus[k] + 1, c], xt[bus[k], c])
                    r = value - load(angle, 0, lane)
                else:
                    if q == CURRENT:
                        m = load(xt, at[k], lane)
                    else:
                        u, w = load(xt, at[k] - q, lane), load(xt, at[k] - q + 1, lane)
                        h = splat(1.0) / (e * e + f * f)
                        m = (u * e - w * f) * h if q == ACTIVE_POWER else (w * e + u * f) * h
                    r = splat(0.0) - m * variance[k]
                    if mean_row[k] != row[k]:
                        r = r + value - (load(z, mean_row[k], col + lane) * scale[k] + s)
                if len(out):
                    store(out, k, col + lane, r)
                y = r * inverse_std[k]
                store(objective, 0, col + lane, load(objective, 0, col + lane) + y * y)
                y = r * inverse_residual_std[k]
                y = select(y > splat(0.0), y, splat(0.0) - y)
                old = load(worst, 0, col + lane)
                larger = y > old
                store(worst, 0, col + lane, select(larger, y, old))
                store(which, 0, col + lane, select(larger, splat(float(k)), load(which, 0, col + lane)))
