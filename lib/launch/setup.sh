# Sourced by spark-submit.sh and tests/run.sh with $root set: leaves .venv as requirements.lock says.
# Bytecode is kept: each of a run's processes would compile all that it imports anew, 2 s of CPU each.
unset PYTHONDONTWRITEBYTECODE
setup_venv() {
    local python
    if [ -x "$root/.venv/bin/python" ] && cmp -s "$root/requirements.lock" "$root/.venv/requirements.lock"; then
        return
    fi
    for python in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$python" "$root/lib/launch/venv.py"
            return
        fi
    done
    echo "error: no Python 3.11 or newer on the PATH" >&2
    echo "  remedy: install one, or name it: PYTHON=/path/to/python3 $0" >&2
    return 1
}
