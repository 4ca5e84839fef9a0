"""The electrical model of one network: plain arrays, ready to be factorised, cheap to ship.

Everything is per unit on a base of 1 MVA and each bus's own nominal voltage, so that powers in MW and MVAr are
per-unit powers. Rows are the solver's buses: the `n_bus` visible ones in `bus_ids` order, then hidden rows (ends of
open lines, star points of three-winding transformers).
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lib.grid.regulators import Inverters, TapChangers

if TYPE_CHECKING:
    from lib.grid.factorisation import Factorisation

FORMAT_VERSION = 2
"""1 knew no regulators; it is still written, and read, where a network has none."""
_REGULATORS = {"tap_changers": TapChangers, "inverters": Inverters}

BRANCH_KINDS = ("line", "trafo", "trafo3w", "impedance", "switch", "tcsc")


@dataclass(frozen=True, eq=False)
class Network:
    """Arrays of one topology.

    Shapes: n_bus visible buses, n_row >= n_bus solver rows, n_branch two-port branches, k fixed (slack) rows,
    m voltage-controlled rows.
    """

    bus_ids: NDArray[np.int64]
    """(n_bus,) lowest source bus index of each fused set; row i of every injection and result array."""
    member_bus: NDArray[np.int64]
    """(n_member,) every source bus that is in service ..."""
    member_row: NDArray[np.int64]
    """(n_member,) ... and the row it was fused into."""
    vn_kv: NDArray[np.float64]
    """(n_row,) nominal voltage."""
    y_shunt_pu: NDArray[np.complex128]
    """(n_row,) admittance to ground: shunts, wards, constant-impedance shares of loads. They draw |V|^2 conj(y)."""
    s_constant_current_mva: NDArray[np.complex128]
    """(n_row,) power consumed at 1 pu by constant-current shares: S = s |V| (fixed power factor)."""
    fixed_row: NDArray[np.int64]
    """(k,) rows whose voltage is given: external grids."""
    fixed_v_pu: NDArray[np.complex128]
    """(k,) their voltages."""
    pv_row: NDArray[np.int64]
    """(m,) rows of voltage-controlled generators ..."""
    pv_p_mw: NDArray[np.float64]
    """(m,) ... their active power (generation positive; comes on top of the row's p_mw) ..."""
    pv_vm_pu: NDArray[np.float64]
    """(m,) ... set-point ..."""
    pv_q_min_mvar: NDArray[np.float64]
    """(m,) ... and limits of reactive power, -inf/inf where none; on top of the row's q_mvar."""
    pv_q_max_mvar: NDArray[np.float64]
    branch_kind: NDArray[np.uint8]
    """(n_branch,) index into BRANCH_KINDS."""
    branch_element: NDArray[np.int64]
    """(n_branch,) the element's index in its source table."""
    branch_side: NDArray[np.uint8]
    """(n_branch,) 0, or winding 0/1/2 (hv/mv/lv) of a three-winding transformer's leg."""
    branch_from: NDArray[np.int64]
    """(n_branch,) row."""
    branch_to: NDArray[np.int64]
    """(n_branch,) row."""
    branch_y_pu: NDArray[np.complex128]
    """(n_branch, 2, 2) two-port admittance: I = y V, I into the branch at from (0) and to (1)."""
    branch_iron_pu: NDArray[np.float64]
    """(n_branch, 4) iron loss as a Hermitian form: a|Vf|^2 + b|Vt|^2 + 2(c Re(Vf V*t) - d Im(Vf V*t)), in MW."""
    branch_rated_ka: NDArray[np.float64]
    """(n_branch, 2) rated current at from and to, NaN where that end has none."""
    s_typical_mva: NDArray[np.complex128] = dataclasses.field(default_factory=lambda: np.zeros(0, dtype=complex))
    """(n_row,) net injection about which the solver linearises, or (0,) for none. Any value gives the same voltages, a
    load the network often has gives them sooner."""
    source: str = ""
    """What the network was made from, for messages."""
    tap_changers: TapChangers = dataclasses.field(default_factory=TapChangers)
    """Transformers whose taps the power flow moves."""
    inverters: Inverters = dataclasses.field(default_factory=Inverters)
    """Infeed that follows the voltage."""

    @property
    def n_bus(self) -> int:
        return len(self.bus_ids)

    @property
    def n_row(self) -> int:
        return len(self.vn_kv)

    @property
    def n_branch(self) -> int:
        return len(self.branch_kind)

    @cached_property
    def row_of(self) -> Mapping[int, int]:
        """Row of any in-service source bus; `bus in network.row_of` answers whether it is solved at all."""
        return dict(zip(self.member_bus.tolist(), self.member_row.tolist(), strict=True))

    @cached_property
    def factorisation(self) -> Factorisation:
        """The admittance matrix factorised once; kept with the network."""
        from lib.grid.factorisation import factorise

        return factorise(self)

    def to_bytes(self) -> bytes:
        """The network as one self-contained byte string; equal networks give equal bytes."""
        out = io.BytesIO()
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _plain_fields(self)}
        regulators = {
            f"{kind}.{f.name}": getattr(getattr(self, kind), f.name)
            for kind, columns in _REGULATORS.items()
            if len(getattr(self, kind))
            for f in dataclasses.fields(columns)
        }
        version = np.int64(FORMAT_VERSION if regulators else 1)
        np.savez(out, format_version=version, source=np.array(self.source), **arrays, **regulators)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Network:
        """Inverse of `to_bytes`. Raises ValueError for anything that is not such a byte string."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as npz:
                version = int(npz["format_version"])
                fields = {name: npz[name] for name in _plain_fields(cls)}
                source = str(npz["source"])
                regulators = {
                    kind: columns(**{f.name: npz[f"{kind}.{f.name}"] for f in dataclasses.fields(columns)})
                    for kind, columns in _REGULATORS.items()
                    if any(name.startswith(f"{kind}.") for name in npz.files)
                }
        except Exception as e:  # zipfile, numpy and zlib raise their own kinds
            raise ValueError(f"not a network of format {FORMAT_VERSION}: {e}") from e
        if version not in (1, FORMAT_VERSION):
            raise ValueError(
                f"network format {version}, this gridsink reads {FORMAT_VERSION}: rebuild the network table"
            )
        return cls(**fields, source=source, **regulators)

    @classmethod
    def from_pandapower(cls, net: Any, trafo_model: str = "t") -> Network:
        """The network of a pandapower net: see `lib.grid.from_pandapower.network_from_pandapower`."""
        from lib.grid.from_pandapower import network_from_pandapower

        return network_from_pandapower(net, trafo_model=trafo_model)

    def injections(self, net: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Net constant-power injection (p_mw, q_mvar) of a net's loads and static generators, each (n_bus,)."""
        from lib.grid.from_pandapower import injections

        return injections(self, net)


def _plain_fields(network: Network | type[Network]) -> list[str]:
    return [f.name for f in dataclasses.fields(network) if f.name not in ("source", *_REGULATORS)]
