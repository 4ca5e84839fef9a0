"""Flows, losses and loading of branches from the voltages of a power flow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lib.grid.network import BRANCH_KINDS, Network

LANES = 32

_WINDINGS = {"trafo": ("hv", "lv"), "line": ("from", "to"), "impedance": ("from", "to"), "switch": ("from", "to")}


@dataclass(frozen=True, eq=False)
class BranchResult:
    """Results of every branch and snapshot: arrays (n_branch, n_snapshot) in the order of `network.branch_*`.

    Powers and currents count into the branch. NaN where a voltage is NaN (snapshot not solved, island without external
    grid). `p_iron_mw` is the magnetising loss of transformers, `p_copper_mw` the rest of `p_loss_mw`, so a line's or
    an impedance's whole loss. `loading_percent` is the larger of the two ends' currents over their rating, NaN where
    neither end has one.
    """

    network: Network
    p_from_mw: NDArray[np.float64]
    q_from_mvar: NDArray[np.float64]
    p_to_mw: NDArray[np.float64]
    q_to_mvar: NDArray[np.float64]
    i_from_ka: NDArray[np.float64]
    i_to_ka: NDArray[np.float64]
    loading_percent: NDArray[np.float64]
    p_loss_mw: NDArray[np.float64]
    p_iron_mw: NDArray[np.float64]
    p_copper_mw: NDArray[np.float64]

    def table(self, kind: str, snapshot: int) -> dict[str, NDArray]:
        """One snapshot of the elements of one kind, with the columns of pandapower's result tables.

        kind: one of `BRANCH_KINDS`. "element" holds the index in the source table, all arrays are as long. A
        three-winding transformer is one element: losses summed over its legs, the highest loading of them.
        """
        chosen = np.flatnonzero(self.network.branch_kind == BRANCH_KINDS.index(kind))
        if kind == "trafo3w":
            return self._three_winding(chosen, snapshot)
        first, second = _WINDINGS[kind]
        columns = {
            f"p_{first}_mw": self.p_from_mw, f"q_{first}_mvar": self.q_from_mvar,
            f"p_{second}_mw": self.p_to_mw, f"q_{second}_mvar": self.q_to_mvar,
            f"i_{first}_ka": self.i_from_ka, f"i_{second}_ka": self.i_to_ka,
            "pl_mw": self.p_loss_mw, "p_iron_mw": self.p_iron_mw, "p_copper_mw": self.p_copper_mw,
            "loading_percent": self.loading_percent,
        }  # fmt: skip
        table = {name: values[chosen, snapshot] for name, values in columns.items()}
        return {"element": self.network.branch_element[chosen], "side": self.network.branch_side[chosen], **table}

    def _three_winding(self, chosen: NDArray[np.intp], snapshot: int) -> dict[str, NDArray]:
        elements, place = np.unique(self.network.branch_element[chosen], return_inverse=True)
        table: dict[str, NDArray] = {"element": elements}
        for name in ("pl_mw", "p_iron_mw", "p_copper_mw"):
            values = getattr(self, name.replace("pl_", "p_loss_"))[chosen, snapshot]
            table[name] = np.bincount(place, weights=values, minlength=len(elements))
        table["loading_percent"] = np.full(len(elements), np.nan)
        np.fmax.at(table["loading_percent"], place, self.loading_percent[chosen, snapshot])
        for side, winding in enumerate(("hv", "mv", "lv")):
            legs = self.network.branch_side[chosen] == side
            for name, at_from, at_to in (
                (f"p_{winding}_mw", self.p_from_mw, self.p_to_mw),
                (f"q_{winding}_mvar", self.q_from_mvar, self.q_to_mvar),
                (f"i_{winding}_ka", self.i_from_ka, self.i_to_ka),
            ):
                table[name] = np.zeros(len(elements))  # a leg that is out of service carries nothing
                table[name][place[legs]] = (at_to if side else at_from)[chosen[legs], snapshot]
        return table


FIELDS = (
    "p_from_mw", "q_from_mvar", "p_to_mw", "q_to_mvar", "i_from_ka", "i_to_ka", "loading_percent", "p_loss_mw",
    "p_iron_mw", "p_copper_mw",
)  # fmt: skip


def branch_results(network: Network, e: NDArray[np.float64], f: NDArray[np.float64], n_snapshot: int) -> BranchResult:
    """Flows, losses and loading of all branches.

    e, f: (n_tile, n_row, 32) real and imaginary voltages per unit, snapshot s in tile s // 32, lane s % 32.

    Numerics: with y_s the series admittance of a short line, y_ff Vf + y_ft Vt is the small difference of two huge
    numbers. So the two-port is split into -y_ft (Vf - Vt) + (y_ff + y_ft) Vf, and the loss is summed from
    -Re(y_ft)|Vf - Vt|^2 and the loss to ground, not from the two powers. The split is an identity for every two-port,
    tap and phase shift included.
    """
    out = np.empty((len(FIELDS), network.n_branch, n_snapshot))
    base_ka = 1 / (np.sqrt(3) * network.vn_kv)  # of 1 MVA
    with np.errstate(divide="ignore"):
        percent_per_ka = 100 / network.branch_rated_ka
    # An end without a rating counts for nothing beside one that has it.
    one_sided = np.isnan(percent_per_ka).sum(axis=1) == 1
    percent_per_ka[one_sided] = np.nan_to_num(percent_per_ka[one_sided], nan=0.0, posinf=np.inf)
    y = network.branch_y_pu
    split = np.stack(
        [y[:, 0, 0] + y[:, 0, 1], y[:, 1, 1] + y[:, 1, 0], y[:, 0, 1], y[:, 1, 0], y[:, 1, 0] - y[:, 0, 1]], axis=1
    )
    _branch_results(
        np.ascontiguousarray(e), np.ascontiguousarray(f), n_snapshot, network.branch_from, network.branch_to,
        split, network.branch_iron_pu, base_ka, percent_per_ka, out,
    )  # fmt: skip
    return BranchResult(network, *out)


@njit(cache=True, error_model="numpy")
def _branch_results(e, f, n_snapshot, branch_from, branch_to, split, iron, base_ka, percent_per_ka, out):
    for tile in range((n_snapshot + LANES - 1) // LANES):
        first = tile * LANES
        lanes = min(LANES, n_snapshot - first)
        for b in range(len(branch_from)):
            i, j = branch_from[b], branch_to[b]
            g_f, b_f = split[b, 0].real, split[b, 0].imag
            g_t, b_t = split[b, 1].real, split[b, 1].imag
            g_ft, b_ft = split[b, 2].real, split[b, 2].imag
            g_tf, b_tf = split[b, 3].real, split[b, 3].imag
            g_skew, b_skew = split[b, 4].real, split[b, 4].imag
            iron_f, iron_t, iron_re, iron_im = iron[b, 0], iron[b, 1], 2 * iron[b, 2], 2 * iron[b, 3]
            base_f, base_t = base_ka[i], base_ka[j]
            percent_f, percent_t = percent_per_ka[b, 0], percent_per_ka[b, 1]
            ef, ff, et, ft = e[tile, i], f[tile, i], e[tile, j], f[tile, j]
            for k in range(lanes):
                de, df = ef[k] - et[k], ff[k] - ft[k]
                re_f = g_f * ef[k] - b_f * ff[k] - (g_ft * de - b_ft * df)
                im_f = g_f * ff[k] + b_f * ef[k] - (g_ft * df + b_ft * de)
                re_t = g_t * et[k] - b_t * ft[k] + (g_tf * de - b_tf * df)
                im_t = g_t * ft[k] + b_t * et[k] + (g_tf * df + b_tf * de)
                square_f, square_t = ef[k] * ef[k] + ff[k] * ff[k], et[k] * et[k] + ft[k] * ft[k]
                # conj(Vf - Vt) Vt, for two-ports that are not reciprocal
                re_x, im_x = de * et[k] + df * ft[k], de * ft[k] - df * et[k]
                loss = g_f * square_f + g_t * square_t - g_ft * (de * de + df * df) + g_skew * re_x + b_skew * im_x
                re_c, im_c = ef[k] * et[k] + ff[k] * ft[k], ff[k] * et[k] - ef[k] * ft[k]
                magnetising = iron_f * square_f + iron_t * square_t + iron_re * re_c - iron_im * im_c
                i_f = np.sqrt(re_f * re_f + im_f * im_f) * base_f
                i_t = np.sqrt(re_t * re_t + im_t * im_t) * base_t
                load_f, load_t = i_f * percent_f, i_t * percent_t
                s = first + k
                out[0, b, s] = ef[k] * re_f + ff[k] * im_f
                out[1, b, s] = ff[k] * re_f - ef[k] * im_f
                out[2, b, s] = et[k] * re_t + ft[k] * im_t
                out[3, b, s] = ft[k] * re_t - et[k] * im_t
                out[4, b, s] = i_f
                out[5, b, s] = i_t
                out[6, b, s] = load_f if load_f > load_t else load_t
                out[7, b, s] = loss
                out[8, b, s] = magnetising
                out[9, b, s] = loss - magnetising
