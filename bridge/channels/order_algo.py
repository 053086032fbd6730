"""order_algo: an account's trigger orders as they change (API document, "OrderAlgo push")."""

from typing import Literal

from msgspec import Raw, Struct

from bridge.channels.channel import Channel, Overlap, SubscribedBy
from bridge.channels.figures import NULL, Figure, Name, Time, exact_or_null, microseconds
from bridge.channels.private import MODES, Head, normaliser

STATUSES = {-2: "failed", -1: "canceled", 0: "waiting", 1: "triggering", 2: "triggered"}


class OrderAlgo(Struct, gc=False):
    """One item of a push; any figure may be left out."""

    id: Name
    mode: Literal[1, 2]
    side: Literal["buy", "sell"]
    status: Literal[-2, -1, 0, 1, 2]
    symbol: Name
    timestamp: Time
    algo_price: Figure = NULL
    trigger_price: Figure = NULL
    amount: Figure = NULL


class OrderAlgoRecord(Struct, frozen=True, gc=False):
    """digifinex.order_algo.v1."""

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
    status: str
    algo_price: Raw
    trigger_price: Raw
    amount: Raw


def _record(head: Head, order: OrderAlgo) -> tuple[OrderAlgoRecord, int]:
    time_us = microseconds(order.timestamp)
    algo_price, trigger_price, amount = exact_or_null((order.algo_price, order.trigger_price, order.amount))
    record = OrderAlgoRecord(
        *head,
        time_us=time_us,
        id=order.id,
        mode=MODES[order.mode],
        side=order.side,
        status=STATUSES[order.status],
        algo_price=algo_price,
        trigger_price=trigger_price,
        amount=amount,
    )
    return record, time_us


CHANNEL = Channel(
    name="order_algo",
    meaning="Trigger orders of the account, on every change.",
    subscribed_by=SubscribedBy.MARKET,
    overlap=Overlap.SERIES,
    normaliser=lambda _: normaliser(
        "order_algo", OrderAlgo, _record, name="symbol", called="order_algo {0.id}"
    ),
    private=True,
)
