"""The program spark-submit runs: one job, as the request file says. The launcher writes the file and reads the result."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path


def main() -> int:
    request_file = Path(sys.argv[1]).resolve()
    # A checkout's driver imports the checkout; a cluster's driver has the sources from --py-files.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    request = json.loads(request_file.read_text(encoding="utf-8"))

    from jobs.cli import common_options
    from lib import job
    from lib.launch import catalog
    from lib.settings import Settings

    folder = request_file.parent
    (folder / "driver.pid").write_text(str(os.getpid()))
    threading.Thread(target=_follow, args=(request["launcher_pid"],), daemon=True).start()
    module = catalog.load(request["job"])
    context = job.JobContext(
        job=request["job"],
        settings=Settings(**request["settings"]),
        options=catalog.parse(module, request["arguments"], common_options()),
        run_id=request["run_id"],
        run_dir=Path(request["run_dir"]),
        interactive=request["interactive"],
    )
    result = job.execute(module, context)
    job.write_json(
        folder / "result.json",
        {"exit_code": result.exit_code, "summary": result.summary, "tables": result.tables},
    )
    return result.exit_code


def _follow(launcher: int) -> None:
    """Stop when the launcher is killed: a run that nobody waits for would hold the job's lock."""
    while True:
        try:
            os.kill(launcher, 0)
        except ProcessLookupError:
            signal.raise_signal(signal.SIGINT)
            return
        except PermissionError:
            return
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
