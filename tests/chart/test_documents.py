"""The commands and examples of docs/kubernetes.md and the README; test_chart.py tests their values."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.config import SECTIONS, KafkaConfig
from bridge.kafka.topics import new_topic
from bridge.records import STATE
from tests.chart.helm import CHART, DOCUMENTS, ROOT, VALUES, blocks, tool

KUBERNETES = ROOT / "docs" / "kubernetes.md"
COMMANDS = {
    command
    for document in DOCUMENTS
    for text in blocks(document, "sh")
    for command in text.splitlines()
    if command.startswith("helm ")
}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_helm_accepts_the_command(command: str, tmp_path: Path) -> None:
    """As far as possible without a cluster: `template` takes the arguments of `install` and `upgrade`."""
    (tmp_path / "feed.yaml").write_text(VALUES["kubernetes.md-1"])
    (tmp_path / "helm").symlink_to(CHART.parent)
    _, verb, *arguments = shlex.split(command)
    if verb in ("install", "upgrade"):
        done = tool("helm", "template", *arguments, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "kind: StatefulSet" in done.stdout
    else:
        done = tool("helm", verb, *arguments, folder=tmp_path)
        assert "Kubernetes cluster unreachable" in done.stderr


def test_the_error_shown_for_an_unknown_key_is_that_of_helm() -> None:
    (shown,) = (text for text in blocks(KUBERNETES, "") if "shrads" in text)
    done = tool(
        *("helm", "template", "feed", CHART, "--values", "-", "--set", "config.kafka.shrads=2"),
        stdin=VALUES["minimal"],
    )
    assert shown in done.stderr


def resources(kind: str) -> list[dict[str, Any]]:
    found = [yaml.safe_load(text) for text in blocks(KUBERNETES, "yaml")]
    return [one for one in found if one.get("kind") == kind]


def test_the_strimzi_user_has_the_acls_that_security_md_lists() -> None:
    (user,) = resources("KafkaUser")
    given = {
        (acl["resource"]["type"], acl["resource"]["name"], acl["resource"]["patternType"], operation)
        for acl in user["spec"]["authorization"]["acls"]
        for operation in acl["operations"]
    }
    rows = re.findall(
        r"^\| ([\w ]+) \| `([\w./-]+)` \| (\w+) \| (\w+) \|",
        (ROOT / "docs" / "security.md").read_text(),
        re.MULTILINE,
    )
    types = {"topic": "topic", "group": "group", "transactional id": "transactionalId"}
    patterns = {"prefixed": "prefix", "literal": "literal"}
    assert given == {(types[type_], name, patterns[pattern], may) for type_, name, pattern, may in rows}


def test_the_strimzi_topic_is_the_one_that_the_bridge_would_create() -> None:
    (topic,) = resources("KafkaTopic")
    ours = new_topic(KafkaConfig(), STATE, "digifinex.bridge-state")
    assert topic["metadata"]["name"] == ours.name
    assert topic["spec"]["partitions"] == ours.num_partitions
    assert {key: str(value) for key, value in topic["spec"]["config"].items()} == ours.topic_configs


def test_defaults_repeated_in_templates_are_those_of_the_bridge() -> None:
    """For example of sizes that the chart compares with each other."""
    found = [
        one
        for path in (CHART / "templates").rglob("*.*")
        for one in re.findall(r'dig "(\w+)" "(\w+)" ("[^"]*"|\d+) ', path.read_text())
        if one[0] in SECTIONS
    ]
    assert {(section, key): json.loads(value) for section, key, value in found} == {
        (section, key): getattr(SECTIONS[section](), key) for section, key, _ in found
    }
    assert len(found) > 5
