"""From a fresh clone to first results, and a second start: seconds of the first of README's two commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import click

from benchmarks import common
from lib.baseline import child

NOTES = (
    "First: git clone of this checkout's HEAD, then ./spark-submit.sh powerflow.solve, in an empty home and with empty "
    "caches: makes the environment, downloads what it needs, compiles, builds the demo lake, solves it.",
    "Second: the same command again in the same clone.",
)


@click.command()
@click.option(
    "--folder", type=click.Path(file_okay=False, path_type=Path), help="Where to clone.  [default: a new one]"
)
@click.option("--keep", is_flag=True, help="Leave the clone.")
@click.option("--own-home", is_flag=True, help="Keep the home folder: for machines whose package index is set there.")
def main(folder: Path | None, keep: bool, own_home: bool) -> None:
    place = Path(tempfile.mkdtemp(prefix="gridsink-cold-", dir=folder))
    clone, home, cache = place / "clone", place / "home", place / "cache"
    home.mkdir()
    cache.mkdir()
    subprocess.run(["git", "clone", "--quiet", str(common.ROOT), str(clone)], check=True)
    foreign = ("PYSPARK", "SPARK", "PYTHONPATH", "VIRTUAL_ENV", "GRIDSINK_", "NUMBA_", "PIP_CACHE", "UV_CACHE", "XDG_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env |= {"XDG_CACHE_HOME": str(cache), "PIP_CACHE_DIR": str(cache / "pip"), "UV_CACHE_DIR": str(cache / "uv")}
    if not own_home:
        env["HOME"] = str(home)
    rows = []
    try:
        for start in ("first, from a fresh clone", "second"):
            report = child.run([str(clone / "spark-submit.sh"), "powerflow.solve"], env=env, cwd=clone, timeout_s=3600)
            if not report.finished:
                raise click.ClickException(f"{start}: {report.reason}\n{report.tail}")
            rows.append({"start": start, "seconds": report.seconds, "driver, MiB": round(report.driver_bytes / 2**20)})
            common.say(f"{start}: {report.seconds:.0f} s")
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)
    common.write("cold_start", {"own_home": own_home}, {"cold start": rows}, NOTES)


if __name__ == "__main__":
    main()
