"""What the demo lake is made from: a network, its meters, and the profiles they follow, as plain arrays."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.grid.network import Network

# SimBench labels its 35,136 quarter-hours of 2016 by their start in German civil time, 92 and 100 of them on the days
# when clocks change: row k starts 15 k minutes after this.
SIMBENCH_START = datetime(2015, 12, 31, 23, tzinfo=UTC)
INTERVAL_S = 900

# Elements with a power of their own that no SimBench profile drives here.
_UNPROFILED = ("gen", "storage", "motor", "ward", "xward", "asymmetric_load", "asymmetric_sgen", "dcline")


@dataclass(frozen=True, eq=False)
class Source:
    """Shapes: n_meter loads and generators sorted by row, n_profile profiles of n_interval consecutive intervals."""

    network: NDArray[np.uint8]
    """Network.to_bytes()."""
    n_bus: int
    start_s: int
    """s since 1970 UTC: start of the first interval of the profiles; intervals of 900 s."""
    meter_row: NDArray[np.int32]
    """(n_meter,) row of the network, ascending."""
    meter_profile: NDArray[np.int32]
    """(n_meter,) row of the profiles."""
    meter_p_kw: NDArray[np.float32]
    """(n_meter,) active power at profile value 1, generation positive ..."""
    meter_q_kvar: NDArray[np.float32]
    """(n_meter,) ... and reactive power."""
    profile_p: NDArray[np.float32]
    """(n_profile, n_interval) factor of active power ..."""
    profile_q: NDArray[np.float32]
    """(n_profile, n_interval) ... and of reactive power."""

    def save(self, path: Path) -> None:
        """Write one .npz, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        with partial.open("wb") as file:
            np.savez(file, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Source:
        with np.load(path, allow_pickle=False) as npz:
            arrays: dict[str, Any] = {f.name: npz[f.name] for f in dataclasses.fields(cls)}
        return cls(**arrays | {"n_bus": int(arrays["n_bus"]), "start_s": int(arrays["start_s"])})


def from_net(net: Any, profiles: dict[str, Any], start: datetime) -> Source:
    """Source of a pandapower net with SimBench's columns: `profile` in load and sgen names columns of the profiles.

    profiles: "load" has <name>_pload and <name>_qload, "sgen" has <name>, data frames of consecutive quarter-hours from
    `start` on (UTC). Generators keep their reactive power, as in SimBench. Raises ValueError, naming the elements, if
    something with a power has no profile or does not draw constant power.
    """
    _refuse(net)
    network = Network.from_pandapower(net)  # its loads are peaks that never come together: see below
    keys: dict[tuple[str, str], int] = {}
    meters: list[tuple[int, int, float, float]] = []
    for kind, sign in (("load", -1e3), ("sgen", 1e3)):
        for it in net[kind][net[kind].in_service].itertuples():
            if it.bus in network.row_of:
                profile = keys.setdefault((kind, it.profile), len(keys))
                scale = sign * it.scaling
                meters.append((network.row_of[it.bus], profile, scale * it.p_mw, scale * it.q_mvar))
    row, follows, p_kw, q_kvar = (np.array(column) for column in zip(*meters, strict=True))
    order = np.argsort(row, kind="stable")
    names = {"load": ("{}_pload", "{}_qload"), "sgen": ("{}", None)}
    factors = [
        [np.ones(len(profiles[kind])) if form is None else profiles[kind][form.format(name)] for form in names[kind]]
        for kind, name in keys
    ]
    profile_p, profile_q = (np.array(column, dtype=np.float32) for column in zip(*factors, strict=True))
    mean = p_kw * profile_p.mean(axis=1)[follows] + 1j * q_kvar * profile_q.mean(axis=1)[follows]
    typical_mva = np.zeros(network.n_row, dtype=complex)
    np.add.at(typical_mva, row, mean / 1e3)
    network = dataclasses.replace(network, s_typical_mva=typical_mva)
    return Source(
        network=np.frombuffer(network.to_bytes(), dtype=np.uint8),
        n_bus=network.n_bus,
        start_s=int(start.timestamp()),
        meter_row=row[order].astype(np.int32),
        meter_profile=follows[order].astype(np.int32),
        meter_p_kw=p_kw[order].astype(np.float32),
        meter_q_kvar=q_kvar[order].astype(np.float32),
        profile_p=profile_p,
        profile_q=profile_q,
    )


def from_simbench(code: str) -> Source:
    """Source of a SimBench network with its profiles of 2016. Data come with the simbench package."""
    net = simbench_net(code)
    return from_net(net, {"load": net.profiles["load"], "sgen": net.profiles["renewables"]}, SIMBENCH_START)


def simbench_net(code: str) -> Any:
    """SimBench's pandapower net, without the notices that loading it prints."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import simbench

        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            net = simbench.get_simbench_net(code)
        finally:
            logging.disable(before)
    net.name = code
    return net


def _refuse(net: Any) -> None:
    found = [f"{kind} {list(net[kind].index[:5])}" for kind in _UNPROFILED if kind in net and len(net[kind])]
    for kind in ("load", "sgen"):
        table = net[kind]
        without = table.index[table.profile.isna()]
        if len(without):
            found.append(f"{kind} without profile {list(without[:5])}")
    shares = net.load.filter(regex=r"^const_[zi]_").fillna(0).ne(0).any(axis=1)
    if shares.any():
        found.append(f"load that depends on voltage {list(net.load.index[shares][:5])}")
    if found:
        raise ValueError(f"{net.name}: no profile drives {'; '.join(found)}: take them out or give them one")
