"""The jobs of the checkout: their names and first lines without importing them, their options by importing one."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from lib.settings import ROOT


def jobs(root: Path = ROOT) -> dict[str, str]:
    """Job name <group>.<name> -> first line of its docstring, by name."""
    return {
        f"{path.parent.name}.{path.stem}": _first_line(path)
        for path in sorted((root / "jobs").glob("*/*.py"))
        if not path.name.startswith("_")
    }


def _first_line(path: Path) -> str:
    try:
        text = ast.get_docstring(ast.parse(path.read_bytes()))
    except SyntaxError as error:
        return f"(cannot be read: line {error.lineno}: {error.msg})"
    return (text or "").strip().partition("\n")[0]


def load(job: str) -> ModuleType:
    """The module of a job."""
    return importlib.import_module(f"jobs.{job}")


def options(module: ModuleType) -> list[click.Parameter]:
    """The job's own options and arguments."""
    return list(module.options()) if hasattr(module, "options") else []


def parse(module: ModuleType, arguments: Sequence[str], also: Sequence[click.Parameter] = ()) -> dict[str, Any]:
    """Values of the job's own options and arguments. `also`: options that may stand among them, left out here.

    Raises click.UsageError.
    """
    own = options(module)
    command = click.Command(module.__name__.removeprefix("jobs."), params=[*own, *also], add_help_option=False)
    values = command.make_context(command.name, list(arguments)).params
    return {str(option.name): values[str(option.name)] for option in own}


def help_text(module: ModuleType) -> str:
    """The job's docstring."""
    return (module.__doc__ or "").strip()
