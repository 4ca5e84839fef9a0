"""What tests of the algorithm layer share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.algorithm.pipelines import Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Puts a text into mine.yaml and gives its path."""

    def write(text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write
