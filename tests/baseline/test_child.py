"""A child's end, its memory and its cap, seen from outside."""

from __future__ import annotations

import sys

import pytest

from lib.baseline import child

MIB = 2**20
HOG = "import time; b = bytearray({size}); time.sleep({seconds}); print('kept', len(b))"


def hog(mib: int, seconds: float = 0.5) -> list[str]:
    return [sys.executable, "-c", HOG.format(size=mib * MIB, seconds=seconds)]


def test_peak_is_the_childs_own() -> None:
    report = child.run(hog(200))
    assert report.finished
    assert report.reason == "finished"
    assert "kept" in report.tail
    assert 200 * MIB < report.driver_bytes < 300 * MIB


@pytest.mark.parametrize("cgroups", [True, False], ids=["cgroup if allowed", "rlimit"])
def test_cap_is_kept(cgroups: bool, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    if not cgroups:
        monkeypatch.setattr(child, "CGROUP_ROOT", tmp_path / "none")
    within = child.run(hog(50), cap_bytes=400 * MIB)
    above = child.run(hog(600), cap_bytes=400 * MIB)
    assert within.finished
    assert not above.finished
    assert "memory" in above.reason
    assert above.cap_kind == within.cap_kind
    assert cgroups or above.cap_kind == "rlimit"


def test_failure_is_told_from_lack_of_memory() -> None:
    report = child.run([sys.executable, "-c", "raise SystemExit(7)"], cap_bytes=400 * MIB)
    assert not report.finished
    assert report.reason == "failed with exit code 7"


def test_time_limit_ends_the_child() -> None:
    report = child.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.5)
    assert report.timed_out
    assert report.reason == "ran out of time"
    assert report.seconds < 30


@pytest.mark.parametrize(
    ("cmdline", "parent", "role"),
    [
        (["/opt/jdk/bin/java", "-cp", "x", "org.apache.spark.deploy.SparkSubmit"], None, "driver_jvm"),
        (["/venv/bin/python", "jobs/driver.py", "request.json"], "driver_jvm", "driver_python"),
        (["/venv/bin/python", "-P", "-m", "jobs", "powerflow.solve"], "other", "launcher"),
        (["/venv/bin/python", "-m", "pyspark.daemon"], "driver_jvm", "worker"),
        (["/opt/jdk/bin/java", "org.apache.spark.executor.CoarseGrainedExecutorBackend"], "driver_jvm", "executor"),
        (["/venv/bin/python", "-m", "pyspark.daemon"], "executor", "executor"),
        (["bash", "spark-submit.sh"], None, "other"),
    ],
)
def test_roles(cmdline: list[str], parent: child.Role | None, role: child.Role) -> None:
    assert child._role(cmdline, parent) == role
