# The project's virtual environment, and the Debian packages that a script needs. To be sourced.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
VENV=$ROOT/.venv
PYTHON=$VENV/bin/python

# need_packages NAME…: install missing packages as root. Other users get the command to run, and exit code 2.
need_packages() {
    local missing=() name
    for name in "$@"; do
        dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" -eq 0 ]; then
        echo "installing ${missing[*]}" >&2
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq >&2 || echo "apt-get update failed; trying with the existing package lists" >&2
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 || exit 2
    else
        echo "missing Debian packages; as root:  apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 2
    fi
}

# make_environment EXTRAS: make a virtual environment with the project (editable) and these extras. Update it when
# pyproject.toml has changed.
make_environment() {
    local extras=$1 stamp
    stamp=$VENV/.made-$(printf '%s' "$extras" | tr -c 'a-z' '-')
    # Debian has ensurepip in a package of its own, python3-venv.
    if [ ! -x "$PYTHON" ] || ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
        command -v python3 >/dev/null || need_packages python3
        python3 -c 'import venv, ensurepip' 2>/dev/null || need_packages python3-venv
        echo "making the virtual environment ${VENV##*/}" >&2
        python3 -m venv --clear "$VENV" || exit 2
    fi
    if [ ! -e "$stamp" ] || [ "$ROOT/pyproject.toml" -nt "$stamp" ]; then
        echo "installing into ${VENV##*/}: mailproxy[$extras] and what it needs, from the package index" >&2
        "$PYTHON" -m pip install --quiet --disable-pip-version-check --editable "$ROOT[$extras]" >&2 || exit 2
        touch "$stamp"
    fi
}
