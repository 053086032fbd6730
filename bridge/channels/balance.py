"""balance: an account's balance of a currency as it changes (API document, "Balance push")."""

from msgspec import Raw, Struct

from bridge.channels.channel import Channel, Overlap, SubscribedBy
from bridge.channels.figures import NULL, Figure, Name, exact_or_null
from bridge.channels.private import Head, normaliser


class Balance(Struct, gc=False):
    """One item of a push; any figure may be left out."""

    currency: Name
    free: Figure = NULL
    total: Figure = NULL
    used: Figure = NULL


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


def _record(head: Head, balance: Balance) -> tuple[BalanceRecord, None]:
    free, total, used = exact_or_null((balance.free, balance.total, balance.used))
    return BalanceRecord(*head, free=free, total=total, used=used), None


CHANNEL = Channel(
    name="balance",
    meaning="Balances of the account, on every change.",
    subscribed_by=SubscribedBy.CURRENCY,
    overlap=Overlap.SERIES,
    normaliser=lambda _: normaliser("balance", Balance, _record, name="currency", called="{0.currency}"),
    private=True,
)
