"""A network in symmetrical components: positive, negative and zero sequence of one topology.

Per unit on a base of 1 MVA (all three phases) and each bus's nominal voltage, as in `Network`; a phase's voltage is per
unit of nominal / sqrt(3). So a phase's power is S = V conj(I) / 3 MVA.

Source: Fortescue, Method of symmetrical co-ordinates (1918); IEC 60909-0 for the data of transformers and grids.
"""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lib.grid.network import BRANCH_KINDS, Network

if TYPE_CHECKING:
    from lib.grid.three_phase.factorisation import SequenceFactors
    from lib.grid.three_phase.injections import PhaseInjections

FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class SequenceNetwork:
    """Arrays of one topology, rows and branches those of `positive`. Phases are a, b, c in columns 0, 1, 2.

    The negative sequence is the positive one with its phase shifts turned round; external grids hold the positive
    sequence and are impedances to ground in the other two.
    """

    positive: Network
    """Without voltage-controlled generators; its `s_constant_current_mva` is zero (see `i_wye_mva`)."""
    branch_y0_pu: NDArray[np.complex128]
    """(n_branch, 2, 2) zero-sequence two-ports."""
    y0_shunt_pu: NDArray[np.complex128]
    """(n_row,) zero-sequence admittance to ground of shunts."""
    source_y2_pu: NDArray[np.complex128]
    """(k,) admittance of the external grid of each `positive.fixed_row` in the negative sequence ..."""
    source_y0_pu: NDArray[np.complex128]
    """(k,) ... and in the zero sequence."""
    z_wye_mva: NDArray[np.complex128]
    """(n_row, 3) constant-impedance load between phase and neutral: what it consumes at nominal voltage."""
    i_wye_mva: NDArray[np.complex128]
    """(n_row, 3) constant-current load between phase and neutral, likewise: S = s |V|."""
    z_delta_mva: NDArray[np.complex128]
    """(n_row, 3) constant-impedance load between phases ab, bc, ca."""
    i_delta_mva: NDArray[np.complex128]
    """(n_row, 3) constant-current load between phases ab, bc, ca."""
    s_typical_mva: NDArray[np.complex128] = dataclasses.field(default_factory=lambda: np.zeros(0, dtype=complex))
    """(n_row, 3) net injection of each phase at which every snapshot starts, or (0,) for none. Any value gives the same
    voltages to within the tolerance, a load the network often has gives them sooner."""

    wires: ClassVar[int] = 3

    @property
    def n_bus(self) -> int:
        return self.positive.n_bus

    @property
    def n_row(self) -> int:
        return self.positive.n_row

    @property
    def n_branch(self) -> int:
        return self.positive.n_branch

    @property
    def source(self) -> str:
        return self.positive.source

    @property
    def branch_y2_pu(self) -> NDArray[np.complex128]:
        """(n_branch, 2, 2) negative-sequence two-ports: a transformer's phase shift is turned round."""
        y = self.positive.branch_y_pu.copy()
        wound = np.isin(self.positive.branch_kind, [BRANCH_KINDS.index("trafo"), BRANCH_KINDS.index("trafo3w")])
        y[wound] = y[wound].transpose(0, 2, 1)
        return y

    @cached_property
    def factors(self) -> SequenceFactors:
        """The three sequences factorised once; kept with the network."""
        from lib.grid.three_phase.factorisation import factorise

        return factorise(self)

    @property
    def isolated_neutral(self) -> NDArray[np.bool_]:
        """(n_bus,) True where nothing ties the zero sequence to ground, not even a line's capacitance.

        There V0 is taken as zero: loads draw no zero-sequence current (their star point floats), and the total power
        of each is as given.
        """
        return self.factors.isolated[: self.n_bus]

    def to_bytes(self) -> bytes:
        """The network as one self-contained byte string; equal networks give equal bytes."""
        out = io.BytesIO()
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        positive = np.frombuffer(self.positive.to_bytes(), dtype=np.uint8)
        np.savez(out, format_version=np.int64(FORMAT_VERSION), positive=positive, **arrays)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> SequenceNetwork:
        """Inverse of `to_bytes`. Raises ValueError for anything that is not such a byte string."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as npz:
                version = int(npz["format_version"])
                arrays = {name: npz[name] for name in _ARRAYS}
                positive = npz["positive"].tobytes()
        except Exception as e:  # zipfile, numpy and zlib raise their own kinds
            raise ValueError(f"not a three-phase network of format {FORMAT_VERSION}: {e}") from e
        if version != FORMAT_VERSION:
            raise ValueError(f"three-phase network format {version}, this gridsink reads {FORMAT_VERSION}: rebuild it")
        return cls(positive=Network.from_bytes(positive), **arrays)

    @classmethod
    def from_pandapower(cls, net: Any) -> SequenceNetwork:
        """The network of a pandapower net with zero-sequence data: see `lib.grid.three_phase.from_pandapower`."""
        from lib.grid.three_phase.from_pandapower import network_from_pandapower

        return network_from_pandapower(net)

    def injections(self, net: Any) -> PhaseInjections:
        """Net constant-power injection by phase of a net's loads and generators: see `PhaseInjections`."""
        from lib.grid.three_phase.injections import injections

        return injections(self.positive, net)


_ARRAYS = tuple(f.name for f in dataclasses.fields(SequenceNetwork) if f.name != "positive")
