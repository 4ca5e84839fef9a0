"""OpenDSS as an engine of the unbalanced power flow: second opinion and rival. Needs dss-python, a development tool.

Lines and shunts are built from the network's own admittances, transformers from their nameplates. Every load's
`vminpu`/`vmaxpu` are opened wide (else OpenDSS turns it into an impedance), anti-float shunts are off, and the
source is stiff. Manual: https://opendss.epri.com (Vsource, Line, Transformer, Load).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.grid.network import BRANCH_KINDS
from lib.grid.three_phase.from_pandapower import tapped
from lib.grid.three_phase.network import SequenceNetwork
from lib.grid.three_phase.vector_groups import windings

_STIFF_OHM = 1e-7
_MODEL = {"power": 1, "impedance": 2, "current": 5}


class Circuit:
    """One OpenDSS circuit, built step by step; buses are named b<row>."""

    def __init__(self, vn_kv: float, vm_pu: float, va_degree: float, row: int, f_hz: float = 50.0) -> None:
        """The source: a stiff one at bus `row`, `vn_kv` between phases."""
        from dss import DSS

        self.dss: Any = DSS.NewContext()
        self.dss.AllowForms = False
        self("Clear", f"Set DefaultBaseFrequency={f_hz:g}")
        self(
            f"New Circuit.c bus1=b{row} basekv={vn_kv!r} pu={vm_pu!r} angle={va_degree!r} phases=3 "
            f"Z1=[{_STIFF_OHM!r},{_STIFF_OHM!r}] Z0=[{_STIFF_OHM!r},{_STIFF_OHM!r}]"
        )

    def __call__(self, *commands: str) -> None:
        for command in commands:
            self.dss.Text.Command = command

    def load(
        self, name: str, nodes: str, kv: float, kw: float, kvar: float, *, kind: str = "power", more: str = ""
    ) -> None:
        """A single-phase load between two nodes, such as "b3.1" (to ground) or "b3.1.2"."""
        self(
            f"New Load.{name} phases=1 bus1={nodes} kv={kv!r} kw={kw!r} kvar={kvar!r} model={_MODEL[kind]} vminpu=0.01 "
            f"vmaxpu=10 {more}"
        )

    def network(self, network: SequenceNetwork, net: Any) -> None:
        """Every branch and shunt; `net` is the pandapower net the network was made from (transformers' nameplates)."""
        positive = network.positive
        for b in range(network.n_branch):
            f, t = int(positive.branch_from[b]), int(positive.branch_to[b])
            if positive.branch_kind[b] == BRANCH_KINDS.index("trafo"):
                self.transformer(f"t{b}", f, t, net, int(positive.branch_element[b]))
            else:
                self._line(b, f, t, network, float(net.f_hz))

    def _line(self, b: int, f: int, t: int, network: SequenceNetwork, f_hz: float) -> None:
        ohm = network.positive.vn_kv[f] ** 2
        values: dict[str, float] = {}
        for suffix, y in (("1", network.positive.branch_y_pu[b]), ("0", network.branch_y0_pu[b])):
            z, shunt = -ohm / y[0, 1], 2 * (y[0, 0] + y[0, 1]) / ohm
            values |= {f"r{suffix}": z.real, f"x{suffix}": z.imag, f"c{suffix}": shunt.imag / (2 * np.pi * f_hz) * 1e9}
        text = " ".join(f"{k}={float(v)!r}" for k, v in values.items())
        self(f"New Line.l{b} bus1=b{f} bus2=b{t} phases=3 length=1 units=none {text}")

    def transformer(self, name: str, f: int, t: int, net: Any, index: int) -> None:
        """The transformer between rows f and t; OpenDSS turns a wye behind a delta back by 30 degrees: group 1."""
        trafo = net.trafo.loc[[index]]
        kv_hv, kv_lv, shift = (float(a[0]) for a in tapped(net, trafo))
        trafo = trafo.iloc[0]
        hv, lv = ("delta" if w == "d" else "wye" for w in windings(trafo.vector_group))
        if shift != (30 if hv != lv else 0):
            raise ValueError(f"trafo {index}: phase shift {shift} degrees: OpenDSS is given 0 or 30")
        x = float(np.sqrt(trafo.vk_percent**2 - trafo.vkr_percent**2))
        kva, r = float(trafo.sn_mva * 1e3), float(trafo.vkr_percent / 2)
        self(
            f"New Transformer.{name} phases=3 windings=2 buses=(b{f} b{t}) conns=({hv} {lv}) kvs=({kv_hv!r} {kv_lv!r}) "
            f"kvas=({kva!r} {kva!r}) %rs=({r!r} {r!r}) xhl={x!r} %imag=0 %noloadloss=0 ppm_antifloat=0"
        )

    def ready(self, tolerance: float = 1e-10) -> None:
        self(
            "MakeBusList",
            f"Set tolerance={tolerance!r}",
            "Set maxiterations=200",
            "Set controlmode=OFF",
            "Set mode=snapshot",
        )

    def solve(self) -> dict[str, complex]:
        """Voltages by node ("b3.1") in volts to ground."""
        solution = self.dss.ActiveCircuit.Solution
        solution.Solve()
        if not solution.Converged:
            raise ArithmeticError("OpenDSS did not converge")
        names = self.dss.ActiveCircuit.AllNodeNames
        volts = self._volts()
        return dict(zip([n.lower() for n in names], volts.tolist(), strict=True))

    def _volts(self) -> NDArray[np.complex128]:
        return np.asarray(self.dss.ActiveCircuit.AllBusVolts, dtype=float).view(complex)

    def follow(self, profiles: dict[str, tuple[NDArray[Any], NDArray[Any]]], n: int) -> None:
        """Give loads that exist (by name) their kW and kvar (n,) of each snapshot as load shapes."""
        shapes = self.dss.ActiveCircuit.LoadShapes
        for name, (kw, kvar) in profiles.items():
            shapes.New(f"s_{name}")
            shapes.Npts, shapes.MinInterval, shapes.UseActual = n, 15, True
            shapes.Pmult, shapes.Qmult = np.asarray(kw, dtype=float), np.asarray(kvar, dtype=float)
            self(f"Load.{name}.yearly=s_{name}")
        self("Set mode=yearly stepsize=15m number=1")

    def loop(self, n: int) -> Iterator[NDArray[np.complex128]]:
        """Solves snapshot after snapshot; volts of every node in OpenDSS's order after each."""
        self("Set hour=0 sec=0")
        solve = self.dss.ActiveCircuit.Solution.Solve
        for _ in range(n):
            solve()
            yield self._volts()
