#!/usr/bin/env bash
# Write all that is written by scripts, from what it is written from.
set -euo pipefail
cd "$(dirname "$0")/.."

for script in configuration_doc metrics_doc chart_schema dashboard dashboard_picture; do
    .venv/bin/python "scripts/$script.py"
done
scripts/build-chart-tools.sh
.cache/bin/helm-docs --chart-search-root helm --log-level warning
