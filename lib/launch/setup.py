"""What the first start does beyond .venv: Delta's JARs and the compiled kernels, each once and whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from lib.errors import GridsinkError
from lib.launch import java, kernels
from lib.settings import ROOT, STATE

JARS = STATE / "jars"
KERNELS = STATE / "numba"
_DELTA = {
    "io.delta:delta-spark_4.2_2.13:4.4.0": "27d4fd8b1f879535c573ed1c718177d6a27f24d3e626ba02e216369725721ead",
    "io.delta:delta-storage:4.4.0": "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc",
}
# Spark brings the rest of what Delta's POM asks for.
_EXCLUDED = (
    "org.*:*,com.*:*,javax.*:*,jakarta.*:*,net.*:*,io.unitycatalog:*,io.airlift:*,commons-*:*,io.delta:delta-kernel*"
)


def spark_home() -> Path:
    """The Spark of .venv."""
    spec = find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise GridsinkError("pyspark is missing", sys.prefix, "remove .venv and start again")
    return Path(spec.origin).parent


def jar_files() -> list[Path]:
    """Where Delta's JARs are, or will be."""
    return [JARS / f"{coordinate.replace(':', '_', 1).replace(':', '-')}.jar" for coordinate in _DELTA]


def prepare(java_home: Path) -> None:
    """Do what is left to do; at once where all is done."""
    if all(jar.is_file() for jar in jar_files()) and _kernels_ready():
        return
    STATE.mkdir(exist_ok=True)
    with FileLock(STATE / "setup.lock"):  # a second start waits here and then finds the work done
        compiling = None if _kernels_ready() else _compile()
        try:
            if not all(jar.is_file() for jar in jar_files()):
                _resolve(java_home)
            if compiling is not None and compiling.wait() == 0:
                (KERNELS / kernels.digest() / "complete").touch()
        finally:
            if compiling is not None and compiling.poll() is None:
                compiling.kill()


def _kernels_ready() -> bool:
    return find_spec("lib.grid.warm") is None or (KERNELS / kernels.digest() / "complete").is_file()


def _compile() -> subprocess.Popen[bytes]:
    print("set-up: compiling the kernels (once, half a minute)", file=sys.stderr, flush=True)
    environment = os.environ | kernels.environment(KERNELS, unpacked=True) | {"PYTHONPATH": str(ROOT)}
    Path(environment["NUMBA_CACHE_DIR"]).mkdir(parents=True, exist_ok=True)
    return subprocess.Popen([sys.executable, "-P", "-m", "lib.grid.warm"], env=environment)


def _resolve(java_home: Path) -> None:
    """Let Spark's own resolver fetch the JARs, which honours the user's Ivy settings and mirrors."""
    print("set-up: fetching Delta's two JARs (once)", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=STATE, prefix="ivy-") as folder:
        script = Path(folder) / "nothing.py"
        script.touch()
        command = [str(spark_home() / "bin" / "spark-submit"), "--master", "local[1]"]
        command += ["--conf", f"spark.jars.ivy={folder}", "--conf", f"spark.pyspark.python={sys.executable}"]
        command += ["--packages", ",".join(_DELTA), "--exclude-packages", _EXCLUDED, str(script)]
        environment = os.environ | {"JAVA_HOME": str(java_home), "SPARK_HOME": str(spark_home())}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
        JARS.mkdir(exist_ok=True)
        for target, expected in zip(jar_files(), _DELTA.values(), strict=True):
            jar = Path(folder) / "jars" / target.name
            found = hashlib.sha256(jar.read_bytes()).hexdigest() if jar.is_file() else "nothing"
            if found != expected:
                log = STATE / "setup.log"
                log.write_text(done.stdout + done.stderr)
                raise GridsinkError(
                    f"Delta's {target.name} "
                    + ("could not be had" if found == "nothing" else "is not the expected file"),
                    str(log),
                    "check the network and Maven's mirror settings (spark.jars.ivySettings), then start again",
                )
            partial = target.with_suffix(".partial")
            shutil.copyfile(jar, partial)
            partial.replace(target)


def main() -> None:
    """Set up and print the JAVA_HOME to use."""
    home = java.java_home(STATE)
    prepare(home)
    print(home)


if __name__ == "__main__":
    try:
        main()
    except GridsinkError as error:
        sys.exit(f"error: {error}")
