#!/usr/bin/env bash
# Sets up what is missing, then checks style and types and runs every test.
#
#   bash scripts/test.sh                     everything
#   bash scripts/test.sh -k warp -x          pytest alone, with these arguments
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh test

# Several processes with one thread each: threads that fight for the cores cost more than they bring.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONUNBUFFERED=1
bin=.venv/bin
if [ $# -gt 0 ]; then
    exec $bin/python -m pytest "$@"
fi

run() {
    printf '\n[test] %s\n' "$1"
    shift
    "$@" || {
        printf '\n[test] %s found something: see above.\n' "$1" >&2
        exit 1
    }
}
run "style (mend it with: $bin/ruff check --fix && $bin/ruff format)" $bin/ruff check
run "formatting" $bin/ruff format --check
run "types" $bin/mypy
run "tests" $bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal --durations 10
