"""Run a command as a child, watch the memory of its process tree from outside, and cap it for real where asked.

The cap is a control group (version 1 or 2) over the whole tree where this machine lets us make one, else a data limit
on each process (RLIMIT_DATA). A peak is Linux's own high-water mark of resident memory (VmHWM), read while the
processes live.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

Role = Literal["driver_jvm", "driver_python", "executor", "worker", "launcher", "other"]

POLL_S = 0.1
TAIL_BYTES = 4000
MEMORY_SIGNS = (
    "OutOfMemoryError",
    "MemoryError",
    "Could not reserve",
    "malloc of size",
    "Unable to allocate",
    "insufficient memory",
    "Cannot allocate memory",
)
CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass
class Report:
    """What became of a child."""

    argv: list[str]
    returncode: int
    seconds: float
    """Wall time from start to exit, everything included."""
    peak_bytes: dict[str, int] = field(default_factory=dict)
    """Largest resident memory by role, processes of one role summed."""
    cap_bytes: int | None = None
    cap_kind: str | None = None
    """"cgroup" (the whole tree) or "rlimit" (each process), None without a cap."""
    killed_for_memory: bool = False
    timed_out: bool = False
    tail: str = ""
    """End of standard output and error, for messages."""

    @property
    def finished(self) -> bool:
        return self.returncode == 0

    @property
    def driver_bytes(self) -> int:
        """JVM and Python of the driver together: the sum of their peaks."""
        return self.peak_bytes.get("driver_jvm", 0) + self.peak_bytes.get("driver_python", 0)

    @property
    def reason(self) -> str:
        """One phrase: how it ended."""
        if self.finished:
            return "finished"
        if self.timed_out:
            return "ran out of time"
        if self.killed_for_memory:
            return "killed at the memory cap"
        for sign in MEMORY_SIGNS:
            if sign in self.tail:
                return f"out of memory ({sign})"
        return f"failed with exit code {self.returncode}"


def run(
    argv: Sequence[str],
    *,
    cap_bytes: int | None = None,
    timeout_s: float | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Report:
    """Run `argv` to its end. A child over its cap or time is a report, not an exception."""
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        group = stack.enter_context(_cgroup(cap_bytes)) if cap_bytes else None
        limit = cap_bytes if group is None else None

        def enter() -> None:
            if group is not None:
                (group / "cgroup.procs").write_text(str(os.getpid()))
            elif limit is not None:
                resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

        began = time.perf_counter()
        process = subprocess.Popen(
            list(argv), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env, cwd=cwd,
            preexec_fn=enter, start_new_session=True,
        )  # fmt: skip
        watch = _Watch(process.pid)
        watch.start()
        timed_out = False
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            seconds = time.perf_counter() - began
            watch.stop()
            watch.end()
            process.wait()
        log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
        return Report(
            argv=list(argv),
            returncode=process.returncode,
            seconds=seconds,
            peak_bytes=watch.peaks(),
            cap_bytes=cap_bytes,
            cap_kind=None if cap_bytes is None else "rlimit" if group is None else "cgroup",
            killed_for_memory=group is not None and _kills(group) > 0,
            timed_out=timed_out,
            tail=log.read().decode(errors="replace"),
        )


# -- control groups ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _cgroup(cap_bytes: int) -> Iterator[Path | None]:
    """A control group with that memory limit and no swap; None where the machine does not let us make one."""
    name = f"gridsink-{os.getpid()}-{time.monotonic_ns()}"
    if (CGROUP_ROOT / "memory").is_dir():
        group = CGROUP_ROOT / "memory" / name
        limits = {"memory.limit_in_bytes": cap_bytes, "memory.memsw.limit_in_bytes": cap_bytes}
    else:
        group, limits = CGROUP_ROOT / name, {"memory.max": cap_bytes, "memory.swap.max": 0}
    try:
        group.mkdir()
        first, *rest = limits.items()
        (group / first[0]).write_text(str(first[1]))
        for file, value in rest:  # swap may not be accounted at all
            with contextlib.suppress(OSError):
                (group / file).write_text(str(value))
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        yield None
        return
    try:
        yield group
    finally:
        for _ in range(50):  # a killed process leaves its group a moment later
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


def _kills(group: Path) -> int:
    """Processes of the group that the kernel killed for memory."""
    for file in ("memory.events", "memory.oom_control"):
        with contextlib.suppress(OSError):
            counts = dict(line.split() for line in (group / file).read_text().splitlines())
            return int(counts.get("oom_kill", 0))
    return 0


# -- memory of the tree -----------------------------------------------------------------------------------------------


def high_water_bytes(pid: int | str = "self") -> int:
    """Largest resident memory a process has had (VmHWM); 0 if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _role(cmdline: Sequence[str], parent: Role | None) -> Role:
    """An executor's children are its own; a Python daemon of a local driver works on tasks; the launcher only waits."""
    line = " ".join(cmdline)
    if parent in ("executor", "worker"):
        return parent
    if "CoarseGrainedExecutorBackend" in line:
        return "executor"
    if "pyspark.daemon" in line or "pyspark/daemon" in line or "pyspark.worker" in line:
        return "worker"
    if "org.apache.spark.launcher.Main" in line or " -m jobs " in line:
        return "launcher"
    name = Path(cmdline[0]).name if cmdline else ""
    if name.startswith("java"):
        return "driver_jvm"
    return "driver_python" if name.startswith("python") else "other"


class _Watch(threading.Thread):
    """Samples the tree under a process; each process keeps the largest figure and the role seen."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._stop_event = threading.Event()
        self._seen: dict[psutil.Process, tuple[Role, int]] = {}

    def run(self) -> None:
        while not self._stop_event.wait(POLL_S):
            self._sample(self._root, None)

    def stop(self) -> None:
        self._stop_event.set()
        self.join()

    def end(self) -> None:
        """Kill what is left of the tree: a JVM may outlive what started it."""
        for process in self._seen:
            with contextlib.suppress(psutil.Error):  # psutil knows a process by its start too, not by its number alone
                process.kill()

    def peaks(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for role, peak in self._seen.values():
            total[role] = total.get(role, 0) + peak
        return total

    def _sample(self, process: psutil.Process, parent: Role | None) -> None:
        with contextlib.suppress(psutil.Error):
            role = _role(process.cmdline(), parent)
            _, before = self._seen.get(process, (role, 0))
            self._seen[process] = (role, max(before, high_water_bytes(process.pid)))
            for child in process.children():
                self._sample(child, role)
