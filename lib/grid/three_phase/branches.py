"""Currents, flows, losses and loading of branches by phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lib.grid.three_phase.fortescue import TO_PHASES, TO_SEQUENCES
from lib.grid.three_phase.network import SequenceNetwork
from lib.grid.three_phase.phase_network import NEUTRAL, PhaseNetwork

if TYPE_CHECKING:
    from lib.grid.three_phase.powerflow import ThreePhasePowerFlow

Array = NDArray[np.complex128]


@dataclass(frozen=True, eq=False)
class PhaseBranchResult:
    """Results of every branch and snapshot in the order of `network.positive.branch_*`.

    Arrays by phase are (n_branch, 3, n_snapshot), the others (n_branch, n_snapshot). Powers (of a phase's voltage to
    earth) and currents count into the branch. NaN where a voltage is NaN. The neutral's current is the neutral wire's,
    or where there are three wires that of the three phases together (3 I0), which returns through neutral and earth.
    `loading_percent` is the largest phase current of either end over its rating, NaN where neither end has one.
    """

    network: SequenceNetwork | PhaseNetwork
    p_from_mw: NDArray[np.float64]
    q_from_mvar: NDArray[np.float64]
    p_to_mw: NDArray[np.float64]
    q_to_mvar: NDArray[np.float64]
    i_from_ka: NDArray[np.float64]
    i_to_ka: NDArray[np.float64]
    i_neutral_from_ka: NDArray[np.float64]
    i_neutral_to_ka: NDArray[np.float64]
    p_loss_mw: NDArray[np.float64]
    loading_percent: NDArray[np.float64]


def branch_results(flow: ThreePhasePowerFlow) -> PhaseBranchResult:
    """Flows, losses and loading of all branches of solved snapshots.

    A two-port's current is split into -y_ft (Vf - Vt) + (y_ff + y_ft) Vf and its loss likewise, so that short lines
    lose no digits.
    """
    network = flow.network
    positive = network.positive
    v = flow.wire_v_pu
    v_f, v_t = v[positive.branch_from], v[positive.branch_to]
    if isinstance(network, PhaseNetwork):
        w, y = network.wires, network.branch_y_pu
        i_f, i_t, loss = _through(y[:, :w, :w], y[:, :w, w:], y[:, w:, :w], y[:, w:, w:], v_f, v_t)
        loss /= 3
    else:
        two_ports = np.stack([network.branch_y0_pu, positive.branch_y_pu, network.branch_y2_pu], axis=-1)
        y = two_ports[..., None] * np.eye(3)
        seen = (TO_SEQUENCES @ v_f, TO_SEQUENCES @ v_t)
        i_f, i_t, loss = _through(y[:, 0, 0], y[:, 0, 1], y[:, 1, 0], y[:, 1, 1], *seen)
        i_f, i_t = TO_PHASES @ i_f, TO_PHASES @ i_t
    s_f, s_t = (end[:, :3] * i[:, :3].conj() / 3 for end, i in ((v_f, i_f), (v_t, i_t)))
    base_f, base_t = (
        1 / (np.sqrt(3) * positive.vn_kv[end])[:, None] for end in (positive.branch_from, positive.branch_to)
    )
    ka_f, ka_t = np.abs(i_f[:, :3]) * base_f[:, None], np.abs(i_t[:, :3]) * base_t[:, None]
    rated_f, rated_t = positive.branch_rated_ka[:, :1], positive.branch_rated_ka[:, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.fmax(ka_f.max(axis=1) / rated_f, ka_t.max(axis=1) / rated_t)
    return PhaseBranchResult(
        network=network, p_from_mw=s_f.real, q_from_mvar=s_f.imag, p_to_mw=s_t.real, q_to_mvar=s_t.imag,
        i_from_ka=ka_f, i_to_ka=ka_t, i_neutral_from_ka=_neutral(i_f) * base_f, i_neutral_to_ka=_neutral(i_t) * base_t,
        p_loss_mw=loss, loading_percent=100 * share,
    )  # fmt: skip


def _through(ff: Array, ft: Array, tf: Array, tt: Array, v_f: Array, v_t: Array) -> tuple[Array, Array, NDArray]:
    """Currents into both ends (n_branch, w, n_snapshot), and Re(V conj(I)) of all wires and ends (n_branch,
    n_snapshot).

    The loss is exact as a sum of small terms: V_f = V_t + drop in every product.
    """
    drop = v_f - v_t
    ground_f, ground_t, across_f, across_t = (ff + ft) @ v_f, (tt + tf) @ v_t, ft @ drop, tf @ drop
    loss = v_f * ground_f.conj() + v_t * ground_t.conj() - drop * across_f.conj() + v_t * (across_t - across_f).conj()
    return ground_f - across_f, ground_t + across_t, loss.real.sum(axis=1)


def _neutral(i: Array) -> NDArray[np.float64]:
    return np.abs(i[:, NEUTRAL] if i.shape[1] == 4 else i.sum(axis=1))
