from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandapower
import pytest

from jobs.powerflow import solve
from lib.errors import GridsinkError
from lib.grid import Network
from lib.ingest import demo
from lib.ingest.networks import read_model
from lib.job import JobContext
from lib.tables import Lake
from lib.tables.tiles import decode, decode_status
from tests.ingest.cgmes import LINE, VM_PU, cgmes_zip
from tests.ingest.landings import REGION, customers, put, run_load, settings_of, table
from tests.lakes import tiny_region

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY = date(2016, 1, 5)
SENT = "20160106T021500Z"


def small_net() -> Any:
    """20 kV infeed, a transformer to bus 1, a line on to bus 2."""
    net = pandapower.create_empty_network()
    top, low, end = (pandapower.create_bus(net, vn_kv) for vn_kv in (20, 0.4, 0.4))
    pandapower.create_ext_grid(net, top)
    pandapower.create_transformer(net, top, low, "0.25 MVA 20/0.4 kV")
    pandapower.create_line(net, low, end, 0.2, "NAYY 4x150 SE")
    return net


def test_a_pandapower_file_gives_the_network_of_its_net(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    pandapower.to_json(small_net(), str(path))
    assert read_model(str(path), "pandapower").to_bytes() == Network.from_pandapower(small_net()).to_bytes()


def test_a_cgmes_zip_gives_the_network_that_it_describes(tmp_path: Path) -> None:
    path = tmp_path / "net.zip"
    path.write_bytes(cgmes_zip())
    network = read_model(str(path), "cim")
    assert (network.n_bus, network.n_branch) == (2, 1)
    assert abs(network.fixed_v_pu[0]) == pytest.approx(VM_PU)
    series, shunt = 20**2 / (LINE["r"] + 1j * LINE["x"]), 20**2 * 1j * LINE["bch"] / 2
    np.testing.assert_allclose(network.branch_y_pu[0], [[series + shunt, -series], [-series, series + shunt]])


@pytest.mark.parametrize(
    ("content", "format", "says"),
    [
        (None, "pandapower", "no such file"),
        (b"", "pandapower", "."),
        (b"[1, 2]", "pandapower", "no pandapower net"),
        (b"no zip", "cim", "."),
        (cgmes_zip()[:-500], "cim", "."),
    ],
)
def test_a_damaged_model_is_refused_with_a_reason(
    tmp_path: Path, content: bytes | None, format: str, says: str
) -> None:
    path = tmp_path / "net"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read_model(str(path), format)


def curves(meter: str, register: str, value: float, **more: Any) -> dict[str, Any]:
    return {"meter_id": meter, "date": str(DAY), "register": register, "values": [value] * 96} | more


@pytest.fixture(scope="module")
def loaded(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    root = tmp_path_factory.mktemp("networks")
    models = root / "landing" / REGION / "assets" / "networks"
    models.mkdir(parents=True)
    pandapower.to_json(small_net(), str(models / "net.json"))
    (models / "cut.json").write_bytes((models / "net.json").read_bytes()[:-100])
    (models / "line.zip").write_bytes(cgmes_zip())

    def model(network: str, since: str, format: str, file: str) -> dict[str, str]:
        return {"network_id": network, "valid_from": since, "format": format, "file": file}

    put(root, "assets", f"networks-{SENT}.csv", [
        model("n1", "2016-01-06", "pandapower", "cut.json"),
        model("n1", "2015-01-01", "pandapower", "net.json"),
        model("n2", "2015-01-01", "cim", "line.zip"),
        model("n3", "2015-01-01", "pandapower", "absent.json"),
        model("n4", "2015-01-01", "visio", "net.json"),
        model("n5", "2015-01-01", "pandapower", "../net.json"),
    ])  # fmt: skip
    put(root, "assets", f"connections-{SENT}.csv", [
        {"meter_id": "m1", "network_id": "n1", "bus": 2, "valid_from": "2015-01-01", "valid_to": ""},
        {"meter_id": "m1", "network_id": "n1", "bus": 1, "valid_from": "2016-02-01", "valid_to": ""},
        {"meter_id": "m3", "network_id": "n1", "bus": 99, "valid_from": "2015-01-01", "valid_to": ""},
        {"meter_id": "m4", "network_id": "n1", "bus": "two", "valid_from": "2015-01-01", "valid_to": ""},
    ])  # fmt: skip
    put(root, "assets", f"transformers-{SENT}.csv", [
        {"transformer_id": "t1", "network_id": "n1", "s_rated_kva": 250, "gate_meter_id": "g1", "element": 0},
    ])  # fmt: skip
    put(root, "customers", f"customers-{SENT}.csv", customers("m1", "m2", "m3"))
    put(root, "meters", f"curves-{SENT}.jsonl", [
        curves("m1", "import_kwh", 2.5), curves("m1", "q_kvar", 3.0), curves("m1", "u_v", 228.0, phase="A"),
        curves("m2", "export_kwh", 1.0), curves("m3", "import_kwh", 1.0), curves("g1", "import_kwh", 1.5),
    ])  # fmt: skip
    result, _ = run_load(spark, root, "ingest.least_share=0.5")
    return root, result


def test_models_become_networks_and_damaged_ones_are_told(loaded: Any) -> None:
    root, result = loaded
    lake = Lake(f"{root}/lake")
    found = {(row["network_id"], row["network_version"]): row for row in table(lake, "network")}
    assert set(found) == {("n1", 1), ("n2", 1)}
    first = found["n1", 1]
    assert (first["valid_from"], first["valid_to"]) == (date(2015, 1, 1), date(2016, 1, 6))
    assert bytes(first["content"]) == Network.from_pandapower(small_net()).to_bytes()
    assert found["n2", 1]["valid_to"] is None
    told = [(row["table"], row["reason"], json.loads(row["key"])["line"]) for row in table(lake, "quarantine")]
    for feed, reason, line in [
        ("networks", "the model cut.json cannot be used", 1),
        ("networks", "the model absent.json cannot be used: there is no such file", 4),
        ("networks", "format is neither pandapower nor cim: visio", 5),
        ("networks", "file is no name in assets/networks: ../net.json", 6),
        ("connections", "bus is no number: two", 4),
        ("snapshot_tile", "not in service or not there: bus 99 in the model of n1", None),
    ]:
        assert any(f == feed and reason in r and n == line for f, r, n in told), (feed, reason, line, told)
    feeds = {row["feed"]: row for row in result.tables["rows"]}
    assert (feeds["networks"]["rows_in"], feeds["networks"]["rows_out"]) == (6, 2)
    assert (feeds["snapshot_tile"]["rows_in"], feeds["snapshot_tile"]["rows_out"]) == (3, 2)
    assert all(row["rows_in"] == row["rows_out"] + row["rows_quarantined"] for row in feeds.values())


def test_meters_become_tiles_at_the_buses_that_the_records_name(loaded: Any) -> None:
    root, _ = loaded
    lake = Lake(f"{root}/lake")
    assert [(row["meter_id"], row["bus"]) for row in table(lake, "meter_bus")] == [("m1", 1), ("m1", 2), ("m3", 99)]
    rows = table(lake, "snapshot_tile")
    assert [(row["network_id"], row["network_version"], row["first_slot"]) for row in rows] == [
        ("n1", 1, first) for first in (0, 32, 64)
    ]
    for row in rows:  # m1 draws 10 kW at bus 2, m2 feeds 4 kW at the transformer's bus
        assert decode(bytes(row["p_kw"]), 3).tolist() == [[0.0] * 32, [4.0] * 32, [-10.0] * 32]
        assert decode(bytes(row["q_kvar"]), 3).tolist() == [[0.0] * 32, [0.0] * 32, [-3.0] * 32]
        volts = decode(bytes(row["u_v"]), 3)
        assert np.isnan(volts[:2]).all()
        assert set(volts[2].tolist()) == {228.0}
        assert not decode_status(bytes(row["slot_status"])).any()


def test_the_power_flow_of_these_tiles_is_pandapowers(spark: SparkSession, loaded: Any) -> None:
    root, _ = loaded
    context = JobContext(solve.JOB, settings_of(root), {"regions": (REGION,)}, "test-run", root / "run")
    context.__dict__["spark"] = spark
    solve.run(context)
    (result,) = table(context.lake, "network_result")
    assert (result["slots"], result["slots_converged"]) == (96, 96)
    net = small_net()
    pandapower.create_load(net, 2, 0.010, 0.003)
    pandapower.create_sgen(net, 1, 0.004)
    pandapower.runpp(net, calculate_voltage_angles=True, tolerance_mva=1e-9)
    for row in table(context.lake, "bus_day"):
        assert row["vm_min_pu"] == pytest.approx(net.res_bus.vm_pu[row["bus"]], abs=1e-7)


def test_the_demo_lake_does_not_replace_what_was_loaded_nor_is_it_replaced(
    spark: SparkSession, loaded: Any, tmp_path: Path
) -> None:
    root, _ = loaded
    lake = Lake(f"{root}/lake")
    with pytest.raises(GridsinkError, match="networks and tiles from source systems"):
        list(demo.build(spark, lake, [tiny_region(root / "lake", REGION)], DAY, 1))
    assert not demo.holds(lake, REGION)
    (root / "lake" / "_demo" / f"{REGION}.json").write_text("{}")
    versions = {name: lake.snapshot(name).version() for name in ("network", "snapshot_tile")}
    assert demo.holds(lake, REGION)
    put(root, "assets", "networks-20160107T021500Z.csv", [
        {"network_id": "n6", "valid_from": "2015-01-01", "format": "pandapower", "file": "net.json"},
    ])  # fmt: skip
    run_load(spark, root)
    assert {name: lake.snapshot(name).version() for name in versions} == versions
