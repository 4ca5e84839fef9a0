"""The jobs of pipelines, with the library's part made up: what they ask of it, what they show, how they end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

import lib.fusion.run
import lib.fusion.step
from jobs.pipeline import explain, run, validate
from lib.algorithm import pipeline as pipelines
from lib.algorithm.formula import Formula
from lib.algorithm.operators.powerflow import PowerFlowOperator
from lib.algorithm.pipeline import FormulaSpec, Pipeline, PipelineError, PipelineSpec, Step
from lib.analysis.cache import Verdict
from lib.calculation.located import Selection
from lib.fusion.result import result_table
from lib.fusion.step import Counts
from lib.job import OK, USAGE, JobContext
from lib.settings import Settings

DAYS = [date(2016, 1, 1), date(2016, 1, 2)]


def a_pipeline() -> Pipeline:
    formula = FormulaSpec(
        table="network_result", by=["network_id"], aggregates={"n": "count(*)"},
        finish={"share": {"expression": "100 / n", "unit": "%"}},
    )  # fmt: skip
    spec = PipelineSpec(
        id="losses", title="Losses of a month", period="month",
        steps={"flow": {"operator": "powerflow"}, "daily": {"formula": formula}},
        result={"loss_kwh": {"expression": "flow.loss_kwh", "unit": "kWh"}},
    )  # fmt: skip
    steps = (
        Step("flow", PowerFlowOperator()),
        Step("daily", Formula(formula, types={"n": "bigint", "share": "double"}), ("flow",)),
    )
    return Pipeline(spec, steps, Path("losses.yaml"), {"loss_kwh": "double"})


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """The pipeline that every name stands for."""
    it = a_pipeline()
    monkeypatch.setattr(pipelines, "load", lambda name, settings, spark=None: it)
    return it


@pytest.fixture
def context(settings: Settings) -> Callable[..., JobContext]:
    def make(**options: Any) -> JobContext:
        made = JobContext("pipeline.test", settings, options, "run-1", Path(settings.lake.path) / "_runs" / "run-1")
        made.__dict__["spark"] = None
        return made

    return make


def test_run_shows_each_step_and_the_first_rows(
    context: Callable[..., JobContext], loaded: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = result_table(loaded).arrow
    rows = pa.Table.from_pylist(
        [dict.fromkeys(schema.names) | {"region": "north", "network_id": str(n), "complete": n > 0} for n in range(30)],
        schema,
    )
    asked = []

    def fake(context: JobContext, pipeline: Pipeline, selection: Selection, recompute: bool) -> Any:
        asked.append((pipeline, selection, recompute))
        counts = {"north": Counts(3, 1, 1, 1, 0, 0.5), "south": Counts(2, 2, 0, 0, 0, 0.25)}
        return SimpleNamespace(
            rows=rows, steps={step.id: SimpleNamespace(operator=step.operator, counts=counts) for step in loaded.steps}
        )

    monkeypatch.setattr(lib.fusion.run, "run", fake)
    first = datetime(2016, 1, 1)
    result = run.run(context(name="losses", first=first, last=None, regions=("north",), recompute=True))
    assert asked == [(loaded, Selection(("north",), DAYS[0], None), True)]
    steps = result.tables["pipeline losses: Losses of a month"]
    assert steps[0] == {
        "step": "flow", "operator": "powerflow", "cells": 5, "current": 3, "found again": 1, "computed": 1,
        "worker seconds": 0.75,
    }  # fmt: skip
    assert [row["step"] for row in steps] == ["flow", "daily"]
    assert len(result.tables["result: 20 of 30 rows, 1 incomplete"]) == 20
    assert result.summary["table"].endswith("/gold/pipeline_losses")
    assert (result.summary["rows"], result.summary["incomplete_rows"]) == (30, 1)
    assert result.exit_code == OK


def test_validate_tells_every_problem_of_every_file(
    context: Callable[..., JobContext], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"bad": ["line 3: no such operator", "line 9: no such column"], "worse": ["line 1: no YAML"]}

    def fake(name: str, settings: Settings, spark: Any = None) -> Pipeline:
        if name in bad:
            raise PipelineError(name, bad[name])
        return a_pipeline()

    monkeypatch.setattr(pipelines, "load", fake)
    monkeypatch.setattr(pipelines, "names", lambda: ["bad", "losses", "worse"])
    result = validate.run(context(name=None))
    assert result.exit_code == USAGE
    assert result.summary == {"problems": bad | {"losses": []}}
    told = capsys.readouterr().err
    assert "losses: valid, 2 steps" in told
    assert all(problem in told for problems in bad.values() for problem in problems)
    assert validate.run(context(name="losses")).exit_code == OK
    assert validate.run(context(name="bad")).summary == {"problems": {"bad": bad["bad"]}}


def test_explain_counts_hits_and_misses_by_reason(
    context: Callable[..., JobContext], loaded: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {
        "powerflow": [
            Verdict("north", DAYS[0], "current", "unchanged"),
            Verdict("north", DAYS[1], "compute", "never calculated"),
            Verdict("south", DAYS[0], "compute", "never calculated"),
            Verdict("south", DAYS[1], "current", "unchanged"),
        ],
        "formula": [Verdict(region, DAYS[0], "current", "unchanged") for region in ("north", "south")],
    }
    there = {"network_result": False}
    asked = []

    def fake(context: JobContext, operator: Any, selection: Selection) -> list[Verdict]:
        asked.append(operator.name)
        return found[operator.name]

    monkeypatch.setattr(lib.fusion.step, "verdicts", fake)
    monkeypatch.setattr("lib.tables.Lake.exists", lambda self, table: there[table])
    it = context(name="losses")
    flow = [
        {"step": "flow", "cells": 2, "cache": "hit", "reason": "unchanged"},
        {"step": "flow", "cells": 2, "cache": "miss", "reason": "never calculated"},
    ]
    waits = {"step": "daily", "cells": 2, "cache": "depends", "reason": "step flow calculates its rows first"}
    assert explain.run(it).tables["cells"] == [*flow, waits]
    assert asked == ["powerflow"]  # the formula's table is not there yet

    there["network_result"] = True
    result = explain.run(it)
    assert result.summary["cells"] == [
        *flow, waits, {"step": "daily", "cells": 1, "cache": "hit", "reason": "unchanged"}
    ]  # fmt: skip
    first, second = result.summary["steps"]
    assert len(first["fingerprint"]) == 12
    assert (first["operator"], second["operator"], second["after"]) == ("powerflow 1", "formula 1", "flow")
    assert first["outputs"].endswith("network_result")
    assert [(row["step"], row["table"]) for row in result.summary["inputs"]] == [
        ("flow", "snapshot_tile"), ("flow", "network"), ("daily", "network_result")
    ]  # fmt: skip
    figures = {row["figure"]: (row["type"], row["unit"], row["meaning"]) for row in result.summary["figures"]}
    assert figures["flow.loss_kwh"][:2] == ("double", "kWh")
    assert figures["daily.n"] == ("bigint", "", "count(*)")
    assert figures["daily.share"] == ("double", "%", "100 / n")
    assert result.summary["result"] == [
        {"column": "loss_kwh", "type": "double", "unit": "kWh", "expression": "flow.loss_kwh"}
    ]
