"""What docs/kubernetes.md and the README say about the chart; their values are tried by test_chart.py."""

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
def test_helm_understands_the_command(command: str, tmp_path: Path) -> None:
    """As far as that can be without a cluster: `template` takes what `install` and `upgrade` do."""
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


def test_what_is_shown_as_refused_is_what_helm_says() -> None:
    (shown,) = (text for text in blocks(KUBERNETES, "") if "shrads" in text)
    done = tool(
        *("helm", "template", "feed", CHART, "--values", "-", "--set", "config.kafka.shrads=2"),
        stdin=VALUES["minimal"],
    )
    assert shown in done.stderr


def resources(kind: str) -> list[dict[str, Any]]:
    found = [yaml.safe_load(text) for text in blocks(KUBERNETES, "yaml")]
    return [one for one in found if one.get("kind") == kind]


def test_strimzi_s_user_may_do_what_security_md_lists() -> None:
    (user,) = resources("KafkaUser")
    given = {
        (acl["resource"]["type"], acl["resource"]["name"], acl["resource"]["patternType"], operation)
        for acl in user["spec"]["authorization"]["acls"]
        for operation in acl["operations"]
    }
    rows = re.findall(
        r"^\| ([\w ]+) \| `([\w.-]+)` \| (\w+) \| (\w+) \|",
        (ROOT / "docs" / "security.md").read_text(),
        re.MULTILINE,
    )
    types = {"topic": "topic", "group": "group", "transactional id": "transactionalId"}
    patterns = {"prefixed": "prefix", "literal": "literal"}
    assert given == {(types[type_], name, patterns[pattern], may) for type_, name, pattern, may in rows}


def test_strimzi_s_topic_is_as_the_bridge_would_create_it() -> None:
    (topic,) = resources("KafkaTopic")
    ours = new_topic(KafkaConfig(), STATE, "digifinex.bridge-state")
    assert topic["metadata"]["name"] == ours.name
    assert topic["spec"]["partitions"] == ours.num_partitions
    assert {key: str(value) for key, value in topic["spec"]["config"].items()} == ours.topic_configs


def test_the_defaults_that_templates_repeat_are_the_bridge_s() -> None:
    """For example those of sizes that the chart checks against each other."""
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
