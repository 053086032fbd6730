#!/usr/bin/env bash
# Install what tests need besides Python: Java, Maven, Apache Kafka, kcat, libfaketime, Prometheus and its Alertmanager,
# buildah, podman and the chart tools.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

# Takes longest and depends on nothing else. It runs in a process group of its own, so that it ends with its children
# when a later step fails.
set -m
scripts/build-chart-tools.sh &
chart_tools=$!
set +m
trap 'kill -- "-$chart_tools" 2>/dev/null || true' EXIT

missing=()
declare -A packages=([java]=default-jre-headless [mvn]=maven [kcat]=kcat [promtool]=prometheus [buildah]=buildah)
packages+=([podman]=podman [conmon]=conmon [runc]=runc [newuidmap]=uidmap)
packages+=([prometheus-alertmanager]=prometheus-alertmanager)
for command in "${!packages[@]}"; do
    command -v "$command" >/dev/null || missing+=("${packages[$command]}")
done
compgen -G "/usr/lib/*/faketime/libfaketimeMT.so.1" >/dev/null || missing+=(libfaketime)
if ((${#missing[@]})); then
    install_debian "${missing[@]}"
    # These packages would start a service, which is not wanted.
    for service in prometheus prometheus-alertmanager; do
        if [[ " ${missing[*]} " == *" $service "* && -d /run/systemd/system ]]; then
            as_root systemctl disable --now "$service"
        fi
    done
fi

java=$(java -XshowSettings:properties -version 2>&1 | sed -n 's/.*java\.specification\.version = //p')
((${java%%.*} >= 17)) || fail "Java 17 or newer is required, 'java' is Java $java"

fetch_jars tests/support/kafka/pom.xml .cache/kafka/libs
fetch_jars tests/support/kafka/tools/pom.xml .cache/kafka/tools
if [[ ! .cache/kafka/classes.jsa -nt .cache/kafka/libs/pom.sha256 ]]; then
    step "archiving Kafka's classes, for brokers that start faster"
    .venv/bin/python -m tests.support.kafka_classes
fi
# It has said what it does.
if kill -0 "$chart_tools" 2>/dev/null; then
    step "waiting for what Go builds"
fi
wait "$chart_tools" || fail "the chart tools could not be built"
