"""Voltages of many snapshots as solvers leave them, and what follows from them alone."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lib.grid import sweep
from lib.grid.network import Network
from lib.grid.sweep import LANES

if TYPE_CHECKING:
    from lib.grid.branches import BranchResult


class Voltages:
    """Rectangular voltages in tiles of 32 snapshots: as sweeps write and summaries read them."""

    network: Network
    n_snapshot: int
    e: NDArray[np.float64]
    """(n_tile, n_row, 32) real part of the voltage, per unit; NaN where a snapshot or an island has no solution."""
    f: NDArray[np.float64]
    """(n_tile, n_row, 32) imaginary part."""

    @cached_property
    def vm_pu(self) -> NDArray[np.float64]:
        """(n_bus, n_snapshot) voltage magnitude."""
        out = np.empty((self.network.n_bus, len(self.e) * LANES))
        sweep.magnitudes(self.e, self.f, out)
        return out[:, : self.n_snapshot]

    @cached_property
    def va_degree(self) -> NDArray[np.float64]:
        """(n_bus, n_snapshot) voltage angle."""
        n = self.network.n_bus
        out = np.empty((n, len(self.e), LANES))
        np.arctan2(self.f[:, :n].transpose(1, 0, 2), self.e[:, :n].transpose(1, 0, 2), out=out)
        return np.degrees(out.reshape(n, len(self.e) * LANES)[:, : self.n_snapshot])

    def branches(self) -> BranchResult:
        """Flows, losses and loading of every branch."""
        from lib.grid.branches import branch_results

        return branch_results(self.network, self.e, self.f, self.n_snapshot)
