"""Pipelines: a file of steps and a result, read, checked as a whole and put in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lib.algorithm.formula import Formula
from lib.algorithm.operator import Operator
from lib.algorithm.spec import FormulaSpec, PipelineSpec, ResultColumn, StepSpec
from lib.errors import GridsinkError
from lib.settings import CONF

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from lib.settings import Settings

__all__ = [
    "FormulaSpec", "Pipeline", "PipelineError", "PipelineSpec", "ResultColumn", "Step", "StepSpec", "load", "names",
]  # fmt: skip

PIPELINES = CONF / "pipelines"


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
    raise NotImplementedError
