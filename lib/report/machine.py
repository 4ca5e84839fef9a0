"""The machine and the versions behind a figure."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = (
    "pyspark", "delta-spark", "deltalake", "pyarrow", "numpy", "scipy", "numba", "pandapower", "power-grid-model",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """Processor, usable cores, memory and system."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": model,
        "simd": _simd(),
        "cores": cores,
        "memory_gib": round(memory, 1),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Python's and the installed libraries' versions."""
    found = {"python": platform.python_version()}
    for library in libraries:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library)
    return found


def provenance() -> dict[str, Any]:
    """What stands beside every published figure."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions(),
        "load_average": os.getloadavg()[0],
    }


def one_line(origin: dict[str, Any]) -> str:
    """Provenance as a reader wants it under a table."""
    machine = origin["machine"]
    versions = ", ".join(f"{library} {version}" for library, version in origin["versions"].items())
    return (
        f"{origin['date']}, {machine['cpu']} ({machine['simd']}), {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['os']}; {versions}"
    )


def _simd() -> str | None:
    """Widest vector instructions the processor reports."""
    with contextlib.suppress(OSError):
        flags = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("flags")), "").split()
        return next((name for name in ("avx512f", "avx2", "avx", "sse4_2") if name in flags), None)
    return None
