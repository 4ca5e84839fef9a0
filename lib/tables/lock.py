"""One run of a job at a time on one lake."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lib.tables.lake import Lake


class JobLockedError(RuntimeError):
    """The same job runs on the same lake already."""


@contextmanager
def job_lock(lake: Lake, job: str, run_id: str) -> Iterator[None]:
    """Hold <lake>/_locks/<job>.lock. Raises JobLockedError, naming the holder, if another process has it.

    The operating system drops the lock when the process dies, however it dies. A lake behind a URI (hdfs://, s3a://) has no such
    locks: there the scheduler must not start a job twice, and Delta's commit conflicts keep the tables whole if it does.
    """
    folder = lake.local_folder()
    if folder is None:
        yield
        return
    locks = folder / "_locks"
    locks.mkdir(parents=True, exist_ok=True)
    holder = locks / f"{job}.json"
    lock = FileLock(locks / f"{job}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise JobLockedError(
            f"{job} runs on the lake {lake.root} already ({_describe(holder)}): wait for it, or stop that process"
        ) from None
    try:
        holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "run_id": run_id}))
        yield
    finally:
        lock.release()


def _describe(holder: Path) -> str:
    try:
        it = json.loads(holder.read_text())
        return f"process {it['pid']} on {it['host']}, run {it['run_id']}"
    except (OSError, ValueError, KeyError):  # the holder is between taking the lock and signing it
        return "holder not known yet"
