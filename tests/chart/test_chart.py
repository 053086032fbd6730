"""The chart, checked with the tools of those who install it."""

import json
import runpy
import shutil
from base64 import b64decode
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import kubernetes_validate
import pytest
import yaml

from bridge import __version__
from bridge.config import load
from tests.chart.helm import CHART, ROOT, VALUES, manifests, template, the, tool

MINIMAL = VALUES["minimal"]
SCHEMA = CHART / "values.schema.json"

# The oldest version that Chart.yaml allows, and the newest with schemas.
KUBERNETES = ["1.27.0", "1.37.0"]

REJECTED = {
    "replicsa=2": "replicsa",
    "replicas=two": "/replicas",
    "config.kafka.shrads=2": "shrads",
    "config.kafka.shards=0": "/config/kafka/shards",
    "config.kafka.delivery=maybe": "/config/kafka/delivery",
    "config.kafka.bootstrap_servers=null": "bootstrap_servers",
    "config.kafka.sasl_plain_password=secret": "'sasl_plain_password' not allowed",
    "config.kafka.sasl_oauth_client_secret=secret": "'sasl_oauth_client_secret' not allowed",
    "config.schema_registry.password=secret": "'password' not allowed",
    "config.schema_registry.password_file=/password": "'password_file' not allowed",
    "config.schema_registry.ssl_cafile=/ca.crt": "'ssl_cafile' not allowed",
    "config.schema_registry.framing=avro": "/config/schema_registry/framing",
    "schemaRegistryPassword.key=": "/schemaRegistryPassword/key",
    "schemaRegistryPassword.existingSecret=Registry": "/schemaRegistryPassword/existingSecret",
    "schemaRegistryTls=null": "schemaRegistryTls",
    "config.channels.tades={BTC_USDT}": "tades",
    "config.channels.all_ticker=2": "/config/channels/all_ticker",
    "config.log.level=loud": "/config/log/level",
    "config.spool.dir=/tmp": "dir",
    "config.http.port=0": "/config/http/port",
    "config.http.status_port=0": "/config/http/status_port",
    "accounts[0].name=main": "/accounts/0",
    "accounts[0].name=a b,accounts[0].existingSecret=s,accounts[0].order={BTC_USDT}": "/accounts/0/name",
    "accounts[0].name=main,accounts[0].apiKey=k,accounts[0].order={BTC_USDT}": "/accounts/0",
    "accounts[0].name=main,accounts[0].existingSecret=s": "/accounts/0",
    "fullnameOverride=Feed": "/fullnameOverride",
    "image.pullPolicy=Sometimes": "/image/pullPolicy",
    "image.digest=sha256:12": "/image/digest",
    "terminationGracePeriodSeconds=5": "/terminationGracePeriodSeconds",
    "resources.limits.memory=1e9x": "/resources/limits/memory",
    "spool.size=big": "/spool/size",
    "spool.size=2K": "/spool/size",
    "networkPolicy.kafkaPorts={99999}": "/networkPolicy/kafkaPorts/0",
    "podMonitor.interval=often": "/podMonitor/interval",
    "podMonitor.interval=5m": "/podMonitor/interval",
    "podMonitor.interval=31s": "/podMonitor/interval",
    "dashboard.namespace=My_own": "/dashboard/namespace",
    "prometheusRule.namespace=My_own": "/prometheusRule/namespace",
    "prometheusRule.alerts.FeedDaed.enabled=false": "FeedDaed",
    "prometheusRule.alerts.FeedDead.for=soon": "/prometheusRule/alerts/FeedDead/for",
    "prometheusRule.alerts.FeedDead.threshold=much": "/prometheusRule/alerts/FeedDead/threshold",
    "prometheusRule.alerts.NotReady.threshold=1": "threshold",
    "prometheusRule.alerts.FeedDead.severity=": "/prometheusRule/alerts/FeedDead/severity",
    "runbookBase=git.example.com": "/runbookBase",
    "config.http.host=127.0.0.1": "/config/http/host",
    "config.exchange.url=http://x": "/config/exchange/url",
    "config.exchange.url=wss://x:65536/": "/config/exchange/url",
    "config.exchange.proxy=socks5://proxy:1080": "/config/exchange/proxy",
    "config.exchange.proxy=http://me:pw@proxy:3128": "/config/exchange/proxy",
    "config.kafka.sasl_oauth_token_endpoint=idp.example.com/token": "/config/kafka/sasl_oauth_token_endpoint",
    "config.schema_registry.url=https://registry:99999": "/config/schema_registry/url",
    "config.schema_registry.url=https://registry?x=y": "/config/schema_registry/url",
    "config.kafka.bootstrap_servers=": "/config/kafka/bootstrap_servers",
    "config.kafka.bootstrap_servers=kafka:99999": "/config/kafka/bootstrap_servers",
    "config.kafka.bootstrap_servers=me:pw@kafka:9092": "/config/kafka/bootstrap_servers",
    "config.kafka.replication_factor=0": "/config/kafka/replication_factor",
    "probes.liveness.successThreshold=2": "/probes/liveness/successThreshold",
    "probes.startup.successThreshold=2": "/probes/startup/successThreshold",
    "resources.limits.memroy=1Gi": "memroy",
    "resources.requests.cpus=1": "cpus",
    "image.repository=registry.example.com:5000/bridge:1.0": "/image/repository",
    "image.tag=a b": "/image/tag",
    "kafkaPassword.key=": "/kafkaPassword/key",
    "kafkaPassword.existingSecret=Kafka": "/kafkaPassword/existingSecret",
    "accounts[0].name=.,accounts[0].existingSecret=s,accounts[0].order={BTC_USDT}": "/accounts/0/name",
    "commonLabels.app\\.kubernetes\\.io/name=x": "/commonLabels",
    "podLabels.app\\.kubernetes\\.io/component=x": "/podLabels",
    "podLabels.helm\\.sh/chart=x": "/podLabels",
    "podAnnotations.checksum/config=x": "/podAnnotations",
    "fullnameOverride=1e3": "/fullnameOverride",
    "resources=null": "resources",
    "spool=null": "spool",
    "kafkaTls=null": "kafkaTls",
    "kafkaTls.ca=null": "ca",
    "exchangeTls=null": "exchangeTls",
    "exchangeTls.ca=null": "ca",
    "commonLabels=null": "commonLabels",
    "channels.trades={BTC_USDT}": "channels",
    "global.imageRegistry=https://mirror": "/global/imageRegistry",
    "image.registry=mirror/": "/image/registry",
    "namespaceOverride=My_own": "/namespaceOverride",
    "commonAnnotations.helm\\.sh/hook=test": "/commonAnnotations",
    "commonAnnotations.number=1": "/commonAnnotations/number",
    "statefulSet.annotation.x=y": "annotation",
    "statefulSet=null": "statefulSet",
    "podDisruptionBudget.annotations.number=1": "/podDisruptionBudget/annotations/number",
    "updateStrategy.type=Recreate": "/updateStrategy/type",
    "updateStrategy.type=OnDelete,updateStrategy.rollingUpdate.partition=1": "/updateStrategy",
    "minReadySeconds=-1": "/minReadySeconds",
    "revisionHistoryLimit=many": "/revisionHistoryLimit",
    "podSecurityContext=restricted": "/podSecurityContext",
    "securityContext=restricted": "/securityContext",
    "initContainers[0].name=x": "/initContainers/0",
    "extraContainers[0].image=x": "/extraContainers/0",
    "lifecycle=stop": "/lifecycle",
    "hostAliases[0].ip=10.0.0.1": "/hostAliases/0",
    "dnsPolicy=cluster": "/dnsPolicy",
    "dnsConfig=none": "/dnsConfig",
    "runtimeClassName=My_own": "/runtimeClassName",
    "schedulerName=My_own": "/schedulerName",
    "extraObjects[0].kind=Secret": "/extraObjects/0",
    "serviceMonitor.interval=31s": "/serviceMonitor/interval",
    "serviceMonitor.scrapeTimeout=1m": "/serviceMonitor/scrapeTimeout",
    "podMonitor.scrapeTimeout=soon": "/podMonitor/scrapeTimeout",
    "podMonitor.metricRelabelings=drop": "/podMonitor/metricRelabelings",
    "autoscaling.behavior.scaleup.x=1": "scaleup",
    "autoscaling.metrics[0].resource=cpu": "/autoscaling/metrics/0",
    "podDisruptionBudget.minAvailable=half": "/podDisruptionBudget/minAvailable",
    "podDisruptionBudget.unhealthyPodEvictionPolicy=Never": "/podDisruptionBudget/unhealthyPodEvictionPolicy",
    "spool.existingClaim=My_own": "/spool/existingClaim",
    "spool.accessModes={ReadOnlyMany}": "/spool/accessModes/0",
    "spool.accessModes=null": "accessModes",
    "spool.storageClassName=--": "/spool/storageClassName",
    "spool.persistentVolumeClaimRetentionPolicy.whenScaled=Recycle": "whenScaled",
    "networkPolicy.dnsPorts={0}": "/networkPolicy/dnsPorts/0",
    "networkPolicy.dnsPeers=any": "/networkPolicy/dnsPeers",
    "networkPolicy.exchangePeers=any": "/networkPolicy/exchangePeers",
    "kafkaPassword.usernameKey=a b": "/kafkaPassword/usernameKey",
    "tests.enabled=maybe": "/tests/enabled",
}


@pytest.mark.parametrize("values", VALUES)
def test_helm_lint_accepts_the_chart(values: str) -> None:
    done = tool("helm", "lint", "--strict", CHART, "--values", "-", stdin=VALUES[values])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 chart(s) linted, 0 chart(s) failed" in done.stdout


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kubernetes' own schemas, by version, as kubeconform reads them."""
    source = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    target = tmp_path_factory.mktemp("schemas")
    for version in KUBERNETES:
        folder = target / f"v{version}-standalone-strict"
        folder.mkdir()
        for file in (source / f"v{version}-local-strict").glob("*.json"):
            # References to other addresses would be fetched from there.
            schema = json.loads(file.read_text().replace('"/api/_definitions.json', '"_definitions.json'))
            schema.pop("$id", None)
            (folder / file.name).write_text(json.dumps(schema))
    return target


def conforms(rendered: Path, schemas: Path, version: str) -> tuple[int, str]:
    done = tool(
        "kubeconform",
        *("-strict", "-summary", "-kubernetes-version", version),
        *("-schema-location", schemas),
        *("-schema-location", f"{ROOT}/tests/chart/crds/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"),
        rendered,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("version", KUBERNETES)
def test_rendered_objects_match_the_schemas_of_kubernetes(
    version: str, schemas: Path, tmp_path: Path
) -> None:
    for name, values in VALUES.items():
        rendered = template(values, "--kube-version", version)
        assert rendered.returncode == 0, rendered.stderr
        (tmp_path / f"{name}.yaml").write_text(rendered.stdout)
    status, output = conforms(tmp_path, schemas, version)
    assert status == 0, output
    assert "Invalid: 0, Errors: 0, Skipped: 0" in output


def test_strings_that_look_like_other_types_stay_strings(schemas: Path, tmp_path: Path) -> None:
    rendered = template(VALUES["odd-names"], release="1e3")
    assert rendered.returncode == 0, rendered.stderr
    (tmp_path / "odd.yaml").write_text(rendered.stdout)
    status, output = conforms(tmp_path, schemas, KUBERNETES[-1])
    assert status == 0, output


@pytest.mark.parametrize(("right", "wrong"), [("serviceName:", "serviceNmae:"), ("interval:", "intervall:")])
def test_an_unknown_field_of_kubernetes_or_the_operator_is_detected(
    right: str, wrong: str, schemas: Path, tmp_path: Path
) -> None:
    rendered = template(VALUES["all-switches"]).stdout
    (tmp_path / "wrong.yaml").write_text(rendered.replace(right, wrong))
    status, output = conforms(tmp_path, schemas, KUBERNETES[-1])
    assert status == 1
    assert wrong.removesuffix(":") in output


@pytest.mark.parametrize("setting", REJECTED)
def test_an_unknown_or_invalid_value_is_rejected_by_name(setting: str) -> None:
    done = template(MINIMAL, "--set", setting)
    assert done.returncode != 0
    assert REJECTED[setting] in done.stderr


def test_values_without_anything_to_subscribe_to_are_rejected() -> None:
    done = template(None, "--set", "config.kafka.bootstrap_servers=kafka:9092")
    assert done.returncode != 0
    assert "set config.channels or accounts" in done.stderr


@pytest.mark.parametrize("values", VALUES)
def test_the_bridge_accepts_the_configuration_that_the_chart_renders(
    values: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the files where the chart mounts them, and the variables that it sets."""
    objects = manifests(VALUES[values])
    toml = the("ConfigMap", [one for one in objects if "dashboard" not in one["metadata"]["name"]])["data"]
    pod = the("StatefulSet", objects)["spec"]["template"]["spec"]
    for variable in pod["containers"][0].get("env", []):
        monkeypatch.setenv(variable["name"], variable.get("value", "from-a-secret"))
    for source in next(one for one in pod["volumes"] if one["name"] == "config")["projected"]["sources"]:
        for item in source.get("secret", {}).get("items", []):
            file = tmp_path / item["path"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("secret\n")
    (tmp_path / "bridge.toml").write_text(
        toml["bridge.toml"].replace("/etc/digifinex-bridge/", f"{tmp_path}/")
    )
    config = load(tmp_path / "bridge.toml")
    if values == "cluster-options":
        assert config.kafka.sasl_plain_username == "from-a-secret"
        assert config.schema_registry.credentials() == ("from-a-secret", "secret")
    if values == "all-switches":
        assert config.kafka.shards == 4
        assert config.kafka.sasl_plain_password.get_secret_value() == "secret"
        assert config.schema_registry.credentials() == ("bridge", "secret")
        assert config.schema_registry.ssl_cafile == tmp_path / "secrets" / "schema-registry-ca" / "ca.crt"
        assert config.kafka.ssl_certfile == tmp_path / "secrets" / "kafka-client" / "tls.crt"
        assert [account.name for account in config.accounts] == ["main", "Second_one"]
        assert config.accounts[1].of("order_algo") == ("ETH_USDT",)
        assert config.spool.max_bytes == 4 * 2**30
        assert config.http.port == 8080


@pytest.mark.parametrize("values", VALUES)
def test_secrets_are_in_secret_objects_only(values: str) -> None:
    for one in manifests(VALUES[values]):
        if one["kind"] != "Secret":
            text = json.dumps(one)
            assert not any(
                secret in text
                for secret in ("p4ssw0rd", "r3gistry", "key-of-the-second", "secret-of-the-second")
            )


def pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the specs of all pods, including that of `helm test`."""
    return [one["spec"] for one in objects if one["kind"] == "Pod"] + [
        the("StatefulSet", objects)["spec"]["template"]["spec"]
    ]


@pytest.mark.parametrize("values", VALUES)
def test_pods_meet_the_restricted_pod_security_standard(values: str) -> None:
    for pod in pods(manifests(VALUES[values])):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["readOnlyRootFilesystem"] is True
        assert {next(iter(volume.keys() - {"name"})) for volume in pod["volumes"]} <= {
            "projected",
            "emptyDir",
            "persistentVolumeClaim",
        }


def checksum(*arguments: object) -> dict[str, str]:
    template = the("StatefulSet", manifests(VALUES["all-switches"], *arguments))["spec"]["template"]
    return {key: sum_ for key, sum_ in template["metadata"]["annotations"].items() if "checksum" in key}


def test_a_change_of_configuration_or_secrets_replaces_the_pods() -> None:
    before = checksum()
    assert checksum("--set", "dashboard.enabled=false") == before
    assert checksum("--set", "config.kafka.partitions=24")["checksum/config"] != before["checksum/config"]
    for password in ("kafkaPassword", "schemaRegistryPassword"):
        changed = checksum("--set", f"{password}.value=new")
        assert changed["checksum/secrets"] != before["checksum/secrets"]
        assert changed["checksum/config"] == before["checksum/config"]


def test_a_new_version_of_the_chart_alone_replaces_no_pod(tmp_path: Path) -> None:
    """With the image pinned; labels and annotations of objects are no concern of the pods either."""
    newer = tmp_path / "digifinex-bridge"
    shutil.copytree(CHART, newer)
    about = (newer / "Chart.yaml").read_text().replace(f"ersion: {__version__}", "ersion: 9.9.9")
    (newer / "Chart.yaml").write_text(about.replace(f'"{__version__}"', '"9.9.9"'))
    settings = [
        "--set",
        "commonAnnotations.note=new,configMap.annotations.note=new,secrets.annotations.note=new",
    ]
    given = ("--namespace", "market-data", "--values", "-", *settings)
    done = tool("helm", "template", "feed", newer, *given, stdin=VALUES["all-switches"])
    assert "digifinex-bridge-9.9.9" in done.stdout, done.stderr
    after = the("StatefulSet", [one for one in yaml.safe_load_all(done.stdout) if one])["spec"]
    assert after == the("StatefulSet", manifests(VALUES["all-switches"]))["spec"]


def test_only_the_network_policy_selects_the_pod_of_helm_test() -> None:
    objects = manifests(VALUES["all-switches"])
    test = the("Pod", objects)["metadata"]["labels"]
    own = the("StatefulSet", objects)["spec"]["template"]["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget", "PodMonitor", "StatefulSet", "NetworkPolicy"):
        spec = the(kind, objects)["spec"]
        selector = spec.get("podSelector") or spec["selector"]
        labels = selector.get("matchLabels", selector)
        assert labels.items() <= own.items()
        assert (labels.items() <= test.items()) is (kind == "NetworkPolicy")


# Kubernetes defines further keys of the first; those of the second belong to all charts.
OPEN = ("/resources/limits", "/global")


def test_every_value_has_a_schema() -> None:
    """Only values that Kubernetes or other charts define may have keys that the schema does not list."""

    def known(value: object, schema: dict[str, Any], path: str) -> None:
        assert {"type", "enum", "anyOf"} & schema.keys(), path
        if isinstance(value, dict) and "properties" in schema and path not in OPEN:
            assert schema["additionalProperties"] is False, path
            for key, inner in value.items():
                assert key in schema["properties"], f"{path}/{key}"
                known(inner, schema["properties"][key], f"{path}/{key}")

    known(yaml.safe_load((CHART / "values.yaml").read_text()), json.loads(SCHEMA.read_text()), "")


# Pods that differ in these would not meet the restricted standard; helm-unittest tries them.
RESTRICTED = ("podSecurityContext", "securityContext")


def test_every_value_is_changed_in_an_example() -> None:
    """So that the tests above have tried each: its schema, what is rendered, the bridge's configuration."""

    def leaves(value: object, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
        if not isinstance(value, dict) or not value:
            return {path: value}
        return {name: leaf for key in value for name, leaf in leaves(value[key], (*path, key)).items()}

    changed: set[tuple[str, ...]] = set()
    defaults = leaves(yaml.safe_load((CHART / "values.yaml").read_text()))
    for text in VALUES.values():
        given = leaves(yaml.safe_load(text))
        changed |= {
            path
            for path, default in defaults.items()
            if any(other[: len(path)] == path and leaf != default for other, leaf in given.items())
        }
    assert {path for path in defaults if path[0] not in RESTRICTED} - changed == set()


def test_helm_unittest_passes() -> None:
    done = tool("helm-unittest", "--strict", CHART)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_of_the_chart_is_up_to_date(tmp_path: Path) -> None:
    shutil.copytree(CHART, tmp_path / "chart")
    done = tool("helm-docs", "--chart-search-root", tmp_path / "chart")
    assert done.returncode == 0, done.stderr
    fresh = (tmp_path / "chart" / "README.md").read_text()
    assert (CHART / "README.md").read_text() == fresh, "run 'make generated'"


@pytest.mark.parametrize(
    ("script", "written"),
    [
        ("chart_schema.py", SCHEMA),
        ("alert_rules.py", CHART / "rules" / "digifinex-bridge.yaml"),
        ("dashboard.py", CHART / "dashboards" / "digifinex-bridge.json"),
    ],
)
def test_a_generated_file_is_up_to_date(script: str, written: Path) -> None:
    document = runpy.run_path(str(ROOT / "scripts" / script))["document"]
    assert written.read_text() == document(), "run 'make generated'"


def test_the_chart_says_what_catalogues_of_charts_show() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert {"home", "sources", "maintainers", "icon", "keywords", "description"} <= chart.keys()
    assert chart["annotations"]["artifacthub.io/category"] == "streaming-messaging"
    assert all(
        one.keys() == {"name", "url"} for one in yaml.safe_load(chart["annotations"]["artifacthub.io/links"])
    )
    # A drawing that isn't well-formed isn't shown.
    ET.fromstring(b64decode(chart["icon"].removeprefix("data:image/svg+xml;base64,")))


def test_the_chart_has_the_version_of_the_bridge() -> None:
    done = tool("helm", "show", "chart", CHART)
    assert f"appVersion: {__version__}" in done.stdout
