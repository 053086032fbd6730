"""What the bridge assumes about the exchange, on what basis, and what it does when that is wrong; pure.

The API document leaves much open. Each assumption has a name: `probe` tries the assumption of that name on
the real exchange, and `simulate --dialect NAME` plays an exchange for which it does not hold.
"""

import enum
from dataclasses import dataclass


class Basis(enum.StrEnum):
    """How well an assumption is founded."""

    DOCUMENTED = "documented"
    SEEN = "seen by others"
    ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class Assumption:
    """One assumption about the exchange.

    `costs_data` if data would be lost where it does not hold, even though the loss is reported.
    """

    name: str
    assumed: str
    basis: Basis
    otherwise: str
    costs_data: bool = False


_D, _S, _A = Basis.DOCUMENTED, Basis.SEEN, Basis.ASSUMED

_ROWS = (
    # Frames
    Assumption(
        "compressed",
        "A frame is binary: one zlib stream.",
        _D,
        "Raw deflate, gzip and plain JSON, binary or text, are read as well.",
    ),
    Assumption(
        "one_message",
        "A frame is one JSON message of at most `exchange.max_frame_bytes`, whole without others.",
        _S,
        "The frame becomes a dead letter, and what it may have held is requested again or reported as a gap.",
        costs_data=True,
    ),
    Assumption(
        "no_other_fields",
        "Messages and their items have the documented fields and no others.",
        _D,
        "Other fields are ignored.",
    ),
    Assumption(
        "spelling",
        "JSON is written without blanks, with its fields in the order of the API document.",
        _A,
        "Any JSON is read; it may take up to 1.6 times as long.",
    ),
    Assumption(
        "known_methods",
        "Every message is a push of a channel that was subscribed to, or the answer to a request.",
        _D,
        "Other messages become dead letters. An error that certainly says that a login has ended ends its "
        "session.",
    ),
    Assumption(
        "answer_order",
        "A subscribe request is answered before its first push.",
        _A,
        "Messages are matched by `id` and `method`, never by position, so either order works. An `id` may be "
        "a text, and an answer may repeat its `method`.",
    ),
    # Connections
    Assumption(
        "no_redirect",
        "The handshake is answered at the configured address.",
        _A,
        "A redirect is refused as an error of the configuration or the exchange; nothing is sent elsewhere.",
        costs_data=True,
    ),
    Assumption(
        "pings_answered",
        "`server.ping` is answered within `exchange.reply_timeout`, after all that was pushed before.",
        _D,
        "The session is replaced.",
        costs_data=True,
    ),
    Assumption(
        "clock",
        "`server.time` is right to a second, and the local clock is less than 5 s off.",
        _D,
        "Requests are signed with the server's clock, up to `exchange.max_clock_offset`. Latencies are wrong "
        "by the difference.",
    ),
    Assumption(
        "thirty_subscriptions",
        "A connection may have `exchange.subscriptions_per_session` subscriptions.",
        _S,
        "Subscriptions that stay silent are reported, and sessions that are closed are halved; lower "
        "`exchange.subscriptions_per_session`.",
        costs_data=True,
    ),
    Assumption(
        "connections",
        "As many connections may be open as the configuration needs.",
        _A,
        "Connections are opened ever less often; `/readyz` and `/status` say which are missing.",
        costs_data=True,
    ),
    # Requests
    Assumption(
        "answers_in_time",
        "Every request is answered within `exchange.reply_timeout`.",
        _A,
        "Answers other than to pings are waited for up to 60 s, as long as pings are answered. A subscribe "
        "request that brings data counts as confirmed then; one that brings none is reported as silent and "
        "requested again, if the exchange serves others.",
    ),
    Assumption(
        "one_answer",
        "A subscribe request for several markets has one answer.",
        _S,
        "Further answers to the same request are ignored; errors among them become dead letters.",
    ),
    Assumption(
        "adds",
        "A subscribe request adds to the subscriptions of its channel that the connection already has.",
        _S,
        "Each request names all symbols of its channel that the connection has, if these are 100 at most.",
    ),
    Assumption(
        "unknown_refused",
        "A subscribe request for a market that does not exist is refused.",
        _S,
        "A market that brings no list or snapshot is requested once more and then reported as silent.",
    ),
    Assumption(
        "all_or_nothing",
        "A subscribe request that is refused because of one market subscribes to none of the others.",
        _A,
        "Subscriptions that bring data, and those that exist already, are taken for confirmed.",
    ),
    Assumption(
        "listed_open",
        "Every market that `all_ticker` names can be subscribed to.",
        _A,
        "Such a market is reported as refused, and requested again ever less often; others are not affected.",
        costs_data=True,
    ),
    Assumption(
        "always_served",
        "A subscribe request for markets that exist is accepted at any time.",
        _A,
        "It is requested again, soon at first, then less often, as it was; `/readyz` and `/status` say so.",
        costs_data=True,
    ),
    Assumption(
        "clean_first",
        "Each new subscription to trades or depth begins with a list or a snapshot.",
        _S,
        "It is requested once more; if it does not come, the subscription is reported as silent.",
        costs_data=True,
    ),
    Assumption(
        "clean_again",
        "A repeated subscribe request is accepted, and brings a list or snapshot again.",
        _S,
        "A lost push is made up for by the next session only, or reported as a gap by it.",
        costs_data=True,
    ),
    # Trades
    Assumption(
        "newest_first",
        "The trades of a list are in order, newest first.",
        _S,
        "They are sorted.",
    ),
    Assumption(
        "long_lists",
        "A list of trades reaches back at least 20 trades.",
        _A,
        "Trades of an interruption that are not in the list are reported as a gap.",
        costs_data=True,
    ),
    Assumption(
        "ids_rise",
        "The ids of the trades of a market rise with their times.",
        _S,
        "Ids that begin anew are noticed and reported as `ids_restarted`; no trade is taken for a repeat.",
    ),
    Assumption(
        "trade_times",
        "The time of a trade is a number of seconds.",
        _D,
        "Milliseconds and microseconds are told apart by size.",
    ),
    Assumption(
        "pushed_once",
        "A trade is pushed once on a connection, in order.",
        _A,
        "Repeats are dropped and counted; late ones are records when they come.",
    ),
    # Depth
    Assumption(
        "both_sides",
        "A push of depth has both sides, as lists of [price, amount].",
        _D,
        "A side that is missing is empty; levels that are objects are read.",
    ),
    Assumption(
        "best_ask_last",
        "The asks of a snapshot come highest price first, like its bids.",
        _S,
        "A snapshot is sorted.",
    ),
    # Tickers
    Assumption(
        "high_24h",
        "A ticker has the figures that the API document names: `high_24h` is not among them.",
        _D,
        "Other clients have seen it. Where it is sent, records have it; else it is null.",
    ),
    Assumption(
        "ticker_figures",
        "Every figure of a ticker is there, as text.",
        _D,
        'One that is missing, null, "" or "-" is null; a number keeps its digits.',
    ),
    Assumption(
        "ticker_times",
        "A ticker has a `timestamp` in milliseconds.",
        _D,
        "Seconds and microseconds are told apart by size; without a usable one, `time_us` is null.",
    ),
    Assumption(
        "flat_tickers",
        "The tickers of a push are one list.",
        _D,
        "A list inside the list is read as well.",
    ),
    Assumption(
        "lists_markets",
        "`all_ticker` names every market within a minute of subscribing.",
        _S,
        'With `"*"`, a market is subscribed to when it is first named. A book that an earlier process '
        "has left gets a tombstone if its market is not named for an hour.",
    ),
    # Accounts
    Assumption(
        "signed_with_server_time",
        "A login that is signed with the server's clock is accepted.",
        _S,
        "Unless the answer says success, the account is reported as refused, and tried again ever less "
        "often.",
        costs_data=True,
    ),
    Assumption(
        "two_logins",
        "An API key may be logged in on two connections at once.",
        _A,
        "The older connection ends when the next one logs in; the time between is reported as a gap.",
        costs_data=True,
    ),
    Assumption(
        "no_private_snapshot",
        "Private channels push changes only, and nothing when they are subscribed to.",
        _S,
        "What comes first becomes records like any change.",
    ),
)

ASSUMPTIONS: dict[str, Assumption] = {row.name: row for row in _ROWS}
"""All assumptions by name, in the order of the document."""
