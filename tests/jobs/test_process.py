"""The launcher as a process: a copy of the checkout with two jobs of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from lib.settings import ROOT

_COUNT = '''"""Count numbers in a table."""
from lib.job import JobResult


def run(context):
    path = context.settings.lake.path + "/numbers"
    context.spark.range(10).write.format("delta").save(path)
    context.count(rows_out=10)
    return JobResult({"rows": context.spark.read.format("delta").load(path).count()}, {"numbers": [{"rows": 10}]})
'''
_WAIT = '''"""Write a table slowly."""
import time

from lib.job import JobResult


def slowly(batches):
    time.sleep(300)
    yield from batches


def run(context):
    rows = context.spark.range(4).mapInArrow(slowly, "id long")
    context.say("writing")
    rows.write.format("delta").save(context.settings.lake.path + "/numbers")
    return JobResult()
'''


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    for name in ("lib", "jobs", "conf"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("spark-submit.sh", "requirements.lock"):
        shutil.copy2(ROOT / name, root / name)
    (root / ".gridsink").mkdir()
    for name in (".venv", ".gridsink/jars", ".gridsink/numba"):
        (root / name).symlink_to(ROOT / name)
    made = root / "jobs" / "made"
    made.mkdir()
    (made / "__init__.py").touch()
    (made / "count.py").write_text(_COUNT)
    (made / "wait.py").write_text(_WAIT)
    setup = [str(root / ".venv" / "bin" / "python"), "-P", "-m", "lib.launch.setup"]
    subprocess.run(setup, env=os.environ | {"PYTHONPATH": str(root)}, check=True, capture_output=True)
    return root


def test_results_go_to_stdout_and_json_and_nothing_else_does(checkout: Path, lake: Path, tmp_path: Path) -> None:
    summary = tmp_path / "summary.json"
    command = [str(checkout / "spark-submit.sh"), "made.count", "--master", "local[1]"]
    command += ["--set", f"lake.path={lake}", "--json", str(summary)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no log noise, no progress bar where there is no terminal
    assert str(lake) in done.stdout
    told = json.loads(summary.read_text())
    assert (told["job"], told["rows"], told["exit_code"]) == ("made.count", 10, 0)
    record = json.loads(next(lake.glob("_runs/*/run.json")).read_text())
    assert record["counts"] == {"rows_out": 10}
    assert record["peak_memory_mb"]["jvm"] > 10
    assert record["versions"]["java"]
    assert {path.name for path in tmp_path.iterdir()} == {"lake", "summary.json"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopping_the_launcher_stops_all_of_it(checkout: Path, lake: Path, number: signal.Signals) -> None:
    command = [str(checkout / "spark-submit.sh"), "made.wait", "--master", "local[1]", "--set", f"lake.path={lake}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, process_group=0) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "writing\n"
        family = psutil.Process(process.pid).children(recursive=True)
        assert any("java" in child.name() for child in family)
        time.sleep(1)  # into the write
        os.kill(process.pid, number)
        text = process.stderr.read()
    if number != signal.SIGKILL:
        assert process.returncode == 130, text
        assert "interrupted" in text
        assert "Traceback" not in text
    assert psutil.wait_procs(family, timeout=60)[1] == []
    record = json.loads(next(lake.glob("_runs/*/run.json")).read_text())
    assert (record["exit_code"], record["error"]) == (130, "interrupted")
    assert not list(lake.glob("numbers/_delta_log/*.json"))
