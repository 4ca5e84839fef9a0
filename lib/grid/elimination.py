"""The order in which a network is eliminated, and the order in which the sweeps walk it.

The elimination tree is numbered in preorder, so every subtree is a run of rows and a sweep over it stays in cache; on a
radial network there is no fill and the sweep is the classical backward/forward sweep.

Sources: Gilbert, Liu: elimination structures for sparse LU factors (1993); minimum degree as in SuperLU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

BLOCK_ROWS = 96
"""Rows of a subtree swept down and up before the next: what keeps its lanes in the second-level cache."""


@dataclass(frozen=True, eq=False)
class Elimination:
    """Structure of the factors. Node i is the i-th row in preorder; node n is a dummy that roots point to.

    `ancestor[start[i]:start[i+1]]` are the rows node i is coupled to after elimination, nearest first; a root's only
    one is the dummy. `segment` holds (first, last + 1, 0 down | 1 up) in execution order.
    """

    row: NDArray[np.int64]
    start: NDArray[np.int64]
    ancestor: NDArray[np.int64]
    depth: NDArray[np.int64]
    accumulator: NDArray[np.int64]
    segment: NDArray[np.int64]

    @property
    def n(self) -> int:
        return len(self.row)

    @cached_property
    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Node and ancestor of every entry of `ancestor`; the dummy's stands as n - 1."""
        node = np.repeat(np.arange(self.n), np.diff(self.start))
        return node, np.minimum(self.ancestor, max(self.n - 1, 0))


def eliminate(y: sp.csr_matrix, rows: NDArray[np.int64], touches_source: NDArray[np.bool_]) -> Elimination:
    """Structure of the factors of y (n, n), whose rows are the network's `rows`.

    touches_source: (n,) rows with a branch to a fixed row; a tree is eliminated towards them.
    """
    pattern = sp.csr_matrix((np.ones(len(y.data), dtype=np.int8), y.indices, y.indptr), shape=y.shape)
    pattern = (pattern + pattern.T).tolil()
    pattern.setdiag(0)
    neighbours: list[list[int]] = [sorted(j for j in r if j != i) for i, r in enumerate(pattern.tocsr().tolil().rows)]
    return eliminate_in_order(neighbours, elimination_order(neighbours, touches_source, y), rows)


def eliminate_in_order(neighbours: list[list[int]], order: list[int], rows: NDArray[np.int64]) -> Elimination:
    """Structure of the factors of a symmetric pattern, given as each node's neighbours, eliminated in `order`."""
    n = len(neighbours)
    position = np.empty(n, dtype=np.int64)
    position[order] = np.arange(n)

    # Symbolic factorisation: what a node is coupled to once all before it are gone.
    structure: list[set[int]] = [set() for _ in range(n)]
    children: list[list[int]] = [[] for _ in range(n)]
    roots = []
    for i in order:
        s = {j for j in neighbours[i] if position[j] > position[i]}
        for child in children[i]:
            s |= structure[child]
        s.discard(i)
        structure[i] = s
        if s:
            children[min(s, key=lambda j: position[j])].append(i)
        else:
            roots.append(i)

    preorder: list[int] = []
    stack = roots[::-1]
    while stack:
        i = stack.pop()
        preorder.append(i)
        stack.extend(children[i][::-1])
    new = np.empty(n, dtype=np.int64)
    new[preorder] = np.arange(n)

    start = np.zeros(n + 1, dtype=np.int64)
    ancestor: list[int] = []
    for k, i in enumerate(preorder):
        ancestor.extend(sorted((int(new[j]) for j in structure[i]), reverse=True) if structure[i] else [n])
        start[k + 1] = len(ancestor)
    anc = np.array(ancestor, dtype=np.int64)
    parent = anc[start[:-1]]
    depth = np.zeros(n + 1, dtype=np.int64)
    for k in range(n):
        depth[k] = depth[parent[k]] + 1 if parent[k] < n else 1  # level 0 belongs to the dummy
    segment, accumulator = _segments(parent)
    return Elimination(rows[preorder] if n else rows, start, anc, depth, accumulator, segment)


def elimination_order(neighbours: list[list[int]], touches_source: NDArray[np.bool_], y: sp.csr_matrix) -> list[int]:
    """Leaves first, towards the sources; what lies on loops by minimum degree."""
    n = len(neighbours)
    degree = [len(a) + int(touches_source[i]) for i, a in enumerate(neighbours)]
    gone = [False] * n
    order: list[int] = []
    leaves = [i for i in range(n) if degree[i] <= 1]
    while leaves:
        i = leaves.pop()
        if gone[i]:
            continue
        gone[i] = True
        order.append(i)
        for j in neighbours[i]:
            if not gone[j]:
                degree[j] -= 1
                if degree[j] <= 1:
                    leaves.append(j)
    core = np.array([i for i in range(n) if not gone[i]], dtype=np.int64)
    if len(core):
        block = y[core][:, core]
        pattern = sp.csc_matrix(abs(block) + abs(block.T))
        pattern.data[:] = -1.0
        pattern.setdiag(np.diff(pattern.indptr) + 1.0)  # dominant: SuperLU is only asked for its ordering
        lu = splu(pattern, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        order.extend(core[np.argsort(lu.perm_c)].tolist())
    return order


def _segments(parent: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Runs of rows swept down then up, small subtrees at a time, and each row's accumulator.

    Rows of small subtrees share accumulators block by block; rows above them keep their own (they stay open longer).
    """
    n = len(parent)
    size = np.ones(n + 1, dtype=np.int64)
    for i in range(n - 1, -1, -1):
        size[parent[i]] += size[i]
    segments: list[tuple[int, int, int]] = []
    own: list[int] = []
    blocks: list[tuple[int, int]] = []
    open_rows: list[int] = []
    i = 0
    while i < n:
        while open_rows and i >= open_rows[-1] + size[open_rows[-1]]:
            r = open_rows.pop()
            segments.append((r, r + 1, 1))
        if size[i] > BLOCK_ROWS:
            segments.append((i, i + 1, 0))
            own.append(i)
            open_rows.append(i)
            i += 1
            continue
        j = i + int(size[i])
        while j < n and parent[j] == parent[i] and size[j] <= BLOCK_ROWS and j + size[j] - i <= BLOCK_ROWS:
            j += int(size[j])
        segments += [(i, j, 0), (i, j, 1)]
        blocks.append((i, j))
        i = j
    segments += [(r, r + 1, 1) for r in reversed(open_rows)]
    accumulator = np.zeros(n + 1, dtype=np.int64)  # the dummy's is 0
    accumulator[own] = 1 + np.arange(len(own))
    for first, last in blocks:
        accumulator[first:last] = 1 + len(own) + np.arange(last - first)
    return np.array(segments, dtype=np.int64).reshape(-1, 3), accumulator
