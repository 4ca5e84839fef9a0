from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs.cli import cli
from lib.errors import SettingsError
from lib.settings import STATE


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), prog_name="./spark-submit.sh")


def submit_line(lake: Path, *arguments: str) -> str:
    result = invoke("ingest.demo", "--dry-run", "--set", f"lake.path={lake}", *arguments)
    assert result.exit_code == 0, result.output
    return result.output.strip().splitlines()[-1]


def test_alone_it_lists_the_jobs() -> None:
    result = invoke()
    assert result.exit_code == 0
    assert "ingest.demo" in result.output
    assert "config show" in result.output


def test_help_of_a_job_has_its_own_and_the_common_options() -> None:
    result = invoke("ingest.demo", "--help")
    assert result.exit_code == 0
    for option in ("--days", "--set", "--json", "--dry-run", "--master"):
        assert option in result.output


def test_unknown_job_is_a_usage_error_with_a_suggestion() -> None:
    result = invoke("ingest.dmeo")
    assert result.exit_code == 2
    assert "did you mean ingest.demo" in result.output


def test_a_job_may_be_typed_as_group_and_name(lake: Path) -> None:
    lines = [
        invoke(*name, "--dry-run", "--days", "3", "--set", f"lake.path={lake}").output.splitlines()[-1]
        for name in (["ingest.demo"], ["ingest", "demo"])
    ]
    assert all("spark-submit" in line for line in lines)
    requests = sorted((STATE / "runs").glob("*-ingest.demo"))[-2:]
    first, second = (json.loads((folder / "request.json").read_text()) for folder in requests)
    assert {name for name in first if first[name] != second[name]} == {"run_id", "run_dir"}
    assert "--days" in invoke("ingest", "demo", "--help").output


def test_a_group_alone_lists_its_jobs_and_no_others() -> None:
    for arguments in (["powerflow"], ["powerflow", "--help"]):
        result = invoke(*arguments)
        assert result.exit_code == 0
        assert "solve" in result.output
        assert "demo" not in result.output
        assert "config show" not in result.output


def test_an_unknown_job_of_a_group_is_a_usage_error_with_a_suggestion() -> None:
    result = invoke("powerflow", "slove")
    assert result.exit_code == 2
    assert "did you mean powerflow.solve" in result.output
    assert "pipeline" in invoke("pipelin", "run").output


def test_unknown_option_and_bad_value_are_usage_errors() -> None:
    assert invoke("ingest.demo", "--dyas", "3").exit_code == 2
    assert invoke("ingest.demo", "--days", "0").exit_code == 2
    assert invoke("ingest.demo", "--json", "/nowhere/at/all.json").exit_code == 2


def test_bad_settings_are_refused_before_anything_starts() -> None:
    error = invoke("ingest.demo", "--set", "demo.dayz=3").exception
    assert isinstance(error, SettingsError)
    assert error.exit_code == 2


def test_config_show_names_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDSINK_DEMO__SEED", "5")
    monkeypatch.setenv("COLUMNS", "200")
    lines = invoke("config", "show", "--set", "demo.days=3").output.splitlines()
    rows = {line.split()[0]: line for line in lines if "." in line}
    assert "--set" in rows["demo.days"]
    assert "GRIDSINK_DEMO__SEED" in rows["demo.seed"]
    assert "conf/base.yaml" in rows["lake.path"]
    assert "default" in rows["spark.driver_memory"]


def test_operators_lists_all_and_shows_one_in_full() -> None:
    result = invoke("operators")
    assert result.exit_code == 0, result.output
    for word in ("powerflow", "network_load", "snapshot_tile", "network_result"):
        assert word in result.output
    lines = invoke("operators", "powerflow").output.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.split()}
    assert rows["v_min_pu"][1:5] == ["float", "0.9", ">", "0"]
    assert rows["vm_min_pu"][1:6] == ["double", "pu", ">=", "0", "min"]
    assert {"bus_day", "branch_day", "network_result", "network"} <= set(rows)
    assert "operators" in invoke().output


def test_an_unknown_operator_is_a_usage_error_with_a_suggestion() -> None:
    result = invoke("operators", "powerflw")
    assert result.exit_code == 2
    assert "did you mean powerflow" in result.output


def test_dry_run_local(lake: Path) -> None:
    line = submit_line(lake)
    assert "bin/spark-submit --master 'local[*]' --deploy-mode client" in line
    assert "spark.driver.extraClassPath=" in line
    assert "--py-files" not in line  # the checkout itself is on the workers' path
    assert not lake.exists()


@pytest.mark.parametrize(
    ("master", "untested"), [("spark://host:7077", False), ("yarn", True), ("k8s://https://host:6443", True)]
)
def test_dry_run_elsewhere(lake: Path, master: str, untested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARK_HOME", raising=False)
    line = submit_line(lake, "--master", master)
    assert f"--master {master} " in line
    for part in ("--jars ", "io.delta_delta-spark", "--py-files ", "gridsink-", "spark.executor.memory=2g"):
        assert part in line
    result = invoke("ingest.demo", "--dry-run", "--master", master, "--set", f"lake.path={lake}")
    assert ("untested" in result.output) is untested


def test_dry_run_of_a_driver_in_the_cluster_sends_its_request(lake: Path) -> None:
    line = submit_line(lake, "--master", "yarn", "--set", "spark.deploy_mode=cluster")
    assert "--deploy-mode cluster" in line
    assert "request.json" in line.partition("--files ")[2].split()[0]
    assert line.endswith("driver.py request.json")
