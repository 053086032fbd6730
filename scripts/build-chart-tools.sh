#!/usr/bin/env bash
# Build helm, helm-unittest, helm-docs, kubeconform and actionlint into .cache/bin, in the versions that tools/go.mod pins.
set -euo pipefail
cd "$(dirname "$0")/../tools"

stamp=../.cache/bin/built
sum=$(cat go.mod go.sum ../scripts/build-chart-tools.sh | sha256sum)
if [[ -f $stamp && $(<"$stamp") == "$sum" ]]; then
    exit
fi
# The installed version, not the one that tools/go.mod would fetch.
found=$(cd / && GOTOOLCHAIN=local go version 2>/dev/null | sed -nE 's/.* go([0-9]+\.[0-9]+).*/\1/p') || true
if [[ $(printf '%s\n' 1.21 "${found:-0}" | sort -V | head -n 1) != 1.21 ]]; then
    echo "setup failed: install Go 1.21 or newer from https://go.dev/dl/ or your distribution, and add it to PATH" \
        "(it fetches the version that tools/go.mod names); found: ${found:-none}" >&2
    exit 1
fi
echo "setup: fetching and building helm, helm-unittest, helm-docs, kubeconform and actionlint with Go; takes some minutes," \
    "beside the other steps" >&2

# The Kubernetes version that helm assumes by default; without these flags it is 1.20.
version=helm.sh/helm/v3/pkg
flags="-s -w -X $version/chartutil.k8sVersionMajor=1 -X $version/chartutil.k8sVersionMinor=37"
flags+=" -X $version/lint/rules.k8sVersionMajor=1 -X $version/lint/rules.k8sVersionMinor=37"
rm -f "$stamp"
mkdir -p ../.cache/bin
go build -trimpath -ldflags "$flags" -o ../.cache/bin/ tool
echo "$sum" >"$stamp"
