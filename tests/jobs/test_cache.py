"""The jobs of the cache, with the library's part made up: what they ask of it, what they show, how they end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import click
import pytest

import lib.fusion.step
import lib.fusion.verify
from jobs.cache import explain, verify
from lib.algorithm import pipeline as pipelines
from lib.algorithm.operators.powerflow import PowerFlowOperator
from lib.analysis.cache import Verdict
from lib.calculation.located import Selection
from lib.job import FAILED, OK, JobContext
from lib.launch import catalog
from lib.settings import Settings
from tests.jobs.test_pipeline import a_pipeline

DAYS = [date(2016, 1, 1) + timedelta(n) for n in range(50)]


@pytest.fixture
def context(settings: Settings) -> Callable[..., JobContext]:
    def make(**options: Any) -> JobContext:
        made = JobContext("cache.test", settings, options, "run-1", Path(settings.lake.path) / "_runs" / "run-1")
        made.__dict__["spark"] = None
        return made

    return make


def test_explain_shows_some_cells_and_tells_all(
    context: Callable[..., JobContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fake(context: JobContext, operator: Any, selection: Selection) -> list[Verdict]:
        asked.append((operator, selection))
        reason = "snapshot_tile changed in version 17 (MERGE)"
        return [
            Verdict("north", day, "current", "unchanged") if n else Verdict("north", day, "compute", reason)
            for n, day in enumerate(DAYS)
        ]

    monkeypatch.setattr(lib.fusion.step, "verdicts", fake)
    it = context(name=None, regions=("north",))
    result = explain.run(it)
    assert asked == [(PowerFlowOperator.from_settings(it.settings), Selection(("north",)))]
    shown = result.tables["cells: 40 of 50"]
    assert len(shown) == 40
    assert shown[0] == {
        "step": "powerflow.solve", "region": "north", "date": DAYS[0], "cache": "miss",
        "reason": "snapshot_tile changed in version 17 (MERGE)",
    }  # fmt: skip
    assert [row["date"] for row in result.summary["cells"]] == DAYS
    assert [(row["cells"], row["cache"]) for row in result.tables["by reason"]] == [(49, "hit"), (1, "miss")]


@pytest.mark.parametrize("differs", [False, True])
def test_verify_fails_where_a_cell_differs_and_names_it(
    context: Callable[..., JobContext],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    differs: bool,
) -> None:
    asked = []

    def fake(context: JobContext, operator: Any, selection: Selection, sample: float, seed: int) -> list[dict]:
        asked.append((operator.name, sample, seed))
        wrong = differs and operator.name == "powerflow"
        last = {"result": "differs", "what": "figures"} if wrong else {"result": "equal", "what": ""}
        return [{"region": "north", "date": DAYS[0], "result": "equal", "what": ""},
                {"region": "south", "date": DAYS[1], **last}]  # fmt: skip

    monkeypatch.setattr(lib.fusion.verify, "verify", fake)
    monkeypatch.setattr(pipelines, "load", lambda name, settings, spark=None: a_pipeline())
    result = verify.run(context(name="losses", sample=0.5, seed=7))
    assert asked == [("powerflow", 0.5, 7), ("formula", 0.5, 7)]
    assert result.exit_code == (FAILED if differs else OK)
    assert [row["different"] for row in result.tables["compared, seed 7"]] == [int(differs), 0]
    assert len(result.summary["cells"]) == 4
    told = capsys.readouterr().err
    assert ("differs: flow, region south, 2016-01-02: figures" in told) is differs
    assert ("different" in result.tables) is differs


def test_verify_takes_another_sample_each_time_unless_told(
    context: Callable[..., JobContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []
    monkeypatch.setattr(lib.fusion.verify, "verify", lambda *arguments: seeds.append(arguments[-1]) or [])
    for _ in range(3):
        result = verify.run(context(name=None, sample=0.01, seed=None))
        assert result.summary["seed"] == seeds[-1]
    assert len(set(seeds)) > 1


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.01", 0.01), ("100 %", 1.0), ("1", 1.0), ("0.5%", 0.005)])
def test_a_sample_is_a_share(text: str, share: float) -> None:
    assert catalog.parse(verify, ["--sample", text])["sample"] == share


@pytest.mark.parametrize("text", ["0", "0%", "101%", "2", "-1%", "nan", "many", "%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match=r"is no share; write 1% or 0\.01"):
        catalog.parse(verify, ["--sample", text])


def test_defaults() -> None:
    options = catalog.parse(verify, [])
    assert (options["name"], options["sample"], options["seed"]) == (None, 0.01, None)
    assert catalog.parse(explain, ["network_losses", "--region", "north"])["name"] == "network_losses"
