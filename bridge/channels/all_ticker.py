"""all_ticker: the tickers of all markets, those that changed (API document, "All Ticker push")."""

from bridge.channels.channel import Channel
from bridge.channels.ticker import normaliser

CHANNEL = Channel("all_ticker", lambda _: normaliser("all_ticker"))
