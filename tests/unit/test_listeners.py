"""`run` serves `/status` with the other paths, or on an address of its own."""

import asyncio
import urllib.error
import urllib.request

import pytest
import uvloop
from structlog.testing import capture_logs

from bridge import service
from bridge.config import Config
from tests.support.waiting import soon


def statuses(port: int) -> dict[str, int]:
    """Return the HTTP status of each path."""
    found = {}
    for path in ("/metrics", "/healthz", "/readyz", "/status"):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                found[path] = answer.status
        except urllib.error.HTTPError as error:
            with error:
                found[path] = error.code
    return found


@pytest.mark.parametrize("apart", [False, True])
def test_status_is_served_where_it_is_configured(*, apart: bool) -> None:
    settings = Config.model_validate(
        {
            "channels": {"trades": ["BTC_USDT"]},
            "kafka": {"bootstrap_servers": "127.0.0.1:1"},
            "http": {"port": 0} | ({"status_host": "127.0.0.1"} if apart else {}),
        }
    )

    async def scenario() -> list[dict[str, int]]:
        with capture_logs() as lines:
            running = asyncio.create_task(service.run(settings))
            await soon(lambda: "Kafka unavailable" in str(lines), 10, "it runs")
            listening = [line["port"] for line in lines if line["event"] == "HTTP endpoints listening"]
            found = [await asyncio.to_thread(statuses, port) for port in listening]
            running.cancel()
            await asyncio.wait({running})
        return found

    probes = {"/metrics": 200, "/healthz": 200, "/readyz": 503}
    nothing = dict.fromkeys(probes, 404)
    expected = (
        [probes | {"/status": 404}, nothing | {"/status": 200}] if apart else [probes | {"/status": 200}]
    )
    assert uvloop.run(scenario()) == expected
