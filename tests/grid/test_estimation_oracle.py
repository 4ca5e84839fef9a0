"""State estimation against pandapower's: its own tests' networks and measurement sets, SimBench's, and others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandapower as pp
import pandapower.estimation
import pandapower.networks
import pandas as pd
import pytest

from lib.grid import Network
from lib.grid.estimation import estimate
from tests.grid import estimation_networks as nets
from tests.grid.estimation_reference import measured
from tests.grid.measurement_sets import of_pandapower, voltages
from tests.grid.reference import admittance

CASES: dict[str, Any] = {
    "two buses": nets.two_buses,
    "three buses": nets.three_buses,
    "three buses, bad data": lambda: nets.three_buses(wrong=True),
    "textbook": nets.textbook,
    "textbook, two external grids": lambda: nets.textbook(twice=True),
    "three buses and transformer": nets.three_buses_and_transformer,
    "flows at both ends": lambda: nets.three_buses_with_flows(currents=False),
    "currents": lambda: nets.three_buses_with_flows(currents=True),
    "CIGRE": nets.cigre,
    "CIGRE, bad data": lambda: nets.cigre(wrong=True),
    "several transformers": nets.several_transformers,
    "three windings": nets.three_windings,
    "three windings, angles": lambda: nets.three_windings(synchrophasors=True),
    "busbars": nets.busbars,
    "zero injection": nets.zero_injection,
    "open end": nets.open_end,
    "line out of service": nets.line_out_of_service,
    "case9": lambda: nets.metered_everywhere("case9"),
    "case14": lambda: nets.metered_everywhere("case14"),
    "case30": lambda: nets.metered_everywhere("case30"),
    "case14, synchrophasors": lambda: nets.metered_everywhere("case14", synchrophasors=True),
}
ZERO_INJECTION = {"zero injection": [1]}
SLACK_START = {"three buses and transformer", "several transformers", "busbars", "open end", "CIGRE, bad data"}


def compare(net: Any, zero: list[int], *, init: str = "flat") -> None:
    """Objective within 1e-6 relative and voltages within 1e-6 pu of pandapower's estimate."""
    table = net.measurement.reset_index(drop=True)
    network = Network.from_pandapower(net)
    result = estimate(network, table, table.value.to_numpy()[:, None], zero_injection=zero, tolerance=1e-10)
    assert result.converged.all()
    assert result.observability[0].observable.all()

    exact = len(zero) > 0 or len(net.trafo3w) > 0
    algorithm = "wls_with_zero_constraint" if exact else "wls"
    assert pp.estimation.estimate(
        net, algorithm=algorithm, init=init, tolerance=1e-8, zero_injection=zero if len(zero) else "aux_bus",
        maximum_iterations=100,
    )  # fmt: skip
    found = net.res_bus_est.loc[network.member_bus]
    theirs = np.zeros(network.n_row, dtype=complex)
    theirs[network.member_row] = found.vm_pu * np.exp(1j * np.deg2rad(found.va_degree))
    n, y = network.n_bus, admittance(network).toarray()
    theirs[n:] = np.linalg.solve(y[n:, n:], -y[n:, :n] @ theirs[:n])  # hidden rows: nothing is fed in or drawn there
    assert np.abs(voltages(result)[:, 0] - theirs).max() <= 1e-6

    error = table.value - measured(network, table, theirs)
    variance = table.std_dev**2
    # Powers at buses that switches join are one measurement, of their sum.
    row = [network.row_of[e] if w == "bus" else -1 for w, e in zip(table.element_type, table.element, strict=True)]
    power = (table.element_type == "bus") & table.measurement_type.isin(["p", "q"])
    key = pd.Series([(r, k) for r, k in zip(row, table.measurement_type, strict=True)], index=table.index)
    objective = (error[~power] ** 2 / variance[~power]).sum()
    for _, lines in table[power].groupby(key[power]):
        at = lines.index
        model = lines.value.iloc[0] - error[at].iloc[0]
        objective += (lines.value.sum() - model) ** 2 / variance[at].sum()
    assert result.objective[0] == pytest.approx(objective, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_pandapower_on_its_own_networks(case: str) -> None:
    compare(CASES[case](), ZERO_INJECTION.get(case, []), init="slack" if case in SLACK_START else "flat")


@pytest.mark.parametrize("currents", [False, True])
@pytest.mark.parametrize(
    "name",
    ["create_cigre_network_mv", "create_cigre_network_lv", "example_simple", "case9", "case30", "case57",
     "1-LV-rural3--0-sw"],
)  # fmt: skip
def test_agrees_with_pandapower_on_other_networks(name: str, currents: bool) -> None:
    net = nets.simbench_net(name) if name.startswith("1-") else getattr(pp.networks, name)()
    pp.runpp(net, calculate_voltage_angles=True, tolerance_mva=1e-9)
    table, zero = of_pandapower(net, currents=currents)
    net.measurement = net.measurement.iloc[:0]
    for line in table.itertuples():
        pp.create_measurement(
            net, line.measurement_type, line.element_type, line.value, line.std_dev, line.element, line.side
        )
    compare(net, alone(net, zero), init="results")


def alone(net: Any, zero: list[int]) -> list[int]:
    """Those that are joined with no other: of buses that switches join pandapower looks at one."""
    network = Network.from_pandapower(net)
    busy = network.member_row[~np.isin(network.member_bus, zero)]
    return [bus for bus in zero if network.row_of[bus] not in busy]


@pytest.mark.parametrize("code", ["1-HV-mixed--0-sw", "1-MV-rural--0-sw", "1-MV-comm--0-sw"])
def test_agrees_with_pandapower_on_simbench_with_its_own_meters(code: str) -> None:
    net, zero = nets.simbench(code)
    compare(net, alone(net, zero), init="results")


def test_bad_data_goes_as_in_pandapower() -> None:
    net = nets.three_buses(wrong=True)
    table, network = net.measurement, Network.from_pandapower(net)
    result = estimate(network, table, table.value.to_numpy()[:, None], bad_data_alpha=0.01)
    assert pp.estimation.remove_bad_data(net, init="flat", tolerance=1e-9)
    (line,) = result.removed.measurement
    assert table.measurement_type[line] == "v"
    assert table.element[line] == 1
    np.testing.assert_allclose(result.vm_pu[:, 0], net.res_bus_est.vm_pu, atol=1e-6)
    np.testing.assert_allclose(result.va_degree[:, 0], net.res_bus_est.va_degree, atol=1e-4)
