"""An archive of the classes that Spark loads: a JVM that maps it starts seconds sooner (class-data sharing, JEP 350).

A run that finds none writes one as its JVM ends. Java ignores an archive of another Java or of other JARs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from lib.settings import STATE

_NAME = "classes.jsa"
_QUIET = ("-Xlog:disable", "-Xlog:all=error:stderr")  # it tells of every class that cannot be in an archive


def options(java_home: Path, folder: Path) -> list[str]:
    """Java's options for a run with this folder of its own."""
    archive = _archive(java_home)
    use = f"-XX:SharedArchiveFile={archive}" if archive.is_file() else f"-XX:ArchiveClassesAtExit={folder / _NAME}"
    return [use, *_QUIET]


def keep(java_home: Path, folder: Path) -> None:
    """Takes the archive that a run left in its folder, whole as it is, for those to come."""
    made = folder / _NAME
    if made.is_file():
        archive = _archive(java_home)
        archive.parent.mkdir(parents=True, exist_ok=True)
        made.replace(archive)


def discard(folder: Path) -> None:
    """Deletes what a run left of an archive that was not kept."""
    (folder / _NAME).unlink(missing_ok=True)


def _archive(java_home: Path) -> Path:
    """One for each Java and set of JARs."""
    release = java_home.resolve() / "release"
    names = [str(java_home.resolve()), *sorted(path.name for path in (STATE / "jars").glob("*.jar"))]
    text = release.read_bytes() if release.is_file() else b""
    return STATE / "java" / f"classes-{hashlib.sha256(repr(names).encode() + text).hexdigest()[:16]}.jsa"
