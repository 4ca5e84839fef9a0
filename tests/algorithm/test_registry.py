"""The registry: what there is, and parameters checked before anything runs."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from lib.algorithm import operators as folder
from lib.algorithm import registry
from lib.algorithm.operator import Figure
from lib.algorithm.operators.powerflow import PowerFlowOperator
from lib.algorithm.registry import ParameterError
from lib.settings import Settings, SolveSettings, load
from lib.tables import TABLES

_FILE = '''
from dataclasses import dataclass
from datetime import date
from typing import ClassVar

from lib.algorithm.operator import Figure


@dataclass(frozen=True)
class Mine:
    """Says nothing.

    At length.
    """

    since: date
    buses: tuple[int, ...] = ()
    mode: str = "a"

    name: ClassVar[str] = "NAME"
    version: ClassVar[int] = 7
    table: ClassVar[str] = "snapshot_tile"
    columns: ClassVar[tuple[str, ...]] = ("p_kw",)
    group: ClassVar[tuple[str, ...]] = ("network_id",)
    key: ClassVar[tuple[str, ...]] = ("first_slot",)
    side: ClassVar[None] = None
    outputs: ClassVar[tuple[str, ...]] = ()
    figures: ClassVar[dict[str, Figure]] = {}


OPERATOR = Mine
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Another folder of operators, with one in a single file, a helper and a file whose name does not fit."""
    (tmp_path / "mine.py").write_text(_FILE.replace("NAME", "mine"))
    (tmp_path / "wrong.py").write_text(_FILE.replace("NAME", "right"))
    (tmp_path / "_helper.py").write_text("raise AssertionError")
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path)])
    yield "mine"
    for name in ("mine", "wrong"):
        sys.modules.pop(f"{folder.__name__}.{name}", None)


def test_every_operator_declares_what_it_is() -> None:
    found = registry.operators()
    assert {"powerflow", "network_load"} <= set(found)
    for name, cls in found.items():
        operator: Any = cls()
        assert operator.name == name
        assert dataclasses.is_dataclass(operator)
        columns = {column.name for column in TABLES[operator.table].columns}
        assert {*operator.columns, *operator.group, *operator.key} <= columns
        assert set(operator.outputs) <= set(TABLES)
        if operator.side is not None:
            side = {column.name for column in TABLES[operator.side.table].columns}
            assert {*operator.side.columns, *operator.side.valid, *operator.group} <= side
        assert not {field.name for field in dataclasses.fields(operator)} & set(operator.figures)
        for figure in operator.figures.values():
            assert isinstance(figure, Figure)
            assert figure.comment
    described = registry.describe()
    assert [each["name"] for each in described] == sorted(found)
    for each in described:
        assert each["what"]
        assert all(row["what"] and row["type"] for row in each["parameters"])


def test_a_file_is_an_operator(mine: str, settings: Settings) -> None:
    assert mine in registry.names()
    assert "_helper" not in registry.names()
    described = registry._description(registry.operator_class(mine))
    assert described["what"] == "Says nothing."
    assert described["version"] == 7
    assert [row["default"] for row in described["parameters"]] == ["required", "[]", '"a"']
    made: Any = registry.operator(mine, {"since": "2020-02-01", "buses": [1, 2]}, settings)
    assert (made.since.isoformat(), made.buses, made.mode) == ("2020-02-01", (1, 2), "a")
    assert registry.operator(mine, {"since": made.since, "buses": (1, 2)}, settings) == made
    with pytest.raises(ParameterError) as caught:
        registry.operator(mine, {"buses": [1, "x"], "mode": 3}, settings)
    assert set(caught.value.problems) == {"since", "buses", "mode"}
    with pytest.raises(ValueError, match="wrong must end in OPERATOR = CLASS"):
        registry.operators()


def test_parameters_left_out_are_the_settings() -> None:
    settings = load(["solve.v_min_pu=0.95"], environment={})
    assert registry.operator("powerflow", {}, settings) == PowerFlowOperator(v_min_pu=0.95)
    assert registry.operator("powerflow", {"v_min_pu": 0.8, "full_voltages": True}, settings) == PowerFlowOperator(
        v_min_pu=0.8, full_voltages=True
    )


def test_parameters_of_single_values() -> None:
    assert registry.parameters(registry.operator("network_load", {"high_kw": 400}, None)) == {"high_kw": 400.0}
    settings = Settings(mining={"line_loss": {"negative_percent": -2}, "price_per_kwh": 1})
    found = registry.parameters(registry.operator("line_loss", {"normal_urban_percent": 5}, settings))
    assert (found["negative_percent"], found["price_per_kwh"], found["normal_urban_percent"]) == (-2.0, 1.0, 5.0)
    assert all(isinstance(value, float) for value in found.values())


@pytest.mark.parametrize("name", ["line_loss", "transformer_load", "voltage_quality"])
def test_the_settings_of_the_work_lists_are_their_parameters(name: str) -> None:
    fields = set(type(getattr(Settings().mining, name)).model_fields) | {"price_per_kwh"}
    assert fields == {field.name for field in dataclasses.fields(registry.operator_class(name))}
    assert registry.operator(name, {}, Settings()) == registry.operator_class(name)()


def test_all_problems_are_told_at_once(settings: Settings) -> None:
    with pytest.raises(ParameterError) as caught:
        registry.operator(
            "powerflow",
            {"v_min_pu": "0.95", "v_mx_pu": 3, "max_iterations": 1.5, "fallback": 1, "tolerance": 0.1}, settings,
        )  # fmt: skip
    problems = caught.value.problems
    assert set(problems) == {"v_min_pu", "v_mx_pu", "max_iterations", "fallback", "tolerance"}
    assert "did you mean v_max_pu" in problems["v_mx_pu"]
    assert all(text in str(caught.value) for text in problems.values())
    with pytest.raises(ParameterError, match=r"v_min_pu 1.2 must be below v_max_pu 1.1"):
        registry.operator("powerflow", {"v_min_pu": 1.2}, settings)
    with pytest.raises(ValueError, match="did you mean powerflow"):
        registry.operator("powerflw", {}, settings)


def test_the_settings_of_the_power_flow_are_its_parameters() -> None:
    """Same names, types, limits, defaults and words in both."""
    parameters = registry._model(PowerFlowOperator).model_json_schema()["properties"]
    settings = SolveSettings.model_json_schema()["properties"]
    assert settings == {name: value for name, value in parameters.items() if name != "full_voltages"}
