"""pandapower's own loop: one `runpp` after the other in one process, which is what the original framework runs."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pandapower as pp
from numpy.typing import NDArray
from pandapower.powerflow import LoadflowNotConverged

from lib.grid.network import Network

INJECTING = ("load", "sgen", "storage", "motor", "asymmetric_load", "asymmetric_sgen")
"""Tables whose power is in the snapshot's injections already."""


class PandapowerLoop:
    """A pandapower net whose injections are set bus by bus from snapshots."""

    def __init__(self, net: Any, network: Network) -> None:
        """`net`: the source of `network`; a copy is used, with one load per bus in place of its own injections."""
        self.net = copy.deepcopy(net)
        for table in INJECTING:
            if table in self.net and len(self.net[table]):
                self.net[table] = self.net[table].iloc[:0]
        self.bus_ids = network.bus_ids
        pp.create_loads(self.net, buses=self.bus_ids, p_mw=0.0, q_mvar=0.0)

    def solve(self, p_mw: NDArray[Any], q_mvar: NDArray[Any], *, tolerance_mva: float = 1e-8) -> NDArray[np.float64]:
        """vm_pu (n_bus, n_snapshot) for injections of that shape, generation positive; NaN where runpp finds none."""
        vm_pu = np.full(p_mw.shape, np.nan)
        for t in range(p_mw.shape[1]):
            self.net.load["p_mw"] = -np.asarray(p_mw[:, t], float)
            self.net.load["q_mvar"] = -np.asarray(q_mvar[:, t], float)
            try:
                pp.runpp(self.net, tolerance_mva=tolerance_mva)
            except LoadflowNotConverged:
                continue
            vm_pu[:, t] = self.net.res_bus["vm_pu"].reindex(self.bus_ids).to_numpy()
        return vm_pu
