"""What a result depends on besides its data: the operator's sources, its parameters, versions of numeric libraries.

Sources are all modules of gridsink and of the operator's own package that the operator or the engine can reach by
imports, those inside functions included. They count by their syntax tree: comments, docstrings and layout do not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import platform
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from lib.algorithm.imports import Sources
from lib.errors import GridsinkError

ENGINE = ("lib.calculation.worker", "lib.calculation.scan")
"""What runs operators: its sources count for each of them that names no other `engine_modules`."""

_LIBRARIES = ("numpy", "scipy", "numba", "llvmlite", "pyarrow")
_DESCRIPTIVE = {"pydantic", "typing_extensions"}
"""Operators describe their parameters with these; they calculate nothing."""


@dataclass(frozen=True)
class Fingerprint:
    """`digest` (hexadecimal SHA-256) of `manifest`, which says in JSON's types what it was made of."""

    digest: str
    manifest: Mapping[str, Any]
    sources: Sources | None = dataclasses.field(default=None, compare=False, repr=False)

    def stands(self) -> bool:
        """Whether the sources are still those: workers that start later import what is there then."""
        return self.sources is None or self.sources.unchanged()


def fingerprint(operator: Any, roots: Sequence[str] = ()) -> Fingerprint:
    """The operator's fingerprint. roots: modules besides its own and the engine's whose sources count.

    Raises GridsinkError where a parameter or the operator's module has no fingerprint.
    """
    parameters = _dumps(_plain(_parameters(operator)))
    named = f"{operator.name} {operator.version}"
    return _fingerprint(
        named, parameters, (type(operator).__module__, *getattr(operator, "engine_modules", ENGINE), *roots)
    )


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What two manifests differ in: "parameter v_min_pu 0.9 -> 0.95; source lib.grid.sweep; numpy 2.4.0 -> 2.4.1"."""
    found = []
    if old["operator"] != new["operator"]:
        found.append(f"operator {old['operator']} -> {new['operator']}")
    for name, a, b in _changed(old["parameters"], new["parameters"]):
        found.append(f"parameter {name} {_shown(a)} -> {_shown(b)}")
    for name, a, b in _changed(old["sources"], new["sources"]):
        found.append(f"source {name}" + (" (new)" if a is _NONE else " (gone)" if b is _NONE else ""))
    for name, a, b in _changed(old["libraries"], new["libraries"]):
        found.append(f"{name} {_shown(a)} -> {_shown(b)}")
    return "; ".join(found)


def library_versions() -> dict[str, str]:
    """Versions that results may depend on: numeric libraries, and Python's without its patch level."""
    found = {name: _version(name) for name in _LIBRARIES}
    return found | {"python": ".".join(platform.python_version_tuple()[:2])}


@lru_cache(maxsize=256)
def _fingerprint(named: str, parameters: str, modules: tuple[str, ...]) -> Fingerprint:
    found, libraries = _reached(modules, frozenset({"lib", *(module.partition(".")[0] for module in modules)}))
    manifest = {
        "operator": named,
        "parameters": json.loads(parameters),
        "sources": dict(sorted(found.digests.items())),
        "libraries": dict(sorted((library_versions() | {name: _version(name) for name in libraries}).items())),
    }
    return Fingerprint(hashlib.sha256(_dumps(manifest).encode()).hexdigest(), manifest, found)


@lru_cache(maxsize=256)
def _reached(modules: tuple[str, ...], packages: frozenset[str]) -> tuple[Sources, set[str]]:
    """The sources in reach, and the distributions that the first module and those outside lib import."""
    sources = Sources(packages)
    for module in modules:
        if not sources.add(module):
            raise GridsinkError(
                f"module {module} has no source that can be found, so it has no fingerprint",
                module, "put the operator into a module of its own on Python's path",
            )  # fmt: skip
    own = [name for name in sources.digests if name == modules[0] or name.partition(".")[0] != "lib"]
    others = set().union(*(sources.others[name] for name in own)) - {*sys.stdlib_module_names, *_DESCRIPTIVE, ""}
    distributions = {name: _distributions(name) for name in others}
    loose = {name for name, found in distributions.items() if not found}
    if loose:  # of no distribution, so of no version: its sources count
        return _reached(modules, packages | loose)
    return sources, set().union(*distributions.values())


def _distributions(package: str) -> set[str]:
    with contextlib.suppress(metadata.PackageNotFoundError):
        metadata.version(package)
        return {package}
    return set(_packages_distributions().get(package, ()))


_packages_distributions = lru_cache(maxsize=1)(metadata.packages_distributions)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


def _parameters(operator: Any) -> dict[str, Any]:
    """The operator's property `parameters` if it has one, else the values of its fields.

    Whole numbers are floats where floats are declared, so that 80 and 80.0 are the same.
    """
    if isinstance(getattr(type(operator), "parameters", None), property):
        return dict(operator.parameters)
    try:
        types = typing.get_type_hints(type(operator))
    except Exception:  # names that exist for type checkers only
        types = {}
    values = {}
    for field in dataclasses.fields(operator):
        value = getattr(operator, field.name)
        declared = types.get(field.name, field.type)
        values[field.name] = float(value) if declared is float and type(value) is int else value
    return values


def _plain(value: Any) -> Any:
    """`value` in JSON's types; values of different types stay different."""
    if value is None or (isinstance(value, (bool, int, str)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Enum):
        return {type(value).__name__: _plain(value.value)}
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (bytes, Decimal, Path)):
        return {type(value).__name__: value.hex() if isinstance(value, bytes) else str(value)}
    if isinstance(value, BaseModel):
        return _plain(dict(value))
    if dataclasses.is_dataclass(value):
        return _plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: _plain(item) for key, item in value.items()}
        return {"items": sorted(([_plain(key), _plain(item)] for key, item in value.items()), key=_dumps)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Set):
        return {"set": sorted(map(_plain, value), key=_dumps)}
    if isinstance(value, np.ndarray):
        return {"array": [value.dtype.str, _plain(value.tolist())]}
    if isinstance(value, np.generic):
        return {value.dtype.str: _plain(value.item())}
    raise GridsinkError(
        f"a value of type {type(value).__name__} has no fingerprint", f"parameter {value!r:.100}",
        "use numbers, texts, dates, and sequences, mappings and dataclasses of them",
    )  # fmt: skip


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


_NONE = object()


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted({*old, *new}):
        a, b = old.get(name, _NONE), new.get(name, _NONE)
        if a is _NONE or b is _NONE or _dumps(a) != _dumps(b):
            yield name, a, b


def _shown(value: Any) -> str:
    return "none" if value is _NONE else value if isinstance(value, str) else _dumps(value)
