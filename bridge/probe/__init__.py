"""Tries every assumption about the exchange on the configured one; see `bridge.exchange.assumptions`."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bridge.config import Config
from bridge.errors import VisitFailed
from bridge.exchange.words import Confidential, printable
from bridge.probe import report
from bridge.probe.findings import Findings
from bridge.probe.messages import Messages
from bridge.probe.samples import Samples
from bridge.probe.steps import Probe
from bridge.stopping import STOP

Say = Callable[[str], None]
"""Where a line goes: to the standard output, or to a test."""


async def probe(
    config: Config,
    seconds: float,
    *,
    record: Path | None = None,
    json: bool = False,
    limits: bool = False,
    say: Say = print,
) -> int:
    """Visit the exchange, print what was found, and return the exit status.

    Listens for `seconds`, besides about half a minute of trying. `record` is a directory for one sample of
    each form of message. `limits` tries how many subscriptions and connections there may be. A stop ends the
    visit, and what was found until then is printed. The status is 1 if the exchange could not be visited, or
    if an assumption does not hold on which data depends.
    """
    confidential = Confidential(account.credentials() for account in config.accounts)
    messages = Messages(Findings(confidential), config.exchange.max_frame_bytes)
    samples = None if record is None else Samples(record)

    def keep(text: bytes) -> None:
        if samples is not None and not confidential.repeats(text):
            samples.keep(text)

    visit = Probe(config, messages, keep)
    begun, failed = time.monotonic(), ""
    visiting = asyncio.ensure_future(visit.run(seconds, limits=limits))
    try:
        with STOP.calls(partial(asyncio.get_running_loop().call_soon_threadsafe, visiting.cancel)):
            await asyncio.wait({visiting})
        if not visiting.cancelled():
            visiting.result()
    except VisitFailed as error:
        words = confidential.words(str(error))
        failed = f"the exchange at {config.exchange.address} could not be visited: {words}"
    took = time.monotonic() - begun
    if json:
        say(report.as_json(messages, visit.timed, took).decode())
    else:
        for line in report.lines(messages, visit.timed, took):
            say(printable(line))
        if visiting.cancelled():
            say("stopped before everything was tried")
    if failed:
        say(failed)
    return 1 if failed or messages.findings.costs_data else 0
