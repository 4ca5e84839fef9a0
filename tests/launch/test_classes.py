from __future__ import annotations

from pathlib import Path

import pytest

from lib.launch import classes


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(classes, "STATE", tmp_path)
    return tmp_path


def _java(folder: Path, version: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "release").write_text(f'JAVA_VERSION="{version}"\n')
    return folder


def test_the_archive_that_a_run_leaves_serves_the_next(state: Path, tmp_path: Path) -> None:
    home, folder = _java(tmp_path / "jdk", "17.0.9"), tmp_path / "run"
    folder.mkdir()
    assert classes.options(home, folder)[0] == f"-XX:ArchiveClassesAtExit={folder / 'classes.jsa'}"
    (folder / "classes.jsa").write_bytes(b"classes")
    classes.keep(home, folder)
    assert not (folder / "classes.jsa").exists()
    option, _, archive = classes.options(home, folder)[0].partition("=")
    assert (option, Path(archive).read_bytes()) == ("-XX:SharedArchiveFile", b"classes")


def test_another_java_or_other_jars_have_another_archive(state: Path, tmp_path: Path) -> None:
    home, folder = _java(tmp_path / "jdk", "17.0.9"), tmp_path / "run"
    folder.mkdir()
    (folder / "classes.jsa").write_bytes(b"classes")
    classes.keep(home, folder)
    assert "ArchiveClassesAtExit" in classes.options(_java(tmp_path / "other", "17.0.9"), folder)[0]
    (state / "jars").mkdir()
    (state / "jars" / "new.jar").touch()
    assert "ArchiveClassesAtExit" in classes.options(home, folder)[0]
    (state / "jars" / "new.jar").unlink()
    assert "SharedArchiveFile" in classes.options(home, folder)[0]
    assert "ArchiveClassesAtExit" in classes.options(_java(home, "17.0.10"), folder)[0]


def test_what_a_killed_run_leaves_is_deleted(state: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.jsa").write_bytes(b"half")
    classes.discard(tmp_path)
    classes.discard(tmp_path)
    assert not (tmp_path / "classes.jsa").exists()
