"""An executor that dies mid-shuffle changes no result, salted or not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from lib.settings import ROOT


def test_a_killed_executor_changes_no_result(tmp_path: Path) -> None:
    """In an application of its own: a process has one session, and this one's dies in part."""
    command = [sys.executable, "-m", "tests.salting.killed_executor", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[max(0, done.stderr.find("Traceback")) :][:3000]
    runs = json.loads(done.stdout.splitlines()[-1])
    assert set(runs) == {"group map", "salted group map", "aggregate", "salted aggregate"}
    for name, run in runs.items():
        assert run["repeated"], f"{name}: no stage was repeated, so nothing was lost"
        assert sum(row[1] for row in run["expected"]) == 20_000
        assert run["rows"] == run["expected"], name
