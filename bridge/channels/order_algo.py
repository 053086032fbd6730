"""order_algo: an account's triggered orders as they change (API document, "OrderAlgo push")."""

from typing import Literal

import msgspec
from msgspec import Raw, Struct

from bridge.channels.channel import Channel, Outcome, Overlap, Source, SubscribedBy
from bridge.channels.figures import Figure, Name, Time, exact, microseconds
from bridge.channels.items import decode_items
from bridge.channels.order import MODES
from bridge.errors import BadItem
from bridge.records import Record

_MILLISECOND = 1_000

STATUSES = {-2: "failed", -1: "canceled", 0: "waiting", 1: "triggering", 2: "triggered"}


class OrderAlgo(Struct, gc=False):
    """One item of a push."""

    id: Name
    mode: Literal[1, 2]
    side: Literal["buy", "sell"]
    status: Literal[-2, -1, 0, 1, 2]
    symbol: Name
    timestamp: Time
    algo_price: Figure
    trigger_price: Figure
    amount: Figure


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


_decode = msgspec.json.Decoder(list[OrderAlgo])
_encode = msgspec.json.Encoder().encode


def normalise(params: bytes, source: Source, received_us: int) -> Outcome:
    """Return a record for each triggered order."""
    outcome = Outcome([])
    for order in decode_items(_decode, OrderAlgo, params, outcome):
        try:
            time_us = microseconds(order.timestamp, _MILLISECOND)
            algo_price, trigger_price, amount = exact((order.algo_price, order.trigger_price, order.amount))
        except BadItem as bad:
            outcome.bad.append(f"order_algo {order.id}: {bad}")
            continue
        series = source.series("order_algo", order.symbol.encode())
        record = OrderAlgoRecord(
            schema="digifinex.order_algo.v1",
            session=source.session,
            seq=series.next_seq(),
            received_us=received_us,
            account=source.account,
            symbol=series.symbol,
            time_us=time_us,
            id=order.id,
            mode=MODES[order.mode],
            side=order.side,
            status=STATUSES[order.status],
            algo_price=algo_price,
            trigger_price=trigger_price,
            amount=amount,
        )
        outcome.records.append(Record("order_algo", series.key, _encode(record), received_us))
        outcome.time_us = max(outcome.time_us or 0, time_us)
    return outcome


CHANNEL = Channel(
    name="order_algo",
    meaning="Trigger orders of the account, on every change.",
    subscribed_by=SubscribedBy.MARKET,
    overlap=Overlap.SERIES,
    normaliser=lambda _: normalise,
    private=True,
)
