"""What a pipeline's file may say: the typed model behind conf/pipelines/*.yaml, and its JSON Schema for editors."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

NAME_PATTERN = r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=60)]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


class Spec(BaseModel):
    """Base of every part of a file: unknown keys are refused, nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ResultColumn(Spec):
    """A column of a result: an expression, with what its value is measured in."""

    expression: Text = Field(description="Spark SQL expression")
    unit: str = Field(description="unit of the value, empty for a plain number; write % for per cent")
    comment: str = Field("", description="what the value means")


class FormulaSpec(Spec):
    """A calculation in Spark SQL expressions alone: filter and map rows, aggregate them, finish the aggregates."""

    table: str = Field(description="silver or gold table partitioned by (region, date)")
    where: Text | None = Field(None, description="condition that a row must fulfil, over the table's columns")
    by: list[str] = Field([], description="columns whose equal values make one group, besides region and date")
    map: dict[Name, Text] = Field({}, description="name -> expression over the table's columns")
    aggregates: dict[Name, Text] = Field(
        min_length=1, description="name -> sum(x), count(x), count(*), min(x), max(x) or mean(x), x a name in map"
    )
    finish: dict[Name, ResultColumn] = Field({}, description="name -> expression over the aggregates, once all are in")


class StepSpec(Spec):
    """One step: an operator with parameters, or a formula."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["operator"]}, {"required": ["formula"]}]},
    )

    operator: str | None = Field(None, description="name of an operator; ./spark-submit.sh operators lists them")
    parameters: dict[str, Any] = Field({}, description="the operator's parameters; those left out are the settings'")
    formula: FormulaSpec | None = Field(None, description="a formula instead of an operator")


class PipelineSpec(Spec):
    """A pipeline: steps that run where the data lies, and one result fused from all of them."""

    model_config = ConfigDict(title="gridsink pipeline")

    id: Name = Field(description="stable name, equal to the file's; the result is table gold/pipeline_<id>")
    title: Text = Field(description="one line for people")
    description: str = Field("", description="what it calculates and what to mind")
    period: Literal["day", "month", "all"] = Field(description="what one row of the result covers")
    by: list[str] = Field(["network_id"], description="one row per region, period and distinct values of these columns")
    priority: list[str] = Field([], description="regions to calculate first; the newest day comes first within each")
    steps: dict[Name, StepSpec] = Field(
        min_length=1, description="step id -> step; a reader of a table follows its writer"
    )
    result: dict[Name, ResultColumn] = Field(
        min_length=1, description="column -> expression over the merged figures, each written as step.figure"
    )


def json_schema() -> str:
    """Text of conf/pipelines/pipeline.schema.json."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(head | _strict_names(PipelineSpec.model_json_schema()), indent=2) + "\n"


def _strict_names(node: Any) -> Any:
    """pydantic's patternProperties let a key that fits no pattern pass with any value."""
    if isinstance(node, list):
        return [_strict_names(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _strict_names(value) for key, value in node.items()}
    if "patternProperties" in node:
        [(pattern, value)] = node.pop("patternProperties").items()
        node |= {"additionalProperties": value, "propertyNames": {"pattern": pattern, **node["propertyNames"]}}
    return node


if __name__ == "__main__":
    print(json_schema(), end="")
