"""Small pipelines for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lib.algorithm.pipeline import PipelineError, load
from lib.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

HEAD = "id: mine\ntitle: Mine\nperiod: day\n"
STEPS = "steps:\n  flow: {operator: powerflow}\n"
RESULT = "result:\n  loss: {expression: flow.loss_kwh, unit: kWh}\n"

Write = Callable[[str], str]


def problems(path: str, settings: Settings, spark: SparkSession | None = None) -> list[str]:
    with pytest.raises(PipelineError) as caught:
        load(path, settings, spark)
    assert caught.value.exit_code == 2
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return [problem.removeprefix(str(Path(path).parent) + "/") for problem in caught.value.problems]
