"""Follows the markets of a shard that "*" stands for: subscribes to new ones, forgets those that are gone.

It knows all markets that all_ticker has listed, whichever shard they belong to, and follows those of its own.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence

import structlog

from bridge import plan
from bridge.channels import LISTING
from bridge.channels.channel import Source
from bridge.channels.markets import Markets
from bridge.config import Config
from bridge.records import Record
from bridge.watch.watch import Watch
from bridge.websocket.connector import Connector

log = structlog.get_logger(__name__)


class Followed:
    """The followed markets of the shard with this number; `connectors` is the list of its connectors.

    `start` adds a connector for further subscriptions to it; its second argument is whether the replica is
    unready until the first session of that has come up. `end` removes one without any subscriptions left.
    """

    def __init__(
        self,
        config: Config,
        number: int,
        connectors: Sequence[Connector],
        start: Callable[[plan.Wanted, bool], None],
        end: Callable[[Connector], None],
        watch: Watch,
    ) -> None:
        # All that all_ticker has listed, up to `max_markets`; and which markets move.
        self.markets = Markets(config.exchange.max_markets)
        # The channels that follow every market; none if only those of the configuration are subscribed to.
        self.channels = plan.plan(config, number).follows
        self._config = config
        self._number = number
        self._connectors = connectors
        self._start = start
        self._end = end
        self._watch = watch
        self._stopped = False  # whether nothing is subscribed to any more
        self._left_out = False  # whether all_ticker has listed more than `max_markets`
        self._follows_some = False  # whether sessions were opened for some of them
        # Channels of markets that all_ticker had listed and does no longer, by symbol; until it does again.
        self._forgotten: dict[str, list[str]] = {}

    def take(self, records: Sequence[Record], source: Source) -> None:
        """Note what all_ticker says of the markets, and follow those that it lists."""
        now = time.monotonic()
        named, new = self.markets.take(records, source.session, now, self.subscribed_symbols())
        if self.markets.left_out and self.channels and not self._left_out:
            self._left_out = True
            detail = f"exchange.max_markets is {self._config.exchange.max_markets}"
            self._watch.journal.record("markets_left_out", channel=LISTING, detail=detail)
        if self.channels and not self._stopped:
            self._follow(named, new)

    def stop(self) -> None:
        """Subscribe to nothing any more, because the shard ends."""
        self._stopped = True

    def subscribed_symbols(self) -> set[str]:
        """Return all symbols that the shard subscribes to, followed or not."""
        return {name for one in self._connectors for names in one.wanted.values() for name in names}

    def expect(self, books: Iterable[bytes]) -> None:
        """Note of which markets an earlier process has left a book, before any are listed."""
        self.markets.expect(key.decode() for key in books)

    def forget_gone(self, books: Iterable[bytes]) -> list[bytes]:
        """Forget markets that are gone; return which of these books are of a market that is not followed."""
        self._forget_markets()
        gone = self._gone_books(books)
        self._make_room()  # last, because it forgets that a market was forgotten, and so its book
        return gone

    def _follow(self, named: Iterable[str], new: Collection[str]) -> None:
        """Subscribe to markets that all_ticker lists for the first time, or that were forgotten."""
        shards = self._config.kafka.shards
        channels: dict[str, Sequence[str]] = {
            symbol: self.channels for symbol in new if plan.shard_of(symbol, shards) == self._number
        }
        channels |= {symbol: self._forgotten.pop(symbol) for symbol in named if symbol in self._forgotten}
        if channels:
            symbols = sorted(channels)
            log.info("new markets found", shard=self._watch.shard, symbols=symbols)
            self._subscribe([(channel, symbol) for symbol in symbols for channel in channels[symbol]])

    def _subscribe(self, subscriptions: list[plan.Subscription]) -> None:
        """Add subscriptions to the newest session as far as it has room, and open others for the rest.

        A part of a session that was halved has no room.
        """
        size = self._config.exchange.subscriptions_per_session
        newest = next((c for c in reversed(self._connectors) if c.account is None), None)
        room = max(0, size - plan.count(newest.wanted)) if newest and not newest.is_part else 0
        if newest:
            for wanted in plan.sessions(subscriptions[:room], size):
                for channel, symbols in wanted.items():
                    newest.subscribe(channel, symbols)
        # A market that is listed while all is well does not make the replica unready.
        is_later = self._follows_some and not any(one.coming_up for one in self._connectors)
        self._follows_some = True
        for wanted in plan.sessions(subscriptions[room:], size):
            self._start(wanted, not is_later)

    def _forget_markets(self) -> None:
        """Forget subscriptions that the exchange refuses to markets that all_ticker no longer lists.

        Only those to channels that follow every market: what the configuration names, it may want to exist.
        """
        for connector in [*self._connectors]:
            gone = [
                (one.channel, symbol)
                for one in connector.bad_symbols
                for symbol in one.symbols
                if one.channel in self.channels and self.markets.is_gone(symbol)
            ]
            for channel, symbol in gone:
                self._forgotten.setdefault(symbol, []).append(channel)
                connector.forget(channel, symbol)
            if gone:
                symbols = sorted({symbol for _, symbol in gone})
                log.info("markets forgotten", shard=self._watch.shard, symbols=symbols)
                if not connector.wanted:
                    self._end(connector)

    def _gone_books(self, books: Iterable[bytes]) -> list[bytes]:
        config, shards = self._config, self._config.kafka.shards
        depth = {name for one in self._connectors for name in one.wanted.get("depth", ())}
        return [
            key
            for key in books
            if plan.shard_of(symbol := key.decode(), shards) == self._number
            if plan.has_no_book(config, symbol) or (symbol not in depth and self.markets.is_gone(symbol))
        ]

    def _make_room(self) -> None:
        """Know those markets no longer that all_ticker does not list and of which nothing is subscribed to.

        Else those that were listed once would leave no room for others, up to `max_markets`.
        """
        if gone := self.markets.gone():
            subscribed = self.subscribed_symbols()
            for symbol in gone:
                if symbol not in subscribed:
                    self.markets.forget(symbol)
                    self._forgotten.pop(symbol, None)
