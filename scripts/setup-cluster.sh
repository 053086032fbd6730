#!/usr/bin/env bash
# Build what `make cluster` runs the chart against into .cache/cluster: a Kubernetes API server, its storage, its controllers
# and its client, in the versions that tools/cluster/go.mod pins; and fetch the Prometheus operator's kinds of objects.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

operator=github.com/prometheus-operator/prometheus-operator@v0.85.0
operator_sum=h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=

stamp=.cache/cluster/built
sum=$(cat tools/cluster/go.mod tools/cluster/go.sum scripts/setup-cluster.sh | sha256sum)
if [[ -f $stamp && $(<"$stamp") == "$sum" ]]; then
    exit
fi
command -v go >/dev/null || fail "install Go from https://go.dev/dl/ or your distribution, and add it to PATH"
rm -f "$stamp"
mkdir -p .cache/cluster/crds

# Without these the server says that it is v0.0.0, which is less than the chart asks for.
release=$(cd tools/cluster && go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${release#v1.}
version=k8s.io/component-base/version
flags="-s -w -X $version.gitVersion=$release -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}"

build() {
    step "building $1 $2"
    (cd tools/cluster && quietly go build -trimpath -ldflags "$flags" -o "../../.cache/cluster/$1" "$3")
}

build etcd "for the API server" go.etcd.io/etcd/server/v3
build kube-apiserver "$release, this takes ten minutes on two cores" k8s.io/kubernetes/cmd/kube-apiserver
build kubectl "$release" k8s.io/kubernetes/cmd/kubectl
build kube-controller-manager "$release, this takes two minutes" k8s.io/kubernetes/cmd/kube-controller-manager

step "fetching $operator"
found=$(cd / && go mod download -json "$operator") || fail "$operator could not be fetched: $found"
[[ $found == *"\"$operator_sum\""* ]] || fail "$operator has another checksum than it had: $found"
folder=$(sed -nE 's/^\s*"Dir": "(.*)",?$/\1/p' <<<"$found")
for kind in podmonitors prometheusrules servicemonitors; do
    install -m 644 "$folder/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml" .cache/cluster/crds/
done
echo "$sum" >"$stamp"
