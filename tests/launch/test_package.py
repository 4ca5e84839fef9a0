from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from lib.launch import package
from lib.settings import ROOT


def copy_sources(target: Path) -> Path:
    for top in ("lib", "jobs"):
        shutil.copytree(ROOT / top, target / top, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def test_equal_sources_make_equal_bytes(tmp_path: Path) -> None:
    first, second = copy_sources(tmp_path / "a"), copy_sources(tmp_path / "b")
    for path in second.rglob("*.py"):
        os.utime(path, (1e9, 1e9))
    (second / "lib" / "__pycache__").mkdir()
    (second / "lib" / "__pycache__" / "x.pyc").touch()
    made = [package.build(tmp_path / f"out-{root.name}", root) for root in (first, second)]
    assert made[0].name == made[1].name
    assert made[0].read_bytes() == made[1].read_bytes()
    (second / "lib" / "errors.py").write_text("changed = True\n")
    assert package.build(tmp_path / "out-b", second).name != made[0].name


def test_kernels_from_two_zips_share_one_cache(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from lib.made import twice\n"
        "print(twice(4), sum(twice.stats.cache_hits.values()))"
    )
    hits = []
    for name in ("a", "b"):
        root = copy_sources(tmp_path / name)
        (root / "lib" / "made.py").write_text(
            "from numba import njit\n\n@njit(cache=True)\ndef twice(x):\n    return 2 * x\n"
        )
        archive = package.build(tmp_path / f"out-{name}", root)
        environment = os.environ | {
            "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
            "NUMBA_CACHE_LOCATOR_CLASSES": "lib.launch.locator.Locator,UserProvidedCacheLocator",
        }
        command = [sys.executable, "-P", "-c", program, str(archive)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        hits.append(done.stdout.split())
    assert hits == [["8", "0"], ["8", "1"]]
