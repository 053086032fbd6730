"""Reports what others have written to bridge-state, as events of the shard that has found it."""

import time
from collections.abc import Iterable
from itertools import islice
from typing import TypeGuard

from bridge.config import Config
from bridge.kafka.contents import Found, Second, Unreadable
from bridge.plan import shard_of
from bridge.watch.events import Journal

_MOST = 100  # events for what is found at once; the rest is counted


class Findings:
    """The reports of one shard."""

    def __init__(self, shard: int, config: Config, journal: Journal) -> None:
        self._shard = shard
        self._shards = config.kafka.shards
        self._accounts = {account.name for account in config.accounts}
        self._journal = journal

    def report(self, found: Iterable[Found], *, at_takeover: bool = False) -> None:
        """Report what was found.

        A watermark that can't be used says nothing about which trades are on Kafka. So there is a gap as
        well, unless the shard is being served, and so has the watermark in memory.
        """
        rest = iter(found)
        for one in islice(rest, _MOST):
            if isinstance(one, Second):
                self._report_second(one)
            else:
                self._report_unreadable(one)
                if at_takeover and self._is_ours(one.symbol):
                    self._report_gap(one.symbol)
        if others := sum(1 for _ in rest):
            self._journal.record("state_unreadable", detail=f"{others} more")

    def _is_ours(self, symbol: str | None) -> TypeGuard[str]:
        return symbol is not None and shard_of(symbol, self._shards) == self._shard

    def _report_second(self, one: Second) -> None:
        number = f" with kafka.shards = {one.shards}" if one.shards != self._shards else ""
        detail = f"replica {one.replica} of group {one.group}{number} waits for this one to end"
        self._journal.record("second_bridge", detail=detail)

    def _report_unreadable(self, one: Unreadable) -> None:
        # Only the private events may have the name of an account, and they exist only with accounts.
        account = one.account if one.account in self._accounts else None
        key = "account/…" if one.account and account is None else one.key
        detail = f"{key or 'no key'}: {one.why}"
        self._journal.record("state_unreadable", symbol=one.symbol, account=account, detail=detail)

    def _report_gap(self, symbol: str) -> None:
        self._journal.record(
            "gap",
            channel="trades",
            symbol=symbol,
            cause="state_unreadable",
            before_us=time.time_ns() // 1000,
            filled=0,
            detail="it is not known which trades are on Kafka",
        )
