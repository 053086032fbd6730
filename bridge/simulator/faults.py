"""The faults that the simulator can inject, by name and number."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from bridge.simulator.naming import pairs

_SHARES = (
    "corrupt",
    "bad_json",
    "unknown_method",
    "clean_again",
    "damaged",
    "bad_item",
    "bad_params",
    "duplicated",
    "reordered",
    "clean_damaged",
    "clean_missing",
    "clean_late",
    "clean_empty",
    "clean_short",
    "change_lost",
    "level_stays",
    "book_crossed",
)


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults to inject; the defaults inject none.

    Shares are fractions of 1. The frames of `corrupt`, `bad_json` and `unknown_method` are sent in addition
    to the good ones, so nothing good is lost; those of `damaged`, `bad_item`, `bad_params` and
    `clean_damaged` in place. `change_lost`, `level_stays` and `book_crossed` damage the book of every client
    until its next snapshot, with no trace in the frames.
    """

    drop: float = 0.0  # seconds between cuts of all connections; 0: never
    refuse: int = 0  # handshakes answered with HTTP 502 after each drop
    max_handshakes: int = 0  # per second; more are answered with HTTP 429; 0: no limit
    stall_every: float = 0.0  # seconds from one stall to the next; 0: never
    stall_for: float = 1.0  # seconds in which nothing is sent, then all of it
    mute_after: float = 0.0  # seconds after which a connection is ignored; 0: never
    corrupt: float = 0.0  # share of updates followed by a frame with a damaged zlib stream
    bad_json: float = 0.0  # share of updates followed by a frame that is not JSON
    unknown_method: float = 0.0  # share of updates followed by a frame with an unknown method
    clean_again: float = 0.0  # share of trades and depth updates followed by the full list
    damaged: float = 0.0  # share of updates that a connection gets with a damaged zlib stream
    # Share of updates, but no tickers, that a connection gets with one bad figure, and with params that are
    # not what the document says. Of private changes all connections get the same.
    bad_item: float = 0.0
    bad_params: float = 0.0
    duplicated: float = 0.0  # share of trades, depth and private updates that are sent twice
    reordered: float = 0.0  # share of trades updates that are sent after the next one of their symbol
    clean_damaged: float = 0.0  # share of first lists and snapshots with a damaged zlib stream
    clean_missing: float = 0.0  # share of first lists and snapshots that are not sent
    clean_late: float = 0.0  # share of first lists, as they are, and snapshots sent `late_by` seconds later
    clean_empty: float = 0.0  # share of first lists of trades that are sent without their trades
    clean_short: float = 0.0  # share of first lists of trades with their newest few only
    change_lost: float = 0.0  # share of the changes of books that are not sent
    level_stays: float = 0.0  # share of the removals of levels that are left out
    book_crossed: float = (
        0.0  # share of the changes of books with the price of an ask as a bid too, or vice versa
    )
    late_by: float = 5.0  # seconds
    lag: float = 0.0  # maximum seconds by which a connection's messages are late, each its own
    whole_seconds: bool = False  # whether trades have times in whole seconds
    newest_first: bool = True  # the order of the trades in a list
    nested_all_ticker: bool = False  # all_ticker's list inside one more list
    idle_limit: float = 60.0  # seconds without a message from the client after which it is cut off
    max_age: float = 0.0  # seconds after which a connection is cut; 0: never
    refuse_all: int = 0  # the HTTP status with which every handshake is answered; 0: none
    retry_after: float = 0.0  # seconds, as Retry-After of refused handshakes; 0: not sent
    max_connections: int = 0  # more are answered with HTTP 403; 0: no limit
    oldest_closed: int = 0  # the oldest connection is closed if there is one more than this; 0: no limit
    close_after: float = 0.0  # seconds after its first subscribe at which a connection is closed; 0: never
    close_code: int = 1000  # with which connections are closed by these faults
    one_login: bool = False  # whether a login closes the connection that the key had logged in before
    max_subscriptions: int = 0  # per connection; it is cut at one more; 0: no limit
    clock_offset: float = 0.0  # seconds by which the exchange's clock is ahead


def parse(text: str) -> Faults:
    """Parse faults written like `drop=1.5,refuse=3,newest_first=false`.

    Raises:
        ValueError: an unknown name or an invalid value; the message names it.
    """
    types: dict[str, type] = {field.name: type(field.default) for field in dataclasses.fields(Faults)}
    values: dict[str, Any] = {}
    for name, value in pairs(text, types, "fault"):
        try:
            values[name] = _boolean(value) if types[name] is bool else types[name](value)
        except ValueError:
            raise ValueError(f"{name}={value}: not a {types[name].__name__}") from None
        if not math.isfinite(values[name]):
            raise ValueError(f"{name}={value}: must be finite")
        if name in _SHARES and not 0 <= values[name] <= 1:
            raise ValueError(f"{name}={value}: must be from 0 to 1")
        if name != "clock_offset" and values[name] < 0:
            raise ValueError(f"{name}={value}: must be 0 or more")
    return dataclasses.replace(Faults(), **values)


def _boolean(value: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0", ""):
        raise ValueError(value)
    return value.lower() not in ("false", "0")
