"""A plain Newton power flow of one snapshot: slow, independent of the solver, exact to rounding."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

from lib.grid.network import BRANCH_KINDS, Network


def admittance(network: Network) -> sp.csr_array:
    """The bus admittance matrix (n_row, n_row)."""
    f, t, y = network.branch_from, network.branch_to, network.branch_y_pu
    i = np.concatenate([f, f, t, t, np.arange(network.n_row)])
    j = np.concatenate([f, t, f, t, np.arange(network.n_row)])
    values = np.concatenate([y[:, 0, 0], y[:, 0, 1], y[:, 1, 0], y[:, 1, 1], network.y_shunt_pu])
    return sp.csr_array((values, (i, j)), shape=(network.n_row, network.n_row))


def energised(network: Network) -> NDArray[np.bool_]:
    """(n_row,) whether a row is connected to an external grid."""
    n = network.n_row
    links = sp.csr_array((np.ones(network.n_branch), (network.branch_from, network.branch_to)), shape=(n, n))
    _, label = sp.csgraph.connected_components(links, directed=False)
    return np.isin(label, label[network.fixed_row])


def solve_reference(
    network: Network, p_mw: NDArray[np.float64], q_mvar: NDArray[np.float64], tolerance: float = 1e-12
) -> NDArray[np.complex128]:
    """Complex voltages (n_row,), NaN without an external grid, for injections (n_bus,).

    Newton in polar coordinates from the external grids' mean voltage and the angles of no load, or of a DC power flow.
    Q limits as in pandapower: what violates one becomes a constant-power bus at it and stays so; then the whole is
    solved again. Raises ArithmeticError where neither start leads anywhere.
    """
    live = np.flatnonzero(energised(network))
    place = np.full(network.n_row, -1)
    place[live] = np.arange(len(live))
    y = admittance(network)[live][:, live].tocsc()
    s = np.zeros(network.n_row, dtype=complex)
    s[: network.n_bus] = np.asarray(p_mw) + 1j * np.asarray(q_mvar)
    s[network.pv_row] += network.pv_p_mw
    s, current = s[live], network.s_constant_current_mva[live]

    fixed = place[network.fixed_row]
    here = place[network.pv_row] >= 0
    pv, setpoint = place[network.pv_row[here]], network.pv_vm_pu[here]
    low, high = network.pv_q_min_mvar[here], network.pv_q_max_mvar[here]

    start = np.abs(network.fixed_v_pu).mean() * np.exp(1j * _no_load_angle(y, fixed, network.fixed_v_pu))
    try:
        return _limited(network, y, s, current, start, fixed, pv, setpoint, low, high, live, tolerance)
    except ArithmeticError:  # long lines' charging and large flows: a DC power flow is nearer
        start = np.abs(start) * np.exp(1j * _dc_angle(network, s.real, live, fixed))
        return _limited(network, y, s, current, start, fixed, pv, setpoint, low, high, live, tolerance)


def _limited(network, y, s, current, v, fixed, pv, setpoint, low, high, live, tolerance):  # type: ignore[no-untyped-def]
    s, v = s.copy(), v.copy()
    v[pv] *= setpoint / np.abs(v[pv])
    v[fixed] = network.fixed_v_pu
    while True:
        v = _newton(y, s, current, v, fixed, pv, tolerance)
        q = (v * (y @ v).conj() - s + current * np.abs(v)).imag[pv]
        limited = np.clip(q, low, high)
        violated = np.abs(q - limited) > 1e-9
        if not violated.any():
            break
        s[pv[violated]] += 1j * limited[violated]
        pv, low, high = pv[~violated], low[~violated], high[~violated]
    result = np.full(network.n_row, np.nan, dtype=complex)
    result[live] = v
    return result


def _no_load_angle(y, fixed, fixed_v):  # type: ignore[no-untyped-def]
    free = np.setdiff1d(np.arange(y.shape[0]), fixed)
    v = np.ones(y.shape[0], dtype=complex)
    v[fixed] = fixed_v
    if len(free):
        v[free] = splu(y[free][:, free]).solve(-y[free][:, fixed] @ fixed_v)
    return np.angle(v)


def _dc_angle(network, p, live, fixed):  # type: ignore[no-untyped-def]
    """Angles of the series impedances alone: at no load, which holds the phase shifts, plus DC power flow."""
    series = np.sqrt(network.branch_y_pu[:, 0, 1] * network.branch_y_pu[:, 1, 0])
    # Of the two roots the inductive one in transformers (which may shift by more than 90 degrees), else -y_ft.
    wound = np.isin(network.branch_kind, [BRANCH_KINDS.index("trafo"), BRANCH_KINDS.index("trafo3w")])
    other = np.where(wound, series.imag > 0, (series * network.branch_y_pu[:, 0, 1].conj()).real > 0)
    series = np.where(other, -series, series)
    y = network.branch_y_pu.copy()
    y[:, 0, 0] = y[:, 1, 1] = series
    bare = dataclasses.replace(network, branch_y_pu=y, y_shunt_pu=np.zeros(network.n_row, dtype=complex))
    y = admittance(bare)[live][:, live].tocsc()
    free = np.setdiff1d(np.arange(len(live)), fixed)
    angle = _no_load_angle(y, fixed, network.fixed_v_pu)
    unit = np.exp(1j * angle)
    flow = -(sp.diags_array(unit.conj()) @ y @ sp.diags_array(unit)).imag.tocsc()
    angle[free] += splu(flow[free][:, free]).solve(p[free])
    return angle


def _newton(y, s, current, v, fixed, pv, tolerance):  # type: ignore[no-untyped-def]
    free = np.setdiff1d(np.arange(len(v)), fixed)
    pq = np.setdiff1d(free, pv)
    if not len(free):
        return v
    best = np.inf
    for _ in range(60):
        vm, i = np.abs(v), y @ v
        mismatch = v * i.conj() - s + current * vm
        unit = v / vm
        ds_dva = 1j * sp.diags_array(v) @ (sp.diags_array(i) - y @ sp.diags_array(v)).conj()
        ds_dvm = sp.diags_array(v) @ (y @ sp.diags_array(unit)).conj() + sp.diags_array(i.conj() * unit + current)
        ds_dva, ds_dvm = ds_dva.tocsc(), ds_dvm.tocsc()
        jacobian = sp.block_array(
            [[ds_dva[free][:, free].real, ds_dvm[free][:, pq].real], [ds_dva[pq][:, free].imag, ds_dvm[pq][:, pq].imag]]
        )
        step = splu(jacobian.tocsc()).solve(-np.concatenate([mismatch[free].real, mismatch[pq].imag]))
        va = np.angle(v)
        va[free] += step[: len(free)]
        vm[pq] += step[len(free) :]
        v = vm * np.exp(1j * va)
        size = np.abs(step).max()
        if size <= tolerance or (size < 1e-9 and size >= best / 2):  # rounding is reached
            return v
        best = min(best, size)
    raise ArithmeticError(f"the reference power flow did not converge: last step {size:.1e}")


def voltages(flow):
    """(n_row, n_snapshot) complex."""
    v = (flow.e + 1j * flow.f).transpose(1, 0, 2)
    return v.reshape(v.shape[0], -1)[:, : flow.n_snapshot]
