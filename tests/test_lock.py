from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lib.errors import AlreadyRunning
from lib.lock import job_lock
from lib.settings import ROOT

HOLD = """
import sys, time
from pathlib import Path
from lib.lock import job_lock
with job_lock(Path(sys.argv[1]), "powerflow.solve", "run-1"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            refused = pytest.raises(AlreadyRunning, match=f"process {holder.pid} on .*run run-1")
            with refused, job_lock(tmp_path, "powerflow.solve", "run-2"):
                pass
            with job_lock(tmp_path, "ingest.demo", "run-3"):
                pass
        finally:
            os.kill(holder.pid, signal.SIGKILL)
    with job_lock(tmp_path, "powerflow.solve", "run-4"):
        pass


def test_a_lock_is_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"), job_lock(tmp_path, "a.b", "run-1"):
        raise RuntimeError("broken")
    with job_lock(tmp_path, "a.b", "run-2"):
        pass
