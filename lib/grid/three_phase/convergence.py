"""When a lane of an unbalanced sweep is done, and when it never will be."""

from __future__ import annotations

import numpy as np
from numba import njit

from lib.grid.sweep import ACTIVE, BAD_INPUT, CONVERGED, EJECTED, IM, LANES

SAFETY, FIRST_SAFETY = 2.0, 4.0
"""The contraction seen so far may still grow towards its limit, the first one seen most of all."""

SETTLED = 0.01
"""A group whose change is below this share of the tolerance has no contraction worth knowing: it may be rounding."""


@njit(cache=True, error_model="numpy", nogil=True)
def judge(iterate, max_iterations, tolerance, peak, last_peak, last_ratio, a, state, iterations):
    """Freezes lanes that are done and ejects those that will not be; how many lanes are still active.

    As in the balanced sweep, but for two groups of voltages that contract at rates of their own (2, 32): the positive
    sequence with its chord, and the other two. The next iterate is already eliminated when this one is judged, so it
    is the one returned: its error is bounded by the sum of change * rho^2 / (1 - rho).
    """
    active = 0
    for lane in range(LANES):
        if state[lane] != ACTIVE:
            continue
        if np.isnan(a[0, lane] + a[0, IM + lane]):
            state[lane] = BAD_INPUT if iterate == 1 else EJECTED
            iterations[lane] = iterate
            continue
        bound, left = 0.0, 0.0
        for group in range(2):
            change = np.sqrt(peak[group, lane])
            ratio = change / last_peak[group, lane] if iterate >= 3 and last_peak[group, lane] > 0.0 else 0.0
            rho = max(ratio, last_ratio[group, lane])
            last_peak[group, lane], last_ratio[group, lane] = change, ratio
            if change <= SETTLED * tolerance:
                bound += change
                continue
            safe = min((FIRST_SAFETY if iterate == 3 else SAFETY) * rho, 0.5 * (1.0 + rho))
            bound += change * safe * safe / (1.0 - safe) if safe < 1.0 else np.inf
            left += change * rho ** (max_iterations - iterate + 2.0) / (1.0 - rho) if rho < 0.95 else np.inf
        if iterate >= 3:
            if bound <= tolerance:
                state[lane] = CONVERGED
            elif left > tolerance:
                state[lane] = EJECTED
            if state[lane] != ACTIVE:
                iterations[lane] = iterate + 1
                continue
        active += 1
    return active
