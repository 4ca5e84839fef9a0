"""The operators at hand: every file lib/algorithm/operators/NAME.py whose `OPERATOR` is the class of operator NAME."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import to_json

from lib.algorithm import operators as folder
from lib.algorithm.operator import Operator, beside, inputs
from lib.tables import TABLES

_LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


class ParameterError(ValueError):
    """Parameters that an operator cannot take: `problems` by the parameter's name ("" where several are involved)."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {text}" if name else text for name, text in problems.items()))
        self.problems = dict(problems)


def names() -> list[str]:
    """Names of all operators, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(folder.__path__) if not module.name.startswith("_"))


def operators() -> dict[str, type]:
    """All operators' classes by name."""
    return {name: operator_class(name) for name in names()}


def operator_class(name: str) -> type:
    """One operator's class. Raises ValueError if there is none of the name."""
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"there is no operator {name}; {hint}")
    path = f"{folder.__name__}.{name}"
    cls: Any = getattr(importlib.import_module(path), "OPERATOR", None)
    if getattr(cls, "name", None) != name:
        raise ValueError(f"module {path} must end in OPERATOR = CLASS, with the class's name = {name!r}")
    return typing.cast(type, cls)


def operator(name: str, parameters: Mapping[str, Any], settings: Any) -> Operator:
    """The operator with these parameters; those left out are the settings', or their defaults.

    Raises ValueError for an unknown operator, ParameterError with all problems of the parameters at once.
    """
    cls: Any = operator_class(name)
    model = _model(cls)
    try:
        # As JSON, in which a list may be a tuple and a text a date, and strict, so that "0.9" is no number.
        checked = model.model_validate_json(to_json(dict(parameters), inf_nan_mode="constants"), strict=True)
        given = {field: getattr(checked, field) for field in checked.model_fields_set}
        made = cls.from_settings(settings, **given) if hasattr(cls, "from_settings") else cls(**given)
        return typing.cast(Operator, made)
    except ValidationError as e:
        raise ParameterError(_problems(e, model)) from e
    except ValueError as e:
        raise ParameterError({"": str(e)}) from e


def parameters(operator: Operator) -> dict[str, bool | int | float | str]:
    """The operator's parameters that are one number, text or truth value each, as what they are declared."""
    types = typing.get_type_hints(type(operator))
    values = {f.name: getattr(operator, f.name) for f in dataclasses.fields(typing.cast(Any, operator))}
    return {
        name: float(value) if types[name] is float else value
        for name, value in values.items()
        if isinstance(value, (bool, int, float, str))
    }


def describe() -> list[dict[str, Any]]:
    """What each operator is, reads, takes and gives, for people."""
    return [_description(cls) for cls in operators().values()]


def listing(name: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """Tables for the terminal, by title: all operators, or one in full. Raises ValueError if there is none of `name`.

    Each table is a list of rows.
    """
    if name is None:
        return {"operators": [_summary(each) for each in describe()]}
    each = _description(operator_class(name))
    tables = {"operator": [{key: each[key] for key in ("name", "version", "what")}]}
    reads = [{"table": each["table"], "columns": each["columns"], "rows": f"one group per {_list(each['group'])}"}]
    reads += each["side"]
    tables["reads"] = [row | {"columns": _list(row["columns"])} for row in reads]
    tables["parameters"] = each["parameters"]
    tables["figures"] = [
        {
            "figure": figure["figure"], "type": figure["type"], "unit": figure["unit"],
            "range": _range({">=": figure["minimum"], "<=": figure["maximum"]}), "merged by": figure["merge"],
            "what": figure["comment"],
        }
        for figure in each["figures"]
    ]  # fmt: skip
    tables["writes"] = [{"table": table, "what": TABLES[table].comment} for table in each["outputs"]]
    return {title: rows for title, rows in tables.items() if rows}


def _summary(each: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": each["name"], "version": each["version"], "what": each["what"],
        "reads": _list([each["table"], *(side["table"] for side in each["side"])]),
        "parameters": _list(row["parameter"] for row in each["parameters"]),
        "figures": _list(row["figure"] for row in each["figures"]), "writes": _list(each["outputs"]),
    }  # fmt: skip


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)


def _range(limits: Mapping[str, Any]) -> str:
    return _list(f"{sign} {value:g}" for sign, value in limits.items() if value is not None)


def _description(cls: Any) -> dict[str, Any]:
    reads = inputs(cls)
    outputs = cls().outputs if isinstance(cls.outputs, property) else cls.outputs
    return {
        "name": cls.name,
        "version": cls.version,
        "what": inspect.cleandoc(cls.__doc__ or "").partition("\n")[0],
        "table": cls.table,
        "columns": list(reads.pop(cls.table)),
        "group": list(cls.group),
        "side": [
            {"table": table, "columns": list(columns), "rows": _rows_beside(cls, table)}
            for table, columns in reads.items()
        ],
        "parameters": _parameters(_model(cls)),
        "figures": [{"figure": name} | dataclasses.asdict(figure) for name, figure in cls.figures.items()],
        "outputs": list(outputs),
    }


def _rows_beside(cls: Any, table: str) -> str:
    second = beside(cls)
    if second is not None and second.table == table:
        return f"those of the day with the group's {_list(second.on)}"
    return "one per group, valid on the day"


def _model(cls: Any) -> type[BaseModel]:
    """A pydantic model of the parameters, which are the fields of the operator's dataclass."""
    types = typing.get_type_hints(cls, include_extras=True)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.default_factory is not dataclasses.MISSING:
            default = Field(default_factory=field.default_factory)
        else:
            default = ... if field.default is dataclasses.MISSING else field.default
        fields[field.name] = types[field.name], default
    config = ConfigDict(extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)
    return create_model(cls.__name__, __config__=config, **fields)


def _parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    schema = model.model_json_schema()["properties"]
    return [
        {
            "parameter": name,
            "type": getattr(field.annotation, "__name__", str(field.annotation)),
            "default": "required" if field.is_required() else _shown(field.get_default(call_default_factory=True)),
            "range": _range({sign: schema[name].get(key) for key, sign in _LIMITS.items()}),
            "what": field.description or "",
        }
        for name, field in model.model_fields.items()
    ]


def _shown(value: Any) -> str:
    return to_json(value, inf_nan_mode="constants", fallback=str).decode()


def _problems(error: ValidationError, model: type[BaseModel]) -> dict[str, str]:
    problems: dict[str, str] = {}
    for item in error.errors(include_url=False):
        name, inner = str(item["loc"][0]), ".".join(map(str, item["loc"][1:]))
        if item["type"] == "extra_forbidden" and not inner:
            near = difflib.get_close_matches(name, model.model_fields, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(model.model_fields) or 'none'}"
            text = f"there is no such parameter; {hint}"
        else:
            message = item["msg"][0].lower() + item["msg"][1:]
            text = message if item["type"] == "missing" else f"{message}, not {item['input']!r}"
            text = f"{inner}: {text}" if inner else text
        problems[name] = f"{problems[name]}; {text}" if name in problems else text
    return problems
