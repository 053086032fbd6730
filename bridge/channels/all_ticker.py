"""all_ticker: the tickers of all markets, those that changed (API document, "All Ticker push")."""

from bridge.channels.channel import Channel, Overlap, SubscribedBy
from bridge.channels.ticker import normaliser

CHANNEL = Channel(
    name="all_ticker",
    meaning="Tickers of all markets that changed, about once a second.",
    subscribed_by=SubscribedBy.NOTHING,
    overlap=Overlap.STATE,
    normaliser=lambda _: normaliser("all_ticker"),
    lists_markets=True,
)
