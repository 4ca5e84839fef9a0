#!/usr/bin/env bash
# benchmarks/run.sh NAME [options]: run one benchmark; its figures go to benchmarks/results/NAME.{json,md}.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ $# -eq 0 || ! -f "benchmarks/$1.py" ]]; then
    echo "usage: benchmarks/run.sh NAME [options]; benchmarks:" >&2
    for file in benchmarks/[a-z]*.py; do
        name="$(basename "$file" .py)"
        [[ "$name" == common || "$name" == workers ]] || echo "  $name" >&2
    done
    exit 2
fi
name="$1"
shift
exec .venv/bin/python -m "benchmarks.$name" "$@"
