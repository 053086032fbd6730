"""The channels of the API, each described by its own module; this table lists them all.

Everything that has to know the channels reads `CHANNELS`. A new channel is a module with a `CHANNEL`, and one
line here.
"""

from bridge.channels import all_ticker, balance, depth, order, order_algo, ticker, trades
from bridge.channels.channel import Channel, Overlap, SubscribedBy, table
from bridge.records import PRIVATE_DEADLETTER, PRIVATE_EVENTS

__all__ = ["CHANNELS", "Channel", "Overlap", "SubscribedBy"]

CHANNELS = table(
    trades.CHANNEL,
    depth.CHANNEL,
    ticker.CHANNEL,
    all_ticker.CHANNEL,
    order.CHANNEL,
    order_algo.CHANNEL,
    balance.CHANNEL,
)
"""The channels by name, in the order in which documents and tables show them."""

BEGIN_CLEAN = frozenset(name for name, channel in CHANNELS.items() if channel.begins_clean)
"""The channels of which a new subscription begins with a clean list or a snapshot."""

PRIVATE = frozenset(
    {name for name, channel in CHANNELS.items() if channel.private} | {PRIVATE_DEADLETTER, PRIVATE_EVENTS}
)
"""What belongs to accounts: private channels, their events and dead letters. Their topics are apart."""

LISTING = next(name for name, channel in CHANNELS.items() if channel.lists_markets)
"""The channel that lists all markets."""
