#!/usr/bin/env bash
# Lint, types, import arrows, then the tests: tests/run.sh [pytest options]. Sets up what it needs, as spark-submit.sh does.
set -euo pipefail
root="$(cd -P "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)"
source "$root/lib/launch/setup.sh"
setup_venv
cd "$root"
export PATH="$root/.venv/bin:$PATH" PYTHONPATH="$root"
JAVA_HOME="$(python -P -m lib.launch.setup)"
export JAVA_HOME
ruff check .
ruff format --check .
mypy
lint-imports
pytest "$@"
