#!/usr/bin/env bash
# Regenerate every generated file: documents, the chart's schema and README, the dashboard, the alerts' channels.
set -euo pipefail
cd "$(dirname "$0")/.."

for script in assumptions_doc configuration_doc records_doc metrics_doc licences_doc chart_schema alert_rules dashboard; do
    .venv/bin/python "scripts/$script.py"
done
scripts/build-chart-tools.sh
.cache/bin/helm-docs --chart-search-root helm --log-level warning
