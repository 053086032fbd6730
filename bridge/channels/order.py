"""order: an account's orders as they change (API document, "Order push")."""

from typing import Literal

from msgspec import Raw, Struct

from bridge.channels.channel import Channel, Overlap, SubscribedBy
from bridge.channels.figures import NULL, Figure, Name, Time, exact_or_null, microseconds
from bridge.channels.private import MODES, Head, normaliser

STATUSES = {
    0: "unfilled",
    1: "partially_filled",
    2: "filled",
    3: "canceled_unfilled",
    4: "canceled_partially_filled",
}


class Order(Struct, gc=False):
    """One item of a push; any figure may be left out."""

    id: Name
    mode: Literal[1, 2]
    side: Literal["buy", "sell"]
    type: Literal["limit", "market"]
    status: Literal[0, 1, 2, 3, 4]
    symbol: Name
    timestamp: Time
    price: Figure = NULL
    price_avg: Figure = NULL
    amount: Figure = NULL
    filled: Figure = NULL
    notional: Figure = NULL


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


def _record(head: Head, order: Order) -> tuple[OrderRecord, int]:
    time_us = microseconds(order.timestamp)
    price, price_avg, amount, filled, notional = exact_or_null(
        (order.price, order.price_avg, order.amount, order.filled, order.notional)
    )
    record = OrderRecord(
        *head,
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
    return record, time_us


CHANNEL = Channel(
    name="order",
    meaning="Orders of the account, on every change.",
    subscribed_by=SubscribedBy.MARKET,
    overlap=Overlap.SERIES,
    normaliser=lambda _: normaliser("order", Order, _record, name="symbol", called="order {0.id}"),
    private=True,
)
