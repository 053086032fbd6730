"""What the probe does on its connections to try the assumptions that watching alone does not show."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

from bridge import plan
from bridge.channels import CHANNELS, LISTING, SubscribedBy
from bridge.config import EVERY_MARKET, AccountConfig, Config
from bridge.errors import VisitFailed
from bridge.exchange import clock
from bridge.probe.findings import Findings
from bridge.probe.messages import Messages, Pushed
from bridge.probe.wire import Keep, Wire

NO_MARKET = "PROBE_NOMARKET"
"""A market that does not exist."""

_SAMPLES = 6  # of ping and clock
_APART = 0.37  # seconds between two of them, so that they fall into different parts of a second
_LARGEST_OFFSET = 5.0  # seconds that the clocks may differ
_NAMING = 5.0  # seconds in which the channel that lists markets is to name some
_MINUTE = 60.0  # seconds in which it is to name all
_AT_ONCE = 0.25  # seconds in which a private channel that begins with a snapshot would bring it
_TIMES = 4  # that it would do so in a row, which changes that happen just then do not
_COMPARED = 3  # pushes on the other connection that make silence on this one a proof
_FURTHER = 16  # markets that are listed and tried on a connection that has two
_BETWEEN = 1.0  # seconds from one handshake to the next
_MOST_CONNECTIONS = 10  # that are opened to try how many may be

_BY_MARKET = tuple(
    name
    for name, channel in CHANNELS.items()
    if not channel.private and channel.subscribed_by is SubscribedBy.MARKET
)


@dataclass(slots=True)
class Timed:
    """The times of the exchange, in seconds."""

    pings: list[float] = field(default_factory=list)
    offset: tuple[float, float] | None = None  # bounds of what its clock is ahead of ours
    limits: list[str] = field(default_factory=list)  # what was found of its limits, in words


@dataclass(frozen=True, slots=True)
class Probe:
    """One visit to the exchange: what it is configured with, and where its findings go."""

    config: Config
    messages: Messages
    keep: Keep | None
    timed: Timed = field(default_factory=Timed)

    @property
    def findings(self) -> Findings:
        """What is found."""
        return self.messages.findings

    def wire(self, account: AccountConfig | None = None) -> Wire:
        """Return a connection that is not opened yet."""
        if account is None:
            return Wire(self.config.exchange, self.messages, keep=self.keep)
        return Wire(self.config.exchange, self.messages, account.credentials())

    async def run(self, seconds: float, *, limits: bool) -> None:
        """Try everything, listening for so long.

        Raises:
            VisitFailed: the first connection could not be opened.
        """
        async with AsyncExitStack() as stack:
            wire = await stack.enter_async_context(self.wire())
            await self._times(wire)
            await wire.subscribe(LISTING, [])
            since = time.monotonic()
            await wire.until(lambda: len(self.messages.markets) > 1, _NAMING)
            markets = self._markets()
            control = await self._control(stack, markets)
            before = await self._one_by_one(wire, control, markets)
            for account in self.config.accounts:
                await self._account(stack, account, again=limits)
            await asyncio.sleep(seconds)
            self._compare(wire, control, before, markets[0])
            await self._listed(control)
            self._all_named(time.monotonic() - since)
            await self._again(wire, markets)
            if limits:
                await self._limits(stack)
            await self._times(wire)

    def _markets(self) -> list[str]:
        """Return two markets, configured ones first, then those that are named most often."""
        named = sorted(self.messages.markets, key=lambda name: -self.messages.markets[name])
        return list(dict.fromkeys([*self._configured(), *named, "BTC_USDT", "ETH_USDT"]))[:2]

    def _configured(self) -> list[str]:
        of_channels = [self.config.channels.of(name) for name in _BY_MARKET]
        return [name for names in of_channels for name in names if name != EVERY_MARKET]

    async def _times(self, wire: Wire) -> None:
        """Sample ping and clock; the bounds of the offset are what all samples have in common."""
        bounds = []
        for _ in range(_SAMPLES):
            seconds = await wire.ping()
            if seconds is not None:
                self.timed.pings.append(seconds)
            one = await wire.server_time()
            if one is None:
                self.findings.note("clock", False, "server.time is no number")
            else:
                bounds.append(one)
            await asyncio.sleep(_APART)
        if not bounds:
            return
        common = clock.in_common(bounds)
        if common is None:
            self.findings.note("clock", False, "server.time contradicts itself")
            return
        low, high = self.timed.offset = common
        small = low > -_LARGEST_OFFSET and high < _LARGEST_OFFSET
        self.findings.note("clock", small, f"{(low + high) / 2:+.2f} s, ± {(high - low) / 2:.2f}")

    async def _control(self, stack: AsyncExitStack, markets: Sequence[str]) -> Wire:
        """Open a second connection that subscribes to both markets in one request, for comparison."""
        await asyncio.sleep(_BETWEEN)
        control = await stack.enter_async_context(self.wire())
        for channel in _BY_MARKET:
            answered = await control.subscribe(channel, [NO_MARKET])
            if answered.number:
                shown = f"{channel} of {NO_MARKET}: {answered.error or 'confirmed'}"
                self.findings.note("unknown_refused", answered.error is not None, shown)
            if answered.number and answered.error is not None:
                await self._refused_whole(control, channel, markets)
        for channel in _BY_MARKET:
            answered = await control.subscribe(channel, markets)
            if answered.error is None and answered.number:
                await self._clean_comes(control, channel, markets)
                shown = f"{channel}: {answered.number} for {len(markets)} markets"
                self.findings.note("one_answer", answered.number == 1, shown)
            if answered.number:
                self.findings.note(
                    "always_served", answered.error is None, f"{channel}: {answered.error or 'accepted'}"
                )
        return control

    async def _refused_whole(self, control: Wire, channel: str, markets: Sequence[str]) -> None:
        """Request good markets and one that does not exist, and note whether the good ones bring anything."""
        answered = await control.subscribe(channel, [*markets, NO_MARKET])
        if answered.error is None or await control.ping() is None:
            return
        came = [name for name in markets if control.line.pushed[channel, name].number]
        shown = f"{channel}: {answered.error}; {len(came)} of {len(markets)} others bring pushes"
        self.findings.note("all_or_nothing", not came, shown)

    async def _listed(self, control: Wire) -> None:
        """Subscribe to tickers of further markets, configured ones first, then those that move least."""
        named = sorted(self.messages.markets, key=lambda name: self.messages.markets[name])
        some = list(dict.fromkeys([*self._configured(), *named]))
        asked = [name for name in some if ("ticker", name) not in control.line.asked][:_FURTHER]
        listed = [name for name in asked if name in self.messages.markets]
        if not listed:
            return
        answered = await control.subscribe("ticker", listed)
        if answered.number:
            shown = f"{len(listed)} more markets, {' '.join(listed[:3])}…: {answered.error or 'accepted'}"
            self.findings.note("listed_open", answered.error is None, shown)

    async def _one_by_one(
        self, wire: Wire, control: Wire, markets: Sequence[str]
    ) -> dict[str, tuple[int, int]]:
        """Subscribe to each market in its own request; return the pushes of the first so far, of both."""
        for channel in _BY_MARKET:
            for symbol in markets:
                answered = await wire.subscribe(channel, [symbol])
                if not answered.number or answered.error is not None:
                    continue
                await self._clean_comes(wire, channel, [symbol])
                pushed = wire.line.pushed[channel, symbol]
                if pushed.number:
                    answered_first = answered.at <= pushed.first
                    self.findings.note("answer_order", answered_first, f"{channel} of {symbol}")
        await asyncio.sleep(_BETWEEN)
        return {channel: self._live(wire, control, channel, markets[0]) for channel in _BY_MARKET}

    async def _clean_comes(self, wire: Wire, channel: str, symbols: Sequence[str]) -> None:
        """Note whether a list or snapshot comes for each, where the channel begins with one."""
        if not CHANNELS[channel].begins_clean:
            return
        for symbol in symbols:
            came = await wire.clean_comes(channel, symbol)
            self.findings.note("clean_first", came, f"{channel} of {symbol}: {'came' if came else 'none'}")

    def _live(self, wire: Wire, control: Wire, channel: str, symbol: str) -> tuple[int, int]:
        one, other = (each.line.pushed[channel, symbol] for each in (wire, control))
        return one.number - one.clean, other.number - other.clean

    def _compare(self, wire: Wire, control: Wire, before: dict[str, tuple[int, int]], symbol: str) -> None:
        """Note whether the first market went on after the second one was subscribed to."""
        for channel, (own, others) in before.items():
            now = self._live(wire, control, channel, symbol)
            new, compared = now[0] - own, now[1] - others
            if new or compared >= _COMPARED:
                shown = f"{channel} of {symbol}: {new} pushes, {compared} where it was subscribed to at once"
                self.findings.note("adds", new > 0, shown)

    def _all_named(self, seconds: float) -> None:
        configured = set(self._configured()) or set(self.messages.markets)
        missing = sorted(configured - set(self.messages.markets))
        if configured and not missing:
            self.findings.note("lists_markets", True, f"all {len(configured)} within {seconds:.0f} s")
        elif seconds >= _MINUTE:
            shown = " ".join(missing[:10]) or "no market at all"
            self.findings.note("lists_markets", False, f"not named within {seconds:.0f} s: {shown}")

    async def _again(self, wire: Wire, markets: Sequence[str]) -> None:
        """Repeat the subscribe requests, and note whether lists and snapshots come again."""
        for channel in _BY_MARKET:
            if not CHANNELS[channel].begins_clean:
                continue
            before = {symbol: wire.line.pushed[channel, symbol].clean for symbol in markets}
            answered = await wire.subscribe(channel, markets)
            if answered.error is not None:
                self.findings.note("clean_again", False, f"{channel}: {answered.error}")
                continue
            for symbol, number in before.items():
                came = await wire.clean_comes(channel, symbol, number)
                self.findings.note(
                    "clean_again", came, f"{channel} of {symbol}: {'came' if came else 'none'}"
                )

    async def _account(self, stack: AsyncExitStack, account: AccountConfig, *, again: bool) -> None:
        await asyncio.sleep(_BETWEEN)
        wire = await self._logged_in(stack, account)
        if wire is None:
            return
        for channel in filter(account.of, account.channels()):
            symbols = [name for name in account.of(channel) if name]
            early = [await self._begins_at_once(wire, channel, symbols) for _ in range(_TIMES)]
            if None not in early:
                shown = f"{channel}: pushes at once after {sum(map(bool, early))} of {_TIMES} requests"
                self.findings.note("no_private_snapshot", not all(early), shown)
        if again:
            await asyncio.sleep(_BETWEEN)
            second = await self._logged_in(stack, account)
            well = second is not None and await wire.ping() is not None and not wire.closed
            shown = f"account {account.name}: {'both answer' if well else wire.closed or 'refused'}"
            self.findings.note("two_logins", well, shown)

    async def _begins_at_once(self, wire: Wire, channel: str, symbols: Sequence[str]) -> bool | None:
        """Subscribe, and return whether a push for each symbol comes at once; None if it is refused."""
        pushes = [wire.line.pushed[channel, symbol] for symbol in symbols]
        before = [one.number for one in pushes]
        answered = await wire.subscribe(channel, symbols)
        if answered.error is not None or not answered.number:
            return None
        return await wire.until(partial(_all_more, pushes, before), _AT_ONCE)

    async def _logged_in(self, stack: AsyncExitStack, account: AccountConfig) -> Wire | None:
        wire = self.wire(account)
        try:
            await stack.enter_async_context(wire)
        except VisitFailed as error:
            self.findings.note("signed_with_server_time", False, f"account {account.name}: {error}")
            return None
        answered = await wire.log_in()
        well = answered.number > 0 and answered.error is None
        shown = "accepted" if well else answered.error or wire.closed or "no answer"
        self.findings.note("signed_with_server_time", well, f"account {account.name}: {shown}")
        return wire if well else None

    async def _limits(self, stack: AsyncExitStack) -> None:
        await self._most_subscriptions()
        needed = sum(
            len(shard.public) + len(shard.private)
            for shard in (plan.plan(self.config, number) for number in range(self.config.kafka.shards))
        )
        opened = 0
        try:
            for _ in range(min(needed, _MOST_CONNECTIONS)):
                await asyncio.sleep(_BETWEEN)
                await stack.enter_async_context(self.wire())
                opened += 1
        except VisitFailed as error:
            self.findings.note("connections", False, f"{opened} more, then: {error}")
        else:
            self.findings.note("connections", True, f"{opened} more")
        self.timed.limits.append(f"{opened} more connections could be opened")

    async def _most_subscriptions(self) -> None:
        """Subscribe to trades of one market after the other on a connection of its own."""
        wanted = self.config.exchange.subscriptions_per_session
        names = sorted(self.messages.markets)[: 2 * wanted]
        pause = 1 / self.config.exchange.subscribes_per_second
        good = 0
        try:
            async with self.wire() as wire:
                for name in names:
                    answered = await wire.subscribe("trades", [name])
                    came = await wire.clean_comes("trades", name)
                    if wire.closed or not came or answered.error is not None:
                        break
                    good += 1
                    await asyncio.sleep(pause)
                ended = wire.closed or "the next one brought nothing"
        except VisitFailed as error:
            ended = str(error)
        enough = good >= min(wanted, len(names))
        shown = f"{good} of {len(names)} tried" + ("" if good == len(names) else f", then: {ended}")
        if len(names) >= wanted or not enough:
            self.findings.note("thirty_subscriptions", enough, shown)
        self.timed.limits.append(f"subscriptions of one connection: {shown}")


def _all_more(pushes: Sequence[Pushed], before: Sequence[int]) -> bool:
    return all(one.number > number for one, number in zip(pushes, before, strict=True))
