#!/usr/bin/env bash
# Fetch what the examples need besides the test tools, each into a folder below .cache/examples.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

for pom in examples/*/pom.xml; do
    name=$(basename "$(dirname "$pom")")
    fetch_jars "$pom" ".cache/examples/$name"
done

# The schema registry of which an example reads; it is no library, so it has no pom.
registry=.cache/examples/registry
registry_sum=2b28181501a20cbf6efcd77f9b7153908fc01f3d3a7c32024c0bd9e1b04c8a43
if [[ ! -f $registry/archive.sha256 || $(<"$registry/archive.sha256") != "$registry_sum" ]]; then
    step "fetching $registry with Maven"
    rm -rf "$registry.new"
    mkdir -p "$registry.new"
    # The newest version that runs on Java 17.
    quietly mvn -B -q dependency:copy -Dartifact=io.apicurio:apicurio-registry-app:3.0.9:tar.gz:all \
        "-DoutputDirectory=$PWD/$registry.new"
    archive=$registry.new/apicurio-registry-app-3.0.9-all.tar.gz
    [[ $(sha256sum <"$archive") == "$registry_sum  -" ]] || fail "$archive is not what $0 expects"
    tar -xzf "$archive" -C "$registry.new"
    rm "$archive"
    echo "$registry_sum" >"$registry.new/archive.sha256"
    rm -rf "$registry"
    mv "$registry.new" "$registry"
fi

for requirements in examples/*/requirements.txt; do
    name=$(basename "$(dirname "$requirements")")
    fetch_packages "$requirements" ".cache/examples/$name.packages"
done
