"""The daemon of Python workers, which notes the CPU seconds of each task besides: `spark.python.daemon.module`.

Spark counts the JVM's part of a task alone. A worker serves one task at a time, so its process's CPU time between the
ends of two tasks is the second one's.
"""

from __future__ import annotations

import json
import os
import runpy
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from pyspark import daemon
from pyspark.taskcontext import TaskContext

FOLDER = "GRIDSINK_TASK_CPU"  # environment variable: where the workers write

_serve, _set_context = daemon.worker, TaskContext._setTaskContext
_used_s = 0.0
_task: dict[str, int] = {}


def read(folder: Path) -> dict[tuple[int, int], float]:
    """(stage, partition) -> CPU seconds of its workers; of a partition that ran more than once, of all runs."""
    found: dict[tuple[int, int], float] = defaultdict(float)
    for file in folder.iterdir():
        for line in file.read_text().splitlines():
            task = json.loads(line)
            found[task["stage"], task["partition"]] += task["cpu_s"]
    return found


def _remembered(context: TaskContext | None) -> None:
    if context is not None:
        _task.update(stage=context.stageId(), partition=context.partitionId())
    _set_context(context)


def _metered(sock: Any, authenticated: bool) -> int:
    global _used_s
    try:
        return _serve(sock, authenticated)
    finally:
        used_s = time.process_time()
        with (Path(os.environ[FOLDER]) / str(os.getpid())).open("a") as file:
            file.write(json.dumps(_task | {"cpu_s": used_s - _used_s}) + "\n")
        _used_s = used_s


if __name__ == "__main__":
    TaskContext._setTaskContext = staticmethod(_remembered)  # type: ignore[assignment]
    daemon.worker = _metered
    runpy.run_module("lib.calculation.daemon", run_name="__main__")
