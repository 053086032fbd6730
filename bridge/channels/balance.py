"""balance: an account's holding of a currency as it changes (API document, "Balance push")."""

import msgspec
from msgspec import Raw, Struct

from bridge.channels.channel import Channel, Outcome, Overlap, Source, SubscribedBy
from bridge.channels.figures import Figure, Name, exact
from bridge.channels.items import decode_items
from bridge.errors import BadItem
from bridge.records import Record


class Balance(Struct, gc=False):
    """One item of a push."""

    currency: Name
    free: Figure
    total: Figure
    used: Figure


class BalanceRecord(Struct, frozen=True, gc=False):
    """digifinex.balance.v1."""

    schema: str
    session: str
    seq: int
    received_us: int
    account: str | None
    currency: str
    free: Raw
    total: Raw
    used: Raw


_decode = msgspec.json.Decoder(list[Balance])
_encode = msgspec.json.Encoder().encode


def normalise(params: bytes, source: Source, received_us: int) -> Outcome:
    """Return a record for each currency."""
    outcome = Outcome([])
    for balance in decode_items(_decode, Balance, params, outcome):
        try:
            free, total, used = exact((balance.free, balance.total, balance.used))
        except BadItem as bad:
            outcome.bad.append(f"{balance.currency}: {bad}")
            continue
        series = source.series("balance", balance.currency.encode())
        record = BalanceRecord(
            schema="digifinex.balance.v1",
            session=source.session,
            seq=series.next_seq(),
            received_us=received_us,
            account=source.account,
            currency=series.symbol,
            free=free,
            total=total,
            used=used,
        )
        outcome.records.append(Record("balance", series.key, _encode(record), received_us))
    return outcome


CHANNEL = Channel(
    name="balance",
    meaning="Balances of the account, on every change.",
    subscribed_by=SubscribedBy.CURRENCY,
    overlap=Overlap.SERIES,
    normaliser=lambda _: normalise,
    private=True,
)
