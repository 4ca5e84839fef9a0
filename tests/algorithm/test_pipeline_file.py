"""What is wrong in a pipeline's file is told with its line, whatever it is."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lib.algorithm.pipeline import PIPELINES, PipelineError, load, names
from lib.settings import Settings
from lib.settings import load as load_settings
from tests.algorithm.pipelines import HEAD, RESULT, STEPS, Write, problems

FLOW = HEAD + "steps:\n  flow:\n    operator: powerflow\n"
X = HEAD + STEPS + "  x:\n"


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


_ODD = st.sampled_from([None, True, 0, -1.5, "", "x", "flow.loss_kwh", [], ["x"], {}, {"x": 1}, {"expression": "1"}])


@given(
    name=st.sampled_from(names()),
    seed=st.integers(0, 2**32),
    odd=_ODD,
    change=st.sampled_from(["put", "drop", "rename"]),
)
def test_no_change_of_a_file_is_an_unknown_error(
    name: str, seed: int, odd: Any, change: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tree = yaml.safe_load((PIPELINES / f"{name}.yaml").read_text(encoding="utf-8")) | {"id": "mine"}
    chosen = random.Random(seed)
    node: Any = tree
    while True:
        key = chosen.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if not isinstance(node[key], (dict, list)) or not node[key] or chosen.random() < 0.2:
            break
        node = node[key]
    if change == "put" or isinstance(node, list):
        node[key] = odd
    elif change == "drop":
        del node[key]
    else:
        node[odd if isinstance(odd, (str, bool, int)) else "odd"] = node.pop(key)
    path = tmp_path_factory.mktemp("odd") / "mine.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert all("mine.yaml:" in problem for problem in _found(path))


def _found(path: Path) -> list[str]:
    """Problems of a file; none if it is valid."""
    try:
        load(str(path), load_settings([], environment={}))
    except PipelineError as e:
        return e.problems or ["no problem told"]
    return []
