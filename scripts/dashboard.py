"""Write the Grafana dashboard, `helm/digifinex-bridge/dashboards/digifinex-bridge.json`."""

import json
from pathlib import Path
from typing import Literal, NamedTuple

from grafana_foundation_sdk.builders import common as build_common
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as model_common
from grafana_foundation_sdk.models import dashboard as model

from bridge.watch.metrics import PREFIX

TARGET = Path(__file__).parents[1] / "helm" / "digifinex-bridge" / "dashboards" / "digifinex-bridge.json"

# A matcher takes `.*` also for a label that is not there, as cluster and pod outside Kubernetes.
_RELEASES = 'cluster=~"$cluster",namespace=~"$namespace"'
_SCOPE = f'{_RELEASES},pod=~"$pod"'
# What tells a release from others: shards of the same number, and channels, are of their own.
_RELEASE = "cluster, namespace, job"
_DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
# Private channels are quiet by nature, and an order's time need not be that of its change.
_PUBLIC = 'channel=~"trades|depth|ticker|all_ticker"'
_CHOSEN = 'channel=~"$channel"'
_COLUMNS = 24


class Query(NamedTuple):
    """An expression, and what its series are called."""

    expression: str
    legend: str = ""


class Panel(NamedTuple):
    """A panel: a stat says what is, a graph how it came to be.

    `limits` are where it turns orange and red, None where it doesn't; `runbook` is the section about the
    alert that watches the same.
    """

    title: str
    text: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    kind: Literal["stat", "graph"] = "graph"
    limits: tuple[float | None, float | None] = (None, None)
    low_is_bad: bool = False
    runbook: str | None = None


class Row(NamedTuple):
    """A row of panels under a heading."""

    title: str
    height: int
    panels: tuple[Panel, ...]


def _of(name: str, *matchers: str) -> str:
    """Return the selector of one of the bridge's metrics."""
    return f"{PREFIX}{name}{{{','.join([_SCOPE, *matchers])}}}"


def _of_channels(name: str, *matchers: str) -> str:
    return _of(name, _CHOSEN, *matchers)


def _of_all_pods(name: str, *matchers: str) -> str:
    """Return the selector of what only all replicas together can tell."""
    return f"{PREFIX}{name}{{{','.join([_RELEASES, *matchers])}}}"


def _rate(selector: str, by: str = "") -> str:
    return f"sum{by}(rate({selector}[$__rate_interval]))"


def _quantiles(name: str, *matchers: str) -> tuple[Query, ...]:
    """Return those of the channel where they are largest, over the window of the alert."""
    buckets = f"rate({_of_channels(name + '_bucket', *matchers)}[5m])"
    return tuple(
        Query(
            f"max(histogram_quantile({quantile}, sum by ({_RELEASE}, channel, le) ({buckets})))",
            f"p{quantile * 100:g}",
        )
        for quantile in (0.5, 0.99)
    )


def _by_channel(name: str, quantile: float) -> Query:
    buckets = _rate(_of_channels(name + "_bucket"), " by (le, channel)")
    return Query(f"histogram_quantile({quantile}, {buckets})", f"{{{{channel}}}} p{quantile * 100:g}")


def _counted(selector: str) -> Query:
    """Count as the alerts do.

    That is all of a process that began in the time shown: what is counted before the first scrape is no
    increase.
    """
    young = f"({selector} and on (instance, job) time() - process_start_time_seconds < $__range_s)"
    increase = f"increase({selector}[$__range])"
    return Query(f"round(sum(({young} > {increase}) or {increase} or {young}))")


def _age() -> Query:
    """Return each channel's age; one that never had a push is as old as its release's oldest process."""
    last = f"max by ({_RELEASE}, channel) ({_of_all_pods('last_push_timestamp_seconds', _CHOSEN, _PUBLIC)})"
    start = f"min by ({_RELEASE}) (process_start_time_seconds{{{_RELEASES}}})"
    begun = f"({last} == 0) + on ({_RELEASE}) group_left {start}"
    return Query(f"max by (channel) (time() - (({last} > 0) or {begun}))", "{{channel}}")


def _fewest_sessions() -> Query:
    """Return those of the shard that has the fewest; one that never had any has no series of them."""
    sessions = f"sum by ({_RELEASE}, shard) ({_of_all_pods('connected')})"
    never = f"{_of_all_pods('shard_owned')} == 1 unless {_of_all_pods('connected')}"
    waiting = f"({never}) and ignoring (shard) {_of_all_pods('ready')} == 0"
    return Query(f"min({sessions} or 0 * sum by ({_RELEASE}, shard) ({waiting}))")


_PROCESS = f"and on (instance, job) {_of('ready')}"

ROWS = (
    Row(
        "Is the data whole and fresh?",
        4,
        (
            Panel(
                "Replicas not ready",
                "Replicas that lack a subscription's confirmation, or an answer of Kafka. /readyz of each "
                "says what is missing.",
                (Query(f"sum({_of('ready')} == bool 0)"),),
                width=3,
                kind="stat",
                limits=(None, 1),
                runbook="not-ready",
            ),
            Panel(
                "Fewest sessions",
                "Connections to the exchange, of the shard that has the fewest. 0: nothing comes of its "
                "symbols.",
                (_fewest_sessions(),),
                width=3,
                kind="stat",
                limits=(None, 1),
                low_is_bad=True,
                runbook="feed-dead",
            ),
            Panel(
                "Shards without an owner",
                "Shards that no replica serves: their symbols are missing on Kafka.",
                (Query(f"sum(sum by ({_RELEASE}, shard) ({_of_all_pods('shard_owned')}) == bool 0)"),),
                width=3,
                kind="stat",
                limits=(None, 1),
                runbook="shard-unowned",
            ),
            Panel(
                "Since the last push",
                "Age of each public channel's last push, on whichever replica, of the release where it is "
                "oldest; since the start, if there was none. Old: the channel is stale.",
                (_age(),),
                unit="s",
                width=9,
                kind="stat",
                limits=(60, 300),
                runbook="channel-stale",
            ),
            Panel(
                "Kafka stalled",
                "Replicas where records wait and Kafka takes none.",
                (
                    Query(
                        f"sum(({_rate(_of('records_total'), f' by ({_RELEASE}, pod)')} == bool 0)"
                        f" * (sum by ({_RELEASE}, pod) ({_of('pending_records')} + {_of('spool_records')})"
                        " > bool 0))"
                    ),
                ),
                width=3,
                kind="stat",
                limits=(None, 1),
                runbook="kafka-unreachable",
            ),
            Panel(
                "Reading paused",
                "Shards that don't read from the exchange, for what waits for Kafka has filled memory and "
                "disk. What is sent meanwhile may be lost.",
                (Query(f"sum({_of('reading_paused')})"),),
                width=3,
                kind="stat",
                limits=(None, 1),
                runbook="reading-paused",
            ),
            Panel(
                "Gaps not filled",
                "Stretches in the time shown in which data may be missing for good. Their bounds are on the "
                "events topic.",
                (_counted(_of_channels("gaps_total")),),
                width=4,
                kind="stat",
                limits=(0.5, None),
                runbook="gap-not-filled",
            ),
            Panel(
                "Dead letters",
                "Frames in the time shown that could not become records. They are whole on the dead-letter "
                "topic, with the reason.",
                (_counted(_of("deadletters_total")),),
                width=4,
                kind="stat",
                limits=(0.5, None),
                runbook="dead-letters",
            ),
            Panel(
                "Exchange lag",
                "From the exchange's own time to reception, of the slowest public channel. Times of trades "
                "are whole seconds, so up to one is normal.",
                _quantiles("exchange_lag_seconds", _PUBLIC),
                unit="s",
                width=8,
                kind="stat",
                limits=(2, 5),
                runbook="exchange-lag-high",
            ),
            Panel(
                "Delivery lag",
                "From reception to the moment a read_committed consumer can see the record, of the slowest "
                "channel. Exactly-once adds up to kafka.commit_interval.",
                _quantiles("delivery_lag_seconds"),
                unit="s",
                width=8,
                kind="stat",
                limits=(1, 5),
                runbook="delivery-lag-high",
            ),
        ),
    ),
    Row(
        "Throughput",
        7,
        (
            Panel(
                "Records",
                "Records that Kafka has acknowledged, by channel.",
                (Query(_rate(_of_channels("records_total"), " by (channel)"), "{{channel}}"),),
                unit="cps",
            ),
            Panel(
                "Frames",
                "Frames received, by shard. A shard at 0 gets nothing.",
                (Query(_rate(_of("frames_total"), " by (shard)"), "shard {{shard}}"),),
                unit="cps",
                runbook="feed-dead",
            ),
            Panel(
                "Bytes received",
                "Bytes of frames as the exchange compressed them, by shard.",
                (Query(_rate(_of("received_bytes_total"), " by (shard)"), "shard {{shard}}"),),
                unit="Bps",
            ),
            Panel(
                "Delivery lag by channel",
                "The slowest hundredth of each channel's records, from reception to visibility.",
                (_by_channel("delivery_lag_seconds", 0.99),),
                unit="s",
                limits=(1, 5),
                runbook="delivery-lag-high",
            ),
            Panel(
                "Exchange lag by channel",
                "The slowest hundredth of each channel's pushes, from the exchange's time to reception.",
                (_by_channel("exchange_lag_seconds", 0.99),),
                unit="s",
                limits=(2, 5),
                runbook="exchange-lag-high",
            ),
            Panel(
                "Repeated and filled in",
                "Items that the exchange repeated and that were left out; records that were filled in from "
                "its history after an interruption; gaps that it could not fill.",
                (
                    Query(_rate(_of_channels("duplicates_total")), "repeated"),
                    Query(_rate(_of_channels("recovered_total")), "filled in"),
                    Query(_rate(_of_channels("gaps_total")), "gaps"),
                ),
                unit="cps",
                runbook="gap-not-filled",
            ),
        ),
    ),
    Row(
        "Exchange",
        7,
        (
            Panel(
                "Reconnects by reason",
                "Sessions replaced. `rotated` is planned and costs nothing. `refused`: 502 or 429; `stale`: "
                "silence; `rejected`: a subscription or a login.",
                (Query(_rate(_of("reconnects_total"), " by (reason)"), "{{reason}}"),),
                unit="cps",
                runbook="reconnect-storm",
            ),
            Panel(
                "Sessions by shard",
                "Connections that are open. A drop that does not come back is a shard that gets nothing.",
                (Query(f"sum by (shard) ({_of('connected')})", "shard {{shard}}"),),
                runbook="feed-dead",
            ),
            Panel(
                "Ping",
                "From a ping to its pong: how quick the exchange and the way to it are.",
                tuple(
                    Query(
                        f"histogram_quantile({quantile}, {_rate(_of('ping_seconds_bucket'), ' by (le)')})",
                        f"p{quantile * 100:g}",
                    )
                    for quantile in (0.5, 0.99)
                ),
                unit="s",
                limits=(1, 5),
            ),
            Panel(
                "Decompression errors",
                "Frames that could not be inflated. They are dead letters. Many: the exchange has changed "
                "something.",
                (Query(_rate(_of("decompression_errors_total")), "errors"),),
                unit="cps",
                runbook="decompression-errors",
            ),
            Panel(
                "Dead letters by reason",
                "`payload` names the item and what is wrong with it; `unknown_method` is something new.",
                (Query(_rate(_of("deadletters_total"), " by (reason)"), "{{reason}}"),),
                unit="cps",
                runbook="dead-letters",
            ),
            Panel(
                "Clock offset",
                "How far the exchange's clock is ahead of the pod's. Beyond a second, exchange lag says "
                "little.",
                (Query(_of("clock_offset_seconds"), "{{pod}}"),),
                unit="s",
            ),
        ),
    ),
    Row(
        "Kafka",
        7,
        (
            Panel(
                "Errors by name",
                "What Kafka answered, or that it did not. Each is retried, in order, until it works.",
                (Query(_rate(_of("kafka_errors_total"), " by (error)"), "{{error}}"),),
                unit="cps",
                runbook="kafka-unreachable",
            ),
            Panel(
                "Waiting in memory",
                "Records that Kafka has not acknowledged. A sawtooth of commit_interval is normal.",
                (Query(f"sum by (pod) ({_of('pending_records')})", "{{pod}}"),),
                runbook="kafka-unreachable",
            ),
            Panel(
                "Bytes waiting in memory",
                "Beyond kafka.max_pending_bytes a shard, records go to disk.",
                (Query(f"sum by (pod) ({_of('pending_bytes')})", "{{pod}}"),),
                unit="bytes",
                runbook="kafka-unreachable",
            ),
            Panel(
                "Who serves which shard",
                "1 for the pod that serves the shard. Each has to have one.",
                (Query(f"sum by (shard, pod) ({_of('shard_owned')})", "shard {{shard}} {{pod}}"),),
                runbook="shard-unowned",
            ),
            Panel(
                "Shards lost",
                "Shards taken away from a replica while it served them: it was frozen, or cut off from "
                "Kafka.",
                (Query(_rate(_of("shards_lost_total"), " by (pod)"), "{{pod}}"),),
                unit="cps",
                runbook="shard-unowned",
            ),
            Panel(
                "Reading paused by shard",
                "1 while memory and disk are full and the shard does not read from the exchange.",
                (Query(f"max by (shard) ({_of('reading_paused')})", "shard {{shard}}"),),
                limits=(None, 1),
                runbook="reading-paused",
            ),
        ),
    ),
    Row(
        "Spool",
        7,
        (
            Panel(
                "Bytes on disk",
                "What waits on disk, and the limit of the pod's shards, at which reading pauses.",
                (
                    Query(f"sum by (pod) ({_of('spool_bytes')})", "{{pod}}"),
                    # Each shard has a share of it.
                    Query(
                        f"sum by (pod) ({_of('spool_limit_bytes')}) * avg by (pod) ({_of('shard_owned')})",
                        "limit of {{pod}}",
                    ),
                ),
                unit="bytes",
                runbook="spool-filling",
            ),
            Panel(
                "Records on disk",
                "Falls when Kafka takes more than the exchange sends.",
                (Query(f"sum by (pod) ({_of('spool_records')})", "{{pod}}"),),
                runbook="spool-filling",
            ),
            Panel(
                "Age of the oldest on disk",
                "How late consumers get what they get now.",
                (Query(f"max by (pod) ({_of('spool_age_seconds')})", "{{pod}}"),),
                unit="s",
                runbook="spool-filling",
            ),
        ),
    ),
    Row(
        "Process",
        7,
        (
            Panel(
                "CPU",
                "Cores. One process can't use more than one for long: then more shards and replicas are "
                "needed.",
                (Query(f"rate(process_cpu_seconds_total[$__rate_interval]) {_PROCESS}", "{{pod}}"),),
                limits=(0.7, 0.9),
                width=6,
            ),
            Panel(
                "Memory",
                "Resident bytes.",
                (Query(f"process_resident_memory_bytes {_PROCESS}", "{{pod}}"),),
                unit="bytes",
                width=6,
            ),
            Panel(
                "Up since",
                "Hours since the process began. Saw teeth are crashes: see the pod's previous log.",
                (Query(f"time() - process_start_time_seconds {_PROCESS}", "{{pod}}"),),
                unit="s",
                width=6,
                runbook="replica-missing",
            ),
            Panel(
                "Versions",
                "Replicas by version. Two of them for longer than a rollout: it is stuck.",
                (Query(f"count by (version) ({_of('build_info')})", "{{version}}"),),
                width=6,
                runbook="replica-missing",
            ),
        ),
    ),
)


def document() -> str:
    """Return the whole text of the dashboard."""
    return json.dumps(_dashboard(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _dashboard() -> model.Dashboard:
    builder = (
        build.Dashboard("DigiFinex bridge")
        .uid("digifinex-bridge")
        .description("Every push of the DigiFinex WebSocket API onto Kafka: is it whole and fresh?")
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
    builder.thresholds(_thresholds(panel))
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


def _thresholds(panel: Panel) -> build.ThresholdsConfig:
    orange, red = panel.limits
    if panel.low_is_bad:
        steps = [model.Threshold(color="red"), model.Threshold(value=red, color="green")]
    else:
        steps = [model.Threshold(color="green")]
        steps += [
            model.Threshold(value=limit, color=color)
            for limit, color in ((orange, "orange"), (red, "red"))
            if limit is not None
        ]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


if __name__ == "__main__":
    TARGET.write_text(document())
