"""Pipelines' files: the shipped ones are valid, and of others every problem is told at once, with its line."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from lib.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

HEAD = "id: mine\ntitle: Mine\nperiod: day\n"
STEPS = "steps:\n  flow: {operator: powerflow}\n"
FLOW = HEAD + "steps:\n  flow:\n    operator: powerflow\n"
X = HEAD + STEPS + "  x:\n"
RESULT = "result:\n  loss: {expression: flow.loss_kwh, unit: kWh}\n"

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Puts a text into mine.yaml and gives its path."""

    def write(text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def problems(path: str, settings: Settings, spark: SparkSession | None = None) -> list[str]:
    with pytest.raises(PipelineError) as caught:
        load(path, settings, spark)
    assert caught.value.exit_code == 2
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return [problem.removeprefix(str(Path(path).parent) + "/") for problem in caught.value.problems]


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


# --- what is wrong in a file ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "mine.yaml:1: is empty"),
        ("- a\n", "mine.yaml:1: holds a list"),
        ("id: mine\n  title: x\n", "mine.yaml:2: is no YAML"),
        ("id: mine\ntitle: {\n", "mine.yaml:3: is no YAML"),
        ("id: mine\n---\nid: other\n", "mine.yaml:2: is no YAML"),
        ("id: &a [*a]\n", "refers to itself"),
        ("id: !!python/name:os.system x\n", "is no YAML"),
        ("id: mine\x00\n", "cannot be read as YAML"),
    ],
)
def test_files_that_are_no_pipeline(text: str, expected: str, write: Write, settings: Settings) -> None:
    assert expected in "\n".join(problems(write(text), settings))


def test_a_file_that_is_no_text(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"id: \xff\n")
    assert "cannot be read as YAML" in problems(str(tmp_path / "mine.yaml"), settings)[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + "periodd: day\n" + STEPS + RESULT, "mine.yaml:4: periodd: unknown key; did you mean period?"),
        (HEAD + "zzz: 1\n" + STEPS + RESULT, "zzz: unknown key; known here: id, title, "),
        (HEAD + "title: Yours\n" + STEPS + RESULT, "mine.yaml:4: title: given twice, first in line 2"),
        ("title: Mine\nperiod: day\n" + STEPS + RESULT, "mine.yaml:1: id: is missing: stable name"),
        (
            HEAD.replace("day", "week") + STEPS + RESULT,
            "mine.yaml:3: period: Input should be 'day', 'month' or 'all', not 'week'",
        ),
        (
            HEAD + "by: network_id\n" + STEPS + RESULT,
            "mine.yaml:4: by: must be a list, not 'network_id'; write [network_id]",
        ),
        (HEAD + "by: [network_id, network_id]\n" + STEPS + RESULT, "mine.yaml:4: by.1: network_id is given twice"),
        (HEAD + "by: [date]\n" + STEPS + RESULT, "mine.yaml:4: by.0: date is a key of every result"),
        (
            HEAD + "by: [bus]\n" + STEPS + RESULT,
            "by.0: step flow has one row per network_id, network_version, so none per bus",
        ),
        (HEAD + "by: [network_idd]\n" + STEPS + RESULT, "so none per network_idd; did you mean network_id?"),
        (
            HEAD + "priority: [rurla]\n" + STEPS + RESULT,
            "priority.0: there is no region rurla in the settings; did you mean rural?",
        ),
        (HEAD + RESULT, "mine.yaml:1: steps: is missing"),
        (HEAD + "steps: {}\n" + RESULT, "mine.yaml:4: steps: is empty"),
        (
            HEAD + "steps:\n  on: {operator: powerflow}\n" + RESULT,
            "mine.yaml:5: steps.on: YAML reads this key as a bool",
        ),
        (HEAD + "1: x\n" + STEPS + RESULT, "mine.yaml:4: 1: YAML reads this key as a int"),
        (
            HEAD + STEPS + "  Flow-2: {operator: powerflow}\n" + RESULT,
            "mine.yaml:6: steps.Flow-2: 'Flow-2' is no name: use small letters",
        ),
        (HEAD + STEPS + "  a__b: {operator: powerflow}\n" + RESULT, "steps.a__b: 'a__b' is no name"),
        (HEAD + STEPS + "  region: {operator: network_load}\n" + RESULT, "steps.region: region is a key of the result"),
        (HEAD + STEPS + "  x: {}\n" + RESULT, "mine.yaml:6: steps.x: has neither an operator nor a formula"),
        (HEAD + STEPS + "  x:\n" + RESULT, "mine.yaml:6: steps.x: must hold keys and values, not None"),
        (
            HEAD
            + STEPS
            + "  x: {operator: network_load, formula: {table: bus_day, aggregates: {n: count(*)}}}\n"
            + RESULT,
            "x: has both",
        ),
        (
            HEAD + "steps:\n  flow: {operator: powreflow}\n" + RESULT,
            "mine.yaml:5: steps.flow.operator: there is no operator powreflow; did you mean powerflow?",
        ),
        (
            FLOW + "    parameters:\n      v_min: 0.9\n" + RESULT,
            "mine.yaml:8: steps.flow.parameters.v_min: there is no such parameter; did you mean v_min_pu?",
        ),
        (FLOW + "    parameters:\n      v_min_pu: low\n" + RESULT, "mine.yaml:8: steps.flow.parameters.v_min_pu: "),
        (
            FLOW + "    parameters:\n      v_min_pu: 1.2\n" + RESULT,
            "mine.yaml:7: steps.flow.parameters: v_min_pu 1.2 must be below v_max_pu",
        ),
        (
            X + "    formula: {table: bus_dya, by: [network_id], aggregates: {n: count(*)}}\n" + RESULT,
            "mine.yaml:7: steps.x.formula.table: there is no table bus_dya; did you mean bus_day?",
        ),
        (
            X + "    formula: {table: network, aggregates: {n: count(*)}}\n" + RESULT,
            "network is partitioned by (region)",
        ),
        (
            X + "    formula: {table: bus_day, aggregates: {n: count(*)}}\n" + RESULT,
            "mine.yaml:7: steps.x.formula.by: add network_id: the result has one row per network_id",
        ),
        (
            X + "    formula: {table: bus_day, aggregates: {n: 1}}\n" + RESULT,
            "mine.yaml:7: steps.x.formula.aggregates.n: must be text, not 1; put it in quotes",
        ),
        (
            X
            + "    parameters: {a: 1}\n    formula: {table: bus_day, by: [network_id], aggregates: {n: count(*)}}\n"
            + RESULT,
            "mine.yaml:7: steps.x.parameters: belong to an operator",
        ),
        (
            HEAD + STEPS + "result:\n  loss: {expression: flow.los_kwh, unit: kWh}\n",
            "mine.yaml:7: result.loss.expression: step flow has no figure los_kwh; did you mean loss_kwh?",
        ),
        (
            HEAD + STEPS + "result:\n  loss: {expression: 1 / fow.loss_kwh, unit: kWh}\n",
            "result.loss.expression: there is no step fow; did you mean flow?",
        ),
        (
            HEAD + STEPS + "result:\n  loss: {expression: flow.loss_kwh}\n",
            "mine.yaml:7: result.loss.unit: is missing: unit of the value",
        ),
        (
            HEAD + STEPS + "result:\n  cells: {expression: flow.loss_kwh, unit: ''}\n",
            "mine.yaml:7: result.cells: every result has a column cells already",
        ),
        (HEAD.replace("mine", "yours") + STEPS + RESULT, "mine.yaml:1: id: yours is not the file's name; write mine"),
        (HEAD.replace("mine", "My Own") + STEPS + RESULT, "mine.yaml:1: id: 'My Own' is no name"),
    ],
)
def test_one_problem_is_told_once_with_its_line(text: str, expected: str, write: Write, settings: Settings) -> None:
    [problem] = problems(write(text), settings)
    assert expected in problem


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


# --- names and ids ---


def test_unknown_names_are_told_with_what_is_near(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="did you mean network_losses"):
        load("network_loses", settings)
    with pytest.raises(PipelineError, match="there are network_losses, voltage_quality_day"):
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
    assert names() == pipeline.names() == ["network_losses", "voltage_quality_day"]
