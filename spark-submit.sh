#!/usr/bin/env bash
# Runs a job: ./spark-submit.sh JOB [options]. Alone it lists the jobs. The first start sets everything up.
set -euo pipefail
root="$(cd -P "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)"
source "$root/lib/launch/setup.sh"
setup_venv
PYTHONPATH="$root" exec "$root/.venv/bin/python" -P -m jobs "$@"
