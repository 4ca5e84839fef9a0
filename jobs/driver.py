"""The program spark-submit runs: one job, as the launcher's request file says; its result goes to a file beside it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path


def main() -> int:
    request_file = Path(sys.argv[1]).resolve()
    # A checkout's driver imports the checkout; a cluster's driver has the sources from --py-files.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    request = json.loads(request_file.read_text(encoding="utf-8"))

    from lib import job
    from lib.settings import Settings

    folder = request_file.parent
    logging.basicConfig(filename=folder / "driver.log", level=logging.WARNING)
    (folder / "driver.pid").write_text(str(os.getpid()))
    launcher = folder / "launcher.lock"
    if launcher.exists():
        threading.Thread(target=_follow, args=(launcher,), daemon=True).start()
    context = job.JobContext(
        job=request["job"],
        settings=Settings(**request["settings"]),
        options={},
        run_id=request["run_id"],
        run_dir=Path(request["run_dir"]),
        interactive=request["interactive"],
    )
    context.start_spark()  # before all other imports, as it takes longest

    from jobs.cli import common_options
    from lib.launch import catalog

    module = catalog.load(request["job"])
    context.options = catalog.parse(module, request["arguments"], common_options())
    result = job.execute(module, context)
    if context.spark_started:
        context.spark.stop()
    job.write_json(
        folder / "result.json",
        {"exit_code": result.exit_code, "summary": result.summary, "tables": result.tables},
    )
    return result.exit_code


def _follow(launcher: Path) -> None:
    """Stop when the launcher is gone: a run that nobody waits for would hold the job's lock.

    The launcher locks the file `launcher` for as long as it lives, however it ends.
    """
    with launcher.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
    os.kill(os.getpid(), signal.SIGINT)  # to the process: only so the main thread wakes from a read


if __name__ == "__main__":
    sys.exit(main())
