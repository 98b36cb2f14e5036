#!/usr/bin/env bash
# Makes .venv in the repository's root and installs warpzoo there in editable mode, with the extras given; does nothing
# if that is done already. The other scripts call it.
#
#   bash scripts/setup.sh [extra …]          e.g.  bash scripts/setup.sh test zarr
#
# PYTHON=python3.12 chooses the interpreter for .venv; pip's own variables (PIP_INDEX_URL, …) are respected.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '[setup] %s\n' "$*"; }
fail() {
    echo >&2
    printf '[setup] %s\n' "$@" >&2
    exit 1
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null || fail "PYTHON must be a command, got '$PYTHON'."
        is_new_enough "$PYTHON" || fail "PYTHON must be Python 3.10 or newer, got '$PYTHON' ($("$PYTHON" --version 2>&1))."
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python python3.13 python3.12 python3.11 python3.10; do
        if is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "No Python 3.10 or newer was found (looked for python3, python, python3.10 to python3.13)." \
        "Install one, from python.org or your system's packages, or choose it: PYTHON=/path/to/python3.12 bash scripts/demo.sh"
}

make_venv() {
    local python
    python=$(find_python)
    say "making .venv with $("$python" --version 2>&1) ($(command -v "$python"))"
    if ! "$python" -m venv .venv; then
        rm -rf .venv
        fail "'$python -m venv' failed: see the lines above." \
            "On Debian and Ubuntu venv is a separate package: sudo apt install python3-venv"
    fi
}

# install WHAT ARGUMENTS…: pip with its output in a log; only large downloads are shown on the screen.
install() {
    local what=$1 log=.venv/install.log start=$SECONDS status=0 reason
    shift
    say "installing $what (log: $log)"
    .venv/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off "$@" 2>&1 |
        tee -a "$log" | grep --line-buffered -E 'Downloading .*\(([0-9]{2,}\.[0-9]+ MB|.* GB)\)' || status=${PIPESTATUS[0]}
    if [ "$status" -ne 0 ]; then
        reason="pip could not install $what: the last lines of $log are above."
        tail -n 15 "$log" >&2
        if grep -qEi 'name resolution|NewConnectionError|network is unreachable|timed out|proxy|getaddrinfo' "$log"; then
            reason="pip could not reach the package index: check the network, a proxy (HTTPS_PROXY) or a mirror (PIP_INDEX_URL)."
        elif grep -qi 'no space left' "$log"; then
            reason="the disk is full: warpzoo's environment needs about 3 GB, three times that with CUDA."
        elif grep -qEi 'no matching distribution|requires a different python' "$log"; then
            reason="pip found no build of a package for $(.venv/bin/python --version) on $(uname -sm). If the package index can be reached, try another Python: rm -rf .venv, then PYTHON=python3.12 in front of the command."
        fi
        fail "$reason" "Then run the same command again; it continues from here."
    fi
    say "done in $((SECONDS - start)) s"
}

if [ ! -e .venv ]; then
    make_venv
elif ! is_new_enough .venv/bin/python || ! ls .venv/lib/python3*/site-packages/pip >/dev/null 2>&1; then
    fail ".venv exists, but its Python does not run, is older than 3.10 or has no pip." \
        "Remove it and run the same command again: rm -rf .venv"
fi

# The stamp's first line identifies the sources of the installation, its second the extras: if either changes, everything
# is installed again.
stamp=.venv/warpzoo-stamp
source="$(cat pyproject.toml constraints.txt scripts/setup.sh | cksum) in $PWD"
extras=$(printf '%s\n' "$@")
if [ -f "$stamp" ]; then
    extras=$(printf '%s\n' "$extras" $(sed -n 2p "$stamp"))
fi
extras=$(printf '%s\n' "$extras" | grep . | sort -u | paste -sd' ' -) || extras=""
wanted=$(printf '%s\n%s' "$source" "$extras")
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    say ".venv is up to date"
    exit 0
fi

: >.venv/install.log
torch=$(grep -o '^torch==[^ ;]*' constraints.txt)
install "$torch (a few minutes)" "$torch"
install "warpzoo${extras:+ with $extras} (a few minutes)" -c constraints.txt -e ".${extras:+[${extras// /,}]}"
printf '%s\n' "$wanted" >"$stamp"
