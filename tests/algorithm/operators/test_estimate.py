"""The operator of state estimation on arrays and Arrow alone, against the power flow that its meters read."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import permutations
from typing import Any

import numpy as np
import pandapower as pp
import pandapower.networks as networks
import pandas as pd
import pyarrow as pa
import pytest

from lib.algorithm.operator import Day
from lib.algorithm.operators import _telemetry, _tile
from lib.algorithm.operators.estimate import Estimate, State
from lib.grid import Network
from lib.grid.estimation import estimate
from lib.grid.powerflow import solve
from lib.tables import ARROW
from lib.tables.tiles import encode, slot_status
from tests.grid.estimation_reference import measured
from tests.grid.measurement_sets import voltages
from tests.grid.random_networks import random_injections, random_network

N, SLOTS = 20, 96
DAY = Day("here", date(2016, 1, 1), 86_400)
BEGIN = datetime(2016, 1, 1, tzinfo=UTC)
QUIET = [3, 11]
"""Buses without load or generator."""
SQRT3 = math.sqrt(3)


def network_of(seed: int = 4, loops: int = 2) -> Network:
    """One whose model names a load at every bus but the quiet ones."""
    network = random_network(seed, N, loops)
    typical = network.s_typical_mva.copy()
    typical[QUIET] = 0
    return replace(network, s_typical_mva=typical)


NETWORK = network_of()
FIXED = int(NETWORK.fixed_row[0])


class Truth:
    """A day of the network by power flow, and what its meters read of it, within their classes."""

    def __init__(self, operator: Estimate, network: Network = NETWORK, seed: int = 1) -> None:
        p, q = random_injections(seed, N, SLOTS)
        p[[*QUIET, FIXED]] = q[[*QUIET, FIXED]] = 0
        flow = solve(network, p, q, tolerance=1e-12)
        assert flow.converged.all()
        self.network, self.v, self.vm = network, voltages(flow), flow.vm_pu
        rng = np.random.default_rng(seed)
        tiles = np.arange(SLOTS) // 32
        size_p, size_q = (
            np.stack([np.abs(x[:, tiles == k]).mean(axis=1) for k in range(3)], axis=1)[:, tiles] for x in (p, q)
        )
        floor = operator.power_floor_kw / 1e3
        self.p_std = np.maximum(operator.power_class_percent / 100 * size_p, floor) / SQRT3
        self.q_std = np.maximum(operator.reactive_class_percent / 100 * size_q, floor) / SQRT3
        self.v_std = operator.voltage_class_percent / 100 / SQRT3
        busy = (p != 0).any(axis=1)[:, None]
        self.p_mw = p + busy * self.p_std * rng.standard_normal(p.shape)
        self.q_mvar = q + busy * self.q_std * rng.standard_normal(p.shape)
        self.vm_pu = self.vm + self.v_std * rng.standard_normal(p.shape)

    def rows(self, u_v: bool = True, **changes: Any) -> pa.Table:
        rows = []
        for first in range(0, SLOTS, 32):
            part = slice(first, first + 32)
            rows.append({
                "network_id": "n", "network_version": 1, "first_slot": first, "slot_count": 32, "interval_s": 900,
                "first_ts": BEGIN + timedelta(seconds=900 * (first + 1)), "n_bus": N, "slot_status": slot_status(32),
                "p_kw": encode(self.p_mw[:, part] * 1e3), "q_kvar": encode(self.q_mvar[:, part] * 1e3),
                "u_v": encode(self.vm_pu[:, part] * 400 / SQRT3) if u_v else None,
            } | changes)  # fmt: skip
        schema = ARROW["snapshot_tile"]
        return pa.Table.from_pylist(rows, schema=schema).select([*dict.fromkeys(Estimate.columns)])


def point(
    name: str, kind: str, element_type: str, element: int, side: str | None, values: Any, **changes: Any
) -> dict[str, Any]:  # fmt: skip
    """A row of telemetry_day with a value at the end of each slot."""
    ts = [BEGIN + timedelta(seconds=900 * (k + 1)) for k in range(len(values))]
    unit = {"v": "pu", "p": "MW", "q": "Mvar", "i": "kA"}[kind]
    return {
        "point_id": name, "network_id": "n", "element_type": element_type, "element": element, "side": side,
        "measurement_type": kind, "unit": unit, "ts": ts, "value": list(values), "std_dev": [1e-4] * len(ts),
        "valid": [True] * len(ts),
    } | changes  # fmt: skip


def beside(*points: dict[str, Any]) -> Day:
    """The day with these points beside its tiles."""
    return replace(DAY, beside=pa.Table.from_pylist(list(points), schema=ARROW["telemetry_day"]))


def run(operator: Estimate, state: State, rows: pa.Table, day: Day = DAY) -> tuple[dict[str, list[Any]], Any, Any]:
    partial, rejected = operator.map(rows, state, day)
    outputs, figures = operator.finish(partial, state, day)
    return {name: outputs[name].to_pylist() if name in outputs else [] for name in operator.outputs}, figures, rejected


@pytest.fixture(scope="module")
def operator() -> Estimate:
    return Estimate()


@pytest.fixture(scope="module")
def state(operator: Estimate) -> State:
    return operator.prepare({"content": NETWORK.to_bytes()})


@pytest.fixture(scope="module")
def truth(operator: Estimate) -> Truth:
    return Truth(operator)


def test_a_clean_day_is_estimated_better_than_it_is_measured(
    operator: Estimate, state: State, truth: Truth
) -> None:  # fmt: skip
    found, figures, rejected = run(operator, state, truth.rows())
    assert not rejected
    assert (figures["estimated"], figures["partly"], figures["missing"], figures["diverged"]) == (96, 0, 0, 0)
    assert figures["removed"] <= 2  # alpha is 0.005 a snapshot
    assert figures["suspect"] <= 3
    # redundant: 20 voltages, 17 pairs of powers and 2 zero injections against 39 unknowns
    assert figures["degrees_of_freedom"] == 96 * (20 + 2 * 17 + 2 * 2 - 39) - figures["removed"]
    assert 0.8 < figures["objective"] / figures["degrees_of_freedom"] < 1.2
    mean = np.array([row["vm_mean_pu"] for row in found["state_day"]])
    low = np.array([row["vm_min_pu"] for row in found["state_day"]])
    # every slot's estimate has at most its meter's sigma, the day's mean a tenth of it, its minimum four of the former
    assert np.abs(mean - truth.vm.mean(axis=1)).max() < 4 * truth.v_std / math.sqrt(96)
    assert np.abs(low - truth.vm.min(axis=1)).max() < 4 * truth.v_std / 2
    assert [row["slots_zero_injection"] for row in found["state_day"]] == [96 * (b in QUIET) for b in range(N)]
    assert {row["slots_voltage_measured"] for row in found["state_day"]} == {96}
    assert [row["slots_power_measured"] for row in found["state_day"]] == [
        0 if b in (*QUIET, FIXED) else 96 for b in range(N)
    ]


def test_it_is_the_weighted_least_squares_of_the_meters_classes(
    operator: Estimate, state: State, truth: Truth
) -> None:  # fmt: skip
    """The second tile: the same measurements with the same sigmas, put together by hand."""
    busy = [b for b in range(N) if b not in (*QUIET, FIXED)]
    lines = [("v", "bus", b, None, truth.v_std) for b in range(N)]
    lines += [("p", "bus", b, None, _std(truth.p_mw, b, 0.01)) for b in busy]
    lines += [("q", "bus", b, None, _std(truth.q_mvar, b, 0.02)) for b in busy]
    table = pd.DataFrame(lines, columns=["measurement_type", "element_type", "element", "side", "std_dev"])
    z = np.concatenate([truth.vm_pu, -truth.p_mw[busy], -truth.q_mvar[busy]])[:, 32:64]
    wanted = estimate(NETWORK, table, z, zero_injection=QUIET, bad_data_alpha=operator.bad_data_alpha)
    for rows in (truth.rows().slice(1, 1), truth.rows()):  # whatever tile came before
        partial, _ = operator.map(rows, state, DAY)
        np.testing.assert_allclose(partial.vm_sum_pu[1], wanted.vm_pu.sum(axis=1), atol=32 * 2e-7)  # float32 tiles
        assert partial.objective[1] == pytest.approx(wanted.objective.sum(), rel=1e-3)


def _std(power: np.ndarray, bus: int, share: float) -> float:
    return max(share * np.abs(power[bus, 32:64].astype(np.float32)).mean(), 5e-5) / SQRT3


def test_a_gross_error_is_listed_with_its_time_and_what_it_should_have_been(
    operator: Estimate, state: State, truth: Truth
) -> None:  # fmt: skip
    clean, before, _ = run(operator, state, truth.rows())
    wrong = Truth(operator)
    wrong.vm_pu[7, 40] += 15 * truth.v_std
    wrong.p_mw[9, 70] += 0.5
    found, figures, _ = run(operator, state, wrong.rows())
    known = {(row["slot"], row["measurement_type"], row["element"]) for row in clean["bad_measurement"]}
    new = [r for r in found["bad_measurement"] if (r["slot"], r["measurement_type"], r["element"]) not in known]
    voltage, power = new
    same = {"element_type": "bus", "side": None, "source": "meter", "point_id": None}
    assert voltage.items() >= (same | {"slot": 40, "measurement_type": "v", "element": 7, "unit": "pu"}).items()
    assert voltage["ts"] == BEGIN + timedelta(minutes=15 * 41)
    assert voltage["value"] == pytest.approx(wrong.vm_pu[7, 40], abs=1e-6)
    assert voltage["estimated"] == pytest.approx(truth.vm[7, 40], abs=3 * truth.v_std)
    assert 0 < voltage["residual"] <= 15 * truth.v_std * 1.3
    assert voltage["normalised_residual"] > 8
    assert voltage["std_dev"] == pytest.approx(truth.v_std)
    assert power.items() >= (same | {"slot": 70, "measurement_type": "p", "element": 9, "unit": "MW"}).items()
    assert power["value"] == pytest.approx(-wrong.p_mw[9, 70], abs=1e-6)
    # with the meter gone its power follows from voltages alone: a fifth of the error is left at most
    assert power["estimated"] == pytest.approx(-truth.p_mw[9, 70], abs=0.1)
    assert figures["removed"] == before["removed"] + 2
    assert (figures["estimated"], figures["suspect"]) == (96, before["suspect"])


def test_partials_merge_to_the_same_bits_in_any_order(operator: Estimate, state: State) -> None:
    wrong = Truth(operator)
    wrong.vm_pu[7, ::20] += 0.05
    wrong.vm_pu[:, 33] = np.nan
    wrong.p_mw[5, 35] = np.nan
    rows, day = wrong.rows(), beside(point("a", "v", "bus", 2, None, wrong.vm[2]))
    whole, rejected = operator.map(rows, state, day)
    assert not rejected
    expected, figures = operator.finish(whole, state, DAY)
    assert len(expected["bad_measurement"]) >= 5
    for a, b, c in permutations([rows.slice(i, 1) for i in range(3)]):
        x, y, z = (operator.map(part, state, day)[0] for part in (a, b, c))
        for merged in (operator.merge(operator.merge(x, y), z), operator.merge(x, operator.merge(y, z))):
            actual, again = operator.finish(merged, state, DAY)
            assert again == figures
            assert all(actual[name].equals(expected[name]) for name in expected)


def test_rows_have_the_tables_columns_and_types(operator: Estimate, state: State) -> None:
    wrong = Truth(operator)
    wrong.vm_pu[:, 50] = np.nan
    wrong.vm_pu[7, 40] += 0.05
    wrong.p_mw[5, 50] = np.nan
    wrong.q_mvar[5, 50] = np.nan
    outputs, figures = operator.finish(operator.map(wrong.rows(), state, DAY)[0], state, DAY)
    assert set(outputs) == set(operator.outputs)
    for name, batch in outputs.items():
        expected = {f.name: f.type for f in ARROW[name]}
        left = set(expected) - {"region", "date", "network_id", "network_version"}
        assert {f.name: f.type for f in batch.schema} == {n: t for n, t in expected.items() if n in left}, name
    assert set(figures) == set(operator.figures)


def test_without_any_voltage_measured_the_models_set_point_makes_it_a_power_flow(
    operator: Estimate, state: State, truth: Truth
) -> None:  # fmt: skip
    found, figures, _ = run(operator, state, truth.rows(u_v=False))
    flow = solve(NETWORK, truth.p_mw.astype(np.float32), truth.q_mvar.astype(np.float32))
    assert (figures["estimated"], figures["partly"], figures["tested"]) == (96, 0, 0)
    for name, wanted in (("vm_min_pu", flow.vm_pu.min(axis=1)), ("vm_mean_pu", flow.vm_pu.mean(axis=1))):
        np.testing.assert_allclose([row[name] for row in found["state_day"]], wanted, atol=1e-6)
    row = found["network_estimate"][0]
    assert (row["objective_mean"], row["suspect_share"], row["islands"]) == (None, None, 0)


def test_telemetry_of_a_flow_makes_a_bus_observable(operator: Estimate) -> None:
    """On a tree, a bus at the end whose meter is silent, and so is the one above it but for its voltage: what flows
    between them nothing tells, until a point of telemetry does."""
    network = network_of(7, 0)
    truth, state = Truth(operator, network), operator.prepare({"content": network.to_bytes()})
    still = (*QUIET, int(network.fixed_row[0]))
    branch, above, end = next(
        (k, f, t) for k, (f, t) in enumerate(zip(network.branch_from, network.branch_to, strict=True))
        if t not in network.branch_from and t not in still and f not in still
    )  # fmt: skip
    truth.p_mw[[above, end]] = truth.q_mvar[[above, end]] = truth.vm_pu[end] = np.nan

    def flow(name: str, branch: int, side: str) -> list[dict[str, Any]]:
        what = {"element_type": "line", "element": branch, "side": side}
        table = pd.DataFrame([{"measurement_type": kind} | what for kind in "pq"])
        values = np.stack([measured(network, table, truth.v[:, s]) for s in range(SLOTS)], axis=1)
        return [point(f"{name}{k}", k, **what, values=values[i]) for i, k in enumerate("pq")]

    heads = np.flatnonzero(network.branch_from == network.fixed_row[0])
    feeders = [it for k in heads for it in flow(f"head {k}", int(k), "from")]
    found, figures, _ = run(operator, state, truth.rows(), beside(*feeders))
    assert (figures["estimated"], figures["partly"], figures["islands"]) == (96, 96, 1)
    (island,) = found["unobservable_island"]
    assert (island["bus"], island["bus_ids"], island["slots"], island["first_slot"]) == (end, [end], 96, 0)
    assert set(island["remedies"].split("; ")) == {f"p at bus {end}", f"q at bus {end}"}
    row = found["state_day"][end]
    assert (row["vm_mean_pu"], row["vm_min_ts"], row["slots_valid"]) == (None, None, 0)
    assert all(row["slots_valid"] == 96 for row in found["state_day"] if row["bus"] != end)

    found, figures, rejected = run(operator, state, truth.rows(), beside(*feeders, *flow("end", branch, "from")))
    assert not rejected
    assert (figures["partly"], figures["islands"], found["unobservable_island"]) == (0, 0, [])
    assert found["state_day"][end]["vm_mean_pu"] == pytest.approx(truth.vm[end].mean(), abs=4 * truth.v_std / 9)


def test_slots_marked_missing_rest_on_pseudo_measurements(operator: Estimate, state: State, truth: Truth) -> None:
    """Their powers in the tile are of part of the meters: what counts is each bus's mean, loosely."""
    part = Truth(operator)
    part.p_mw[:, 32:40] = part.q_mvar[:, 32:40] = 0
    rows = part.rows().to_pylist()
    rows[1]["slot_status"] = slot_status(32, range(8))
    rows = pa.Table.from_pylist(rows, schema=part.rows().schema)
    found, figures, _ = run(operator, state, rows)
    assert (figures["estimated"], figures["pseudo"], figures["missing"]) == (96, 8, 0)
    mean = np.array([row["vm_mean_pu"] for row in found["state_day"]])
    assert np.abs(mean - truth.vm.mean(axis=1)).max() < 4 * truth.v_std / math.sqrt(96) * 1.5
    busy = found["state_day"][5]
    assert (busy["slots_power_measured"], busy["slots_pseudo"], busy["slots_voltage_measured"]) == (88, 8, 96)
    # a tile without any slot to take powers from, and no voltages: nothing is known
    nothing = truth.rows(u_v=False, slot_status=slot_status(32, range(32)))
    found, figures, _ = run(operator, state, nothing)
    assert (figures["estimated"], figures["missing"], figures["vm_min_pu"]) == (0, 96, None)
    assert found["state_day"][5]["vm_min_pu"] is None


def test_a_meter_without_supply_does_not_measure_the_network(operator: Estimate, state: State, truth: Truth) -> None:
    dark = Truth(operator)
    dark.vm_pu[7, 10:20] = 0
    found, figures, _ = run(operator, state, dark.rows())
    _, before, _ = run(operator, state, truth.rows())
    assert figures["removed"] == before["removed"]
    assert found["state_day"][7]["slots_voltage_measured"] == 86


def test_values_of_a_point_fall_into_the_slot_that_they_end_or_lie_in(operator: Estimate, state: State) -> None:
    at = [1, 899, 900, 901, 1800, 86_400, -5, 86_401]  # s from the day's begin
    ts = [BEGIN + timedelta(seconds=s) for s in at]
    values, valid = [1.0, 2.0, 6.0, 1.5, 9.0, 4.0, 7.0, 7.0], [True, True, True, True, False, True, True, True]
    row = point("a", "v", "bus", 2, None, []) | {"ts": ts, "value": values, "valid": valid, "std_dev": None}
    points, rejected = _telemetry.read(beside(row).beside, NETWORK)
    assert not rejected
    rows = Truth(operator).rows()
    tiles, _ = _tile.read(rows, ("p_kw", "q_kvar"), DAY)
    found = np.concatenate([points.in_tile(tile) for tile in tiles], axis=1)[0]
    expected = np.full(96, np.nan)
    expected[[0, 1, 95]] = 3.0, 1.5, 4.0
    np.testing.assert_array_equal(found, expected)


def test_units_and_sigmas_of_telemetry(operator: Estimate, state: State, truth: Truth) -> None:
    """A kilovolt point and a per-unit one say the same; a point without sigma has that of its class."""
    rows = truth.rows(u_v=False)
    found = []
    for unit, base, std in (("pu", 1.0, 0.005 / SQRT3), ("kV", 0.4, 0.002 / SQRT3), ("kV", 0.4, None)):
        std_dev = None if std is None else [None, std] * 48
        day = beside(point("a", "v", "bus", 2, None, truth.vm_pu[2] * base, unit=unit, std_dev=std_dev))
        found.append(run(operator, state, rows, day)[0]["state_day"])
    for other in found[1:]:
        for name in ("vm_min_pu", "vm_mean_pu", "vm_max_pu"):
            np.testing.assert_allclose([r[name] for r in other], [r[name] for r in found[0]], atol=1e-9)
    # the only voltage that is measured decides: the set-point does not count beside it
    flow = solve(NETWORK, truth.p_mw.astype(np.float32), truth.q_mvar.astype(np.float32))
    assert abs(found[0][2]["vm_mean_pu"] - truth.vm_pu[2].mean()) < abs(flow.vm_pu[2].mean() - truth.vm_pu[2].mean())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"element": 99}, "bus 99 is not in service"), ({"measurement_type": "x"}, "measurement_type x"),
        ({"unit": "V"}, "v is in V"), ({"measurement_type": "i", "unit": "kA"}, "not at a bus"),
        ({"element_type": "line", "side": "from"}, "a voltage is measured at a bus"),
        ({"element_type": "line", "measurement_type": "p", "unit": "MW", "side": "hv"}, "side hv of a line"),
        ({"element_type": "line", "measurement_type": "p", "unit": "MW", "side": "to", "element": 77}, "line 77"),
        ({"element_type": "ward", "measurement_type": "p", "unit": "MW"}, "element_type ward"),
        ({"value": [1.0]}, "its arrays differ"),
    ],
)  # fmt: skip
def test_points_that_measure_nothing_here_are_told(
    operator: Estimate, state: State, truth: Truth, changes: Any, reason: str
) -> None:  # fmt: skip
    good = point("b", "v", "bus", 2, None, truth.vm_pu[2])
    day = beside(point("a", "v", "bus", 2, None, truth.vm_pu[2]) | changes, good)
    partial, (rejected,) = operator.map(truth.rows(), state, day)
    _, figures = operator.finish(partial, state, day)
    assert (figures["points"], figures["points_unplaced"]) == (1, 1)
    assert (rejected.table, rejected.key, rejected.rows) == ("telemetry_day", {"point_id": "a"}, 0)
    assert reason in rejected.reason


def test_a_measured_bus_is_no_zero_injection(operator: Estimate, truth: Truth) -> None:
    """Where the model names no loads, power in the tile tells; so does a point of telemetry."""
    bare = replace(NETWORK, s_typical_mva=np.zeros(0, dtype=complex))
    state = operator.prepare({"content": bare.to_bytes()})
    found, _, _ = run(operator, state, truth.rows())
    assert [row["bus"] for row in found["state_day"] if row["slots_zero_injection"]] == QUIET
    day = beside(*(point(k, k, "bus", QUIET[0], None, np.zeros(SLOTS)) for k in "pq"))
    found, _, rejected = run(operator, state, truth.rows(), day)
    assert not rejected
    assert [row["bus"] for row in found["state_day"] if row["slots_zero_injection"]] == QUIET[1:]
    assert found["state_day"][QUIET[0]]["slots_power_measured"] == 96


def test_voltage_controlled_generators_hold_their_set_points(operator: Estimate) -> None:
    """case9: three machines, loads at three buses, the rest without anything; pandapower's power flow is the truth."""
    net = networks.case9()
    pp.runpp(net, tolerance_mva=1e-10, trafo_model="t")
    network = Network.from_pandapower(net)
    p, q = (np.repeat(x[:, None], 32, axis=1) for x in network.injections(net))
    row = Truth(operator).rows(u_v=False).to_pylist()[0] | {
        "n_bus": network.n_bus, "p_kw": encode(p * 1e3), "q_kvar": encode(q * 1e3),
    }  # fmt: skip
    rows = pa.Table.from_pylist([row], schema=Truth(operator).rows().schema)
    found, figures, _ = run(operator, operator.prepare({"content": network.to_bytes()}), rows)
    assert (figures["estimated"], figures["partly"]) == (32, 0)
    expected = net.res_bus.vm_pu.loc[network.bus_ids]
    np.testing.assert_allclose([row["vm_mean_pu"] for row in found["state_day"]], expected, atol=1e-6)
    busy = {*net.load.bus, *net.gen.bus, *net.ext_grid.bus}
    assert {r["bus"] for r in found["state_day"] if r["slots_zero_injection"]} == {*net.bus.index} - busy
