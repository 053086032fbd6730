"""Generate the Grafana dashboard, `helm/digifinex-bridge/dashboards/digifinex-bridge.json`.

`ROWS` is the table of its panels; the functions above it write the queries, those below it build the JSON.
"""

import json
from pathlib import Path
from typing import Literal, NamedTuple

from grafana_foundation_sdk.builders import common as build_common
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as model_common
from grafana_foundation_sdk.models import dashboard as model

from bridge.channels import CHANNELS
from bridge.watch.metrics import PREFIX

TARGET = Path(__file__).parents[1] / "helm" / "digifinex-bridge" / "dashboards" / "digifinex-bridge.json"

# The matcher `.*` also matches a series without the label, as cluster and pod outside Kubernetes.
_RELEASES = 'cluster=~"$cluster",namespace=~"$namespace"'
_SCOPE = f'{_RELEASES},pod=~"$pod"'
# The labels that identify a release: shard numbers and channels are the same in each.
_RELEASE = "cluster, namespace, job"
_DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
# Private channels may be quiet for days, and an order's timestamp need not be that of its change.
_PUBLIC = f'channel=~"{"|".join(name for name, channel in CHANNELS.items() if not channel.private)}"'
_CHOSEN = 'channel=~"$channel"'
_COLUMNS = 24


class Query(NamedTuple):
    """A PromQL expression, and the legend of its series."""

    expression: str
    legend: str = ""


class Panel(NamedTuple):
    """One panel: a stat shows the present value, a graph its course.

    `width` is in columns, of 24. `levels` reads from low to high: "green 2 orange 5 red" is green below 2,
    orange from 2 and red from 5 on. `runbook` is the section for the alert on the same figure, if any.
    """

    title: str
    kind: Literal["stat", "graph"]
    width: int
    unit: str
    levels: str
    runbook: str | None
    queries: tuple[Query, ...]
    text: str


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
    """Return the rate of a counter by a label."""
    return (Query(_rate(selector, f" by ({label})"), legend or f"{{{{{label}}}}}"),)


def _levels(selector: str, label: str, legend: str = "", combine: str = "sum") -> tuple[Query, ...]:
    """Return the value of a gauge by a label."""
    return (Query(f"{combine} by ({label}) ({selector})", legend or f"{{{{{label}}}}}"),)


def _each(expression: str, legend: str = "{{pod}}") -> tuple[Query, ...]:
    return (Query(expression, legend),)


def _total(expression: str) -> tuple[Query, ...]:
    return (Query(expression),)


def _worst_quantiles(name: str, *matchers: str) -> tuple[Query, ...]:
    """Return the quantiles of the channel in which they are largest, over the window of the alert."""
    buckets = f"rate({_of_channels(name + '_bucket', *matchers)}[5m])"
    return tuple(
        Query(
            f"max(histogram_quantile({quantile}, sum by ({_RELEASE}, channel, le) ({buckets})))",
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


def _counted(selector: str) -> tuple[Query, ...]:
    """Return how many were counted in the time range, as the alerts count.

    For a process that started within the range that is its total: what it counted before its first scrape is
    not part of any increase.
    """
    young = f"({selector} and on (instance, job) time() - process_start_time_seconds < $__range_s)"
    increase = f"increase({selector}[$__range])"
    return _total(f"round(sum(({young} > {increase}) or {increase} or {young}))")


def _since_last_push() -> tuple[Query, ...]:
    """Return each channel's age; a channel without a push yet is as old as its release's oldest process."""
    last = f"max by ({_RELEASE}, channel) ({_of_all_pods('last_push_timestamp_seconds', _CHOSEN, _PUBLIC)})"
    start = f"min by ({_RELEASE}) (process_start_time_seconds{{{_RELEASES}}})"
    since_start = f"({last} == 0) + on ({_RELEASE}) group_left {start}"
    return _each(f"max by (channel) (time() - (({last} > 0) or {since_start}))", "{{channel}}")


def _fewest_sessions() -> tuple[Query, ...]:
    """Return the sessions of the shard with the fewest; a shard that never had one has no series of them."""
    sessions = f"sum by ({_RELEASE}, shard) ({_of_all_pods('connected')})"
    never = f"{_of_all_pods('shard_owned')} == 1 unless {_of_all_pods('connected')}"
    waiting = f"({never}) and ignoring (shard) {_of_all_pods('ready')} == 0"
    return _total(f"min({sessions} or 0 * sum by ({_RELEASE}, shard) ({waiting}))")


def _stalled() -> tuple[Query, ...]:
    """Return how many replicas have records pending and get none acknowledged."""
    acknowledged = _rate(_of("records_total"), f" by ({_RELEASE}, pod)")
    pending = f"sum by ({_RELEASE}, pod) ({_of('pending_records')} + {_of('spool_records')})"
    return _total(f"sum(({acknowledged} == bool 0) * ({pending} > bool 0))")


def _process(expression: str) -> tuple[Query, ...]:
    """Return a metric of Prometheus' client, of the bridge's processes alone."""
    return _each(f"{expression} and on (instance, job) {_of('ready')}")


_UNOWNED = f"sum(sum by ({_RELEASE}, shard) ({_of_all_pods('shard_owned')}) == bool 0)"
# The limit is for all shards, each has an equal part of it: a pod has the parts of the shards that it serves.
_SPOOL_LIMIT = f"sum by (pod) ({_of('spool_limit_bytes')}) * avg by (pod) ({_of('shard_owned')})"

# fmt: off
ROWS = (
    # Panels: title, kind, width, unit, levels, section of the runbook, queries, description.
    Row("Is the data complete and current?", 4, (
        Panel("Replicas not ready", "stat", 3, "short", "green 1 red", "not-ready",
              _total(f"sum({_of('ready')} == bool 0)"),
              "Replicas that wait for Kafka, for their shards or for a session with the exchange. "
              "/readyz of each replica says what is missing."),
        Panel("Fewest sessions", "stat", 3, "short", "red 1 green", "feed-dead",
              _fewest_sessions(),
              "Open connections to the exchange, for the shard with the fewest. At 0, no data arrives for "
              "the shard's symbols."),
        Panel("Shards without an owner", "stat", 3, "short", "green 1 red", "shard-unowned",
              _total(_UNOWNED),
              "Shards that no replica serves. No data arrives for their symbols."),
        Panel("Time since last push", "stat", 9, "s", "green 60 orange 300 red", "channel-stale",
              _since_last_push(),
              "Time since the exchange last pushed anything on each public channel; since the start if it "
              "has pushed nothing yet. The oldest of all selected releases is shown."),
        Panel("Kafka stalled", "stat", 3, "short", "green 1 red", "kafka-unreachable",
              _stalled(),
              "Replicas that have records pending and get none acknowledged by Kafka."),
        Panel("Reading paused", "stat", 3, "short", "green 1 red", "reading-paused",
              _total(f"sum({_of('reading_paused')})"),
              "Shards that have paused reading from the exchange because memory and spool are full. Data "
              "that the exchange sends meanwhile can be lost."),
        Panel("Unfilled gaps", "stat", 4, "short", "green 0.5 orange", "gap-not-filled",
              _counted(_of_channels("gaps_total", 'cause!="first_listened"')),
              "Gaps in the selected time range that could not be filled. Their bounds are on the events "
              "topic."),
        Panel("Dead letters", "stat", 4, "short", "green 0.5 orange", "dead-letters",
              _counted(_of("deadletters_total")),
              "Frames in the selected time range that could not be turned into records. The dead letter "
              "topic has each complete frame with the reason."),
        Panel("Exchange lag", "stat", 8, "s", "green 2 orange 5 red", "exchange-lag-high",
              _worst_quantiles("exchange_lag_seconds", _PUBLIC),
              "Time from the exchange's timestamp to reception, for the slowest public channel. Timestamps "
              "of trades are often whole seconds, so up to 1 s is normal."),
        Panel("Delivery lag", "stat", 8, "s", "green 1 orange 5 red", "delivery-lag-high",
              _worst_quantiles("delivery_lag_seconds"),
              "Time from reception until a read_committed consumer can read the record, for the slowest "
              "channel. Exactly-once delivery adds up to kafka.commit_interval."),
    )),
    Row("Throughput", 7, (
        Panel("Records", "graph", 8, "cps", "green", None,
              _rates(_of_channels("records_total"), "channel"),
              "Records acknowledged by Kafka, by channel."),
        Panel("Frames", "graph", 8, "cps", "green", "feed-dead",
              _rates(_of("frames_total"), "shard", "shard {{shard}}"),
              "Frames received from the exchange, by shard. A shard at 0 receives nothing."),
        Panel("Bytes received", "graph", 8, "Bps", "green", None,
              _rates(_of("received_bytes_total"), "shard", "shard {{shard}}"),
              "Compressed bytes received from the exchange, by shard."),
        Panel("Delivery lag by channel", "graph", 8, "s", "green 1 orange 5 red", "delivery-lag-high",
              _quantiles(_of_channels("delivery_lag_seconds_bucket"), 0.99, label="channel"),
              "99th percentile of the time from reception until a consumer can read the record."),
        Panel("Exchange lag by channel", "graph", 8, "s", "green 2 orange 5 red", "exchange-lag-high",
              _quantiles(_of_channels("exchange_lag_seconds_bucket"), 0.99, label="channel"),
              "99th percentile of the time from the exchange's timestamp to reception."),
        Panel("Duplicates, recovered records, gaps", "graph", 8, "cps", "green", "gap-not-filled",
              (Query(_rate(_of_channels("duplicates_total")), "duplicates"),
               Query(_rate(_of_channels("recovered_total")), "recovered"),
               Query(_rate(_of_channels("live_duplicates_total")), "live duplicates"),
               Query(_rate(_of_channels("gaps_total"), " by (cause)"), "gaps: {{cause}}")),
              "Items that the exchange sent again and the bridge dropped; those of them that came in live "
              "pushes, which should be none; records recovered from the exchange's list of recent trades "
              "after an interruption; gaps that could not be filled, by their cause."),
    )),
    Row("Exchange", 7, (
        Panel("Reconnects by reason", "graph", 8, "cps", "green", "reconnect-storm",
              _rates(_of("reconnects_total"), "reason"),
              "Sessions replaced by new ones. `rotated`: planned, loses nothing. `refused`: HTTP 502 or "
              "429. `stale`: no data. `rejected`: a subscription or an account was refused."),
        Panel("Sessions by shard", "graph", 8, "short", "green", "feed-dead",
              _levels(_of("connected"), "shard", "shard {{shard}}"),
              "Open connections to the exchange. A shard that stays at 0 receives nothing."),
        Panel("Ping", "graph", 8, "s", "green 1 orange 5 red", None,
              _quantiles(_of("ping_seconds_bucket"), 0.5, 0.99),
              "Round trip from a ping to its pong: how fast the exchange and the network respond."),
        Panel("Decompression errors", "graph", 8, "cps", "green", "decompression-errors",
              _each(_rate(_of("decompression_errors_total")), "errors"),
              "Frames that could not be decompressed; they are on the dead letter topic. If there are many, "
              "the exchange may have changed its compression."),
        Panel("Dead letters by reason", "graph", 8, "cps", "green", "dead-letters",
              _rates(_of("deadletters_total"), "reason"),
              "`payload`: the dead letter's detail names the bad item. `unknown_method`: the exchange "
              "pushes something new."),
        Panel("Clock offset", "graph", 8, "s", "green", None,
              _each(_of("clock_offset_seconds")),
              "The exchange's clock minus the pod's. Beyond 1 s, exchange lag is not meaningful. 0 without "
              "accounts."),
    )),
    Row("Kafka", 7, (
        Panel("Kafka errors by name", "graph", 8, "cps", "green", "kafka-unreachable",
              _rates(_of("kafka_errors_total"), "error"),
              "Errors returned by Kafka or its client. The bridge retries, in order, until it succeeds."),
        Panel("Records in memory", "graph", 8, "short", "green", "kafka-unreachable",
              _levels(_of("pending_records"), "pod"),
              "Records in memory that Kafka has not acknowledged yet. A sawtooth with the period of "
              "kafka.commit_interval is normal."),
        Panel("Bytes in memory", "graph", 8, "bytes", "green", "kafka-unreachable",
              _levels(_of("pending_bytes"), "pod, part", "{{pod}} {{part}}"),
              "queue: records for Kafka; beyond kafka.max_pending_bytes per shard, they go to disk. "
              "exchange: what was read from the exchange and is held before that, by a pause or a rotation."),
        Panel("Shard owners", "graph", 8, "short", "green", "shard-unowned",
              _levels(_of("shard_owned"), "shard, pod", "shard {{shard}} {{pod}}"),
              "1 for the pod that serves the shard. Every shard needs one."),
        Panel("Shards lost", "graph", 8, "cps", "green", "shard-unowned",
              _rates(_of("shards_lost_total"), "pod"),
              "Shards lost by a replica that was serving them: another replica joined, or this one was "
              "frozen or cut off from Kafka."),
        Panel("Reading paused by shard", "graph", 8, "short", "green 1 red", "reading-paused",
              _levels(_of("reading_paused"), "shard", "shard {{shard}}", combine="max"),
              "1 while the shard has paused reading from the exchange because memory and spool are full."),
    )),
    Row("Spool", 7, (
        Panel("Bytes on disk", "graph", 8, "bytes", "green", "spool-filling",
              (*_levels(_of("spool_bytes"), "pod"), Query(_SPOOL_LIMIT, "limit of {{pod}}")),
              "Spooled bytes, and the limit for the pod's shards at which reading pauses."),
        Panel("Records on disk", "graph", 8, "short", "green", "spool-filling",
              _levels(_of("spool_records"), "pod"),
              "Spooled records. Falls while Kafka accepts records faster than the exchange sends them."),
        Panel("Age of oldest record on disk", "graph", 8, "s", "green", "spool-filling",
              _levels(_of("spool_age_seconds"), "pod", combine="max"),
              "How far consumers are behind while the spool is being drained."),
    )),
    Row("Process", 7, (
        Panel("CPU", "graph", 6, "short", "green 0.7 orange 0.9 red", None,
              _process("rate(process_cpu_seconds_total[$__rate_interval])"),
              "Cores. One process can use one core at most; beyond that, add shards and replicas."),
        Panel("Memory", "graph", 6, "bytes", "green", None,
              _process("process_resident_memory_bytes"),
              "Resident memory."),
        Panel("Uptime", "graph", 6, "s", "green", "replica-missing",
              _process("time() - process_start_time_seconds"),
              "Time since the process started. A sawtooth means crashes: see the pod's previous log."),
        Panel("Versions", "graph", 6, "short", "green", "replica-missing",
              _levels(_of("build_info"), "version", combine="count"),
              "Replicas by version. Two versions for longer than a rollout takes: the rollout is stuck."),
    )),
)
# fmt: on


def document() -> str:
    """Return the text of the dashboard."""
    return json.dumps(_dashboard(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


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


def _variables() -> list[build.DatasourceVariable | build.QueryVariable | build.TextBoxVariable]:
    def label(name: str, source: str) -> build.QueryVariable:
        return (
            build.QueryVariable(name)
            .label(name)
            .datasource(_DATASOURCE)
            .query({"query": f"label_values({source}, {name})", "refId": name})
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.ALPHABETICAL_ASC)
            .multi(multi=True)
            .include_all(include_all=True)
            .all_value(".*")
            .current(model.VariableOption(text=["All"], value=["$__all"], selected=True))
        )

    info = f"{PREFIX}build_info"
    return [
        build.DatasourceVariable("datasource").label("data source").type("prometheus"),
        label("cluster", info),
        label("namespace", f'{info}{{cluster=~"$cluster"}}'),
        label("pod", f'{info}{{cluster=~"$cluster",namespace=~"$namespace"}}'),
        label("channel", f"{PREFIX}records_total"),
        build.TextBoxVariable("runbook").label("runbook").default_value("docs/runbook.md"),
    ]


def _panel(panel: Panel) -> stat.Panel | timeseries.Panel:
    builder: stat.Panel | timeseries.Panel
    if panel.kind == "stat":
        calculation = build_common.ReduceDataOptions().calcs(["lastNotNull"])
        mode = model_common.BigValueColorMode.BACKGROUND
        builder = stat.Panel().reduce_options(calculation).color_mode(mode)
        builder.graph_mode(model_common.BigValueGraphMode.NONE)
    else:
        legend = build_common.VizLegendOptions().show_legend(show_legend=True)
        legend.display_mode(model_common.LegendDisplayMode.LIST).placement(
            model_common.LegendPlacement.BOTTOM
        )
        builder = timeseries.Panel().legend(legend).fill_opacity(10).axis_soft_min(0)
        dashed = build_common.GraphThresholdsStyleConfig().mode(model_common.GraphThresholdsStyleMode.DASHED)
        builder.thresholds_style(dashed)
    builder.title(panel.title).description(panel.text).datasource(_DATASOURCE).unit(panel.unit)
    builder.thresholds(_thresholds(panel.levels))
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


def _thresholds(levels: str) -> build.ThresholdsConfig:
    base, *rest = levels.split()
    steps = [model.Threshold(color=base)]
    steps += [
        model.Threshold(value=json.loads(value), color=color)
        for value, color in zip(rest[::2], rest[1::2], strict=True)
    ]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


if __name__ == "__main__":
    TARGET.write_text(document())
