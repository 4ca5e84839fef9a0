"""One run of a job at a time on one lake."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lib.errors import AlreadyRunning


@contextmanager
def job_lock(folder: Path, job: str, run_id: str) -> Iterator[None]:
    """Hold <folder>/<job>.lock. Raises AlreadyRunning, naming the holder, if another process has it.

    The operating system drops the lock when the process dies, however it dies. It holds among the processes that see
    `folder`. Where a lake lies behind a URI (hdfs://, s3a://), the scheduler must not start a job on two machines; if
    it does, Delta's commit conflicts keep the tables whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / f"{job}.holder.json"
    lock = FileLock(folder / f"{job}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise AlreadyRunning(
            f"{job} is already running on this lake, {_describe(holder)}",
            str(folder / f"{job}.lock"),
            "wait for it to end, or stop it",
        ) from None
    try:
        holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "run_id": run_id}))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _describe(holder: Path) -> str:
    try:
        it = json.loads(holder.read_text())
        return f"as process {it['pid']} on {it['host']}, run {it['run_id']}"
    except (OSError, ValueError, KeyError):  # it has the lock and has not yet signed
        return "by a process that has not yet given its name"
