"""The spark-submit line of a run, and the child process it becomes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib import session
from lib.errors import GridsinkError
from lib.job import INTERRUPTED
from lib.launch import classes, package, setup
from lib.settings import ROOT, STATE, Settings

_PATIENCE_S = 30  # for a driver that was asked to stop; stopping Spark takes a few seconds


@dataclass(frozen=True)
class Submission:
    """A command and what it needs in its environment beyond the launcher's own."""

    command: list[str]
    environment: dict[str, str]

    def __str__(self) -> str:
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*variables, shlex.join(self.command)])


def submission(
    settings: Settings, name: str, request: Path, java_home: Path, environment: Mapping[str, str] = os.environ
) -> Submission:
    """The spark-submit line for the run described by the file `request` (jobs/driver.py reads it)."""
    local = session.is_local(settings)
    home = setup.spark_home()
    if not local and environment.get("SPARK_HOME"):
        home = Path(environment["SPARK_HOME"])  # a cluster's own Spark knows its cluster
    command = [str(home / "bin" / "spark-submit"), "--master", settings.spark.master]
    command += ["--deploy-mode", settings.spark.deploy_mode, "--name", name]
    java_options = classes.options(java_home, request.parent) if local else []
    for key, value in session.properties(settings, request.with_name("spark.log"), java_options).items():
        command += ["--conf", f"{key}={value}"]
    if not local:
        command += ["--jars", ",".join(str(jar) for jar in setup.jar_files())]
        command += ["--py-files", str(package.build(STATE / "packages"))]
    if settings.spark.deploy_mode == "cluster":
        # The driver finds the request in its own working folder there.
        command += ["--files", str(request), str(ROOT / "jobs" / "driver.py"), request.name]
    else:
        command += [str(ROOT / "jobs" / "driver.py"), str(request)]
    return Submission(command, {"JAVA_HOME": str(java_home), "SPARK_HOME": str(home)})


def run(it: Submission, folder: Path) -> int:
    """Run it to its end and return its exit code; `folder` takes the JVM's own output (jvm.log).

    The child is a process group of its own, so that Ctrl-C reaches the launcher alone, which asks the driver's Python
    (its process id is in folder/driver.pid) to stop Spark in order, and ends what is left by force.
    """
    with (folder / "launcher.lock").open("w") as alive, (folder / "jvm.log").open("wb") as errors:
        fcntl.flock(alive, fcntl.LOCK_EX)  # what the driver's Python watches, should this process be killed
        # spark-submit merges what the driver prints into its own stdout: to our stderr, results go through a file.
        child = subprocess.Popen(
            it.command,
            env=os.environ | it.environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            stderr=errors,
            process_group=0,
        )
        previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
        try:
            code = child.wait()
            if code >= 0:  # else it was killed, perhaps while writing
                classes.keep(Path(it.environment["JAVA_HOME"]), folder)
            return code
        except KeyboardInterrupt:
            for number in (signal.SIGINT, *previous):
                signal.signal(number, signal.SIG_IGN)
            _stop(child, folder / "driver.pid")
            return INTERRUPTED
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            classes.discard(folder)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _stop(child: subprocess.Popen[bytes], driver: Path) -> None:
    print("stopping …", file=sys.stderr, flush=True)
    try:
        os.kill(int(driver.read_text()), signal.SIGINT)
    except (OSError, ValueError):  # the driver has not started: nothing to stop in order
        child.terminate()
    begin = time.monotonic()
    while child.poll() is None and time.monotonic() - begin < _PATIENCE_S:
        time.sleep(0.05)


def last_words(folder: Path) -> GridsinkError:
    """What to say of a child that ended without a result: the JVM's last line and where the rest is."""
    log = folder / "jvm.log"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line or "xception" in line] or lines
    return GridsinkError(
        f"Spark ended before the job did: {telling[-1][:300]}" if telling else "Spark ended before the job did",
        str(log),
        "see the log; a driver out of memory needs more of spark.driver_memory",
    )
