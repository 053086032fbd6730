"""order: an account's orders as they change (API document, "Order push")."""

from typing import Literal

import msgspec
from msgspec import Raw, Struct

from bridge.channels.channel import Channel, Outcome, Overlap, Source, SubscribedBy
from bridge.channels.figures import NULL, Figure, Name, Time, exact, exact_or_null, microseconds
from bridge.channels.items import decode_items
from bridge.errors import BadItem
from bridge.records import Record

_MILLISECOND = 1_000

MODES = {1: "spot", 2: "margin"}
STATUSES = {
    0: "unfilled",
    1: "partially_filled",
    2: "filled",
    3: "canceled_unfilled",
    4: "canceled_partially_filled",
}


class Order(Struct, gc=False):
    """One item of a push."""

    id: Name
    mode: Literal[1, 2]
    side: Literal["buy", "sell"]
    type: Literal["limit", "market"]
    status: Literal[0, 1, 2, 3, 4]
    symbol: Name
    timestamp: Time
    price: Figure
    amount: Figure
    filled: Figure
    notional: Figure
    price_avg: Figure = NULL


class OrderRecord(Struct, frozen=True, gc=False):
    """digifinex.order.v1."""

    schema: str
    session: str
    seq: int
    received_us: int
    account: str | None
    symbol: str
    time_us: int
    id: str
    mode: str
    side: str
    type: str
    status: str
    price: Raw
    price_avg: Raw
    amount: Raw
    filled: Raw
    notional: Raw


_decode = msgspec.json.Decoder(list[Order])
_encode = msgspec.json.Encoder().encode


def normalise(params: bytes, source: Source, received_us: int) -> Outcome:
    """Return a record for each order."""
    outcome = Outcome([])
    for order in decode_items(_decode, Order, params, outcome):
        try:
            time_us = microseconds(order.timestamp, _MILLISECOND)
            price, amount, filled, notional = exact((order.price, order.amount, order.filled, order.notional))
            (price_avg,) = exact_or_null((order.price_avg,))
        except BadItem as bad:
            outcome.bad.append(f"order {order.id}: {bad}")
            continue
        series = source.series("order", order.symbol.encode())
        record = OrderRecord(
            schema="digifinex.order.v1",
            session=source.session,
            seq=series.next_seq(),
            received_us=received_us,
            account=source.account,
            symbol=series.symbol,
            time_us=time_us,
            id=order.id,
            mode=MODES[order.mode],
            side=order.side,
            type=order.type,
            status=STATUSES[order.status],
            price=price,
            price_avg=price_avg,
            amount=amount,
            filled=filled,
            notional=notional,
        )
        outcome.records.append(Record("order", series.key, _encode(record), received_us))
        outcome.time_us = max(outcome.time_us or 0, time_us)
    return outcome


CHANNEL = Channel(
    name="order",
    meaning="Orders of the account, on every change.",
    subscribed_by=SubscribedBy.MARKET,
    overlap=Overlap.SERIES,
    normaliser=lambda _: normalise,
    private=True,
)
