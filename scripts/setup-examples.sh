#!/usr/bin/env bash
# Fetch what the examples need besides the test tools, each into a folder below .cache/examples.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

for pom in examples/*/pom.xml; do
    name=$(basename "$(dirname "$pom")")
    fetch_jars "$pom" ".cache/examples/$name"
done

for requirements in examples/*/requirements.txt; do
    name=$(basename "$(dirname "$requirements")")
    fetch_packages "$requirements" ".cache/examples/$name.packages"
done
