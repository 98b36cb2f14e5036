#!/usr/bin/env bash
# Sets up what is missing, then registers a beating heart with the shipped weights: the pictures are in demo/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python scripts/demo.py "$@"
