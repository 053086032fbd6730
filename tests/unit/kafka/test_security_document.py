"""docs/security.md: its commands grant what its table lists, and its messages are the bridge's own.

That the table is right is for tests/integration/test_security.py.
"""

import re
from pathlib import Path

from aiokafka.errors import TopicAuthorizationFailedError

from bridge.check.access import Denied
from bridge.kafka.client import in_words

TEXT = (Path(__file__).parents[3] / "docs" / "security.md").read_text()
KINDS = {"topic": "topic", "group": "group", "transactional-id": "transactional id"}


def test_the_commands_grant_the_acls_of_the_table() -> None:
    listed = re.findall(r"^\| ([a-z ]+) \| `(.*?)` \| (prefixed|literal) \| (\w+) \|", TEXT, re.MULTILINE)
    (commands,) = re.findall(r"^```sh\n(kafka-acls.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    granted = [
        (kind, name, "prefixed" if "--resource-pattern-type prefixed" in command else "literal", operation)
        for command in commands.replace("\\\n", " ").splitlines()
        for option, kind in KINDS.items()
        for name in re.findall(rf"--{option} (\S+)", command)
        for operation in re.findall(r"--operation (\w+)", command)
    ]
    assert sorted(granted) == sorted(listed)


def test_the_messages_are_those_of_check_and_run() -> None:
    topic = "digifinex.trades.v1"
    assert f"\nACL missing: {Denied('Write', f'topic {topic}')}\n" in TEXT
    assert f"\n{in_words(TopicAuthorizationFailedError(topic))}\n" in TEXT
