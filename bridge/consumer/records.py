"""The records of all topics as types; docs/records.md explains their fields.

Decimals are `Decimal`, with the exchange's own digits. Fields that a later bridge adds to v1 are ignored.
Where the values are an open list, such as the kinds of events, the field is any `str`.
"""

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Literal, TypeAlias

from msgspec import Struct


class Level(Struct, frozen=True, gc=False, array_like=True):
    """A price level of an order book; in a change, an amount of 0 removes it."""

    price: Decimal
    amount: Decimal


class _OfSession(Struct, frozen=True, gc=False, kw_only=True):
    schema: str
    session: str
    seq: int
    received_us: int


class _OfMarket(_OfSession, frozen=True, gc=False, kw_only=True):
    symbol: str

    @property
    def key(self) -> str:
        """The key of the Kafka message."""
        return self.symbol


class Trade(_OfMarket, frozen=True, gc=False, kw_only=True):
    """A record of `trades`."""

    schema: Literal["digifinex.trades.v1"]
    id: int
    time_us: int
    price: Decimal
    amount: Decimal
    side: Literal["buy", "sell"]
    snapshot: bool


class Depth(_OfMarket, frozen=True, gc=False, kw_only=True):
    """A record of `depth`: the whole book, or a change to it."""

    schema: Literal["digifinex.depth.v1"]
    snapshot: bool
    asks: tuple[Level, ...]
    bids: tuple[Level, ...]


class BookRecord(_OfMarket, frozen=True, gc=False, kw_only=True):
    """A record of `book`: the whole book after one of the records of `depth`, unless it is `truncated`."""

    schema: Literal["digifinex.book.v1"]
    depth_session: str
    depth_seq: int
    asks: tuple[Level, ...]
    bids: tuple[Level, ...]
    crossed: bool
    truncated: bool


class _AnyTicker(_OfMarket, frozen=True, gc=False, kw_only=True):
    time_us: int | None
    open_24h: Decimal | None
    high_24h: Decimal | None
    low_24h: Decimal | None
    base_volume_24h: Decimal | None
    quote_volume_24h: Decimal | None
    last: Decimal | None
    last_qty: Decimal | None
    best_bid: Decimal | None
    best_bid_size: Decimal | None
    best_ask: Decimal | None
    best_ask_size: Decimal | None


class Ticker(_AnyTicker, frozen=True, gc=False, kw_only=True):
    """A record of `ticker`."""

    schema: Literal["digifinex.ticker.v1"]


class AllTicker(_AnyTicker, frozen=True, gc=False, kw_only=True):
    """A record of `all_ticker`."""

    schema: Literal["digifinex.all_ticker.v1"]


class Order(_OfMarket, frozen=True, gc=False, kw_only=True):
    """A record of `order`."""

    schema: Literal["digifinex.order.v1"]
    account: str
    time_us: int
    id: str
    mode: Literal["spot", "margin"]
    side: Literal["buy", "sell"]
    type: Literal["limit", "market"]
    status: Literal[
        "unfilled", "partially_filled", "filled", "canceled_unfilled", "canceled_partially_filled"
    ]
    price: Decimal | None
    price_avg: Decimal | None
    amount: Decimal | None
    filled: Decimal | None
    notional: Decimal | None


class OrderAlgo(_OfMarket, frozen=True, gc=False, kw_only=True):
    """A record of `order_algo`."""

    schema: Literal["digifinex.order_algo.v1"]
    account: str
    time_us: int
    id: str
    mode: Literal["spot", "margin"]
    side: Literal["buy", "sell"]
    status: Literal["waiting", "triggering", "triggered", "canceled", "failed"]
    algo_price: Decimal | None
    trigger_price: Decimal | None
    amount: Decimal | None


class Balance(_OfSession, frozen=True, gc=False, kw_only=True):
    """A record of `balance`."""

    schema: Literal["digifinex.balance.v1"]
    account: str
    currency: str
    free: Decimal | None
    total: Decimal | None
    used: Decimal | None

    @property
    def key(self) -> str:
        """The key of the Kafka message."""
        return self.currency


class DeadLetter(Struct, frozen=True, gc=False, kw_only=True):
    """A record of a topic of dead letters."""

    schema: Literal["digifinex.deadletter.v1"]
    session: str
    received_us: int
    reason: str
    channel: str | None
    detail: str
    frame_base64: str


class DifferingLevel(Struct, frozen=True, gc=False):
    """A price at which a book differed from a snapshot, and the amount in each; None: it was not there."""

    side: Literal["asks", "bids"]
    price: Decimal
    kept: Decimal | None
    found: Decimal | None


class Event(Struct, frozen=True, gc=False, kw_only=True):
    """A record of a topic of events."""

    schema: Literal["digifinex.events.v1"]
    event: str
    received_us: int
    replica: str
    shard: int
    session: str | None
    account: str | None
    channel: str | None
    symbol: str | None
    cause: str | None
    detail: str | None
    after_id: int | None
    after_us: int | None
    before_id: int | None
    before_us: int | None
    filled: int | None
    closed_by: str | None
    field: str | None
    check: str | None
    levels: tuple[DifferingLevel, ...] | None


ChannelRecord: TypeAlias = Trade | Depth | BookRecord | Ticker | AllTicker | Order | OrderAlgo | Balance
"""A record of a channel: it has `session`, `seq` and a `key`."""

Record: TypeAlias = ChannelRecord | DeadLetter | Event

RECORDS: Mapping[str, type[Record]] = MappingProxyType(
    {
        "trades": Trade,
        "depth": Depth,
        "book": BookRecord,
        "ticker": Ticker,
        "all_ticker": AllTicker,
        "order": Order,
        "order_algo": OrderAlgo,
        "balance": Balance,
        "deadletter": DeadLetter,
        "events": Event,
    }
)
"""The type of the records on each topic, by the last part of its name before the version."""
