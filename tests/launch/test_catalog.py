from __future__ import annotations

from pathlib import Path
from types import ModuleType

import click
import pytest

from lib.launch import catalog


def test_jobs_are_listed_without_importing_them(tmp_path: Path) -> None:
    group = tmp_path / "jobs" / "made"
    group.mkdir(parents=True)
    (group / "__init__.py").touch()
    (group / "good.py").write_text('"""Do good.\n\nMore."""\nraise RuntimeError("imported")\n')
    (group / "broken.py").write_text("def (\n")
    listed = catalog.jobs(tmp_path)
    assert listed["made.good"] == "Do good."
    assert "line 1" in listed["made.broken"]
    assert set(listed) == {"made.good", "made.broken"}


def test_every_job_of_the_checkout_has_a_line_and_loads() -> None:
    listed = catalog.jobs()
    assert "ingest.demo" in listed
    for name, line in listed.items():
        assert line.endswith("."), name
        assert callable(catalog.load(name).run)


def test_own_options_are_parsed_and_the_common_ones_left_out() -> None:
    module = ModuleType("jobs.made.good")
    module.options = lambda: [click.Option(["--days"], type=int, default=7)]  # type: ignore[attr-defined]
    also = [click.Option(["--set", "overrides"], multiple=True)]
    assert catalog.parse(module, []) == {"days": 7}
    assert catalog.parse(module, ["--set", "a=b", "--days", "3"], also) == {"days": 3}
    with pytest.raises(click.UsageError):
        catalog.parse(module, ["--weeks", "3"], also)


def test_a_job_may_take_arguments() -> None:
    module = ModuleType("jobs.made.good")
    module.options = lambda: [click.Argument(["name"], required=False), click.Option(["--days"], type=int)]  # type: ignore[attr-defined]
    also = [click.Option(["--set", "overrides"], multiple=True)]
    assert catalog.parse(module, []) == {"name": None, "days": None}
    assert catalog.parse(module, ["--set", "a=b", "losses", "--days", "3"], also) == {"name": "losses", "days": 3}
    with pytest.raises(click.UsageError):
        catalog.parse(module, ["losses", "loads"], also)
