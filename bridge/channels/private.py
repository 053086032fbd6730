"""The normaliser of the private channels: a list of items in a push, a record for each of them."""

from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from bridge.channels.channel import Independent, Normaliser, Outcome, Source, schema_name
from bridge.channels.items import ItemsReader
from bridge.errors import BadItem, Unsubscribed
from bridge.records import Record

Item = TypeVar("Item", bound=Struct)

MODES = {1: "spot", 2: "margin"}
"""The `mode` of orders in records, by its number in the API."""


class Head(NamedTuple):
    """The first fields of every private record, in the order of their schemas."""

    schema: str
    session: str
    seq: int
    received_us: int
    account: str | None
    name: str
    """The symbol or currency in upper case."""


def normaliser(
    channel: str,
    item_type: type[Item],
    record_of: Callable[[Head, Item], tuple[Struct, int | None]],
    *,
    name: str,
    called: str,
) -> Normaliser:
    """Return a normaliser of pushes that are lists of `item_type`.

    `record_of` returns the record of an item and its time in µs, if items have one, and may raise BadItem.
    `name` is the item's field with the symbol or currency. `called` is how a bad item is named in the reason,
    such as "order {0.id}".
    """
    read = ItemsReader(item_type).read
    encode = msgspec.json.Encoder().encode
    name_of = attrgetter(name)
    schema = schema_name(channel)

    def normalise(params: bytes, source: Source, received_us: int) -> Outcome:
        """Return a record for each good item."""
        outcome = Outcome([])
        for item in read(params, outcome):
            try:
                series = source.series(channel, name_of(item))
            except Unsubscribed as other:
                outcome.unsubscribed.append(str(other))
                continue
            head = Head(schema, source.session, series.seq, received_us, source.account, series.symbol)
            try:
                record, time_us = record_of(head, item)
            except BadItem as bad:
                outcome.bad.append(f"{called.format(item)}: {bad}")
                continue
            series.next_seq()
            outcome.records.append(Record(channel, series.key, encode(record), received_us))
            if time_us is not None:
                outcome.time_us = max(outcome.time_us or 0, time_us)
        return outcome

    return Independent(channel, normalise)
