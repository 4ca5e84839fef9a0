"""What a job gets, what it gives back, and the runner around it.

A job is a module jobs/<group>/<name>.py, called <group>.<name>:

    \"\"\"One line that the list of jobs shows.\"\"\"
    READS = ("network", "snapshot_tile")          # it needs them; where they are missing the demo is built
    def options() -> list[click.Parameter]: ...   # its own options and arguments, if any
    def plan(settings, options) -> list[dict]: ...  # its partitions for --dry-run, without Spark, if it has any
    def run(context: JobContext) -> JobResult: ...

Listing and --help import no Spark: import it, and other heavy libraries, inside `run`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lib import session
from lib.errors import GridsinkError
from lib.launch import catalog
from lib.lock import job_lock
from lib.settings import STATE, Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from tqdm import tqdm

    from lib.tables import Lake

OK, FAILED, USAGE, QUARANTINED, LOCKED, INTERRUPTED = 0, 1, 2, 3, 4, 130
LIBRARIES = ("pyspark", "delta-spark", "deltalake", "pyarrow", "numpy", "scipy", "numba", "pandas")


@dataclass
class JobResult:
    """What a job gives back: `summary` goes to --json, `tables` (title -> rows) to the terminal."""

    summary: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    exit_code: int = OK


@dataclass
class JobContext:
    """One run of one job.

    options: the job's own options, parsed. counts: rows_in, rows_out, rows_quarantined, bytes_read, bytes_returned and
    whatever else the job counts. inputs: versions of the tables read. All of it ends in run.json. begin: of the run, as
    time.perf_counter tells it.
    """

    job: str
    settings: Settings
    options: dict[str, Any]
    run_id: str
    run_dir: Path
    interactive: bool = False
    phases: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)

    begin: float = field(default_factory=time.perf_counter)
    _starting: Future[SparkSession] | None = None

    def start_spark(self) -> None:
        """Starts the session and its Python workers in a thread: seconds in which this one can plan."""
        if self.spark_started:
            return
        import pyspark.sql  # noqa: F401  here, as threads that import take turns

        starting: Future[SparkSession] = Future()
        self._starting = starting

        def start() -> None:
            try:
                starting.set_result(session.build(self.settings, self.run_id))
            except BaseException as e:  # handed to whoever asks for the session
                starting.set_exception(e)
                return
            with contextlib.suppress(Exception):  # whatever is wrong meets the first real task too
                session.start_workers(starting.result())

        sys.setswitchinterval(5e-4)  # its many short calls need not wait for each 5 ms of what is imported meanwhile
        threading.Thread(target=start, name="start-spark", daemon=True).start()

    @cached_property
    def spark(self) -> SparkSession:
        """The session, started on first use."""
        with self.phase("start Spark"):
            if self._starting is not None:
                return self._starting.result()
            spark = session.build(self.settings, self.run_id)
            if threading.current_thread() is threading.main_thread():
                # pyspark's own handler calls the JVM in the middle of another call; stopping Spark cancels jobs too.
                signal.signal(signal.SIGINT, signal.default_int_handler)
            return spark

    @cached_property
    def lake(self) -> Lake:
        """The tables of the settings' lake."""
        from lib.tables import Lake

        return Lake(self.settings.lake.path)

    @property
    def spark_started(self) -> bool:
        return "spark" in self.__dict__

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds spent inside to the phase `name`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.perf_counter() - begin

    def count(self, **numbers: int) -> None:
        """Add to the counts."""
        for name, number in numbers.items():
            self.counts[name] = self.counts.get(name, 0) + int(number)

    def progress(self, total: int, label: str) -> tqdm[Any]:
        """A progress bar on stderr, silent where nobody looks on."""
        from tqdm import tqdm

        return tqdm(total=total, desc=label, file=sys.stderr, disable=not self.interactive, leave=False, ncols=100)

    def say(self, text: str) -> None:
        """One line on stderr."""
        print(text, file=sys.stderr, flush=True)


def new_run_id(job: str) -> str:
    """Name of a run: when, to the microsecond, and which job."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{job}"


def runs_folder(settings: Settings) -> Path:
    """Folder of the runs' records: in the lake where that is a local folder, else in the checkout."""
    path = settings.lake.path.removeprefix("file://")
    return STATE / "runs" if "://" in path else Path(path) / "_runs"


def execute(module: ModuleType, context: JobContext) -> JobResult:
    """Run the job and leave run.json, whatever happens.

    Known errors are told in three short lines, unknown ones in one line and the file of the traceback; the exit code is
    one of this module's constants.
    """
    started = datetime.now(UTC)
    result = JobResult(exit_code=FAILED)
    error: str | None = None
    try:
        _make_folder(context.run_dir)
        with job_lock(context.run_dir.parent, context.job, context.run_id):
            _check_tables(module, context)
            result = module.run(context)
            quarantined = context.counts.get("rows_quarantined", 0)
            if result.exit_code == OK and quarantined > context.settings.max_quarantine:
                result.exit_code = QUARANTINED
                limit = context.settings.max_quarantine
                context.say(f"{quarantined} rows in quarantine, more than max_quarantine = {limit}; the rest is done")
    except (Exception, KeyboardInterrupt) as e:
        if _is_interruption(e):
            result, error = JobResult(exit_code=INTERRUPTED), "interrupted"
            context.say("interrupted: what was committed is whole, what was not is invisible; run it again to finish")
        elif isinstance(e, GridsinkError):
            result, error = JobResult(exit_code=e.exit_code), str(e)
            context.say(f"error: {e}")
        else:
            error = f"{type(e).__name__}: {_first_line(e)}"
            context.say(f"error: {error}\n  where: {_write_traceback(context)}")
    finally:
        record = {
            "run_id": context.run_id,
            "job": context.job,
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - context.begin, 3),
            "exit_code": result.exit_code,
            "error": error,
            "options": context.options,
            "settings": context.settings.model_dump(mode="json"),
            "inputs": context.inputs,
            "counts": context.counts,
            "phases_s": {name: round(seconds, 3) for name, seconds in context.phases.items()},
            "peak_memory_mb": _peak_memory(context),
            "versions": _versions(context),
            "machine": {"cores": os.cpu_count(), "system": platform.platform()},
            "summary": result.summary,
        }
        with contextlib.suppress(OSError):  # an unwritable or full lake has been reported already
            write_json(context.run_dir / "run.json", record)
    return result


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")
    partial.replace(path)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise GridsinkError(
            f"cannot write to the lake: {error.strerror}", str(folder), "set lake.path to a folder you may write to"
        ) from error


def _check_tables(module: ModuleType, context: JobContext) -> None:
    """Build the demo lake where a job finds none, or where building it was broken off."""
    reads = getattr(module, "READS", ())
    missing = [name for name in reads if not context.lake.exists(name)]
    marker = context.run_dir.parent.parent / "_demo_unfinished"
    if not reads or not (missing or marker.exists()):
        return
    if not context.settings.demo.auto or "://" in context.settings.lake.path:
        raise GridsinkError(
            f"the lake has no table {missing[0]}" if missing else "the lake was left half-built",
            context.settings.lake.path,
            "set lake.path to your lake, or build the demo lake with ./spark-submit.sh ingest.demo",
        )
    demo = catalog.load("ingest.demo")
    days, regions = context.settings.demo.days, len(context.settings.regions)
    context.say(f"no lake in {context.settings.lake.path}: building the demo lake ({regions} regions, {days} days)")
    with job_lock(context.run_dir.parent, "ingest.demo", context.run_id):
        marker.touch()
        inner = dataclasses.replace(context, job="ingest.demo", options=catalog.parse(demo, []), phases={}, counts={})
        inner.spark = context.spark
        with context.phase("build the demo lake"):
            demo.run(inner)
        marker.unlink()


def _is_interruption(e: BaseException | None) -> bool:
    """Also where closing a broken-off call to the JVM raised an error of its own over the KeyboardInterrupt."""
    while e is not None:
        if isinstance(e, KeyboardInterrupt):
            return True
        e = e.__context__
    return False


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")[:300]


def _write_traceback(context: JobContext) -> Path | str:
    for folder in (context.run_dir, STATE / "runs"):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{context.run_id}.log"
            path.write_text(traceback.format_exc(), encoding="utf-8")
            return path
    return traceback.format_exc()


def _peak_memory(context: JobContext) -> dict[str, float | None]:
    """Largest resident size in MB of the driver's Python and, where its /proc can be read, of the driver's JVM."""
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
    python = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6
    jvm = None
    if context.spark_started:
        with contextlib.suppress(Exception):
            pid = context.spark._jvm.java.lang.ProcessHandle.current().pid()  # type: ignore[union-attr]
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            jvm = next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))
    return {"python": round(python, 1), "jvm": None if jvm is None else round(jvm, 1)}


def _versions(context: JobContext) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    if context.spark_started:
        with contextlib.suppress(Exception):
            versions["java"] = context.spark._jvm.System.getProperty("java.version")  # type: ignore[union-attr]
    return versions
