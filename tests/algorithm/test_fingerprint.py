"""Fingerprints, checked on copies of gridsink's own sources in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from lib.algorithm import fingerprint as module
from lib.algorithm.fingerprint import Fingerprint, difference, fingerprint, library_versions
from lib.algorithm.operators.powerflow import PowerFlowOperator
from lib.errors import GridsinkError
from lib.settings import ROOT, Settings

_SCRIPT = """
import json, time
from lib.algorithm.operators.powerflow import PowerFlowOperator
from lib.algorithm.fingerprint import fingerprint
found = fingerprint(PowerFlowOperator())
print(json.dumps([found.digest, dict(found.manifest)]))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the library."""
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def elsewhere(path: Path) -> Fingerprint:
    """The power flow's fingerprint, from sources in `path` (a folder or a zip file)."""
    environment = os.environ | {"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    folder = path if path.is_dir() else path.parent
    line = [sys.executable, "-c", _SCRIPT]
    run = subprocess.run(line, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return Fingerprint(*json.loads(run.stdout))


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


def test_only_what_the_operator_can_reach_counts(copy: Path) -> None:
    before = elsewhere(copy)
    grid, report = copy / "lib/grid", next((copy / "lib/report").glob("[a-z]*.py"))
    edit(report, lambda text: text + "\nUNRELATED = 1\n")
    edit(grid / "sweep.py", lambda text: "# a comment\n" + text.replace('"""', '"""Other words. ', 1) + "\n\n\n")
    assert elsewhere(copy) == before

    edit(grid / "simd.py", lambda text: text.replace("WIDTH = 8", "WIDTH = 4"))
    after = elsewhere(copy)
    assert after.digest != before.digest
    assert difference(before.manifest, after.manifest) == "source lib.grid.simd"


def test_a_zip_has_the_fingerprint_of_its_folder_and_a_function_level_import_counts(copy: Path, tmp_path: Path) -> None:
    archive = tmp_path / "lib.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted((copy / "lib").rglob("*.py")):
            out.write(path, path.relative_to(copy))
    (copy / "lib").rename(copy / "no_lib")
    zipped = elsewhere(archive)
    (copy / "no_lib").rename(copy / "lib")
    # imported by a method of the result of `solve` alone
    edit(copy / "lib/grid/branches.py", lambda text: text + "\nFACTOR = 2\n")
    changed = elsewhere(copy)
    assert difference(zipped.manifest, changed.manifest) == "source lib.grid.branches"
    assert zipped.digest == fingerprint(PowerFlowOperator()).digest


@pytest.fixture
def clean() -> Iterator[None]:
    """No fingerprint is remembered, before or after."""
    for cached in (module._fingerprint, module._reached):
        cached.cache_clear()
    yield
    for cached in (module._fingerprint, module._reached):
        cached.cache_clear()


def test_libraries_count(clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(PowerFlowOperator())
    known = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "99" if name == "numpy" else known(name))
    module._fingerprint.cache_clear()
    after = fingerprint(PowerFlowOperator())
    assert after.digest != before.digest
    assert difference(before.manifest, after.manifest) == f"numpy {np.__version__} -> 99"
    assert library_versions()["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"


def test_parameters_count(settings: Settings) -> None:
    before = fingerprint(PowerFlowOperator())
    after = fingerprint(PowerFlowOperator(v_min_pu=0.95))
    assert after.digest != before.digest
    assert difference(before.manifest, after.manifest) == "parameter v_min_pu 0.9 -> 0.95"
    assert fingerprint(PowerFlowOperator(heavy_percent=80)) == before
    assert fingerprint(PowerFlowOperator.from_settings(settings)) == before
    assert fingerprint(PowerFlowOperator()) is before


@dataclass(frozen=True)
class Inner:
    x: float = 0.1


@dataclass(frozen=True)
class Exotic:
    value: Any = None
    thresholds: dict[str, float] = field(default_factory=dict)

    name: ClassVar[str] = "exotic"
    version: ClassVar[int] = 3


def test_values_of_any_kind_are_told_apart() -> None:
    values = [
        None, True, 1, 1.0, -0.0, 0.0, "1", "", 0.1 + 0.2, 0.3, float("nan"), float("inf"), "nan", date(2020, 1, 1),
        date(2020, 1, 2), b"1", [1], [1.0], [[1]], [], {}, {"a": 1}, {1: 1}, {"1": 1}, {1}, Inner(), Inner(0.2),
        np.float32(1), np.arange(2), np.arange(2.0),
    ]  # fmt: skip
    digests = [fingerprint(Exotic(value), ()).digest for value in values]
    assert len(set(digests)) == len(values)
    assert digests == [fingerprint(Exotic(value), ()).digest for value in values]
    one, other = {"a": 0.1, "b": 1.0}, {"b": 1.0, "a": 0.1}
    assert fingerprint(Exotic(thresholds=one), ()) == fingerprint(Exotic(thresholds=other), ())
    assert json.loads(json.dumps(fingerprint(Exotic(one), ()).manifest)) == fingerprint(Exotic(one), ()).manifest
    with pytest.raises(GridsinkError, match="object has no fingerprint"):
        fingerprint(Exotic(object()), ())


def test_an_operator_in_no_module_is_refused() -> None:
    nowhere = type("Nowhere", (Exotic,), {"__module__": "no_such_module"})
    with pytest.raises(GridsinkError, match="no_such_module"):
        fingerprint(nowhere(), ())


def test_the_difference_names_everything() -> None:
    old = {
        "operator": "powerflow 1", "parameters": {"a": 1, "b": None}, "sources": {"x": "1", "y": "1", "z": "1"},
        "libraries": {"numpy": "2.4.0", "scipy": "1"},
    }  # fmt: skip
    new = {
        "operator": "powerflow 2", "parameters": {"a": 2.5, "c": "d"}, "sources": {"x": "2", "w": "1", "z": "1"},
        "libraries": {"numpy": "2.4.1", "scipy": "1"},
    }  # fmt: skip
    assert difference(old, new) == (
        "operator powerflow 1 -> powerflow 2; parameter a 1 -> 2.5; parameter b null -> none; parameter c none -> d; "
        "source w (new); source x; source y (gone); numpy 2.4.0 -> 2.4.1"
    )
    assert difference(old, old) == ""
