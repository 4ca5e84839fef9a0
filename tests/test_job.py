from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lib import job
from lib.errors import GridsinkError
from lib.job import JobContext, JobResult
from lib.settings import Settings, load


def module(run: Callable[[JobContext], JobResult], **names: Any) -> ModuleType:
    made = ModuleType("jobs.test.made")
    made.__dict__.update(names, run=run)
    return made


@pytest.fixture
def context(settings: Settings) -> JobContext:
    return JobContext("test.made", settings, {"days": 2}, "run-1", job.runs_folder(settings) / "run-1")


def record(context: JobContext) -> dict[str, Any]:
    return json.loads((context.run_dir / "run.json").read_text())


def test_run_json_tells_what_happened(context: JobContext) -> None:
    def run(context: JobContext) -> JobResult:
        with context.phase("read"):
            context.count(rows_in=3)
        context.count(rows_in=1, rows_out=4)
        context.inputs["network"] = 7
        return JobResult({"answer": 42})

    assert job.execute(module(run), context).exit_code == job.OK
    told = record(context)
    assert told["counts"] == {"rows_in": 4, "rows_out": 4}
    assert told["inputs"] == {"network": 7}
    assert told["summary"] == {"answer": 42}
    assert told["options"] == {"days": 2}
    assert told["settings"]["lake"]["path"] == context.settings.lake.path
    assert set(told["phases_s"]) == {"read"}
    assert told["peak_memory_mb"]["python"] > 1
    assert told["versions"]["pyspark"].startswith("4.")
    assert (told["exit_code"], told["error"]) == (0, None)


def test_too_many_quarantined_rows_are_an_exit_code_of_their_own(context: JobContext) -> None:
    def run(context: JobContext) -> JobResult:
        context.count(rows_quarantined=1)
        return JobResult()

    assert job.execute(module(run), context).exit_code == job.QUARANTINED
    context.settings = context.settings.model_copy(update={"max_quarantine": 2})
    context.counts = {}
    assert job.execute(module(run), context).exit_code == job.OK


def test_known_error_is_three_lines(context: JobContext, capfd: pytest.CaptureFixture[str]) -> None:
    def run(context: JobContext) -> JobResult:
        raise GridsinkError("the table is gone", "silver/network", "build it")

    assert job.execute(module(run), context).exit_code == job.FAILED
    assert capfd.readouterr().err == "error: the table is gone\n  where: silver/network\n  remedy: build it\n"
    assert "the table is gone" in record(context)["error"]


def test_unknown_error_leaves_its_traceback_in_a_file(context: JobContext, capfd: pytest.CaptureFixture[str]) -> None:
    def run(context: JobContext) -> JobResult:
        raise ZeroDivisionError("by nought")

    assert job.execute(module(run), context).exit_code == job.FAILED
    first, second = capfd.readouterr().err.splitlines()
    assert first == "error: ZeroDivisionError: by nought"
    assert "raise ZeroDivisionError" in Path(second.removeprefix("  where: ")).read_text()


def test_interrupt_is_recorded(context: JobContext) -> None:
    def run(context: JobContext) -> JobResult:
        raise KeyboardInterrupt

    assert job.execute(module(run), context).exit_code == job.INTERRUPTED
    assert record(context)["exit_code"] == 130


def test_interrupt_under_a_broken_call_is_an_interrupt(context: JobContext) -> None:
    """Leaving a call to the JVM half-way makes its clean-up fail: what the user did was to press Ctrl-C."""

    def run(context: JobContext) -> JobResult:
        try:
            raise KeyboardInterrupt
        finally:
            raise ConnectionError("the call was broken off")

    assert job.execute(module(run), context).exit_code == job.INTERRUPTED
    assert record(context)["error"] == "interrupted"


def test_second_run_of_a_job_is_refused(context: JobContext, capfd: pytest.CaptureFixture[str]) -> None:
    inner = JobContext("test.made", context.settings, {}, "run-2", context.run_dir.with_name("run-2"))
    codes = []

    def run(context: JobContext) -> JobResult:
        codes.append(job.execute(module(lambda _: JobResult()), inner).exit_code)
        return JobResult()

    assert job.execute(module(run), context).exit_code == job.OK
    assert codes == [job.LOCKED]
    assert "test.made is already running" in capfd.readouterr().err


def test_unwritable_lake_is_said_before_anything_starts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    settings = load([f"lake.path={tmp_path}/file/lake"], environment={})
    context = JobContext("test.made", settings, {}, "run-1", job.runs_folder(settings) / "run-1")
    assert job.execute(module(lambda _: pytest.fail("ran")), context).exit_code == job.FAILED
    text = capfd.readouterr().err
    assert "cannot write to the lake" in text
    assert str(tmp_path / "file") in text
    assert "set lake.path" in text


def test_missing_table_without_a_demo(context: JobContext, capfd: pytest.CaptureFixture[str]) -> None:
    path = context.settings.lake.path
    context.settings = load([f"lake.path={path}", "demo.auto=false"], environment={})
    reads = module(lambda _: pytest.fail("ran"), READS=("network",))
    assert job.execute(reads, context).exit_code == job.FAILED
    text = capfd.readouterr().err
    assert "no table network" in text
    assert "ingest.demo" in text


def test_a_session_started_ahead_is_the_one_that_is_used(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    made, began, built = object(), threading.Event(), threading.Event()

    def build(*_: Any) -> Any:
        began.set()
        assert built.wait(10)
        return made

    started: list[Any] = []
    monkeypatch.setattr(job.session, "build", build)
    monkeypatch.setattr(job.session, "start_workers", started.append)
    context.start_spark()
    assert began.wait(10)
    assert not context.spark_started
    built.set()
    assert context.spark is made
    context.start_spark()
    assert context.spark is made
    assert started in ([], [made])


def test_a_session_that_cannot_start_is_told_to_whoever_needs_it(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def build(*_: Any) -> Any:
        raise GridsinkError("Delta's JARs are missing", ".gridsink/jars", "start again")

    monkeypatch.setattr(job.session, "build", build)

    def run(context: JobContext) -> JobResult:
        context.start_spark()
        assert context.spark is None
        return JobResult()

    assert job.execute(module(run), context).exit_code == job.FAILED
    assert capfd.readouterr().err.startswith("error: Delta's JARs are missing\n")
