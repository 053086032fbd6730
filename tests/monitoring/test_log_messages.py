"""The runbook's index of log messages, and each message that runbook and alerts quote, against the code."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator

from tests.monitoring.rules import ALERTS, ROOT, RUNBOOK

LEVELS = {"info": "info", "warning": "warning", "error": "error", "exception": "error", "critical": "error"}
# They are not part of a bridge that somebody operates.
NOT_OPERATED = {"simulator", "demo"}

TEXT, _, INDEX = RUNBOOK.read_text().partition("\n## Log messages\n")


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    """Return the level and the call of each log line that the bridge can write."""
    for path in sorted((ROOT / "bridge").rglob("*.py")):
        if NOT_OPERATED & {*path.relative_to(ROOT).parts}:
            continue
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(name) | ast.Attribute(attr=name), attr=level)
                ):
                    if name.endswith("log") and level in LEVELS:
                        yield LEVELS[level], node


def phrases(message: ast.expr) -> list[str]:
    """Return the phrases that the first argument of a log call can be; none if it is not fixed."""
    match message:
        case ast.Constant(str(phrase)):
            return [phrase]
        case ast.IfExp(body=one, orelse=other):
            return phrases(one) + phrases(other)
    return []


def logged() -> dict[str, set[str]]:
    """Return the levels at which the bridge logs each message."""
    found = defaultdict(set)
    for level, call in log_calls():
        for phrase in phrases(call.args[0]):
            found[phrase].add(level)
    return dict(found)


def test_every_log_message_is_a_fixed_phrase() -> None:
    assert [ast.unparse(call) for _, call in log_calls() if not phrases(call.args[0])] == []


def test_the_runbook_has_an_index_of_all_log_messages_with_their_levels() -> None:
    rows = re.findall(r"^\| ([a-z, ]+) \| `([^`]+)` \| .+ \| .+ \|$", INDEX, re.MULTILINE)
    assert {phrase: {*levels.split(", ")} for levels, phrase in rows} == logged()


def test_the_index_is_in_alphabetical_order() -> None:
    listed = re.findall(r"^\| [a-z, ]+ \| `([^`]+)` \|", INDEX, re.MULTILINE)
    assert listed == sorted(listed, key=str.lower)


def test_the_bridge_logs_what_the_runbook_quotes() -> None:
    searched = re.findall(r"""'"(\w[^'"]*)"'""", TEXT)
    assert len(searched) > 3
    prose = re.sub(r"```.*?```|`[^`]*`", "", TEXT, flags=re.DOTALL)
    quoted = [" ".join(quote.split()) for quote in re.findall(r'"([^"]+)"', prose)]
    assert quoted
    assert {*searched, *quoted} <= logged().keys()


def test_the_bridge_logs_what_the_alerts_quote() -> None:
    quoted = {
        quote
        for alert in ALERTS.values()
        for quote in re.findall(r'"([^"]+)"', alert["annotations"]["description"].replace('{{ "', ""))
    }
    assert len(quoted) > 5
    assert quoted <= logged().keys()
