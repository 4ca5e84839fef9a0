"""What every benchmark needs: fair timing, children with their memory, results beside machine and versions."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.baseline import child, comparison
from lib.report.machine import one_line, provenance
from lib.report.page import markdown
from lib.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ORIGIN = provenance()  # before anything pins this process to a core


def interleaved(rivals: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run: rivals take turns, so that a slow minute of the machine hits them all. One run each first,
    untimed."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for run in rivals.values():
        run()
    for _ in range(repeats):
        for name, run in rivals.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def write(
    name: str,
    parameters: Mapping[str, Any],
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    notes: Sequence[str] = (),
    raw: Any = None,
) -> None:
    """results/<name>.json and .md, and the tables on the terminal. tables: title -> rows."""
    RESULTS.mkdir(exist_ok=True)
    record = {"benchmark": name, "command": command(name), **ORIGIN, "parameters": parameters, "tables": tables}
    record |= {"notes": list(notes), "raw": raw}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    text = f"# {name}\n\n"
    for title, rows in tables.items():
        text += f"## {title}\n\n{markdown(rows)}\n"
    text += "".join(f"- {note}\n" for note in notes)
    text += f"\n{one_line(ORIGIN)}.\n`{command(name)}`\n"
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def command(name: str) -> str:
    """The command line that makes these figures again."""
    return " ".join(["benchmarks/run.sh", name, *sys.argv[1:]])


def job(
    name: str, *arguments: str, settings: Sequence[str], timeout_s: float | None = None
) -> tuple[child.Report, dict[str, Any]]:
    """One job of the product in a child: how it ended, and its record (run.json). Raises RuntimeError if it fails.

    settings: `key=value`, lake.path among them.
    """
    report, record = comparison.launch(name, arguments, settings, timeout_s=timeout_s)
    if not report.finished:
        raise RuntimeError(f"{name} {' '.join(arguments)}: {report.reason}\n{report.tail}")
    return report, record


def build_lake(settings: Settings, days: int, regions: Sequence[str]) -> None:
    """Build what the demo lake lacks of its first `days` days."""
    chosen = [part for region in regions for part in ("--region", region)]
    say(f"demo lake: {days} days in {settings.lake.path}")
    job("ingest.demo", "--days", str(days), *chosen, settings=comparison.overrides(settings))


@contextlib.contextmanager
def metered() -> Iterator[list[float]]:
    """CPU seconds of all processes started inside, this one's left out; needs a control group that counts them."""
    version1 = Path("/sys/fs/cgroup/cpuacct")
    root = version1 if version1.is_dir() else Path("/sys/fs/cgroup")
    group = root / f"gridsink-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    before, own, used = _usage(group), time.process_time(), [0.0]
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield used
    finally:
        time.sleep(1.0)  # what is killed at the end is counted a moment later
        used[0] = _usage(group) - before - (time.process_time() - own)
        (root / "cgroup.procs").write_text(str(os.getpid()))
        with contextlib.suppress(OSError):
            group.rmdir()


def _usage(group: Path) -> float:
    if (group / "cpuacct.usage").is_file():
        return int((group / "cpuacct.usage").read_text()) / 1e9
    lines = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(lines["usage_usec"]) / 1e6


def one_core() -> None:
    """Keep this process, and every thread it starts, on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for pool in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ[f"{pool}_NUM_THREADS"] = "1"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
