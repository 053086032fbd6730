"""What an upgrade changes, and what it refuses before it has changed anything."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from bridge import __version__
from tests.chart.helm import CHART, VALUES
from tests.cluster.releases import FEED, MINIMAL, Namespace

# Objects and fields that are no concern of the pods.
KEEPS_PODS = [
    "replicas=3",
    "tests.enabled=false",
    "dashboard.enabled=true",
    "podMonitor.enabled=true",
    "serviceMonitor.enabled=true",
    "prometheusRule.enabled=true",
    "networkPolicy.enabled=true",
    "autoscaling.enabled=true",
    "podDisruptionBudget.enabled=false",
    "podDisruptionBudget.minAvailable=1",
    "podDisruptionBudget.maxUnavailable=50%",
    "podDisruptionBudget.unhealthyPodEvictionPolicy=IfHealthyBudget",
    "service.annotations.note=new",
    "configMap.annotations.note=new",
    "statefulSet.annotations.note=new",
    "serviceAccount.annotations.note=new",
    "commonAnnotations.note=new",
    "spool.persistentVolumeClaimRetentionPolicy.whenDeleted=Delete",
    "spool.persistentVolumeClaimRetentionPolicy.whenScaled=Delete",
    "updateStrategy.type=OnDelete",
    "updateStrategy.rollingUpdate.partition=1",
    "minReadySeconds=5",
    "revisionHistoryLimit=3",
    "runbookBase=https://git.example.com/",
    "spool.size=2048Mi",
]

REPLACES_PODS = [
    "config.kafka.partitions=24",
    "config.channels.depth={BTC_USDT}",
    "config.http.port=8080",
    "config.spool.max_bytes=0",
    "kafkaPassword.value=new,config.kafka.security_protocol=SASL_PLAINTEXT,config.kafka.sasl_mechanism=PLAIN,"
    "config.kafka.sasl_plain_username=bridge",
    "accounts[0].name=main,accounts[0].apiKey=k,accounts[0].secret=s,accounts[0].balance={USDT}",
    "kafkaTls.ca.existingSecret=ca,config.kafka.security_protocol=SSL",
    "exchangeTls.ca.existingSecret=ca",
    "image.tag=2.0.0",
    "image.registry=mirror.example.com",
    "image.pullPolicy=Always",
    "imagePullSecrets[0].name=registry",
    "resources.limits.memory=1Gi",
    "resources.limits.memory=null",
    "podSecurityContext.fsGroup=null",
    "securityContext.runAsUser=2000",
    "commonLabels.team=new",
    "podLabels.team=new",
    "podAnnotations.note=new",
    "nodeSelector.disk=fast",
    "tolerations[0].operator=Exists",
    "topologySpreadConstraints[0].maxSkew=2,topologySpreadConstraints[0].topologyKey=rack,"
    "topologySpreadConstraints[0].whenUnsatisfiable=ScheduleAnyway",
    "priorityClassName=important",
    "runtimeClassName=gvisor",
    "schedulerName=batch",
    "hostAliases[0].ip=10.0.0.1,hostAliases[0].hostnames={kafka}",
    "dnsPolicy=None,dnsConfig.nameservers={10.0.0.10}",
    "dnsConfig.options[0].name=ndots",
    "terminationGracePeriodSeconds=60",
    "lifecycle.preStop.sleep.seconds=3",
    "probes.readiness.periodSeconds=10",
    "extraEnv[0].name=A,extraEnv[0].value=b",
    "extraEnvFrom[0].configMapRef.name=more",
    "extraVolumes[0].name=scratch,extraVolumes[0].emptyDir.medium=Memory,"
    "extraVolumeMounts[0].name=scratch,extraVolumeMounts[0].mountPath=/tmp",
    "serviceAccount.create=false",
    "serviceAccount.name=other",
]


@pytest.mark.parametrize("replaces", [True, False], ids=["replaces", "keeps"])
def test_a_change_replaces_the_pods_only_if_they_need_it(replaces: bool, namespace: Namespace) -> None:
    """As the server sees it, which fills in what a release leaves out."""
    namespace.install()
    first = namespace.settled()["status"]["updateRevision"]
    wrong = []
    for setting in REPLACES_PODS if replaces else KEEPS_PODS:
        namespace.upgrade(setting)
        if (namespace.settled()["status"]["updateRevision"] != first) is not replaces:
            wrong.append(setting)
        namespace.helm("rollback", "feed")
        if namespace.settled()["status"]["updateRevision"] != first:
            wrong.append(f"rollback of {setting}")
    assert wrong == []


@pytest.mark.parametrize(
    "size",
    ["2Gi", "2048Mi", "2.5Gi", "2.3Gi", "3G", "2500000k", "0.003Ti", "2200000000.5", "2048Ti", "5000T"],
)
def test_a_size_of_volumes_in_any_words_is_not_taken_for_another(size: str, namespace: Namespace) -> None:
    """The server writes quantities in its own words, and warns of fractions of a byte."""
    values = MINIMAL + f"spool: {{size: {json.dumps(size)}}}\n"
    done = namespace.try_helm("install", "feed", CHART, values=values)
    assert done.returncode == 0, done.stderr
    before = namespace.settled()["spec"]
    done = namespace.try_helm("upgrade", "feed", CHART, "--set=dashboard.enabled=true", values=values)
    assert done.returncode == 0, done.stderr
    assert namespace.settled()["spec"] == before
    assert "spool.size" in namespace.refused("spool.size=7Gi", values=values)


REFUSED = {
    "spool.size=3Gi": "spool.size (from 2Gi to 3Gi)",
    "spool.size=1.5Gi": "spool.size (from 2Gi to 1.5Gi)",
    "spool.storageClassName=other": "spool.storageClassName",
    "spool.storageClassName=-": "spool.storageClassName",
    "spool.storageClassName=": "spool.storageClassName",
    "spool.accessModes={ReadWriteOncePod}": "spool.accessModes",
    "spool.annotations.backup=yes": "spool.annotations",
    "spool.annotations.other=new": "spool.annotations",
    "spool.persistent=false": "spool.persistent",
    "replicas=1,spool.existingClaim=by-hand": "spool.existingClaim",
    "nameOverride=other,fullnameOverride=feed-digifinex-bridge": "nameOverride",
    "config.kafka.shards=2": "2, and 2 pods run with 3: the number of shards cannot be reduced",
    "config.kafka.shards=4": "4, and 2 pods run with 3. Once their spools are empty, run: kubectl",
}


def test_what_cannot_be_changed_in_place_is_refused_before_anything_changes(namespace: Namespace) -> None:
    values = MINIMAL + "spool: {storageClassName: fast, annotations: {backup: 'no'}}\nreplicas: 2\n"
    namespace.install("config.kafka.shards=3", values=values)
    namespace.settled()
    wrong = {}
    for setting, message in REFUSED.items():
        error = namespace.refused(
            "config.kafka.shards=3", "config.kafka.partitions=24", setting, values=values
        )
        if message not in error:
            wrong[setting] = error
    assert wrong == {}
    # What is asked of a server, but not done.
    done = namespace.try_helm(
        "upgrade",
        "feed",
        CHART,
        "--dry-run=server",
        "--set=config.kafka.shards=3,spool.size=3Gi",
        values=values,
    )
    assert "spool.size (from 2Gi to 3Gi)" in done.stderr


def test_what_is_refused_is_all_that_the_server_would_refuse(namespace: Namespace) -> None:
    """Each of these is rejected by the server, if it was rendered without one: none is refused needlessly."""
    values = MINIMAL + "spool: {storageClassName: fast, annotations: {backup: 'no'}}\n"
    namespace.install(values=values)
    accepted = []
    for setting in REFUSED:
        if "shards" in setting:
            continue
        rendered = namespace.helm("template", "feed", CHART, "--set", setting, values=values)
        sets = [one for one in yaml.safe_load_all(rendered) if one and one["kind"] == "StatefulSet"]
        done = namespace.server.run(
            *("kubectl", "--namespace", namespace.name, "replace", "--dry-run=server", "--filename=-"),
            stdin=yaml.safe_dump_all(sets),
        )
        if f'StatefulSet "{FEED}" is invalid' not in done.stderr:
            accepted.append(setting)
    assert accepted == []


def test_other_names_are_other_pods(namespace: Namespace) -> None:
    """And the volumes of the old ones stay."""
    namespace.install()
    namespace.settled()
    namespace.upgrade("nameOverride=other")
    namespace.settled("feed-other")
    namespace.until_gone(f"statefulset/{FEED}")
    assert namespace.names("pvc") == [
        f"persistentvolumeclaim/spool-{FEED}-0",
        "persistentvolumeclaim/spool-feed-other-0",
    ]


def test_the_autoscaler_keeps_the_present_number_of_pods(namespace: Namespace) -> None:
    namespace.install("replicas=3")
    namespace.settled()
    namespace.upgrade("autoscaling.enabled=true")
    assert namespace.settled()["spec"]["replicas"] == 3
    # As the autoscaler does it.
    namespace.kubectl("scale", f"statefulset/{FEED}", "--replicas=4")
    namespace.upgrade("autoscaling.enabled=true", "config.kafka.partitions=24")
    assert namespace.settled()["spec"]["replicas"] == 4
    namespace.upgrade("autoscaling.enabled=false", "replicas=3")
    assert namespace.settled()["spec"]["replicas"] == 3


def test_a_new_version_of_the_chart_alone_replaces_no_pod(namespace: Namespace, tmp_path: Path) -> None:
    newer = tmp_path / "digifinex-bridge"
    shutil.copytree(CHART, newer)
    about = (newer / "Chart.yaml").read_text().replace(f"ersion: {__version__}", "ersion: 9.9.9")
    (newer / "Chart.yaml").write_text(about.replace(f'"{__version__}"', '"9.9.9"'))
    values = VALUES["all-switches"]
    fixed = ("autoscaling.enabled=false", "replicas=2")
    namespace.install(*fixed, values=values)
    before = namespace.settled()
    namespace.upgrade(*fixed, values=values, chart=newer)
    after = namespace.settled()
    assert after["metadata"]["labels"]["helm.sh/chart"] == "digifinex-bridge-9.9.9"
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    # Without an image of its own, a chart of another version of the bridge brings another one.
    namespace.helm("uninstall", "feed")
    namespace.install()
    old = namespace.settled()["status"]["updateRevision"]
    namespace.upgrade(chart=newer)
    assert namespace.settled()["status"]["updateRevision"] != old


def test_a_rollback_renders_nothing_and_refuses_nothing(namespace: Namespace) -> None:
    """As docs/kubernetes.md warns: the configuration has changed when the server refuses the StatefulSet."""
    namespace.install()
    namespace.settled()
    namespace.kubectl("delete", f"statefulset/{FEED}", "--cascade=orphan")
    namespace.upgrade("spool.size=3Gi", "config.kafka.partitions=24")
    done = namespace.try_helm("rollback", "feed", "1")
    assert f'StatefulSet.apps "{FEED}" is invalid' in done.stderr
    assert "partitions" not in namespace.get(f"configmap/{FEED}")["data"]["bridge.toml"]
