"""Sparse LDL^T of a symmetric quasi-definite matrix in 4x4 blocks, on an elimination structure, and its inverse there.

A node's pivot may live on some of its four coordinates only: the inverse is then taken on those and is zero elsewhere,
which takes the others out of the system. With eps > 0 on the voltages and -R on the multipliers the matrix has a
factorisation in any order; where R is zero, a multiplier is coupled to its own bus's voltage in the same block.

Sources: Vanderbei: symmetric quasidefinite matrices (1995); Takahashi, Fagan, Chen: formation of a sparse bus impedance
matrix (1973) for the inverse on the factors' pattern; Alvarado, Tinney: state estimation augmented blocked matrices
(1990) for the blocks.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_jit = njit(cache=True, error_model="numpy", nogil=True)


@_jit
def _invert(block, mask, out):
    """Inverse of the symmetric 4x4 block on the masked coordinates, by Gauss-Jordan with full pivoting; False if none.

    Rows are scaled first: voltages and multipliers differ by ten orders of magnitude and more.
    """
    m = np.zeros((4, 8))
    index = np.empty(4, np.int64)
    scale = np.ones(4)
    k = 0
    for a in range(4):
        if mask[a]:
            index[k] = a
            k += 1
    out[:, :] = 0.0
    for _ in range(3):
        for a in range(k):
            big = 0.0
            for b in range(k):
                big = max(big, abs(block[index[a], index[b]]) * scale[b])
            big *= scale[a]
            if big > 0.0:
                scale[a] /= np.sqrt(big)
    for a in range(k):
        for b in range(k):
            m[a, b] = block[index[a], index[b]] * scale[a] * scale[b]
        m[a, 4 + a] = 1.0
    column = np.full(4, -1)
    used = np.zeros(4, np.bool_)
    for _ in range(k):
        best, row, col = 0.0, -1, -1
        for a in range(k):
            if column[a] >= 0:
                continue
            for b in range(k):
                if not used[b] and abs(m[a, b]) > best:
                    best, row, col = abs(m[a, b]), a, b
        if row < 0 or not best > 0.0:
            return False
        column[row], used[col] = col, True
        pivot = m[row, col]
        for b in range(8):
            m[row, b] /= pivot
        for a in range(k):
            if a != row and m[a, col] != 0.0:
                factor = m[a, col]
                for b in range(8):
                    m[a, b] -= factor * m[row, b]
    for a in range(k):
        for b in range(k):
            out[index[column[a]], index[b]] = m[a, 4 + b] * scale[column[a]] * scale[b]
    for a in range(4):
        for b in range(a):
            out[a, b] = out[b, a] = 0.5 * (out[a, b] + out[b, a])
    return True


@_jit
def factor(start, anc, mask, d, up, inverse):
    """Factorises in place; returns the node whose pivot vanished, or -1.

    d: (n, 4, 4) diagonal blocks; up: (nnz, 4, 4) block (node, ancestor), becomes inverse[node] times it.
    """
    n = len(d)
    t = np.empty((4, 4))
    for i in range(n - 1, -1, -1):
        if not _invert(d[i], mask[i], inverse[i]):
            return i
        if anc[start[i]] == n:
            continue
        w = inverse[i]
        for k in range(start[i], start[i + 1]):
            # t = K_ik^T D^-1, so that K_jj' -= t_j K_ij'
            b = up[k]
            for r in range(4):
                for c in range(4):
                    t[r, c] = b[0, r] * w[0, c] + b[1, r] * w[1, c] + b[2, r] * w[2, c] + b[3, r] * w[3, c]
            j = anc[k]
            for m in range(start[i], start[i + 1]):
                jj = anc[m]
                if jj > j:
                    continue
                o = up[m]
                if j == jj:
                    target = d[j]
                else:
                    at = start[j]
                    while anc[at] != jj:
                        at += 1
                    target = up[at]
                for r in range(4):
                    for c in range(4):
                        target[r, c] -= t[r, 0] * o[0, c] + t[r, 1] * o[1, c] + t[r, 2] * o[2, c] + t[r, 3] * o[3, c]
        for k in range(start[i], start[i + 1]):
            b = up[k]
            for c in range(4):
                x0, x1, x2, x3 = b[0, c], b[1, c], b[2, c], b[3, c]
                for r in range(4):
                    b[r, c] = w[r, 0] * x0 + w[r, 1] * x1 + w[r, 2] * x2 + w[r, 3] * x3
    return -1


@_jit
def substitute(start, anc, inverse, up, x):
    """Solves in place for right-hand sides x (n, 4, m)."""
    n, m = len(inverse), x.shape[2]
    y = np.empty((4, m))
    for i in range(n - 1, -1, -1):
        for k in range(start[i], start[i + 1]):
            j = anc[k]
            if j == n:
                continue
            for c in range(4):
                for r in range(4):
                    u = up[k, r, c]
                    if u != 0.0:
                        for s in range(m):
                            x[j, c, s] -= u * x[i, r, s]
        for r in range(4):
            for s in range(m):
                y[r, s] = (
                    inverse[i, r, 0] * x[i, 0, s] + inverse[i, r, 1] * x[i, 1, s]
                    + inverse[i, r, 2] * x[i, 2, s] + inverse[i, r, 3] * x[i, 3, s]
                )  # fmt: skip
        x[i] = y
    for i in range(n):
        for k in range(start[i], start[i + 1]):
            j = anc[k]
            if j == n:
                continue
            for r in range(4):
                for c in range(4):
                    u = up[k, r, c]
                    if u != 0.0:
                        for s in range(m):
                            x[i, r, s] -= u * x[j, c, s]


@_jit
def selected_inverse(start, anc, inverse, up, diagonal):
    """Diagonal blocks (n, 4, 4) of the whole matrix's inverse, from its entries on the factors' pattern alone."""
    n = len(inverse)
    z = np.zeros(up.shape)  # block (node, ancestor) of the inverse
    for i in range(n):
        if anc[start[i]] == n:
            diagonal[i] = inverse[i]
            continue
        for k in range(start[i], start[i + 1]):
            j = anc[k]
            for m in range(start[i], start[i + 1]):
                jj = anc[m]
                u = up[m]
                if j == jj:
                    for r in range(4):
                        for c in range(4):
                            for q in range(4):
                                z[k, r, c] -= u[r, q] * diagonal[j, q, c]
                    continue
                deep, high = max(j, jj), min(j, jj)
                at = start[deep]
                while anc[at] != high:
                    at += 1
                for r in range(4):
                    for c in range(4):
                        for q in range(4):
                            # block (jj, j) of the inverse; kept as (deep, high)
                            z[k, r, c] -= u[r, q] * (z[at, q, c] if jj > j else z[at, c, q])
        diagonal[i] = inverse[i]
        for k in range(start[i], start[i + 1]):
            for r in range(4):
                for c in range(4):
                    for q in range(4):
                        diagonal[i, r, c] -= up[k, r, q] * z[k, c, q]
