"""A table of measurements, placed on a network.

The table is pandapower's `net.measurement`, with its signs and units: power at a bus counts consumption, power and
current at a branch count into the branch. See docs/state_estimation.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.grid.network import BRANCH_KINDS, Network

P, Q, V, VA = 0, 1, 2, 3
"""Components of a bus ..."""
I = 2  # noqa: E741 - the field's own letter
"""... and, after P and Q, of a branch end."""

_COMPONENT = {"bus": {"p": P, "q": Q, "v": V, "va": VA}, "branch": {"p": P, "q": Q, "i": I}}
_UNIT = {"p": "mw", "q": "mvar", "v": "pu", "va": "degree", "i": "ka"}
_SIDES = {
    "line": {"from": (0, 0), "to": (0, 1)},
    "trafo": {"hv": (0, 0), "lv": (0, 1)},
    "trafo3w": {"hv": (0, 0), "mv": (1, 1), "lv": (2, 1)},  # (leg, end): the first leg runs to the star point
}
_COLUMNS = ("measurement_type", "element_type", "element", "side", "std_dev")


@dataclass(frozen=True, eq=False)
class Measurements:
    """Measurements of a network, m of them, each of a channel: a quantity at a bus or branch end, k of them.

    Several may measure one channel. Power measured at several source buses that were fused into one adds up: together
    they are one measurement, under the name of the first.
    """

    table: pd.DataFrame
    """The table as given; `position` points into it."""
    position: NDArray[np.int64]
    """(m,) line of the table."""
    channel: NDArray[np.int64]
    """(m,)"""
    std_dev: NDArray[np.float64]
    """(m,) in the table's units."""
    pseudo: NDArray[np.bool_]
    """(m,) counts only where nothing else measures its channel."""
    sums: dict[int, list[NDArray[np.int64]]]
    """Measurements that are sums: the table's lines, bus by bus."""
    end: NDArray[np.int64]
    """(n_end, 2) branch and end (0 from, 1 to) of every branch end measured."""
    at: NDArray[np.int64]
    """(k,) row, or n_row + index into `end`."""
    component: NDArray[np.int64]
    """(k,)"""
    factor: NDArray[np.float64]
    """(k,) from the table's units to per unit on 1 MVA, injections positive, radians."""

    def __len__(self) -> int:
        return len(self.position)

    def name(self, i: int) -> str:
        """Measurement i in words."""
        line = self.table.iloc[self.position[i]]
        side = "" if line["element_type"] == "bus" else f" {line['side']}"
        return f"{line['measurement_type']} at {line['element_type']} {line['element']}{side}"

    def gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(m, n_snapshot) from the table's values (n_measurement, n_snapshot); NaN where a part of a sum is missing."""
        if not self.sums and len(self) == len(values):
            return values
        out = values[self.position]
        for i, buses in self.sums.items():
            out[i] = sum(_mean(values[lines], self._std(lines))[0] for lines in buses)
        return np.asarray(out)

    def _std(self, lines: NDArray[np.int64]) -> NDArray[np.float64]:
        return self.table["std_dev"].to_numpy(dtype=float)[lines]


def _mean(values: NDArray[np.float64], std: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Weighted mean of what is there, and the standard deviation of the mean of all."""
    weight = np.where(np.isnan(values), 0.0, (1 / std**2)[:, None])
    with np.errstate(invalid="ignore"):
        mean = (weight * np.nan_to_num(values)).sum(axis=0) / weight.sum(axis=0)
    return mean, float((1 / std**2).sum() ** -0.5)


def place(network: Network, table: pd.DataFrame) -> Measurements:
    """The measurements of `table` on `network`. Raises ValueError that names every line that cannot be placed."""
    missing = [c for c in _COLUMNS if c not in table]
    if missing:
        raise ValueError(f"measurements lack {', '.join(missing)}: give the columns of pandapower's net.measurement")
    kinds = table["measurement_type"].astype(str).to_numpy()
    elements = table["element_type"].astype(str).to_numpy()
    element = table["element"].to_numpy()
    side = table["side"].to_numpy()
    std = table["std_dev"].to_numpy(dtype=float)
    pseudo = table["pseudo"].to_numpy(dtype=bool) if "pseudo" in table else np.zeros(len(table), dtype=bool)
    named = zip(network.branch_kind, network.branch_element, network.branch_side, strict=True)
    legs = {(BRANCH_KINDS[k], int(e), int(s)): b for b, (k, e, s) in enumerate(named)}
    base_ka = 1 / (np.sqrt(3) * network.vn_kv)

    problems: list[str] = []
    ends: dict[tuple[int, int], int] = {}
    channels: dict[tuple[int, int], list[int]] = {}
    factor: dict[tuple[int, int], float] = {}
    for i in range(len(table)):
        try:
            at, component, scale = _place_one(network, legs, ends, kinds[i], elements[i], element[i], side[i])
            if not (np.isfinite(std[i]) and std[i] > 0):
                raise ValueError(f"std_dev is {std[i]}: give a positive standard deviation in {_UNIT[kinds[i]]}")
        except ValueError as e:
            problems.append(f"{table.index[i]} ({kinds[i]} at {elements[i]} {element[i]}): {e}")
            continue
        if elements[i] != "bus" and kinds[i] == "i":
            branch, end = list(ends)[at - network.n_row]
            scale /= base_ka[(network.branch_from, network.branch_to)[end][branch]]
        channels.setdefault((at, component), []).append(i)
        factor[at, component] = scale
    if problems:
        raise ValueError("measurements cannot be placed on the network:\n" + "\n".join(f"  - {p}" for p in problems))

    position: list[int] = []
    channel: list[int] = []
    deviation: list[float] = []
    is_pseudo: list[bool] = []
    sums: dict[int, list[NDArray[np.int64]]] = {}
    for c, ((at, component), lines) in enumerate(channels.items()):
        for group in (np.array([i for i in lines if pseudo[i] == kind], dtype=np.int64) for kind in (False, True)):
            buses = [group[element[group] == e] for e in dict.fromkeys(element[group])]
            if at < network.n_row and component in (P, Q) and len(buses) > 1:
                sums[len(position)] = buses
                position.append(group[0])
                deviation.append(np.sqrt(sum((1 / std[b] ** 2).sum() ** -1 for b in buses)))
                taken = 1
            else:
                position.extend(group)
                deviation.extend(std[group])
                taken = len(group)
            channel.extend([c] * taken)
            is_pseudo.extend([bool(len(group) and pseudo[group[0]])] * taken)
    keys = list(channels)
    order = np.argsort(np.array(position, dtype=np.int64), kind="stable")
    moved = np.argsort(order)
    return Measurements(
        table=table, position=np.array(position, dtype=np.int64)[order],
        channel=np.array(channel, dtype=np.int64)[order],
        std_dev=np.array(deviation, dtype=float)[order], pseudo=np.array(is_pseudo, dtype=bool)[order],
        sums={int(moved[i]): buses for i, buses in sums.items()},
        end=np.array(list(ends), dtype=np.int64).reshape(-1, 2),
        at=np.array([k[0] for k in keys], dtype=np.int64), component=np.array([k[1] for k in keys], dtype=np.int64),
        factor=np.array([factor[k] for k in keys], dtype=float),
    )  # fmt: skip


def _place_one(
    network: Network, legs: dict[tuple[str, int, int], int], ends: dict[tuple[int, int], int],
    kind: str, element_type: str, element: Any, side: Any,
) -> tuple[int, int, float]:  # fmt: skip
    """(at, component, factor) of one line; a branch end not seen before is added to `ends`."""
    known = _COMPONENT["bus" if element_type == "bus" else "branch"]
    if element_type != "bus" and element_type not in _SIDES:
        raise ValueError(f"element_type {element_type!r} is not measured: bus, {', '.join(_SIDES)} are")
    if kind not in known:
        raise ValueError(f"measurement_type {kind!r} is none of {', '.join(known)}")
    if element_type == "bus":
        if int(element) not in network.row_of:
            raise ValueError("the bus is not in service in this network: leave the line out")
        factor = {"p": -1.0, "q": -1.0, "v": 1.0, "va": np.pi / 180}[kind]
        return network.row_of[int(element)], known[kind], factor
    if side not in _SIDES[element_type]:
        raise ValueError(f"side {side!r} is none of {', '.join(_SIDES[element_type])}")
    leg, end = _SIDES[element_type][side]
    branch = legs.get((element_type, int(element), leg))
    if branch is None:
        raise ValueError("the element is not in service in this network: leave the line out")
    return network.n_row + ends.setdefault((branch, end), len(ends)), known[kind], 1.0
