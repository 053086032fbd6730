"""What a whole release reports in an hour, or in days, and which of all alerts fire.

Each scene has all series that the rules read, so that no alert stays quiet for lack of data.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.monitoring.rules import ALERTS, RULES, selectors
from tests.monitoring.test_alerts import promtool

_SCRAPE = 30  # seconds
_HOUR = 3600 // _SCRAPE  # scrapes
_RELEASE = {"namespace": "md", "job": "md/feed"}
_PUBLIC = ("trades", "depth", "ticker", "all_ticker")
_PRIVATE = ("order", "balance")

Value = float | str  # "_": the series is missing in this scrape; "stale": it has ended
Curve = Callable[[int], float]  # the value at so many seconds


class Process(NamedTuple):
    """One process of a replica: from when to when it is scraped, and the shards that it serves in between."""

    pod: str
    begins: int = 0
    ends: int = 7200
    # By shard: from when to when it serves it.
    shards: dict[int, tuple[int, int]] = {}  # noqa: RUF012 - never changed
    started: int | None = None  # None: long before the scene
    # What its counters have at its end, or from its first scrape on, besides what every live process counts.
    counted: dict[str, Curve] = {}  # noqa: RUF012

    def series(self, last_push: dict[str, Curve]) -> Iterator[tuple[str, list[Value]]]:
        """Return its series with a value for each scrape of an hour."""

        def over(name: str, curve: Curve, **labels: str) -> tuple[str, list[Value]]:
            labels = _RELEASE | {"pod": self.pod, "instance": f"{self.pod}:{self.begins}"} | labels
            pairs = ",".join(f'{key}="{value}"' for key, value in labels.items())
            values: list[Value] = ["_"] * _HOUR
            for number in range(_HOUR):
                at = number * _SCRAPE
                if self.begins <= at < self.ends:
                    values[number] = curve(at)
                elif at >= self.ends:
                    values[number] = "stale"
                    break
            return f"{name}{{{pairs}}}", values

        def metric(name: str, curve: Curve, **labels: str) -> tuple[str, list[Value]]:
            name = f"digifinex_bridge_{name}"
            key = f"{name} {' '.join(labels.values())}".strip().removeprefix("digifinex_bridge_")
            return over(name, self.counted.get(key, curve), **labels)

        def constant(value: float) -> Curve:
            return lambda at: value

        zero, one = constant(0), constant(1)

        def growing(at: int) -> float:
            return 10.0 * (at - self.begins)

        def owned(shard: int) -> Curve:
            begins, ends = self.shards.get(shard, (0, 0))
            return lambda at: float(begins <= at < ends)

        def serves(at: int) -> float:
            return float(any(owned(shard)(at) for shard in self.shards))

        yield over("process_start_time_seconds", constant(-90000 if self.started is None else self.started))
        yield metric("build_info", one, version="1")
        yield metric("ready", one)
        yield metric("spool_writable", one)
        for name in (
            "pending_records",
            "oldest_pending_seconds",
            "spool_records",
            "spool_bytes",
            "spool_limit_bytes",
        ):
            yield metric(name, constant(1e9) if name == "spool_limit_bytes" else zero)
        for name in ("shards_lost_total", "decompression_errors_total", "log_lines_dropped_total"):
            yield metric(name, zero)
        yield metric("book_checks_total", growing, result="equal")
        yield metric("book_checks_total", zero, result="different")
        yield metric("book_suspect", zero)
        for shard in (0, 1):
            yield metric("shard_owned", owned(shard), shard=str(shard))
            yield metric("reading_paused", zero, shard=str(shard))
            if shard in self.shards:
                yield metric("frames_total", growing, shard=str(shard))
                yield metric("connected", lambda at, shard=shard: 2 * owned(shard)(at), shard=str(shard))  # type: ignore[misc]
            for channel in last_push:
                for state in ("confirmed", "refused", "silent", "pending"):
                    curve = owned(shard) if state == "confirmed" else zero
                    yield metric("subscriptions", curve, shard=str(shard), channel=channel, state=state)
        yield metric("account_ready", serves, account="main")
        for channel, curve in last_push.items():
            yield metric("last_push_timestamp_seconds", curve, channel=channel)
            yield metric("records_total", growing, channel=channel)
            yield metric("live_duplicates_total", zero, channel=channel)
            for cause in ("closed", "takeover", "first_listened"):
                yield metric("gaps_total", zero, channel=channel, cause=cause)
            for name in ("delivery_lag_seconds", "exchange_lag_seconds"):
                for bound in ("0.5", "60.0", "+Inf"):
                    yield metric(f"{name}_bucket", growing, channel=channel, le=bound)
        for event in ("records_lost", "spool_damaged", "takeover", "gap", "second_bridge"):
            yield metric("events_total", zero, event=event)
        for reason in ("stale", "closed", "rotated"):
            yield metric("reconnects_total", zero, reason=reason)
        yield metric("kafka_errors_total", zero, error="NoBrokersAvailable")
        yield metric("deadletters_total", zero, reason="payload")
        yield metric("partition_unavailable", zero, topic="trades", partition="0")


def fired(
    processes: list[Process], last_push: dict[str, Curve], folder: Path, wanted: int, expected: set[str]
) -> None:
    """Expect exactly these alerts to fire within the hour, however briefly."""
    series = {name: values for one in processes for name, values in one.series(last_push)}
    series['kube_statefulset_replicas{namespace="md",statefulset="feed"}'] = [wanted] * _HOUR
    series['digifinex_bridge:replicas_wanted{namespace="md",job="md/feed"}'] = [wanted] * _HOUR
    named = {name.partition("{")[0] for name in series}
    for alert in ALERTS.values():
        assert {one.partition("{")[0] for one in selectors(alert["expr"])} <= named
    check = {
        "expr": 'group by (alertname) (count_over_time(ALERTS{alertstate="firing"}[1h]))',
        "eval_time": f"{(_HOUR - 1) * _SCRAPE}s",
        "exp_samples": [{"labels": f'{{alertname="DigiFinexBridge{one}"}}', "value": 1} for one in expected],
    }
    play(
        {
            "interval": f"{_SCRAPE}s",
            "input_series": [
                {"series": name, "values": " ".join(map(str, values))} for name, values in series.items()
            ],
            "promql_expr_test": [check],
        },
        folder,
        evaluation=_SCRAPE,
    )


def play(test: dict[str, object], folder: Path, evaluation: int) -> None:
    """Have promtool play a test against the rules, which are evaluated every so many seconds."""
    document = {"rule_files": [str(RULES)], "evaluation_interval": f"{evaluation}s", "tests": [test]}
    (folder / "scene.yaml").write_text(yaml.safe_dump(document))
    status, output = promtool("test", "rules", folder / "scene.yaml")
    assert status == 0, output


def now(at: int) -> float:
    return at


ALIVE: dict[str, Curve] = dict.fromkeys((*_PUBLIC, *_PRIVATE), now)
_NEVER = 7200


def counting(process: str, at: int) -> Curve:
    return lambda now: float(now >= at)


def rollout() -> list[Process]:
    """Two replicas with a shard each and an account are replaced one after the other, as a rollout does.

    Each stops cleanly, and the other one serves its shard for a minute. The new process takes it back at
    once, and can't tell that from a loss. The private channels have a gap each time.
    """
    gaps = {f"gaps_total {channel} takeover": lambda at: 1.0 for channel in _PRIVATE}
    takeover = {"events_total takeover": lambda at: 1.0, "events_total gap": lambda at: 2.0}
    took_back = {"events_total records_lost": lambda at: 1.0, **takeover, **gaps}
    return [
        Process("feed-1", ends=600, shards={1: (0, 600)}),
        Process(
            "feed-0",
            ends=900,
            shards={0: (0, 900), 1: (600, 690)},
            counted={
                "shards_lost_total": lambda at: float(at >= 690),
                **{f"gaps_total {channel} takeover": lambda at: float(at >= 600) for channel in _PRIVATE},
            },
        ),
        Process(
            "feed-1",
            begins=690,
            started=680,
            shards={1: (690, _NEVER), 0: (900, 990)},
            counted={"shards_lost_total": lambda at: float(at >= 990), **took_back},
        ),
        Process("feed-0", begins=990, started=980, shards={0: (990, _NEVER)}, counted=took_back),
    ]


def test_a_planned_restart_of_all_replicas_with_an_account_fires_nothing(tmp_path: Path) -> None:
    fired(rollout(), ALIVE, tmp_path, wanted=2, expected=set())


def test_a_planned_restart_of_the_only_replica_with_an_account_fires_nothing(tmp_path: Path) -> None:
    """It takes a minute and a half, in which no replica reports."""
    gaps: dict[str, Curve] = {f"gaps_total {channel} takeover": lambda at: 1.0 for channel in _PRIVATE}
    processes = [
        Process("feed-0", ends=600, shards={0: (0, 600), 1: (0, 600)}),
        Process(
            "feed-0",
            begins=690,
            started=680,
            shards={0: (690, _NEVER), 1: (690, _NEVER)},
            counted=gaps | {"events_total takeover": lambda at: 2.0},
        ),
    ]
    fired(processes, ALIVE, tmp_path, wanted=1, expected=set())


def test_a_restart_from_which_a_replica_does_not_return_fires(tmp_path: Path) -> None:
    """The same scene without the last process, so that the one above could fail."""
    processes = rollout()[:3]
    processes[2] = processes[2]._replace(shards={1: (690, _NEVER), 0: (900, _NEVER)}, counted={})
    fired(processes, ALIVE, tmp_path, wanted=2, expected={"ReplicaMissing"})


def test_a_killed_process_fires_for_what_it_lost(tmp_path: Path) -> None:
    """As a restart of the only replica, but it could not deliver what it had received."""
    lost: dict[str, Curve] = {"events_total records_lost": lambda at: 1.0}
    lost |= {f"gaps_total {channel} takeover": lambda at: 1.0 for channel in _PRIVATE}
    processes = [
        Process("feed-0", ends=600, shards={0: (0, 600), 1: (0, 600)}),
        Process(
            "feed-0",
            begins=660,
            started=650,
            shards={0: (660, _NEVER), 1: (660, _NEVER)},
            counted=lost,
        ),
    ]
    fired(processes, ALIVE, tmp_path, wanted=1, expected={"DataLost"})


def quiet(at: int) -> float:
    """Return the time of the last push of a market without any change: the snapshots of the present session.

    It replaced another one after 120 s without a push, then after 240 s, 480 s, and so on.
    """
    begins, patience = 0, 120
    while begins + patience <= at:
        begins, patience = begins + patience, 2 * patience
    return begins


def replaced(at: int) -> float:
    return sum(1 for number in range(1, 12) if 120 * (2**number - 1) <= at)


@pytest.mark.parametrize("all_ticker", [False, True])
def test_markets_without_any_change_fire_nothing(all_ticker: bool, tmp_path: Path) -> None:
    """All that arrives is pongs, the snapshots of new sessions, and all_ticker if it is subscribed to."""
    last_push: dict[str, Curve] = dict.fromkeys((*_PUBLIC, *_PRIVATE), quiet)
    last_push["ticker"] = lambda at: 0.0
    last_push["all_ticker"] = now
    if not all_ticker:
        del last_push["all_ticker"]
    process = Process(
        "feed-0", shards={0: (0, _NEVER), 1: (0, _NEVER)}, counted={"reconnects_total stale": replaced}
    )
    fired([process], last_push, tmp_path, wanted=1, expected=set())


def test_an_exchange_that_answers_pings_and_pushes_nothing_fires(tmp_path: Path) -> None:
    """The same scene with a silent all_ticker."""
    last_push: dict[str, Curve] = dict.fromkeys((*_PUBLIC, *_PRIVATE), quiet)
    process = Process("feed-0", shards={0: (0, _NEVER), 1: (0, _NEVER)})
    fired([process], last_push, tmp_path, wanted=1, expected={"FeedDead", "ChannelStale"})


def test_a_dead_release_is_reported_for_more_than_a_day_until_it_is_not_wanted_any_more(
    tmp_path: Path,
) -> None:
    """One is wanted according to kube-state-metrics, one according to its constant; one never came up."""
    kube = 'kube_statefulset_replicas{namespace="md",statefulset='
    a, b = ('namespace="md",job="md/a-digifinex-bridge",pod="a-0"', 'namespace="md",job="md/b",pod="b-0"')
    series = {
        f'{kube}"a-digifinex-bridge"}}': "1x390 0x20",
        f'{kube}"other"}}': "1x410",
        f'{kube}"c-digifinex-bridge"}}': "1x390 stale",
        'digifinex_bridge:replicas_wanted{namespace="md",job="md/b"}': "1x390 stale",
    }
    for release in (a, b):
        series[f"digifinex_bridge_build_info{{{release}}}"] = "1x8 stale"
        series[f'digifinex_bridge_frames_total{{{release},shard="0"}}'] = "0+100x8 stale"
    both = [
        {"labels": f'{{alertname="DigiFinexBridge{alert}",job="md/{job}"}}', "value": 1}
        for alert in ("FeedDead", "ReplicaMissing")
        for job in ("a-digifinex-bridge", "b", "c-digifinex-bridge")
    ]
    firing = 'group by (alertname, job) (ALERTS{alertstate="firing"})'
    play(
        {
            "interval": "4m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {"expr": firing, "eval_time": "2h", "exp_samples": both},
                {"expr": firing, "eval_time": "26h", "exp_samples": both},
                {"expr": firing, "eval_time": "26h30m", "exp_samples": []},
            ],
        },
        tmp_path,
        evaluation=240,
    )
