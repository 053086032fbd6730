"""Draw the dashboard in five scenes, with Grafana's own components and a real Prometheus.

Two bridges share two shards of a simulated exchange and put them onto a real Kafka. Prometheus scrapes
them and evaluates the rules. Then one replica is killed, the exchange refuses everybody, Kafka is killed, and
at last both replicas; before each of these is mended, the dashboard is drawn. What Prometheus has recorded is
kept in the folder given, so that a changed dashboard can be drawn again in seconds; a new folder records
anew, which takes 25 minutes.

Needs npm and chromium besides what `make setup` installs. What Grafana itself would add cannot be drawn this
way: variables, links and annotations.
"""

import argparse
import json
import math
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from tests.monitoring.prometheus import Prometheus
from tests.monitoring.rules import ROOT, RULES
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker, free_ports
from tests.support.process import ACCOUNTS, SYMBOLS, RunningBridge, config

DASHBOARD = ROOT / "helm" / "digifinex-bridge" / "dashboards" / "digifinex-bridge.json"
DOCS = ROOT / "docs"
SOURCES = Path(__file__).parent
TOOLS = ROOT / ".cache" / "pictures"
JOB = "md/feed"
# Scenes whose first rows are shown in the documents.
SHOWN = {"healthy": "dashboard.png", "kafka-gone": "dashboard-kafka-gone.png"}
_ROW = 38  # pixels; as in draw.js
_SHOWN_ROWS = 26
_WIDTH = 1500
_BEFORE = 900  # seconds of the past that a picture shows
# Without the first data, which would be a flat line, and with the alerts' own delays.
_STEADY, _KILLED, _MENDED, _REFUSED, _KAFKA, _ZERO = 150, 90, 45, 260, 330, 200


def record(folder: Path) -> None:
    """Play the scenes, and write down when each was at its worst."""
    times: dict[str, float] = {}
    with ExitStack() as stack:
        kafka = stack.enter_context(Broker())
        exchange = stack.enter_context(ExchangeThread(symbols=SYMBOLS, rate=200, accounts=ACCOUNTS))
        ports = free_ports(2)
        prefix = f"pictures-{uuid.uuid4().hex[:8]}"
        settings = [_settings(exchange.url, kafka, prefix, port) for port in ports]
        targets = {
            port: {"cluster": "production", "namespace": "md", "pod": f"feed-{number}"}
            for number, port in enumerate(ports)
        }
        bridges = [
            stack.enter_context(RunningBridge(_made(folder / targets[port]["pod"]), one))
            for port, one in zip(ports, settings, strict=True)
        ]
        stack.enter_context(_prometheus(folder, targets))
        for bridge in bridges:
            bridge.wait_ready(120)

        def scene(name: str, seconds: float) -> None:
            time.sleep(seconds)
            times[name] = time.time()

        scene("healthy", _STEADY)
        bridges[1].process.kill()
        scene("replica-killed", _KILLED)
        again = stack.enter_context(RunningBridge(_made(folder / "feed-1-again"), settings[1]))
        time.sleep(_MENDED)
        exchange.run(exchange.simulator.drop_all(refuse=1_000_000))
        scene("exchange-gone", _REFUSED)
        exchange.call(exchange.simulator.refuse, 0)
        time.sleep(_MENDED)
        kafka.kill()
        scene("kafka-gone", _KAFKA)
        kafka.start()
        time.sleep(_MENDED)
        bridges[0].process.kill()
        again.process.kill()
        scene("release-at-zero", _ZERO)
    (folder / "scenes.json").write_text(json.dumps(times))


def _settings(url: str, kafka: Broker, prefix: str, port: int) -> dict[str, Any]:
    sections: dict[str, dict[str, Any]] = {
        "exchange": {"reconnect_max": 10.0, "ping_interval": 5.0},
        "kafka": {"shards": 2, "max_pending_bytes": 1_000_000, "session_timeout": 6.0},
        "spool": {"max_bytes": 300_000_000},
        "http": {"port": port},
    }
    return config(url, kafka, prefix, sections, accounts=True)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _prometheus(folder: Path, targets: Mapping[int, Mapping[str, str]]) -> Prometheus:
    """Return a Prometheus with the alerts, and with the constant that the chart adds."""
    rules = yaml.safe_load(RULES.read_text())
    wanted = {
        "record": "digifinex_bridge:replicas_wanted",
        "expr": "vector(2)",
        "labels": {"cluster": "production", "namespace": "md", "job": JOB},
    }
    rules["groups"].insert(0, {"name": "replicas", "rules": [wanted]})
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    return Prometheus(folder, folder / "rules.yaml", targets, JOB, interval=5)


def draw(folder: Path) -> None:
    """Draw each scene as it was recorded, into the folder, and two of them into the documents."""
    tools()
    times = json.loads((folder / "scenes.json").read_text())
    rows = _rows(json.loads(DASHBOARD.read_text()))
    with _prometheus(folder, {}) as prometheus:
        for name, at in times.items():
            (TOOLS / "page.html").write_text(_page(prometheus, at))
            shoot(folder / f"{name}.png", rows)
            if name in SHOWN:
                shoot(DOCS / SHOWN[name], _SHOWN_ROWS)


def tools() -> None:
    """Install Grafana's components and bundle draw.js with them, unless that is done."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    for name in ("draw.js", "package.json"):
        shutil.copy(SOURCES / name, TOOLS)
    wanted, installed = (TOOLS / "package.json").read_text(), TOOLS / "installed.json"
    if not installed.exists() or installed.read_text() != wanted:
        # Scripts of packages would fetch programs from elsewhere.
        install = ["npm", "install", "--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund"]
        subprocess.run(install, cwd=TOOLS, check=True)
        installed.write_text(wanted)
    bundle = ["npx", "esbuild", "draw.js", "--bundle", "--outfile=draw.out.js", "--minify"]
    subprocess.run([*bundle, "--loader:.js=jsx", "--loader:.ttf=empty"], cwd=TOOLS, check=True)


def shoot(picture: Path, rows: int) -> None:
    """Take a picture of the first rows of the page."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--window-size={_WIDTH},{rows * _ROW + 10}", "--virtual-time-budget=10000"]
    command += [f"--screenshot={picture}", f"file://{TOOLS}/page.html"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not picture.exists():
        raise RuntimeError(f"chromium took no picture: {done.stderr}")


def _rows(dashboard: dict[str, Any]) -> int:
    place = dashboard["panels"][-1]["gridPos"]
    return int(place["y"] + place["h"])


def _page(prometheus: Prometheus, at: float) -> str:
    dashboard = json.loads(DASHBOARD.read_text())
    begin = at - _BEFORE
    step = max(5, _BEFORE // 180)
    variables = {one["name"]: ".*" for one in dashboard["templating"]["list"]}
    variables |= {"__rate_interval": "60s", "__range": f"{_BEFORE}s", "__range_s": str(_BEFORE)}
    variables["channel"] = "|".join(prometheus.label_values("channel", "digifinex_bridge_subscriptions"))
    panels = []
    for panel in dashboard["panels"]:
        series = [
            _series(target, one)
            for target in panel.get("targets", [])
            for one in _asked(prometheus, target["expr"], target.get("instant"), variables, (begin, at, step))
        ]
        panels.append(
            {key: panel.get(key, {}) for key in ("type", "title", "description", "gridPos", "options")}
            | {"defaults": panel.get("fieldConfig", {}).get("defaults", {}), "series": series, "step": step}
        )
    data = {"from": begin, "to": at, "width": _WIDTH, "rows": _rows(dashboard), "panels": panels}
    return (
        "<!doctype html><meta charset=utf-8>"
        "<link rel=stylesheet href=node_modules/uplot/dist/uPlot.min.css>"
        "<style>*{box-sizing:border-box}body{color:#ccccdc;font-size:14px;margin:0;background:#111217}"
        "button{background:none;border:0;color:inherit;font:inherit}</style>"
        f"<div id=root></div><script>window.DATA={json.dumps(data)};"
        "window.grafanaBootData={settings:{},user:{}};</script><script src=draw.out.js></script>"
    )


def _series(target: dict[str, Any], one: dict[str, Any]) -> dict[str, Any]:
    """Return a series as draw.js takes it, with the name that its legend says."""
    legend = target.get("legendFormat", "")
    samples = one.get("values", [one.get("value")])
    return {
        "refId": target["refId"],
        "name": re.sub(r"\{\{(\w+)\}\}", lambda label: one["metric"].get(label[1], ""), legend),
        "times": [float(when) for when, _ in samples],
        "values": [_number(value) for _, value in samples],
    }


def _asked(
    prometheus: Prometheus,
    expression: str,
    instant: bool | None,
    variables: dict[str, str],
    over: tuple[float, float, int],
) -> list[dict[str, Any]]:
    """Return the answer to a panel's query, as Grafana asks it for the time range."""
    query = re.sub(r"\$([a-z_]\w*)", lambda name: variables[name[1]], expression)
    begin, at, step = map(str, over)
    if instant:
        return list(prometheus.get("query", query=query, time=at)["result"])
    return list(prometheus.get("query_range", query=query, start=begin, end=at, step=step)["result"])


def _number(text: str) -> float | None:
    """Return a sample as JSON can hold it: Grafana, too, gets null for what is not a number."""
    value = float(text)
    return value if math.isfinite(value) else None


def main() -> None:
    """Record the scenes unless the folder has them, and draw them."""
    parser = argparse.ArgumentParser(prog="python -m tests.monitoring.pictures", description=__doc__)
    parser.add_argument("folder", type=Path, help="keeps what Prometheus records, and gets the pictures")
    folder = parser.parse_args().folder.absolute()
    if not (folder / "scenes.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        record(folder)
    draw(folder)


if __name__ == "__main__":
    main()
