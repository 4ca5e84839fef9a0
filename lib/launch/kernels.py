"""Where the compiled kernels lie, so that no worker compiles what another has compiled.

Numba keeps a kernel until its own file changes, whatever happens to the kernels it calls: so the folder is named after
the sources of lib/grid as a whole.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

_GRID = Path(__file__).resolve().parent.parent / "grid"


@cache
def digest() -> str:
    """Name of the sources of lib/grid."""
    content = hashlib.sha256()
    for path in sorted(_GRID.rglob("*.py")):
        content.update(path.relative_to(_GRID).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()[:16]


def environment(folder: Path, unpacked: bool) -> dict[str, str]:
    """What a process needs in its environment to share the kernels below `folder`, a folder of its node.

    unpacked: whether it imports lib from the checkout; else from a zip, whose path differs from run to run.
    """
    values = {"NUMBA_CACHE_DIR": os.fspath(folder / digest())}
    if not unpacked:
        values["NUMBA_CACHE_LOCATOR_CLASSES"] = "lib.launch.locator.Locator,UserProvidedCacheLocator"
    return values
