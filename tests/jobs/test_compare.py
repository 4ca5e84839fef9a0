"""Sunk and collected, side by side: figures, agreement, and the memory cap."""

from __future__ import annotations

import json
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lib.baseline import child, comparison
from lib.baseline.comparison_report import page, table, verdicts
from lib.report.machine import provenance
from lib.settings import ROOT, Settings, load

MIB = 2**20


def side(name: str, title: str, seconds: float, scaled: bool = False) -> dict[str, Any]:
    return {
        "side": name, "title": title, "timed": "all of it", "seconds": seconds, "scaled": scaled, "solved_snapshots": 8,
        "phases_s": {"collect": 1.0, "solve": seconds - 1.0}, "bus_snapshots": 1000,
        "bus_snapshots_per_s": 1000 / seconds,
        "bytes_to_driver": 10 * MIB, "driver_jvm_bytes": 500 * MIB, "driver_python_bytes": 200 * MIB, "worker_bytes": 0,
    }  # fmt: skip


@pytest.fixture
def measured() -> dict[str, dict[str, Any]]:
    """A box where the collected kernel wins."""
    seconds = dict(zip((it.name for it in comparison.SIDES), (4.0, 2.0, 11.0, 900.0), strict=True))
    return {it.name: side(it.name, it.title, seconds[it.name], it.name == "pandapower") for it in comparison.SIDES}


def test_gains_are_told_apart_and_a_loss_is_said(measured: dict[str, dict[str, Any]]) -> None:
    gains = comparison.gains(measured)
    assert gains["kernel"] == pytest.approx(5.5)
    assert gains["kernel_calculation_alone"] == pytest.approx(10.0)
    assert gains["sinking"] == pytest.approx(0.5)
    said = " ".join(verdicts(gains))
    assert "2.00 times as fast as the sunk run" in said
    measured["sunk"]["seconds"] = 1.0
    assert "the sunk run is 2.00 times as fast as the same calculation" in " ".join(
        verdicts(comparison.gains(measured))
    )


def test_scaled_time_is_labelled_wherever_it_is_shown(measured: dict[str, dict[str, Any]]) -> None:
    rows = {row["side"]: row["scaled"] for row in table(list(measured.values()))}
    assert rows[comparison.COLLECTED["pandapower"].title] == "from 8 snapshots"
    assert set(rows.values()) == {"no", "from 8 snapshots"}
    text = page(
        {
            "sides": list(measured.values()), "gains": comparison.gains(measured), "agreement": [], "under_cap": [],
            "rows": {"regions": ["a"], "first": "x", "last": "y", "days": 1, "bus_snapshots": 1000},
            "provenance": provenance(),
        }
    )  # fmt: skip
    assert "from 8 snapshots" in text
    assert text.count("data:image/png;base64,") == 3


def test_difference_sees_what_differs() -> None:
    def voltages(*values: float | None, bus: tuple[int, ...] = (1, 2)) -> pa.Table:
        return pa.table({"bus": bus, "vm_pu": pa.array(values, pa.float64())})

    assert comparison.difference(voltages(1.0, 0.9), voltages(1.0, 0.9 + 1e-6), ["bus"], "vm_pu") == (
        2,
        pytest.approx(1e-6),
    )
    assert comparison.difference(voltages(1.0, 0.9), voltages(0.9, 1.0, bus=(2, 1)), ["bus"], "vm_pu") == (2, 0.0)
    assert comparison.difference(voltages(1.0, 0.9), voltages(1.0, None), ["bus"], "vm_pu")[1] == float("inf")
    assert comparison.difference(voltages(1.0, 0.9), voltages(1.0, 0.9, bus=(1, 3)), ["bus"], "vm_pu")[1] == float(
        "inf"
    )


@pytest.mark.parametrize(("fits", "tried", "finished"), [(9, [9], 9), (4, [9, 1, 2, 4, 8], 4), (0, [9, 1], 0)])
def test_cap_doubles_until_it_fails(
    fits: int, tried: list[int], finished: int, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    rows = comparison.Rows(("a",), tuple(date(2016, 1, day) for day in range(1, 10)))

    def launch(job: str, arguments: list[str], texts: list[str], *, cap_bytes: int) -> tuple[child.Report, dict]:
        days = int(arguments[arguments.index("--to") + 1][-2:])
        return child.Report([], 0 if days <= fits else 1, 1.0, killed_for_memory=days > fits), {}

    monkeypatch.setattr(comparison, "launch", launch)
    found = comparison.largest_under_cap(comparison.SUNK, rows, settings, 1600 * MIB)
    assert [it["days"] for it in found["tries"]] == tried
    assert found["days_finished"] == finished
    assert found["heap"] == "600m"
    assert found["ended"] == ("finished" if fits >= 9 else "killed at the memory cap")


def test_settings_reach_the_child_unchanged(settings: Settings) -> None:
    settings = settings.model_copy(update={"max_quarantine": 5})
    assert load(comparison.overrides(settings), environment={}) == settings
    changed = load(comparison.overrides(settings, spark__driver_memory="600m"), environment={})
    assert changed.spark.driver_memory == "600m"


def test_compare_end_to_end(lake: Path, tmp_path: Path) -> None:
    """One small network, one day, every side a real run; then the same under a cap that nothing fits."""
    sets = [f"lake.path={lake}", "regions.village.simbench_code=1-LV-rural1--0-sw", "spark.master=local[2]"]
    sets += ["regions.village.time_zone=Europe/Berlin", "baseline.sample_snapshots=2"]
    options = [part for text in sets for part in ("--set", text)]

    def run(*arguments: str) -> None:
        done = subprocess.run([ROOT / "spark-submit.sh", *arguments, *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]

    run("ingest.demo", "--days", "1", "--region", "village")
    run("powerflow.compare", "--cap-mib", "0", "--json", str(tmp_path / "compare.json"))
    result = json.loads((tmp_path / "compare.json").read_text())
    assert [it["side"] for it in result["sides"]] == ["sunk", "gridsink", "power-grid-model", "pandapower"]
    assert [it["scaled"] for it in result["sides"]] == [False, False, False, True]
    assert {it["bus_snapshots"] for it in result["sides"]} == {15 * 96}
    for it in result["sides"]:
        assert it["seconds"] > 0
        assert it["bytes_to_driver"] > 0
        assert it["driver_jvm_bytes"] > 100 * MIB
        assert it["driver_python_bytes"] > 20 * MIB
    assert {it["one"] + it["other"] for it in result["agreement"]} >= {"sunkgridsink", "gridsinkpandapower"}
    assert max(it["max |dV| [pu]"] for it in result["agreement"]) < 5e-8
    assert result["gains"].keys() >= {"kernel", "sinking"}
    assert Path(result["report"]).read_text().startswith("<!doctype html>")

    rows = comparison.Rows(("village",), (date(2016, 1, 1),))
    report, record = comparison.launch("powerflow.solve", rows.arguments(), sets, cap_bytes=160 * MIB)
    assert not report.finished
    assert not record
    assert "memory" in report.reason
