"""The sources as a zip that executors import: equal sources, equal bytes."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

from lib.settings import ROOT

_EPOCH = (1980, 1, 1, 0, 0, 0)


def build(folder: Path, root: Path = ROOT) -> Path:
    """Zip lib/ and jobs/ of `root` into folder/gridsink-<digest>.zip, unless it is there already."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(path for top in ("jobs", "lib") for path in (root / top).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
                entry = zipfile.ZipInfo(path.relative_to(root).as_posix(), _EPOCH)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, path.read_bytes())
    content = buffer.getvalue()
    target = folder / f"gridsink-{hashlib.sha256(content).hexdigest()[:16]}.zip"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        partial.write_bytes(content)
        partial.replace(target)
    return target
