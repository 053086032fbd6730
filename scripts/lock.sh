#!/usr/bin/env bash
# Write the requirements files for every Python version and platform that pyproject.toml allows.
set -euo pipefail
cd "$(dirname "$0")/.."

# The requirements files with their hashes are the lock; uv.lock would also contain addresses.
rm -f uv.lock
trap 'rm -f uv.lock' EXIT

export_lock() {
    local file=$1
    shift
    .venv/bin/uv export --quiet --frozen --no-header --no-annotate --no-emit-project --no-default-groups "$@" \
        --output-file "$file" >/dev/null
}

.venv/bin/uv lock --quiet
export_lock requirements.txt
export_lock requirements-msk.txt --extra msk
export_lock requirements-registry.txt --extra registry
export_lock requirements-build.txt --only-group image
export_lock requirements-demo.txt --extra demo --group build
export_lock requirements-dev.txt --extra demo --group dev

for requirements in examples/*/requirements.in; do
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-annotate \
        --no-header "$requirements" --output-file "${requirements%.in}.txt" >/dev/null
done
