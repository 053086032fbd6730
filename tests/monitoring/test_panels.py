"""The first row of the dashboard shows what the alerts would report."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.monitoring.rules import ALERTS
from tests.monitoring.test_alerts import promtool
from tests.monitoring.test_live import PANELS, SELECTIONS, substituted

_A = 'namespace="md",job="md/feed",pod="feed-0",instance="a"'
_B = 'namespace="md",job="md/feed",pod="feed-1",instance="b"'
_NOW = "30m"
_STARTED = {f"process_start_time_seconds{{{_A}}}": "0x120", f"process_start_time_seconds{{{_B}}}": "0x120"}
_WANTED = {'digifinex_bridge:replicas_expected{namespace="md",job="md/feed"}': "2x120"}
_SELECTION = SELECTIONS["all"]


class Case(NamedTuple):
    """Series with a sample every 15 s, and the value of a panel's query on them after half an hour."""

    title: str
    series: dict[str, str]
    value: float
    selection: dict[str, str] = _SELECTION
    target: int = 0


def _of(name: str, replica: str, labels: str = "") -> str:
    return f"digifinex_bridge_{name}{{{replica}{labels}}}"


CASES = {
    "gaps before the first scrape": Case(
        "Unfilled gaps", {_of("gaps_total", _A, ',channel="trades",cause="closed"'): "3x120"} | _STARTED, 3
    ),
    "an increase of gaps": Case(
        "Unfilled gaps",
        {_of("gaps_total", _A, ',channel="trades",cause="closed"'): "0x59 2x60"} | _STARTED,
        2,
    ),
    "a new account is no unfilled gap": Case(
        "Unfilled gaps",
        {
            _of("gaps_total", _A, ',channel="order",cause="first_listened"'): "3x120",
            _of("gaps_total", _A, ',channel="order",cause="closed"'): "1x120",
        }
        | _STARTED,
        1,
    ),
    "dead letters before the first scrape": Case(
        "Dead letters", {_of("deadletters_total", _A, ',reason="payload"'): "4x120"} | _STARTED, 4
    ),
    "a quiet private channel does not count": Case(
        "Time since last push",
        {
            _of("last_push_timestamp_seconds", _A, ',channel="order"'): "1x120",
            _of("last_push_timestamp_seconds", _A, ',channel="trades"'): "1740x120",
        }
        | _STARTED,
        60,
    ),
    "no push since the start": Case(
        "Time since last push",
        {_of("last_push_timestamp_seconds", _A, ',channel="depth"'): "0x120"}
        | dict.fromkeys(_STARTED, "600x120"),
        1200,
    ),
    "a standby makes no channel look current": Case(
        "Time since last push",
        {
            _of("last_push_timestamp_seconds", _A, ',channel="depth"'): "900x120",
            _of("last_push_timestamp_seconds", _B, ',channel="depth"'): "0x120",
        }
        | dict.fromkeys(_STARTED, "1790x120"),
        900,
    ),
    "one of two shards has no session": Case(
        "Fewest sessions",
        {_of("connected", _A, ',shard="0"'): "2x120", _of("connected", _B, ',shard="1"'): "0x120"}
        | {_of("ready", _A): "1x120", _of("ready", _B): "0x120"},
        0,
    ),
    "one of two shards never had a session": Case(
        "Fewest sessions",
        {
            _of("connected", _A, ',shard="0"'): "2x120",
            _of("shard_owned", _A, ',shard="0"'): "1x120",
            _of("shard_owned", _B, ',shard="1"'): "1x120",
        }
        | {_of("ready", _A): "1x120", _of("ready", _B): "0x120"},
        0,
    ),
    "a shard owned by a pod that is not selected": Case(
        "Shards unowned",
        {
            _of("shard_owned", _A, ',shard="0"'): "1x120",
            _of("shard_owned", _B, ',shard="0"'): "0x120",
        },
        0,
        _SELECTION | {"pod": "feed-1"},
    ),
    "a pod with two of four shards has half of the spool": Case(
        "Spool used",
        {_of("spool_limit_bytes", _A): "1000x120", _of("spool_bytes", _A): "125x120"}
        | {
            _of("shard_owned", _A, f',shard="{shard}"'): f"{owned}x120"
            for shard, owned in enumerate((1, 1, 0, 0))
        },
        0.25,
    ),
    "a spool that grows by 10 bytes a second is full in so many seconds": Case(
        "Spool full in",
        {
            _of("spool_limit_bytes", _A): "20000x120",
            _of("spool_bytes", _A): "0+150x120",
            _of("shard_owned", _A, ',shard="0"'): "1x120",
            _of("build_info", _A): "1x120",
        },
        200,
    ),
    "a spool that does not grow has a time without end": Case(
        "Spool full in",
        {
            _of("spool_limit_bytes", _A): "20000x120",
            _of("spool_bytes", _A): "100x120",
            _of("shard_owned", _A, ',shard="0"'): "1x120",
            _of("build_info", _A): "1x120",
        },
        1e9,
    ),
    "one of two replicas is gone": Case(
        "Replicas ready", {_of("build_info", _A): "1x120", _of("ready", _A): "1x120"} | _WANTED, 0.5
    ),
    "one of two replicas is not ready": Case(
        "Replicas ready",
        {_of("build_info", one): "1x120" for one in (_A, _B)}
        | {_of("ready", _A): "1x120", _of("ready", _B): "0x120"}
        | _WANTED,
        0.5,
    ),
    "no replica is left": Case("Replicas ready", _WANTED, 0),
    "no replica is left, and so no shard": Case("Shards unowned", _WANTED, -1),
    "no replica is left, and so no delay": Case("Delivery lag", _WANTED, -1),
    "no replica is left, and so no push": Case("Time since last push", _WANTED, -1),
    "a release without replicas, beside a healthy one": Case(
        "Fewest sessions",
        {_of("build_info", _A.replace("md/feed", "md/other")): "1x120"}
        | {_of("connected", _A.replace("md/feed", "md/other"), ',shard="0"'): "2x120"}
        | _WANTED,
        -1,
    ),
    "a restart interrupts the channels of an account": Case(
        "Unfilled gaps",
        {
            _of("gaps_total", _A, ',channel="order",cause="takeover"'): "2x120",
            _of("gaps_total", _A, ',channel="order",cause="closed"'): "1x120",
            _of("gaps_total", _A, ',channel="trades",cause="takeover"'): "1x120",
        }
        | _STARTED,
        2,
    ),
    "two records_lost, of which one is a shard that a living replica gave up": Case(
        "Loss events",
        {
            _of("events_total", _A, ',event="records_lost"'): "2x120",
            _of("events_total", _A, ',event="spool_damaged"'): "1x120",
            _of("shards_lost_total", _B): "0x60 1x60",
        }
        | _STARTED,
        2,
    ),
    "an account that no replica serves": Case(
        "Accounts offline",
        {
            _of("account_ready", one, f',account="{account}"'): f"{ready}x120"
            for one, account, ready in ((_A, "a", 0), (_B, "a", 1), (_A, "b", 0), (_B, "b", 0))
        },
        1,
    ),
    "nothing is delivered while Kafka is unavailable, however fast the last records were": Case(
        "Delivery lag",
        {
            _of("delivery_lag_seconds_bucket", _A, f',channel="trades",le="{le}"'): "0+1x20 20x100"
            for le in ("0.1", "+Inf")
        },
        math.nan,
    ),
    "the oldest record says meanwhile how late consumers are": Case(
        "Oldest not on Kafka",
        {_of("oldest_pending_seconds", _A): "0x59 0+15x61", _of("oldest_pending_seconds", _B): "0x120"},
        900,
    ),
    "late private channels do not count": Case(
        "Exchange lag",
        {
            _of("exchange_lag_seconds_bucket", _A, f',channel="{channel}",le="{le}"'): f"0+{step}x120"
            for channel, fast in (("order", 0), ("trades", 10))
            for le, step in (("1", fast), ("60", 10), ("+Inf", 10))
        },
        0.5,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_panel_shows_what_the_alert_would_report(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    query = substituted(PANELS[case.title]["targets"][case.target]["expr"], case.selection)
    series = [{"series": key, "values": values} for key, values in case.series.items()]
    # sum: it drops the labels, and more than one series would change the value.
    expression, value = f"sum({query})", case.value
    if math.isnan(value):
        # Which promtool finds equal to nothing, and Prometheus unequal to itself.
        expression, value = f"count({expression} != {expression})", 1
    samples = [{"labels": "{}", "value": value}]
    wanted = {"expr": expression, "eval_time": _NOW, "exp_samples": samples}
    test = {"interval": "15s", "input_series": series, "promql_expr_test": [wanted]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"tests": [test]}))
    status, output = promtool("test", "rules", tmp_path / "test.yaml")
    assert status == 0, output


def test_a_lag_of_nothing_is_said_in_words_and_not_in_green() -> None:
    for title, words in (("Delivery lag", "none delivered"), ("Exchange lag", "none received")):
        (nothing,) = (
            one["options"]["result"]
            for one in PANELS[title]["fieldConfig"]["defaults"]["mappings"]
            if one["type"] == "special"
        )
        assert nothing == {"text": words, "color": "orange"}


@pytest.mark.parametrize("title", ["Exchange lag", "Delivery lag"])
def test_a_panel_turns_red_at_the_threshold_of_the_alert(title: str) -> None:
    limit = ALERTS[f"DigiFinexBridge{title.title().replace(' ', '')}High"]["expr"].split(">")[-1]
    steps = PANELS[title]["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert json.loads(limit) == next(step["value"] for step in steps if step["color"] == "red")
