"""Pipelines: a file of steps and a result, checked as a whole, its steps put in order."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pyspark.sql import types as t

from lib.algorithm import pipeline_file, registry
from lib.algorithm.expression import Analyser, Refused
from lib.algorithm.formula import CELL, Formula, FormulaError, analyse, check_names, kept_type
from lib.algorithm.operator import Operator, inputs
from lib.algorithm.pipeline_file import Key, PipelineFile
from lib.algorithm.spec import FormulaSpec, PipelineSpec, ResultColumn, StepSpec
from lib.errors import GridsinkError
from lib.settings import CONF
from lib.tables import SCHEMAS, TABLES

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from lib.settings import Settings

__all__ = [
    "FormulaSpec", "Pipeline", "PipelineError", "PipelineSpec", "ResultColumn", "Step", "StepSpec", "load", "names",
]  # fmt: skip

PIPELINES = CONF / "pipelines"
MARKS = ("cells", "cells_expected", "complete")
"""Columns that every result has besides its keys and its own."""
_CONSTANTS = {bool: "boolean", int: "bigint", float: "double", str: "string"}
_REFERENCE = re.compile(r"(?<![\w.])([a-z_]\w*)\s*\.\s*([a-z_]\w*)(?!\s*\()", re.IGNORECASE)
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")


class PipelineError(GridsinkError):
    """A pipeline that cannot be used; `problems` holds every one of its problems."""

    exit_code = 2

    def __init__(self, name: str, problems: list[str]) -> None:
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        super().__init__(
            f"pipeline {name} has {count}:\n" + "\n".join(f"  - {problem}" for problem in problems),
            remedy="correct them; docs/pipelines.md describes the file, docs/formulas.md the formulas",
        )
        self.problems = problems


@dataclass(frozen=True)
class Step:
    """One step of a pipeline. `after`: ids of the steps that write a table which this one reads."""

    id: str
    operator: Operator | Formula
    after: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that tell the rows of a cell's partial apart."""
        return self.operator.by if isinstance(self.operator, Formula) else self.operator.group

    @property
    def parameters(self) -> dict[str, bool | int | float | str]:
        """The operator's parameters that are single values: result expressions may use them like figures."""
        return {} if isinstance(self.operator, Formula) else registry.parameters(self.operator)


@dataclass(frozen=True)
class Pipeline:
    """A checked pipeline.

    `steps` are in an order that respects `after`. `types` holds each result column's type as a Spark SQL name (bigint,
    double, timestamp, date, boolean or string); it is empty where Spark did not check the file.
    """

    spec: PipelineSpec
    steps: tuple[Step, ...]
    path: Path
    types: Mapping[str, str] = field(default_factory=dict)


def names() -> list[str]:
    """Names of the pipelines in conf/pipelines."""
    return sorted(path.stem for path in PIPELINES.glob("*.yaml"))


def load(name: str, settings: Settings, spark: SparkSession | None = None) -> Pipeline:
    """The pipeline in conf/pipelines/NAME.yaml, or in the file `name` if that ends in .yaml; all of it checked.

    Without Spark the expressions stay unchecked. Raises PipelineError with all problems at once, each with its line.
    """
    path = Path(name).absolute() if name.endswith((".yaml", ".yml")) else PIPELINES / f"{name}.yaml"
    if not path.is_file():
        known = names()
        hint = _hint(name, known) or f"; there are {', '.join(known)}"
        raise PipelineError(name, [f"there is no file {path}{hint}"])
    file = pipeline_file.read(path)
    if file.spec is None:
        raise PipelineError(path.stem, file.problems)
    spec = file.spec
    _check_id(file, spec)
    _check_lists(file, spec, settings)
    operators = {id: made for id, step in spec.steps.items() if (made := _operator(file, id, step, settings, spark))}
    steps = _ordered(file, operators)
    _check_groups(file, spec, operators)
    _check_result(file, spec, operators)
    types = {} if spark is None or file.problems else _analyse_result(file, spec, operators, spark)
    if file.problems:
        raise PipelineError(path.stem, sorted(file.problems, key=_line))
    return Pipeline(spec, steps, path, types)


def _check_id(file: PipelineFile, spec: PipelineSpec) -> None:
    if spec.id != file.path.stem:
        file.tell(("id",), f"{spec.id} is not the file's name; write {file.path.stem}, or rename the file")
    for other in sorted({*PIPELINES.glob("*.yaml"), *file.path.parent.glob("*.yaml")} - {file.path}):
        try:
            tree = yaml.safe_load(other.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue  # that file's own problem
        if isinstance(tree, dict) and tree.get("id") == spec.id:
            file.tell(("id",), f"{spec.id} is the id of {other} too, and both would write the same table")


def _check_lists(file: PipelineFile, spec: PipelineSpec, settings: Settings) -> None:
    for i, region in enumerate(spec.priority):
        if region not in settings.regions:
            hint = _hint(region, settings.regions) or f"; regions are {', '.join(settings.regions)}"
            file.tell(("priority", i), f"there is no region {region} in the settings{hint}")
    for name in ("by", "priority"):
        values = getattr(spec, name)
        for i, value in enumerate(values):
            if value in values[:i]:
                file.tell((name, i), f"{value} is given twice")


def _operator(
    file: PipelineFile, id: str, step: StepSpec, settings: Settings, spark: SparkSession | None
) -> Operator | Formula | None:
    """What the step runs; None, and its problems told, if it cannot be used."""
    key: Key = ("steps", id)
    if id in (*CELL, *(file.spec.by if file.spec else ())):
        file.tell(key, f"{id} is a key of the result; choose another name")
    if file.is_misshapen(key):
        return None
    if (step.operator is None) == (step.formula is None):
        both = "has both an operator and a formula; make it two steps"
        file.tell(key, "has neither an operator nor a formula" if step.operator is None else both)
    elif step.formula is not None:
        if step.parameters:
            file.tell((*key, "parameters"), "belong to an operator; a formula has none")
        return _formula(file, (*key, "formula"), step.formula, spark)
    else:
        assert step.operator is not None
        try:
            made = registry.operator(step.operator, step.parameters, settings)
        except registry.ParameterError as e:
            for name, problem in e.problems.items():
                file.tell((*key, "parameters", name) if name else (*key, "parameters"), problem)
        except ValueError as e:
            file.tell((*key, "operator"), str(e))
        else:
            for table in sorted({*inputs(made), *made.outputs} - set(TABLES)):
                file.tell((*key, "operator"), f"{step.operator} uses table {table}, which is declared nowhere")
            return made
    return None


def _formula(file: PipelineFile, key: Key, spec: FormulaSpec, spark: SparkSession | None) -> Formula | None:
    if spark is None:
        problems = check_names(spec)
    else:
        try:
            return analyse(spark, spec, f"{file.place(key)} {'.'.join(map(str, key[:-1]))}")
        except FormulaError as e:
            problems = e.problems
    for part, problem in problems:
        inner: Iterator[str | int] = (int(it) if it.isdigit() else it for it in part.split(".") if it)
        file.tell((*key, *inner), problem)
    return None if problems else Formula(spec, file.place(key))


def _ordered(file: PipelineFile, operators: Mapping[str, Operator | Formula]) -> tuple[Step, ...]:
    """Steps in the file's order, but each after those that write what it reads."""
    writers: dict[str, str] = {}
    for id, operator in operators.items():
        for table in operator.outputs:
            if table in writers:
                file.tell(
                    ("steps", id), f"writes {table}, as step {writers[table]} does; make it a pipeline of its own"
                )
            writers.setdefault(table, id)
    left = {
        id: tuple(dict.fromkeys(writers[table] for table in inputs(operator) if table in writers))
        for id, operator in operators.items()
    }
    steps: dict[str, Step] = {}
    while left:
        ready = next((id for id, after in left.items() if set(after) <= set(steps)), None)
        if ready is None:
            for id in left:
                waits = ", ".join(it for it in left[id] if it not in steps)
                file.tell(("steps", id), f"reads what {waits} writes, and that needs this step first: a circle")
            return ()
        steps[ready] = Step(ready, operators[ready], left.pop(ready))
    return tuple(steps.values())


def _check_groups(file: PipelineFile, spec: PipelineSpec, operators: Mapping[str, Operator | Formula]) -> None:
    for i, name in enumerate(spec.by):
        if name in CELL:
            file.tell(("by", i), f"{name} is a key of every result; leave it out")
        for id, operator in operators.items():
            keys = Step(id, operator).keys
            if name in keys or name in CELL:
                continue
            if isinstance(operator, Formula) and name in SCHEMAS[operator.table].names:
                file.tell(
                    ("steps", id, "formula", "by"), f"add {name}: the result has one row per {', '.join(spec.by)}"
                )
            else:
                there = f"step {id} has one row per {', '.join(keys) or 'region and date'}"
                file.tell(("by", i), f"{there}, so none per {name}{_hint(name, keys)}")


def _check_result(file: PipelineFile, spec: PipelineSpec, operators: Mapping[str, Operator | Formula]) -> None:
    for name, column in spec.result.items():
        if name in (*CELL, *spec.by, *MARKS):
            file.tell(("result", name), f"every result has a column {name} already; choose another name")
        if name in spec.steps:
            file.tell(("result", name), f"{name} is a step; choose another name")
        for step, figure in _REFERENCE.findall(_QUOTED.sub("''", column.expression.replace("`", ""))):
            key: Key = ("result", name, "expression")
            if step.lower() not in spec.steps:
                hint = _hint(step, spec.steps) or f"; steps are {', '.join(spec.steps)}"
                file.tell(key, f"there is no step {step}{hint}")
            elif step.lower() in operators:
                operator = operators[step.lower()]
                known = _figures(operator)
                if figure.lower() not in (*known, *Step(step, operator).parameters):
                    hint = _hint(figure, known) or f"; it has {', '.join(known)}"
                    file.tell(key, f"step {step} has no figure {figure}{hint}")


def _analyse_result(
    file: PipelineFile, spec: PipelineSpec, operators: Mapping[str, Operator | Formula], spark: SparkSession
) -> dict[str, str]:
    """Types of the result's columns by name. Expressions see the keys, each step's figures and parameters in a struct,
    and the columns above their own, which Spark resolves as lateral aliases."""
    columns = {f.name: f for operator in operators.values() for f in SCHEMAS[operator.table]}
    fields = [columns[name] for name in (*CELL, *spec.by)]
    for id, operator in operators.items():
        types = operator.types if isinstance(operator, Formula) else {n: f.type for n, f in operator.figures.items()}
        constants = {name: _CONSTANTS[type(value)] for name, value in Step(id, operator).parameters.items()}
        figures = [t.StructField(name, t.DataType.fromDDL(kind)) for name, kind in {**types, **constants}.items()]
        fields.append(t.StructField(id, t.StructType(figures)))
    found: dict[str, str] = {}
    for name, column in spec.result.items():
        above = [t.StructField(name, t.DataType.fromDDL(kind)) for name, kind in found.items()]
        try:
            found[name] = kept_type(Analyser(spark, t.StructType([*fields, *above])).check(column.expression).type)
        except Refused as e:
            file.tell(("result", name, "expression"), str(e))
    return found


def _figures(operator: Operator | Formula) -> list[str]:
    """Names that expressions may use after the step's id and a dot."""
    if isinstance(operator, Formula):
        return [*operator.spec.aggregates, *operator.spec.finish]
    return list(operator.figures)


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _line(problem: str) -> int:
    found = re.search(r":(\d+): ", problem)
    return int(found[1]) if found else 0
