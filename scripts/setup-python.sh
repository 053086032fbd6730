#!/usr/bin/env bash
# Create .venv with the bridge and the packages of requirements-dev.txt or requirements-demo.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

kind=${1:-dev}
stamp=.venv/installed

find_python() {
    local name
    for name in python3.13 python3.12 python3.11 python3; do
        if "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    return 1
}

# The content of `$stamp` if this kind is installed and nothing has changed since.
installed() {
    echo "$1 $(cat "requirements-$1.txt" pyproject.toml scripts/setup-python.sh | sha256sum | cut -d ' ' -f 1)"
}

# A .venv that was moved or is incomplete has no pip with this path.
usable() {
    .venv/bin/python -c '' 2>/dev/null && grep -qsF "$PWD/.venv/bin/python" .venv/bin/pip
}

# A linked .venv belongs to another clone and is used as it is: recreating it would empty that one.
if [[ -L .venv ]]; then
    exit
fi

if usable && [[ -f $stamp ]]; then
    found=$(<"$stamp")
    # The development packages include those of the demo.
    if [[ $found == "$(installed "$kind")" || $found == "$(installed dev)" ]]; then
        exit
    fi
fi

if ! usable; then
    if ! python=$(find_python); then
        install_debian python3 python3-venv
        python=$(find_python) || fail "Python 3.11 or newer is required, with the modules venv and ensurepip"
    fi
    step "creating .venv with $("$python" --version)"
    quietly "$python" -m venv --clear .venv
fi

rm -f "$stamp"
pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet)
step "fetching and installing $(grep -c '^[^ ]' "requirements-$kind.txt") Python packages: requirements-$kind.txt"
# Wheels only: to build from source, pip would fetch packages that no hash pins.
quietly "${pip[@]}" install --require-hashes --only-binary :all: -r "requirements-$kind.txt"
step "installing the bridge"
quietly "${pip[@]}" install --no-deps --no-build-isolation -e .
installed "$kind" >"$stamp"
