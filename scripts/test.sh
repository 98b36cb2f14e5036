#!/usr/bin/env bash
# Sets up what is missing, then checks style and types and runs every test.
#
#   bash scripts/test.sh                     everything
#   bash scripts/test.sh -k warp -x          pytest alone, with these arguments
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh test

# Several processes with one thread each: oversubscribed threads cost more time than they save.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONUNBUFFERED=1 PYTHONUTF8=1
bin=.venv/bin
if [ $# -gt 0 ]; then
    exec $bin/python -m pytest "$@"
fi

failed=()
run() {
    local what=$1
    shift
    printf '\n[test] %s\n' "$what"
    "$@" || failed+=("$what")
}
run style $bin/ruff check
run formatting $bin/ruff format --check
run types $bin/mypy
run tests $bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal --durations 10

if [ ${#failed[@]} -gt 0 ]; then
    printf '\n[test] failed: %s; see above.' "${failed[*]}" >&2
    printf ' Fix style and formatting with: %s\n' "$bin/ruff check --fix; $bin/ruff format" >&2
    exit 1
fi
printf '\n[test] all passed\n'
