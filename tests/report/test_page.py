"""The page stands alone, escapes what it is given, and the plots are pictures."""

from __future__ import annotations

import pytest

from lib.report import page, plots


def test_page_is_self_contained_and_escaped() -> None:
    png = plots.bars({"fast": 1.0, "slow": 900.0, "none": None}, title="Time", unit="s", log=True)
    assert png.startswith(b"\x89PNG")
    text = page.render("A < B", [page.Section("S", ["<b>raw</b>"], [{"engine": "x", "s": 0.5}], {"Time": png})])
    assert "A &lt; B" in text
    assert "&lt;b&gt;raw" in text
    assert "http" not in text
    assert 'src="data:image/png;base64,' in text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (True, "yes"), (1234567, "1,234,567"), (0.000123456, "0.0001235"), ("a", "a")]
)
def test_shown(value: object, text: str) -> None:
    assert page.shown(value) == text


def test_markdown() -> None:
    table = page.markdown([{"a": 1, "b": "x|y"}])
    assert table.splitlines() == ["| a | b |", "| --- | --- |", "| 1 | x\\|y |"]
