"""Make .venv from requirements.lock. Run by the machine's own Python, so standard library only.

.venv/requirements.lock, a copy of the lock written last, says that the folder is whole: an installation that was broken
off is finished by the next start, and a changed lock brings the folder up to date.
"""

from __future__ import annotations

import fcntl
import filecmp
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV, LOCK, STATE = ROOT / ".venv", ROOT / "requirements.lock", ROOT / ".gridsink"


def main() -> int:
    STATE.mkdir(exist_ok=True)
    with (STATE / "venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second start waits here and then finds the work done
        stamp = VENV / LOCK.name
        if _works() and stamp.is_file() and filecmp.cmp(LOCK, stamp, shallow=False):
            return 0
        stamp.unlink(missing_ok=True)
        _say(f"set-up: installing the packages of {LOCK.name} into .venv (once, one to four minutes)")
        if not _works():
            shutil.rmtree(VENV, ignore_errors=True)
            if not _run([sys.executable, "-m", "venv", str(VENV)], "install your system's python3-venv package"):
                return 1
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--require-hashes"]
        if not _run([str(VENV / "bin" / "python"), *install, "-r", str(LOCK)], "check the network and the free disk"):
            return 1
        partial = stamp.with_suffix(".partial")
        shutil.copyfile(LOCK, partial)
        partial.replace(stamp)
    return 0


def _works() -> bool:
    """Whether .venv has a Python that starts and a pip."""
    try:
        check = [str(VENV / "bin" / "python"), "-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))"]
        return subprocess.run(check, capture_output=True).returncode == 0
    except OSError:
        return False


def _run(command: list[str], remedy: str) -> bool:
    log = STATE / "setup.log"
    with log.open("w") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    if done.returncode:
        last = "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-5:])
        _say(f"error: set-up of .venv failed\n{last}\n  where: {log}\n  remedy: {remedy}, then start again")
    return done.returncode == 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        _say("interrupted: the next start finishes the set-up")
        sys.exit(130)
