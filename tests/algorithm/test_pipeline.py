"""Pipelines' files: the shipped ones are valid, and of others every problem is told at once, with its line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jsonschema
import pytest
import yaml

from lib.algorithm import pipeline, registry
from lib.algorithm.formula import Formula
from lib.algorithm.operator import Figure
from lib.algorithm.pipeline import PIPELINES, PipelineError, load, names
from lib.algorithm.spec import json_schema
from lib.settings import ROOT, Settings
from tests.algorithm.pipelines import HEAD, RESULT, STEPS, Write, problems

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


# --- the shipped files ---


def test_the_schema_is_that_of_the_model() -> None:
    written = (PIPELINES / "pipeline.schema.json").read_text(encoding="utf-8")
    assert written == json_schema(), "run: python -m lib.algorithm.spec > conf/pipelines/pipeline.schema.json"


@pytest.mark.parametrize("name", names())
def test_shipped_pipelines_fit_the_schema(name: str) -> None:
    text = (PIPELINES / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=pipeline.schema.json\n")
    jsonschema.Draft202012Validator(json.loads(json_schema())).validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"period": "week"}, "period"),
        ({"steps": {"Flow-1": {"operator": "powerflow"}}}, "steps"),
        ({"steps": {"flow": {}}}, "steps.flow"),
        (
            {"steps": {"flow": {"operator": "powerflow", "formula": {"table": "x", "aggregates": {"n": "count(*)"}}}}},
            "steps.flow",
        ),
        ({"extra": 1}, ""),
        ({"result": {"x": {"expression": "1"}}}, "result.x"),
    ],
)
def test_the_schema_refuses_what_the_model_refuses(
    change: dict[str, Any], path: str, write: Write, settings: Settings
) -> None:
    tree = yaml.safe_load(HEAD + STEPS + RESULT)
    validator = jsonschema.Draft202012Validator(json.loads(json_schema()))
    assert validator.is_valid(tree)
    [error] = validator.iter_errors(tree | change)
    assert ".".join(map(str, error.absolute_path)) == path
    assert problems(write(yaml.safe_dump(tree | change)), settings)


@pytest.mark.parametrize("name", names())
def test_shipped_pipelines_are_valid(name: str, spark: SparkSession, settings: Settings) -> None:
    checked, unchecked = load(name, settings, spark), load(name, settings)
    assert [step.id for step in checked.steps] == [step.id for step in unchecked.steps]
    assert set(checked.types) == set(checked.spec.result)
    assert not unchecked.types
    for step in checked.steps:
        assert set(step.after) < set(checked.spec.steps)
        assert not isinstance(step.operator, Formula) or step.operator.checked
    assert all("percent" not in column or it.unit == "%" for column, it in checked.spec.result.items())


def test_shipped_pipelines_share_the_power_flow(settings: Settings) -> None:
    first, second = (load(name, settings) for name in ("network_losses", "voltage_quality_day"))
    assert (first.spec.period, second.spec.period) == ("month", "day")
    flows = [next(s.operator for s in it.steps if s.operator.name == "powerflow") for it in (first, second)]
    assert flows[0] == flows[1]


def _yaml_of(manual: str) -> str:
    return (ROOT / "docs" / manual).read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]


def test_the_manuals_examples_are_valid(spark: SparkSession, settings: Settings, tmp_path: Path, write: Write) -> None:
    text = _yaml_of("pipelines.md")
    (tmp_path / "my_losses.yaml").write_text(text, encoding="utf-8")
    assert load(str(tmp_path / "my_losses.yaml"), settings, spark).types["loss_percent"] == "double"
    wrong = text.replace("powerflow", "powreflow").replace("drawn", "drwn")
    (tmp_path / "my_losses.yaml").write_text(wrong, encoding="utf-8")
    told = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
    for problem in problems(str(tmp_path / "my_losses.yaml"), settings):
        assert f"conf/pipelines/{problem}" in told
    (tmp_path / "my_losses.yaml").unlink()
    result = "result: {each: {expression: transformers.copper_kwh_each, unit: kWh}}\n"
    assert load(write(HEAD + _yaml_of("formulas.md") + result), settings, spark).types == {"each": "double"}


# --- steps ---


def test_parameters_are_the_settings_unless_the_file_has_them(write: Write, settings: Settings) -> None:
    text = (
        HEAD + "steps:\n  flow:\n    operator: powerflow\n    parameters: {v_min_pu: 0.95, v_max_pu: 1.05}\n" + RESULT
    )
    [step] = load(write(text), settings).steps
    assert (step.operator.v_min_pu, step.operator.v_max_pu) == (0.95, 1.05)  # type: ignore[union-attr]
    assert step.operator.heavy_percent == settings.solve.heavy_percent  # type: ignore[union-attr]


def test_a_step_comes_after_the_writer_of_what_it_reads(write: Write, settings: Settings) -> None:
    steps = """steps:
  buses:
    formula: {table: bus_day, by: [network_id], aggregates: {n: count(*)}}
  tiles:
    formula: {table: snapshot_tile, by: [network_id], aggregates: {n: count(*)}}
  flow: {operator: powerflow}
  branches:
    formula: {table: branch_day, by: [network_id], aggregates: {n: count(*)}}
"""
    loaded = load(write(HEAD + steps + RESULT), settings)
    assert {step.id: step.after for step in loaded.steps} == {
        "tiles": (), "flow": (), "buses": ("flow",), "branches": ("flow",),
    }  # fmt: skip
    order = [step.id for step in loaded.steps]
    assert order.index("flow") < order.index("buses")
    assert {step.id: step.keys for step in loaded.steps}["buses"] == ("network_id",)


def test_a_formula_over_what_no_step_writes_reads_what_is_there(write: Write, settings: Settings) -> None:
    steps = "steps:\n  buses:\n    formula: {table: bus_day, by: [network_id], aggregates: {n: count(*)}}\n"
    [step] = load(write(HEAD + steps + "result: {n: {expression: buses.n, unit: ''}}\n"), settings).steps
    assert step.after == ()


@dataclass(init=False)
class _Fake:
    """An operator that reads one table and writes others."""

    columns: ClassVar[tuple[str, ...]] = ()
    group: ClassVar[tuple[str, ...]] = ("network_id",)
    key: ClassVar[tuple[str, ...]] = ()
    side: ClassVar[None] = None
    figures: ClassVar[dict[str, Figure]] = {"n": Figure("sum", "bigint", "", "")}

    def __init__(self, name: str, table: str, *outputs: str) -> None:
        self.name, self.table, self.outputs = name, table, outputs


@pytest.mark.parametrize(
    ("operators", "expected"),
    [
        (
            [("a", "bus_day", "branch_day"), ("b", "branch_day", "bus_day")],
            ["a: reads what b writes", "b: reads what a writes"],
        ),
        ([("a", "bus_day", "bus_day")], ["a: reads what a writes"]),
        ([("a", "snapshot_tile", "bus_day"), ("b", "snapshot_tile", "bus_day")], ["b: writes bus_day, as step a does"]),
        ([("a", "nowhere", "bus_dya")], ["a.operator: a uses table bus_dya", "a.operator: a uses table nowhere"]),
    ],
)
def test_circles_double_writers_and_unknown_tables(
    operators: list[tuple[str, ...]],
    expected: list[str],
    write: Write,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fakes = {it[0]: _Fake(*it) for it in operators}
    monkeypatch.setattr(registry, "operator", lambda name, parameters, settings: fakes[name])
    steps = "steps:\n" + "".join(f"  {name}: {{operator: {name}}}\n" for name in fakes)
    found = problems(write(HEAD + steps + "result: {n: {expression: a.n, unit: ''}}\n"), settings)
    assert len(found) == len(expected)
    for problem, part in zip(found, expected, strict=True):
        assert f"steps.{part}" in problem


def test_all_problems_are_told_at_once(write: Write, settings: Settings, spark: SparkSession) -> None:
    text = """id: mine
titel: Mine
period: week
priority: [nowhere]
steps:
  flow:
    operator: powerflow
    parameters: {tolerance: tight, max_iteration: 3}
  Bad: {operator: powerflow}
  load: {operator: network_laod}
  x:
    formula:
      table: bus_day
      by: [network_id]
      wher: vn_kv < 1
      map: {a: rand(), b: vm_min_puu}
      aggregates: {m: median(a), s: sum(b), n: count(*)}
      finish: {y: {expression: n / 2}}
  z:
    formula:
      table: branch_day
      aggregates: {n: percentile(loss_kwh)}
result:
  one: {expression: flow.loss_kw, unit: kWh}
  two: {expression: 'flwo.loss_kwh + x.nothing', unit: kWh}
  one: {expression: flow.loss_kwh, unit: kWh}
"""
    found = problems(write(text), settings, spark)
    expected = [
        "1: title: is missing",
        "2: titel: unknown key; did you mean title?",
        "3: period: ",
        "4: priority.0: there is no region nowhere",
        "8: steps.flow.parameters.max_iteration: ",
        "8: steps.flow.parameters.tolerance: ",
        "9: steps.Bad: 'Bad' is no name",
        "10: steps.load.operator: there is no operator network_laod; did you mean network_load?",
        "15: steps.x.formula.wher: unknown key; did you mean where?",
        "18: steps.x.formula.finish.y.unit: is missing",
        "22: steps.z.formula.aggregates.n: percentile cannot be merged",
        "25: result.two.expression: there is no step flwo",
        "26: result.one: given twice, first in line 24",
    ]
    for part in expected:
        assert any(problem.startswith(f"mine.yaml:{part}") for problem in found), (part, found)
    assert len(found) == len(expected)


def test_expressions_are_analysed_where_there_is_spark(write: Write, settings: Settings, spark: SparkSession) -> None:
    steps = """steps:
  flow: {operator: powerflow}
  x:
    formula:
      table: bus_day
      by: [network_id]
      map:
        a: rand()
        b: vm_min_puu
      aggregates: {m: "min(a)", s: sum(b)}
"""
    assert len(load(write(HEAD + steps + RESULT), settings).steps) == 2
    found = problems(write(HEAD + steps + RESULT), settings, spark)
    assert len(found) == 2
    assert "mine.yaml:11: steps.x.formula.map.a: rand gives another value each time" in found[0]
    assert "mine.yaml:12: steps.x.formula.map.b: [UNRESOLVED_COLUMN" in found[1]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("loss_kwh", "UNRESOLVED_COLUMN"),
        ("sum(flow.loss_kwh)", "an aggregate reads other rows"),
        ("flow.loss_kwh * rand()", "another value each time"),
        ("flow", "is struct<"),
        ("flow.loss_kwh +", "PARSE_SYNTAX_ERROR"),
        ("datediff(current_date(), date)", "depends on when"),
    ],
)
def test_the_result_is_analysed(
    expression: str, expected: str, write: Write, settings: Settings, spark: SparkSession
) -> None:
    result = f"result:\n  x:\n    expression: {expression}\n    unit: ''\n"
    [problem] = problems(write(HEAD + STEPS + result), settings, spark)
    assert problem.startswith("mine.yaml:8: result.x.expression: ")
    assert expected in problem


def test_the_result_sees_keys_figures_and_finished_aggregates(
    write: Write, settings: Settings, spark: SparkSession
) -> None:
    text = """steps:
  flow: {operator: powerflow}
  x:
    formula:
      table: bus_day
      by: [network_id]
      aggregates: {lowest_ts: min(vm_min_ts), m: mean(vn_kv), n: count(*)}
      finish: {half: {expression: n div 2, unit: ''}}
result:
  name: {expression: "concat(region, '/', network_id, 'a.b')", unit: ''}
  lowest_ts: {expression: x.lowest_ts, unit: ''}
  good: {expression: flow.vm_min_pu > 0.9, unit: ''}
  rounded: {expression: "round(x.m * 1.5, 2)", unit: kV}
  half: {expression: x.half, unit: ''}
  scaled: {expression: x.n * 1.5, unit: ''}
"""
    assert load(write(HEAD + text), settings, spark).types == {
        "name": "string", "lowest_ts": "timestamp", "good": "boolean", "rounded": "double", "half": "bigint",
        "scaled": "double",
    }  # fmt: skip


def test_the_result_sees_parameters_and_the_columns_above(
    write: Write, settings: Settings, spark: SparkSession
) -> None:
    text = """steps:
  load: {operator: network_load, parameters: {high_kw: 400}}
result:
  limit: {expression: load.high_kw, unit: kW}
  over: {expression: load.demand_max_kw > limit, unit: ''}
  word: {expression: "if(over, concat('above ', limit), 'below')", unit: ''}
"""
    assert load(write(HEAD + text), settings, spark).types == {"limit": "double", "over": "boolean", "word": "string"}
    [problem] = problems(write(HEAD + text.replace("load.high_kw", "load.hihg_kw")), settings)
    assert "step load has no figure hihg_kw" in problem
    backwards = text.replace("expression: load.high_kw", "expression: CAST(over AS INT)")
    assert "over" in problems(write(HEAD + backwards), settings, spark)[0]
    [problem] = problems(write(HEAD + text.replace("  limit:", "  load:")), settings)
    assert "load is a step; choose another name" in problem


# --- names and ids ---


def test_unknown_names_are_told_with_what_is_near(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="did you mean network_losses"):
        load("network_loses", settings)
    with pytest.raises(PipelineError, match="there are line_loss, network_line_loss, network_losses, "):
        load("zzz", settings)
    with pytest.raises(PipelineError, match="there is no file"):
        load(str(tmp_path / "none.yaml"), settings)


def test_an_id_belongs_to_one_file(write: Write, settings: Settings, tmp_path: Path) -> None:
    path = write(HEAD + STEPS + RESULT)
    (tmp_path / "other.yaml").write_text((tmp_path / "mine.yaml").read_text())
    (tmp_path / "broken.yaml").write_text("id: [")
    [problem] = problems(path, settings)
    assert "mine is the id of" in problem
    assert "other.yaml too" in problem


def test_a_copy_of_a_shipped_pipeline_needs_an_id_of_its_own(settings: Settings, tmp_path: Path) -> None:
    shipped = (PIPELINES / "network_losses.yaml").read_text()
    path = tmp_path / "network_losses.yaml"
    path.write_text(shipped)
    [problem] = problems(str(path), settings)
    assert "both would write the same table" in problem
    own = tmp_path / "my_losses.yaml"
    own.write_text(shipped.replace("id: network_losses", "id: my_losses"))
    path.unlink()
    assert load(str(own), settings).spec.id == "my_losses"


def test_names_lists_the_shipped_pipelines() -> None:
    assert names() == pipeline.names()
    assert {"line_loss", "network_losses", "voltage_quality_day"} < set(names())
