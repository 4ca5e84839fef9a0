from __future__ import annotations

import io

import pytest
from rich.console import Console

from lib.launch.present import show

ROWS = [{"region": name, "a long heading": 1.5, "another [%]": 12345, "no number": None} for name in ("north", "south")]


@pytest.mark.parametrize(("terminal", "width", "across"), [(True, 200, True), (True, 40, False), (False, 40, True)])
def test_a_table_stays_readable_at_any_width(terminal: bool, width: int, across: bool) -> None:
    file = io.StringIO()
    show("power [flow]", ROWS, Console(file=file, width=width, force_terminal=terminal, color_system=None))
    lines = file.getvalue().splitlines()
    assert lines[0].strip() == "power [flow]"
    heading = next(line for line in lines if "region" in line)
    assert ("another [%]" in heading) is across
    assert ("south" in heading) is not across
    assert "12,345" in file.getvalue()
