"""The log of the real command: one that nobody reads holds nothing up."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from tests.support.checks import assert_trades_are, records_of
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker, free_ports
from tests.support.process import SYMBOLS, config, fetch, toml
from tests.support.waiting import eventually

PAGE = 4096  # bytes, the smallest pipe
SECONDS = 90.0  # on a busy machine


def test_a_log_that_nobody_reads_holds_nothing_up(kafka: Broker, prefix: str, tmp_path: Path) -> None:
    """The bridge starts, answers, delivers and stops with a standard error that takes not a single byte."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PAGE)
    os.write(writer, b" " * PAGE)
    (port,) = free_ports(1)
    with ExchangeThread(symbols=SYMBOLS, rate=200) as exchange:
        settings = config(exchange.url, kafka, prefix, {"http": {"port": port}})
        (tmp_path / "bridge.toml").write_text(toml(settings))
        command = [sys.executable, "-m", "bridge", "run", "--config", "bridge.toml"]
        with subprocess.Popen(command, cwd=tmp_path, stderr=writer) as process:
            try:
                eventually(lambda: fetch(port, "/readyz")[0] == 200, SECONDS, "ready")
                assert fetch(port, "/healthz")[0] == 200
                eventually(
                    lambda: 'records_total{channel="trades"} 0.0' not in fetch(port, "/metrics")[1],
                    30,
                    "trades",
                )
                exchange.quiesce()
                process.terminate()
                assert process.wait(SECONDS) == 0
            finally:
                process.kill()
        assert_trades_are(records_of(kafka, prefix, "trades"), exchange.truth.made)
    assert os.read(reader, 2 * PAGE) == b" " * PAGE
    os.close(reader)
    os.close(writer)
