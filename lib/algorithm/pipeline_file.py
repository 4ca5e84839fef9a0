"""A pipeline's file as a typed spec, each key with its line, and every problem of its form told at once."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from lib.algorithm.spec import PipelineSpec
from lib.settings import ROOT

Key = tuple[str | int, ...]

_NAME = "is no name: use small letters, digits and single underscores, a letter first, such as iron_loss_kwh"
# Stand-ins for what is missing or unusable at the top of a file, so that the rest of it can still be checked.
_STAND_INS: dict[str, Any] = {
    "title": "-", "description": "", "period": "day", "by": [], "priority": [],
    "result": {"none": {"expression": "0", "unit": ""}},
}  # fmt: skip


@dataclass
class PipelineFile:
    """What a file says, as far as it can be understood.

    spec: of those parts whose form is right; None if there is too little of them. misshapen: keys of the other parts.
    """

    path: Path
    spec: PipelineSpec | None = None
    problems: list[str] = field(default_factory=list)
    misshapen: set[Key] = field(default_factory=set)
    lines: dict[Key, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The path as messages show it."""
        return str(self.path.relative_to(ROOT)) if self.path.is_relative_to(ROOT) else str(self.path)

    def place(self, key: Key) -> str:
        """file:line of a key, or of the innermost part around it that the file has."""
        while key and key not in self.lines:
            key = key[:-1]
        return f"{self.name}:{self.lines.get(key, 1)}"

    def tell(self, key: Key, problem: str) -> None:
        """Add a problem, unless it follows from the form of this part, of what is in it or around it."""
        dotted = ".".join(map(str, key))
        text = f"{self.place(key)}: {dotted}: {problem}" if dotted else f"{self.place(key)}: {problem}"
        if not self.is_misshapen(key) and text not in self.problems:
            self.problems.append(text)

    def is_misshapen(self, key: Key) -> bool:
        return any(other[: len(key)] == key or key[: len(other)] == other for other in self.misshapen)


def read(path: Path) -> PipelineFile:
    """The file's spec, lines and problems; nothing is raised."""
    file = PipelineFile(path)
    try:
        text = path.read_text(encoding="utf-8")
        root, tree = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except OSError as e:
        file.problems.append(f"{file.name}: cannot be read: {e.strerror}")
        return file
    except yaml.MarkedYAMLError as e:
        line = e.problem_mark.line + 1 if e.problem_mark else 1
        what = " ".join(part for part in (e.context, e.problem) if part)
        file.problems.append(f"{file.name}:{line}: is no YAML: {what}")
        return file
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        file.problems.append(f"{file.name}: cannot be read as YAML: {' '.join(str(e).split())}")
        return file
    if not isinstance(tree, dict):
        found = "is empty" if tree is None else f"holds a {type(tree).__name__}"
        file.problems.append(f"{file.name}:1: {found}; a pipeline is keys and values, id and title first")
        return file
    for key, line, problem in _keys(root, (), set()):
        file.lines.setdefault(key, line)
        if problem:
            file.lines[key] = line
            _misshapen(file, key, problem)
    file.spec = _spec(file, tree)
    return file


def _keys(node: Any, prefix: Key, above: set[int]) -> Iterator[tuple[Key, int, str]]:
    """Every key with its line and, if YAML would swallow or bend it silently, what is wrong with it."""
    if id(node) in above:
        yield prefix, node.start_mark.line + 1, "refers to itself"
        return
    inside = above | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield (*prefix, i), item.start_mark.line + 1, ""
            yield from _keys(item, (*prefix, i), inside)
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key_node, value in node.value:
            name, line = str(key_node.value), key_node.start_mark.line + 1
            problem = f"given twice, first in line {first[name]}" if name in first else ""
            if key_node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                problem = f"YAML reads this key as a {key_node.tag.rpartition(':')[2]}: choose another name"
            first.setdefault(name, line)
            yield (*prefix, name), line, problem
            yield from _keys(value, (*prefix, name), inside)


def _spec(file: PipelineFile, tree: dict[Any, Any]) -> PipelineSpec | None:
    """The spec; wrong parts are told and left out."""
    stand_ins = _STAND_INS | {"id": file.path.stem if file.path.stem.isidentifier() else "x"}
    tree = deepcopy(tree)
    for attempt in range(10):  # what is left out may be missing in turn
        try:
            return PipelineSpec.model_validate(tree)
        except ValidationError as e:
            errors = e.errors()
        for item in errors:
            *inner, last = (part for part in item["loc"] if part != "[key]")
            bent = item["type"] == "invalid_key" or (item["loc"][-1] == "[key]" and not isinstance(item["input"], str))
            key: Key = (*inner, item["input"] if bent else last)
            if attempt == 0 and not bent:  # keys that YAML bends are told already
                _misshapen(file, key, _explain(key, item))
            if len(key) == 1 and item["type"] not in ("extra_forbidden", "invalid_key"):
                if key[0] not in stand_ins:
                    return None
                tree[key[0]] = stand_ins[str(key[0])]
            else:
                _drop(tree, key[:-1] if item["type"] == "missing" else key)
    return None


def _misshapen(file: PipelineFile, key: Key, problem: str) -> None:
    file.tell(key, problem)
    file.misshapen.add(key)


def _drop(tree: Any, key: Key) -> None:
    for part in key[:-1]:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(tree, dict):
        tree.pop(key[-1], None)
    elif isinstance(tree, list) and isinstance(key[-1], int) and key[-1] < len(tree):
        tree[key[-1]] = ""


def _explain(key: Key, item: Any) -> str:
    """pydantic's error in words of the file."""
    kind, given = item["type"], item["input"]
    if kind == "extra_forbidden":
        model = _model(key[:-1])
        known = list(model.model_fields) if model else []
        near = difflib.get_close_matches(str(key[-1]), known, 1)
        return "unknown key" + (f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(known)}")
    if kind == "missing":
        model = _model(key[:-1])
        description = model.model_fields[str(key[-1])].description if model else ""
        return f"is missing: {description}"
    if kind == "string_pattern_mismatch":
        return f"'{given}' {_NAME}"
    if kind == "string_type":
        return f"must be text, not {given!r}; put it in quotes" if given is not None else "is empty"
    if kind in ("string_too_short", "too_short"):
        return "is empty"
    if kind in ("dict_type", "model_type"):
        return f"must hold keys and values, not {given!r}"
    if kind == "list_type":
        return f"must be a list, not {given!r}; write [{given}]"
    return f"{item['msg']}, not {given!r}"


def _model(key: Key) -> type[BaseModel] | None:
    """The model that describes the part of the file at `key`."""
    found: Any = PipelineSpec
    for part in key:
        if isinstance(found, type) and issubclass(found, BaseModel):
            field_info = found.model_fields.get(str(part))
            found = field_info.annotation if field_info else None
        else:
            found = typing.get_args(found)[-1] if typing.get_args(found) else None
        if isinstance(found, types.UnionType):
            found = next(arg for arg in typing.get_args(found) if arg is not types.NoneType)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None
