"""Generate the Grafana dashboard, `helm/digifinex-bridge/dashboards/digifinex-bridge.json`.

Its first rows answer what somebody asks who is woken at night, in that order; the others have the details.
`ROWS` is the table of its panels; the functions above it write the queries, those below it build the JSON.
"""

import json
import re
import urllib.parse
from pathlib import Path
from typing import Any, Literal, NamedTuple

from grafana_foundation_sdk.builders import common as build_common
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as model_common
from grafana_foundation_sdk.models import dashboard as model

from bridge.channels import CHANNELS
from bridge.watch.metrics import PREFIX

_CHART = Path(__file__).parents[1] / "helm" / "digifinex-bridge"
TARGET = _CHART / "dashboards" / "digifinex-bridge.json"

# The matcher `.*` also matches a series without the label, as cluster and pod outside Kubernetes.
_RELEASES = 'cluster=~"$cluster",namespace=~"$namespace",job=~"$release"'
_SCOPE = f'{_RELEASES},pod=~"$pod"'
# The labels that identify a release: shard numbers and channels are the same in each.
_RELEASE = "cluster, namespace, job"
_DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
# Private channels may be quiet for days, and an order's timestamp need not be that of its change.
_PUBLIC = f'channel=~"{"|".join(name for name, channel in CHANNELS.items() if not channel.private)}"'
_CHOSEN = 'channel=~"$channel"'
_COLUMNS = 24
_NOT_FILLING = 1e9  # seconds, in place of a time that does not end

# What a panel shows in place of a value, with its color. By the value: "0"; "nan"; or the least one, ">=1".
Texts = dict[str, tuple[str, str]]
_NO_REPLICA: Texts = {"-1": ("no replica", "red")}


class Query(NamedTuple):
    """A PromQL expression, and the legend of its series."""

    expression: str
    legend: str = ""


class Panel(NamedTuple):
    """One panel: a stat shows the present value; the others show its course, bars what is counted.

    `width` is in columns, of 24. `levels` reads from low to high: "green 2 orange 5 red" is green below 2,
    orange from 2 and red from 5 on. `runbook` is the section for the alert on the same figure, if any.
    """

    title: str
    kind: Literal["stat", "graph", "bars", "timeline"]
    width: int
    unit: str
    levels: str
    runbook: str | None
    queries: tuple[Query, ...]
    text: str
    texts: Texts = {}  # noqa: RUF012 - never changed


class Row(NamedTuple):
    """A row of panels under a heading, all of the same height."""

    title: str
    height: int
    panels: tuple[Panel, ...]


def _of(name: str, *matchers: str) -> str:
    """Return the selector of one of the bridge's metrics, on the chosen pods."""
    return f"{PREFIX}{name}{{{','.join([_SCOPE, *matchers])}}}"


def _of_channels(name: str, *matchers: str) -> str:
    return _of(name, _CHOSEN, *matchers)


def _of_all_pods(name: str, *matchers: str) -> str:
    """Return the selector of a metric whose value means something over all replicas only."""
    return f"{PREFIX}{name}{{{','.join([_RELEASES, *matchers])}}}"


def _rate(selector: str, by: str = "") -> str:
    return f"sum{by}(rate({selector}[$__rate_interval]))"


def _rates(selector: str, label: str, legend: str = "") -> tuple[Query, ...]:
    """Return the rate of a counter by labels."""
    return (Query(_rate(selector, f" by ({_apart(label)})"), legend or f"{{{{{label}}}}}"),)


def _counts(selector: str, label: str) -> tuple[Query, ...]:
    """Return how many were counted in each step, by a label: a rate of rare things says nothing to people.

    What was not counted is left out of the legend; where nothing was, it says so.
    """
    counted = _count(selector, f" by ({_apart(label)})")
    return (Query(f"{counted} > 0 or {_none(**{label: 'none'})}", f"{{{{{label}}}}}"),)


def _count(selector: str, by: str = "") -> str:
    return f"round(sum{by} (increase({selector}[$__rate_interval])))"


def _none(**labels: str) -> str:
    """Return 0 with these labels while any replica reports."""
    nothing = f"0 * group({_of_all_pods('build_info')})"
    for name, value in labels.items():
        nothing = f'label_replace({nothing}, "{name}", "{value}", "", "")'
    return nothing


def _levels(selector: str, label: str, legend: str = "", combine: str = "sum") -> tuple[Query, ...]:
    """Return the value of a gauge by labels."""
    return (Query(f"{combine} by ({_apart(label)}) ({selector})", legend or f"{{{{{label}}}}}"),)


def _apart(labels: str) -> str:
    """Return labels that tell the same names in two namespaces or clusters apart."""
    return f"cluster, namespace, {labels}" if {"job", "pod"} & set(labels.split(", ")) else labels


def _each(expression: str, legend: str = "{{pod}}") -> tuple[Query, ...]:
    return (Query(expression, legend),)


# The number of replicas that each release should have, from the alerts' rules or, without them, what reports.
_WANTED = (
    f"(max by ({_RELEASE}) (digifinex_bridge:replicas_expected{{{_RELEASES}}})"
    f" or count by ({_RELEASE}) ({_of_all_pods('build_info')}))"
)
# Releases that should have replicas and have none that reports: their other series have ended, too.
_DOWN = (
    f"(digifinex_bridge:replicas_expected{{{_RELEASES}}} > 0"
    f" unless on ({_RELEASE}) {_of_all_pods('build_info')})"
)


def _figure(expression: str) -> tuple[Query, ...]:
    """Return one figure of all releases; -1 if one has no replica: its silence must not look like health."""
    return (Query(f"-group({_DOWN}) or {expression}"),)


def _worst_quantiles(name: str, *matchers: str) -> tuple[Query, ...]:
    """Return the quantiles of the channel in which they are largest.

    Over two minutes, not five as the alert: what was fast before an outage must not look like health.
    """
    buckets = f"rate({_of_channels(name + '_bucket', *matchers)}[2m])"
    summed = f"sum by ({_RELEASE}, channel, le) ({buckets})"
    return tuple(
        Query(
            f"-group({_DOWN}) or max(histogram_quantile({quantile}, {summed}))",
            f"p{quantile * 100:g}",
        )
        for quantile in (0.5, 0.99)
    )


def _quantiles(selector: str, *quantiles: float, label: str = "") -> tuple[Query, ...]:
    """Return quantiles of a histogram, by a label if there is one."""
    buckets = _rate(selector, f" by (le, {label})" if label else " by (le)")
    prefix = f"{{{{{label}}}}} " if label else ""
    return tuple(
        Query(f"histogram_quantile({quantile}, {buckets})", f"{prefix}p{quantile * 100:g}")
        for quantile in quantiles
    )


def _counted(selector: str) -> str:
    """Return how many were counted in the time range, as the alerts count.

    For a process that started within the range that is its total: what it counted before its first scrape is
    not part of any increase.
    """
    young = f"({selector} and on (instance, job) time() - process_start_time_seconds < $__range_s)"
    increase = f"increase({selector}[$__range])"
    return f"round(sum(({young} > {increase}) or {increase} or {young}))"


def _lost() -> str:
    """Return the events that mean loss, less one for each shard that a living replica gave up."""
    records = _counted(_of_all_pods("events_total", 'event="records_lost"'))
    shards = _counted(_of_all_pods("shards_lost_total"))
    return f"{_counted(_of_all_pods('events_total', _LOSSES))} + clamp_min({records} - {shards}, 0)"


def _gaps() -> str:
    """Return the gaps that the alert counts: not those of new accounts, nor of accounts at a restart."""
    others = _counted(_of_channels("gaps_total", 'cause!~"first_listened|takeover"'))
    restarts = _counted(_of_channels("gaps_total", 'cause="takeover"', _PUBLIC))
    return f"{others} + ({restarts} or vector(0))"


def _ready() -> tuple[Query, ...]:
    """Return the share of each release's replicas that is ready, with both numbers in the legend."""
    ready = f"(sum by ({_RELEASE}) ({_of_all_pods('ready')}) or 0 * {_WANTED})"
    # 0 of 0 is not a number, and has a text of its own.
    share = f"clamp_max({ready} / {_WANTED}, 1)"
    named = (
        f'* on ({_RELEASE}) group_left (ready) count_values by ({_RELEASE}) ("ready", {ready})'
        f' * on ({_RELEASE}) group_left (wanted) count_values by ({_RELEASE}) ("wanted", {_WANTED})'
    )
    return (Query(f"{share} {named}", "{{job}}: {{ready}} of {{wanted}}"),)


def _since_last_push() -> tuple[Query, ...]:
    """Return each channel's age; a channel without a push yet is as old as its release's oldest process."""
    last = f"max by ({_RELEASE}, channel) ({_of_all_pods('last_push_timestamp_seconds', _CHOSEN, _PUBLIC)})"
    start = f"min by ({_RELEASE}) (process_start_time_seconds{{{_RELEASES}}})"
    since_start = f"({last} == 0) + on ({_RELEASE}) group_left {start}"
    age = f"max by (channel) (time() - (({last} > 0) or {since_start}))"
    down = f'label_replace(-group by ({_RELEASE}) ({_DOWN}), "channel", "$1", "job", "(.*)")'
    return (Query(f"({age} unless on () group({_DOWN})) or {down}", "{{channel}}"),)


def _fewest_sessions() -> str:
    """Return the sessions of the shard with the fewest; a shard that never had one has no series of them."""
    sessions = f"sum by ({_RELEASE}, shard) ({_of_all_pods('connected')})"
    never = f"{_of_all_pods('shard_owned')} == 1 unless {_of_all_pods('connected')}"
    waiting = f"({never}) and ignoring (shard) {_of_all_pods('ready')} == 0"
    return f"min({sessions} or 0 * sum by ({_RELEASE}, shard) ({waiting}))"


def _stalled() -> str:
    """Return how many replicas have records pending and get none acknowledged."""
    acknowledged = _rate(_of_all_pods("records_total"), f" by ({_RELEASE}, pod, instance)")
    pending = (
        f"sum by ({_RELEASE}, pod, instance)"
        f" ({_of_all_pods('pending_records')} + {_of_all_pods('spool_records')})"
    )
    return f"sum(({acknowledged} == bool 0) * ({pending} > bool 0))"


def _process(expression: str) -> tuple[Query, ...]:
    """Return a metric of Prometheus' client, of the bridge's processes alone."""
    return _each(f"{expression} and on (instance, job) {_of('ready')}")


# The limit is for all shards, each has an equal part of it: a pod has the parts of the shards that it serves.
_POD = "by (cluster, namespace, job, pod, instance)"
_SPOOL_LIMIT = f"(sum {_POD} ({_of('spool_limit_bytes')}) * avg {_POD} ({_of('shard_owned')}) > 0)"
_SPOOL_USED = f"sum {_POD} ({_of('spool_bytes')}) / {_SPOOL_LIMIT}"
_SPOOL_GROWTH = f"(sum {_POD} (deriv({_of('spool_bytes')}[10m])) > 0)"
_SPOOL_LEFT = f"({_SPOOL_LIMIT} - sum {_POD} ({_of('spool_bytes')})) / {_SPOOL_GROWTH}"
_UNOWNED = f"sum(sum by ({_RELEASE}, shard) ({_of_all_pods('shard_owned')}) == bool 0)"
_SILENT = _of_all_pods("subscriptions", _CHOSEN, 'state=~"refused|silent"')
_UNCONFIRMED = _of_all_pods("subscriptions", _CHOSEN, 'state!="confirmed"')
_PINGS = _of_all_pods("ping_seconds_bucket")
_RESTARTS = (
    f"sum(changes((max by ({_RELEASE}, pod) (process_start_time_seconds{{{_SCOPE}}}"
    f" and on (instance, job) {_of('ready')}))[$__range:1m]))"
)

# The events that mean loss, of which the alert DataLost says which they are.
(_LOSSES, *_) = re.findall(r'event=~"[^"]*"', (_CHART / "rules" / "digifinex-bridge.yaml").read_text())
_UNPLANNED = 'reason!~"rotated|stale"'
_EVENTS = _LOSSES[:-1] + '|records_lost"'


_FIRING = f'ALERTS{{{_RELEASES},alertname=~"DigiFinexBridge.*",alertstate="firing"}}'


def _alerts(severity: str) -> str:
    """Return how many alerts of this severity fire; nothing if Prometheus has no rules of the bridge."""
    return (
        f"count({_FIRING[:-1]},{severity}}}) or 0 * group(digifinex_bridge:replicas_expected{{{_RELEASES}}})"
    )


# fmt: off
ROWS = (
    # Panels: title, kind, width, unit, levels, section of the runbook, queries, description, texts.
    Row("Is every release up?", 4, (
        Panel("Replicas ready", "stat", 10, "percentunit", "red 0.01 orange 1 green", "replica-missing",
              _ready(),
              "Replicas of each release that are ready, of those that it should have. /readyz of a replica "
              "says what is missing.",
              {"nan": ("scaled to 0", "blue")}),
        Panel("Critical alerts", "stat", 3, "short", "green 0.5 red", "first-look",
              (Query(_alerts('severity="critical"')),),
              "Alerts of the bridge that fire now and are critical, if Prometheus has its rules."),
        Panel("Other alerts", "stat", 3, "short", "green 0.5 orange", "first-look",
              (Query(_alerts('severity!="critical"')),),
              "Other alerts of the bridge that fire now."),
        Panel("Shards unowned", "stat", 4, "short", "green 0.5 red", "shard-unowned",
              _figure(_UNOWNED),
              "Shards that no replica serves. No data arrives for their symbols.", _NO_REPLICA),
        Panel("Fewest sessions", "stat", 4, "short", "red 1 green", "feed-dead",
              _figure(_fewest_sessions()),
              "Open connections to the exchange, for the shard with the fewest. At 0, no data arrives for "
              "the shard's symbols.", _NO_REPLICA),
    )),
    Row("Is data arriving?", 4, (
        Panel("Time since last push", "stat", 12, "s", "green 60 yellow 300 orange", "channel-stale",
              _since_last_push(),
              "Time since the exchange last pushed anything on each public channel; since the start if it "
              "has pushed nothing yet. The oldest of all selected releases is shown. Quiet markets may be "
              "silent for hours; all_ticker is not.", _NO_REPLICA),
        Panel("Frames", "stat", 4, "cps", "red 0.001 green", "feed-dead",
              _figure(f"sum(rate({_of_all_pods('frames_total')}[2m]))"),
              "Frames received from the exchange, pongs included: an idle session has one every few "
              "seconds.",
              _NO_REPLICA),
        Panel("Not subscribed", "stat", 4, "short", "green 0.5 orange", "subscriptions-missing",
              _figure(f"sum({_UNCONFIRMED})"),
              "Subscriptions that are refused, silent or without an answer. /status names them.",
              _NO_REPLICA),
        Panel("Accounts offline", "stat", 4, "short", "green 0.5 red", "account-not-ready",
              _figure(f"(sum(max by ({_RELEASE}, account) ({_of_all_pods('account_ready')}) == bool 0)"
                      f" or 0 * group({_of_all_pods('build_info')}))"),
              "Accounts of which no replica has all sessions live. Their orders and balances are lost "
              "meanwhile.",
              _NO_REPLICA),
    )),
    Row("Is it whole? (in the selected time)", 4, (
        Panel("Loss events", "stat", 6, "short", "green 0.5 red", "data-lost",
              _figure(_lost()),
              "Events that mean loss: records lost at a stop or from a spool, a spool that overflowed, "
              "markets left out.", _NO_REPLICA),
        Panel("Unfilled gaps", "stat", 6, "short", "green 0.5 orange", "gap-not-filled",
              _figure(_gaps()),
              "Gaps that could not be filled. Their bounds are on the events topic. Left out: new accounts, "
              "and private channels while a replica is restarted.", _NO_REPLICA),
        Panel("Dead letters", "stat", 6, "short", "green 0.5 orange", "dead-letters",
              _figure(_counted(_of_all_pods("deadletters_total"))),
              "Frames that could not be turned into records. The dead letter topic has each complete frame "
              "with the reason.", _NO_REPLICA),
        Panel("Refused or silent", "stat", 6, "short", "green 0.5 orange", "subscriptions-missing",
              _figure(f"sum({_SILENT})"),
              "Subscriptions of which nothing arrives now, although the session is live.", _NO_REPLICA),
    )),
    Row("How late is it?", 4, (
        Panel("Oldest not on Kafka", "stat", 8, "s", "green 5 orange 60 red", "data-late",
              _figure(f"max({_of_all_pods('oldest_pending_seconds')})"),
              "Age of the oldest record, in memory or on disk, that consumers can't read yet. While Kafka "
              "is unavailable this is how far they are behind.", _NO_REPLICA),
        Panel("Delivery lag", "stat", 8, "s", "green 1 orange 5 red", "delivery-lag-high",
              _worst_quantiles("delivery_lag_seconds"),
              "Time from reception until a read_committed consumer can read the record, for the slowest "
              "channel. Exactly-once delivery adds up to kafka.commit_interval.",
              {"nan": ("none delivered", "orange"), **_NO_REPLICA}),
        Panel("Exchange lag", "stat", 8, "s", "green 2 orange 5 red", "exchange-lag-high",
              _worst_quantiles("exchange_lag_seconds", _PUBLIC),
              "Time from the exchange's timestamp to reception, for the slowest public channel. Timestamps "
              "of trades are often whole seconds, so up to 1 s is normal.",
              {"nan": ("none received", "orange"), **_NO_REPLICA}),
    )),
    Row("If not: exchange, bridge or Kafka?", 4, (
        Panel("Exchange: reconnects", "stat", 4, "short", "green 1 yellow 20 orange", "reconnect-storm",
              _figure(f'round(sum(increase({_of_all_pods("reconnects_total", _UNPLANNED)}[10m])))'),
              "Sessions that were lost or refused in the last 10 minutes.", _NO_REPLICA),
        Panel("Exchange: ping", "stat", 4, "s", "green 1 orange 5 red", None,
              _figure(f"histogram_quantile(0.99, sum by (le) (rate({_PINGS}[2m])))"),
              "99th percentile of the time from a ping to its pong.",
              {"nan": ("no answer", "red"), **_NO_REPLICA}),
        Panel("Bridge: restarts", "stat", 3, "short", "green 0.5 yellow 3 orange", "replica-missing",
              _figure(_RESTARTS),
              "Processes that were replaced in the selected time.", _NO_REPLICA),
        Panel("Bridge: paused", "stat", 3, "short", "green 0.5 red", "reading-paused",
              _figure(f"sum({_of_all_pods('reading_paused')})"),
              "Shards that have paused reading from the exchange because memory and spool are full. Data "
              "that the exchange sends meanwhile can be lost.", _NO_REPLICA),
        Panel("Kafka: stalled", "stat", 3, "short", "green 0.5 red", "kafka-unreachable",
              _figure(_stalled()),
              "Replicas that have records pending and get none acknowledged by Kafka.", _NO_REPLICA),
        Panel("Spool used", "stat", 3, "percentunit", "green 0.1 yellow 0.5 orange 0.9 red", "spool-filling",
              _figure(f"max({_SPOOL_USED})"),
              "The fullest spool, of the part of its limit that the pod's shards have.", _NO_REPLICA),
        Panel("Spool full in", "stat", 4, "s", "red 3600 orange 21600 yellow", "spool-filling",
              _figure(f"(min({_SPOOL_LEFT}) or {_NOT_FILLING:.0f} * group({_of('build_info')}))"),
              "Time until the first spool is full, as fast as it has grown for 10 minutes.",
              {">=1e8": ("not filling", "green"), **_NO_REPLICA}),
    )),
    Row("Details: throughput and delay", 7, (
        Panel("Records", "graph", 8, "cps", "green", None,
              _rates(_of_channels("records_total"), "channel"),
              "Records acknowledged by Kafka, by channel."),
        Panel("Frames by shard", "graph", 8, "cps", "green", "feed-dead",
              _rates(_of("frames_total"), "job, shard", "{{job}} shard {{shard}}"),
              "Frames received from the exchange, by shard. A shard at 0 receives nothing."),
        Panel("Bytes received", "graph", 8, "Bps", "green", None,
              _rates(_of("received_bytes_total"), "job, shard", "{{job}} shard {{shard}}"),
              "Compressed bytes received from the exchange, by shard."),
        Panel("Oldest record not on Kafka, by pod", "graph", 8, "s", "green 5 orange 60 red", "data-late",
              _levels(_of("oldest_pending_seconds"), "pod", combine="max"),
              "Age of the oldest record, in memory or on disk, that consumers can't read yet."),
        Panel("Delivery lag by channel", "graph", 8, "s", "green 1 orange 5 red", "delivery-lag-high",
              _quantiles(_of_channels("delivery_lag_seconds_bucket"), 0.99, label="channel"),
              "99th percentile of the time from reception until a consumer can read the record."),
        Panel("Exchange lag by channel", "graph", 8, "s", "green 2 orange 5 red", "exchange-lag-high",
              _quantiles(_of_channels("exchange_lag_seconds_bucket"), 0.99, label="channel"),
              "99th percentile of the time from the exchange's timestamp to reception."),
    )),
    Row("Details: what is missing", 7, (
        Panel("Loss events by kind", "bars", 8, "short", "green", "data-lost",
              _counts(_of_all_pods("events_total", _EVENTS), "event"),
              "Each has its details on the events topic. `records_lost` also counts shards that a replica "
              "gave up to one that joined."),
        Panel("Gaps by cause", "bars", 8, "short", "green", "gap-not-filled",
              _counts(_of_channels("gaps_total"), "cause"),
              "Gaps that could not be filled. `takeover`: a restart, or another replica. `first_listened`: "
              "a new account or channel."),
        Panel("Dead letters by reason", "bars", 8, "short", "green", "dead-letters",
              _counts(_of("deadletters_total"), "reason"),
              "`payload`: the dead letter's detail names the bad item. `unknown_method`: the exchange "
              "pushes something new. `decompression`: has it changed its compression?"),
        Panel("Subscriptions not confirmed", "graph", 6, "short", "green", "subscriptions-missing",
              (Query(f"sum by (channel, state) ({_UNCONFIRMED}) > 0"
                     f" or ({_none(channel='all', state='confirmed')} unless on () sum({_UNCONFIRMED}) > 0)",
                     "{{channel}} {{state}}"),),
              "refused by the exchange; silent: nothing comes; pending: without an answer yet."),
        Panel("Recovered, repeated", "bars", 6, "short", "green", "live-duplicates",
              (Query(_count(_of_channels("recovered_total")), "recovered"),
               Query(_count(_of_channels("live_duplicates_total")), "sent twice")),
              "Records recovered from the exchange's list of recent trades after an interruption; items "
              "that came live and were known already, which should be none."),
        Panel("Checks of books", "bars", 6, "short", "green", "book-suspect",
              _counts(_of("book_checks_total"), "result"),
              "Snapshots that were `equal` to the book that was kept, or `different`; books that were "
              "`crossed` or disagreed with the `ticker` for too long. All but `equal` should be 0."),
        Panel("Duplicates dropped", "graph", 6, "cps", "green", None,
              _rates(_of_channels("duplicates_total"), "channel"),
              "Items that the exchange sent again and the bridge dropped: after each subscribe, its list of "
              "recent trades."),
    )),
    Row("Details: exchange", 7, (
        Panel("Reconnects by reason", "bars", 8, "short", "green", "reconnect-storm",
              _counts(_of("reconnects_total"), "reason"),
              "Sessions replaced by new ones. `rotated`: planned, loses nothing. `stale`: no data. "
              "`refused`: HTTP 502 or 429. `rejected`: a subscription or an account was refused."),
        Panel("Sessions by shard", "graph", 8, "short", "green", "feed-dead",
              _levels(_of("connected"), "job, shard", "{{job}} shard {{shard}}"),
              "Open connections to the exchange. A shard that stays at 0 receives nothing."),
        Panel("Ping", "graph", 4, "s", "green 1 orange 5 red", None,
              _quantiles(_of("ping_seconds_bucket"), 0.5, 0.99),
              "Round trip from a ping to its pong: how fast the exchange and the network respond."),
        Panel("Clock offset", "graph", 4, "s", "green", None,
              _each(_of("clock_offset_seconds")),
              "The exchange's clock minus the pod's. Beyond 1 s, exchange lag is not meaningful."),
    )),
    Row("Details: replicas and shards", 7, (
        Panel("Replicas", "graph", 8, "short", "green", "replica-missing",
              (Query(f"sum by ({_RELEASE}) ({_of_all_pods('ready')})", "{{job}} ready"),
               Query(f"sum by ({_RELEASE}) ({_WANTED})", "{{job}} wanted")),
              "Replicas that are ready, and those that each release should have."),
        Panel("Shards", "timeline", 8, "short", "red 1 green 2 orange", "shard-unowned",
              _levels(_of_all_pods("shard_owned"), "job, shard", "{{job}} shard {{shard}}"),
              "How many replicas serve each shard: always one, except for a moment while it moves.",
              {"0": ("no owner", "red"), "1": ("owned", "green"), "2": ("two owners", "orange")}),
        Panel("Owners", "timeline", 8, "short", "transparent 1 green", "shard-unowned",
              _levels(_of("shard_owned"), "shard, pod", "shard {{shard}} {{pod}}"),
              "Which pod serves which shard.",
              {"0": ("", "transparent"), "1": ("serves it", "green")}),
        Panel("Shards lost", "bars", 8, "short", "green", "shard-unowned",
              _counts(_of("shards_lost_total"), "pod"),
              "Shards lost by a replica that was serving them: another replica joined, or this one was "
              "frozen or cut off from Kafka."),
        Panel("Reading paused by shard", "graph", 8, "short", "green 1 red", "reading-paused",
              _levels(_of("reading_paused"), "job, shard", "{{job}} shard {{shard}}", combine="max"),
              "1 while the shard has paused reading from the exchange because memory and spool are full."),
        Panel("Versions", "graph", 8, "short", "green", "replica-missing",
              _levels(_of("build_info"), "version", combine="count"),
              "Replicas by version. Two versions for longer than a rollout takes: the rollout is stuck."),
    )),
    Row("Details: Kafka and spool", 7, (
        Panel("Kafka errors by name", "bars", 6, "short", "green", "kafka-unreachable",
              _counts(_of("kafka_errors_total"), "error"),
              "Errors returned by Kafka or its client. The bridge retries, in order, until it succeeds."),
        Panel("Partitions unavailable", "graph", 6, "short", "green 1 red", "partition-unavailable",
              (Query(f"sum(max by ({_RELEASE}, topic, partition) ({_of_all_pods('partition_unavailable')}))",
                     "partitions"),),
              "Partitions without a leader, or of topics that are missing. Their records wait."),
        Panel("Records in memory", "graph", 6, "short", "green", "kafka-unreachable",
              _levels(_of("pending_records"), "pod"),
              "Records in memory that Kafka has not acknowledged yet. A sawtooth with the period of "
              "kafka.commit_interval is normal."),
        Panel("Bytes in memory", "graph", 6, "bytes", "green", "kafka-unreachable",
              _levels(_of("pending_bytes"), "pod, part", "{{pod}} {{part}}"),
              "queue: records for Kafka; beyond kafka.max_pending_bytes per shard, they go to disk. "
              "exchange: what was read from the exchange and is held before that, by a pause or a rotation."),
        Panel("Spool used by pod", "graph", 8, "percentunit", "green 0.5 orange 0.9 red", "spool-filling",
              (Query(f"sum by ({_apart('pod')}) ({_SPOOL_USED})", "{{pod}}"),),
              "Spooled bytes, of the part of the limit that the pod's shards have. At 100 %, reading "
              "pauses."),
        Panel("Records on disk", "graph", 8, "short", "green", "spool-filling",
              _levels(_of("spool_records"), "pod"),
              "Spooled records. Falls while Kafka accepts records faster than the exchange sends them."),
        Panel("Spool writable", "graph", 8, "short", "red 1 green", "spool-not-writable",
              _levels(_of("spool_writable"), "pod", combine="min"),
              "0 while a pod can't write to its spool."),
    )),
    Row("Details: processes", 7, (
        Panel("CPU", "graph", 6, "short", "green 0.7 orange 0.9 red", None,
              _process("rate(process_cpu_seconds_total[$__rate_interval])"),
              "Cores. One process can use one core at most; beyond that, add shards and replicas."),
        Panel("Memory", "graph", 6, "bytes", "green", None,
              _process("process_resident_memory_bytes"),
              "Resident memory."),
        Panel("Uptime", "graph", 6, "s", "green", "replica-missing",
              _process("time() - process_start_time_seconds"),
              "Time since the process started. A sawtooth means crashes: see the pod's previous log."),
        Panel("Log lines dropped", "bars", 6, "short", "green", "log-lines-dropped",
              _counts(_of("log_lines_dropped_total"), "pod"),
              "Lines of the log that nobody read in time, or that had no room."),
    )),
)
# fmt: on


def document() -> str:
    """Return the text of the dashboard."""
    dashboard = json.loads(json.dumps(_dashboard(), cls=JSONEncoder))
    dashboard["annotations"] = {"list": _annotations()}
    return json.dumps(dashboard, indent=2, sort_keys=True) + "\n"


def _dashboard() -> model.Dashboard:
    builder = (
        build.Dashboard("DigiFinex bridge")
        .uid("digifinex-bridge")
        .description("DigiFinex WebSocket API to Kafka: is the data on Kafka complete and current?")
        .tags(["digifinex-bridge", "kafka"])
        .timezone("browser")
        .refresh("30s")
        .time("now-3h", "now")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
    )
    for variable in _variables():
        builder.with_variable(variable)
    for title, url in _LINKS.items():
        builder.link(
            build.DashboardLink(title)
            .type(model.DashboardLinkType.LINK)
            .icon("external link")
            .url(url)
            .keep_time(keep_time=True)
            .target_blank(target_blank=True)
        )
    number = y = 0
    for row in ROWS:
        number += 1
        builder.with_row(build.Row(row.title).id(number).grid_pos(model.GridPos(h=1, w=_COLUMNS, x=0, y=y)))
        y += 1
        x = 0
        for panel in row.panels:
            if x + panel.width > _COLUMNS:
                x, y = 0, y + row.height
            number += 1
            place = model.GridPos(h=row.height, w=panel.width, x=x, y=y)
            builder.with_panel(_panel(panel).id(number).grid_pos(place))
            x += panel.width
        y += row.height
    return builder.build()


# The bridge's log in Loki, with the labels that its agents usually set.
_LOGS = {
    "a": {
        "datasource": "${logs}",
        "queries": [
            {
                "refId": "A",
                "datasource": {"type": "loki", "uid": "${logs}"},
                "expr": '{namespace=~"${namespace:regex}",pod=~"${pod:regex}",container="bridge"}'
                ' |~ `"level": ?"(warning|error)"`',
            }
        ],
    }
}
_LINKS = {
    "Runbook": "${runbook}",
    "Warnings in the log": "/explore?schemaVersion=1&panes="
    + urllib.parse.quote(json.dumps(_LOGS), safe="${}:"),
    "Alerts": "/alerting/list?queryString=DigiFinexBridge",
}


def _annotations() -> list[dict[str, Any]]:
    """Return what is marked in all graphs. The SDK has no fields for annotations from Prometheus."""

    def annotation(name: str, color: str, expression: str, text: str, **more: object) -> dict[str, Any]:
        return {
            "name": name,
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "enable": True,
            "iconColor": color,
            "expr": expression,
            "step": "30s",
            "titleFormat": name,
            "textFormat": text,
            **more,
        }

    takeovers = _of("events_total", 'event="takeover"')
    return [
        # A process counts the takeovers at its start before its first scrape.
        annotation(
            "Takeover",
            "purple",
            f"increase({takeovers}[1m]) > 0 or ({takeovers} > 0 unless {takeovers} offset 1m)",
            "{{pod}} has taken shards over",
        ),
        annotation(
            "Start",
            "blue",
            f"1000 * process_start_time_seconds{{{_SCOPE}}} and on (instance, job) {_of('ready')}",
            "{{pod}} has started",
            useValueForTime="on",
        ),
        annotation(
            "Alert",
            "red",
            _FIRING,
            "{{alertname}} {{job}} {{channel}} {{event}}",
        ),
    ]


def _variables() -> list[build.DatasourceVariable | build.QueryVariable | build.TextBoxVariable]:
    def label(name: str, source: str, of: str = "", all_value: str | None = ".*") -> build.QueryVariable:
        variable = (
            build.QueryVariable(name)
            .label(name)
            .datasource(_DATASOURCE)
            .query({"query": f"label_values({source}, {of or name})", "refId": name})
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.ALPHABETICAL_ASC)
            .multi(multi=True)
            .include_all(include_all=True)
            .current(model.VariableOption(text=["All"], value=["$__all"], selected=True))
        )
        return variable.all_value(all_value) if all_value else variable

    # A release that never came up has only the second.
    names = f'__name__=~"{PREFIX}build_info|digifinex_bridge:replicas_expected"'
    return [
        build.DatasourceVariable("datasource").label("data source").type("prometheus"),
        label("cluster", f"{{{names}}}"),
        label("namespace", f'{{{names},cluster=~"$cluster"}}'),
        label("release", f'{{{names},cluster=~"$cluster",namespace=~"$namespace"}}', of="job"),
        label("pod", f"{PREFIX}build_info{{{_RELEASES}}}"),
        # Without a value for "All", which is then the list of those that are configured.
        label("channel", f"{PREFIX}subscriptions{{{_RELEASES}}}", all_value=None),
        build.DatasourceVariable("logs").label("logs").type("loki"),
        build.TextBoxVariable("runbook").label("runbook").default_value("docs/runbook.md"),
    ]


def _panel(panel: Panel) -> stat.Panel | timeseries.Panel | statetimeline.Panel:
    builder: stat.Panel | timeseries.Panel | statetimeline.Panel
    if panel.kind == "stat":
        builder = _stat(named=any(query.legend for query in panel.queries))
    elif panel.kind == "timeline":
        builder = statetimeline.Panel().show_value(model_common.VisibilityMode.AUTO).row_height(0.8)
        builder.legend(build_common.VizLegendOptions().show_legend(show_legend=False))
    else:
        builder = _timeseries(panel)
    builder.title(panel.title).description(panel.text).datasource(_DATASOURCE).unit(panel.unit)
    builder.thresholds(_thresholds(panel.levels))
    if panel.texts:
        builder.mappings([_mapping(*one) for one in panel.texts.items()])
    if panel.runbook:
        builder.links(
            [
                build.DashboardLink("Runbook")
                .url(f"${{runbook}}#{panel.runbook}")
                .target_blank(target_blank=True)
            ]
        )
    for letter, query in zip("ABC", panel.queries, strict=False):
        target = prometheus.Dataquery().expr(query.expression).ref_id(letter).datasource(_DATASOURCE)
        if query.legend:
            target.legend_format(query.legend)
        builder.with_target(target.instant() if panel.kind == "stat" else target.range())
    return builder


def _stat(*, named: bool) -> stat.Panel:
    """Return a panel for present values, with their names even if there is only one."""
    names = model_common.BigValueTextMode.VALUE_AND_NAME
    calculation = build_common.ReduceDataOptions().calcs(["lastNotNull"])
    mode = model_common.BigValueColorMode.BACKGROUND_SOLID
    return (
        stat.Panel()
        .reduce_options(calculation)
        .color_mode(mode)
        .graph_mode(model_common.BigValueGraphMode.NONE)
        .text_mode(names if named else model_common.BigValueTextMode.AUTO)
        .no_value("no data")
    )


def _timeseries(panel: Panel) -> timeseries.Panel:
    legend = build_common.VizLegendOptions().show_legend(show_legend=True)
    legend.display_mode(model_common.LegendDisplayMode.LIST).placement(model_common.LegendPlacement.BOTTOM)
    dashed = build_common.GraphThresholdsStyleConfig().mode(model_common.GraphThresholdsStyleMode.DASHED)
    # Without a soft maximum, the axis of a figure that stays at 0 goes up to 100.
    builder = timeseries.Panel().legend(legend).axis_soft_min(0).axis_soft_max(1).thresholds_style(dashed)
    if panel.kind == "bars":
        builder.draw_style(model_common.GraphDrawStyle.BARS).fill_opacity(60).line_width(0)
        builder.stacking(build_common.StackingConfig().mode(model_common.StackingMode.NORMAL).group("A"))
        return builder.decimals(0)
    return builder.fill_opacity(10)


def _thresholds(levels: str) -> build.ThresholdsConfig:
    base, *rest = levels.split()
    steps = [model.Threshold(color=base)]
    steps += [
        model.Threshold(value=json.loads(value), color=color)
        for value, color in zip(rest[::2], rest[1::2], strict=True)
    ]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def _mapping(value: str, shown: tuple[str, str]) -> model.ValueMapping:
    result = model.ValueMappingResult(text=shown[0], color=shown[1])
    if value == "nan":
        options = model.DashboardSpecialValueMapOptions(
            match=model.SpecialValueMatch.NULL_AND_NAN, result=result
        )
        return model.SpecialValueMap(options=options)
    if value.startswith(">="):
        return model.RangeMap(
            # Grafana takes an upper end of null for 0.
            options=model.DashboardRangeMapOptions(from_val=json.loads(value[2:]), to=1e12, result=result)
        )
    return model.ValueMap(options={value: result})


if __name__ == "__main__":
    TARGET.write_text(document())
