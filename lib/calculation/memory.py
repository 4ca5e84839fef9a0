"""A worker's resident memory: where it stood after preloading, and its peak since."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Gauge:
    """Starts to watch on creation. `peak` is None where the system does not tell (anything but Linux)."""

    def __init__(self) -> None:
        self.baseline_bytes = int(psutil.Process().memory_info().rss)
        self._watching = False
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")  # resets VmHWM, see proc(5)
            self._watching = True

    def peak_bytes(self) -> int | None:
        if not self._watching:
            return None
        lines = _STATUS.read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
