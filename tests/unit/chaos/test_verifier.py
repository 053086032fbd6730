"""The verifier of a chaos run finds what is wrong, and nothing else."""

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pytest

from bridge.simulator.history import (
    FIGURES,
    Change,
    History,
    Ticker,
    Trade,
    Writing,
    book_text,
    full_book_text,
)
from bridge.simulator.history import ticker_text as text_of
from bridge.simulator.market import Update
from tests.chaos.verifier import Conditions, Verdict, verify

SECOND = 1_000_000
BEGIN = 1_600_000_000 * SECOND  # when trade 0 happens; trade n follows n seconds later
SYMBOL = "BTC_USDT"
EMPTY: dict[str, Any] = dict.fromkeys(
    (
        "session",
        "account",
        "channel",
        "symbol",
        "cause",
        "detail",
        "after_id",
        "after_us",
        "before_id",
        "before_us",
    )
) | {"filled": 0, "closed_by": None, "received_us": BEGIN}


def at(seconds: float) -> int:
    """Return a moment."""
    return BEGIN + round(seconds * SECOND)


def trades(*ids: int, epoch: int = 0, begin: float = 0) -> list[Trade]:
    """Return trades with these ids, one a second from `begin` on."""
    return [Trade(one, at(begin + n), "1.5", "2", "buy", epoch) for n, one in enumerate(ids)]


def history(*happened: Trade) -> History:
    made = History()
    made.trades[SYMBOL] = list(happened)
    return made


def records(*kept: Trade, session: str = "s", begin: int = 0) -> list[dict[str, Any]]:
    """Return the records of trades, each received half a second after it happened."""
    return [
        {
            "session": session,
            "seq": begin + n,
            "received_us": one.time_us + SECOND // 2,
            "symbol": SYMBOL,
            "id": one.id,
            "time_us": one.time_us,
            "price": one.price,
            "amount": one.amount,
            "side": one.side,
        }
        for n, one in enumerate(kept)
    ]


def event(kind: str, **about: Any) -> dict[str, Any]:
    return {**EMPTY, "event": kind, **about}


def gap(after: Trade | None, before: Trade | None, told: float = 0, **about: Any) -> dict[str, Any]:
    """Return a gap between two trades, reported `told` seconds after the begin."""
    bounds: dict[str, Any] = {"channel": "trades", "symbol": SYMBOL, "received_us": at(told)}
    for name, trade in (("after", after), ("before", before)):
        if trade is not None:
            bounds |= {f"{name}_id": trade.id, f"{name}_us": trade.time_us}
    return event("gap", **(bounds | about))


def check(topics: Mapping[str, Sequence[Mapping[str, Any]]], made: History, **conditions: Any) -> Verdict:
    return verify({"events": (), "deadletter": (), **topics}, made, Conditions(**conditions))


def kinds(topics: Mapping[str, Sequence[Mapping[str, Any]]], made: History, **conditions: Any) -> list[str]:
    return [violation.kind for violation in check(topics, made, **conditions).violations]


HAPPENED = trades(1, 2, 4, 5, 7, 8, 9)
ALL = records(*HAPPENED)


# Trades


def test_a_time_may_be_rounded_where_the_exchange_rounds_it() -> None:
    exact = [one._replace(time_us=one.time_us + 300_000) for one in HAPPENED]
    topic = records(*exact)
    topic[3]["time_us"] = exact[3].time_us - 300_000
    assert not kinds({"trades": topic}, history(*exact), units_us=(1, SECOND))
    assert kinds({"trades": topic}, history(*exact)) == ["invented trade", "trades lost unreported"]
    later = {"time_us": exact[3].time_us, "seq": 7, "received_us": topic[-1]["received_us"]}
    again = [*topic, {**topic[3], **later}]
    assert kinds({"trades": again}, history(*exact), units_us=(1, SECOND)) == ["trade twice"]


def test_a_gap_with_rounded_bounds_covers_what_happened_in_their_second() -> None:
    exact = [one._replace(time_us=one.time_us + 300_000) for one in HAPPENED]
    kept = records(*exact[:2], *exact[3:])
    bounds = {"after_id": 99, "after_us": at(1), "before_id": None, "before_us": at(2)}
    topics = {"trades": kept, "events": [gap(None, None, 4, **bounds)]}
    assert "trades lost unreported" not in kinds(topics, history(*exact), units_us=(1, SECOND))
    assert "trades lost unreported" in kinds(topics, history(*exact))


def test_all_trades_once_are_right() -> None:
    verdict = check({"trades": ALL}, history(*HAPPENED))
    assert not verdict.violations
    assert (verdict.figures["trades"], verdict.figures["trades on Kafka"]) == (7, 7)


def test_what_happened_before_the_first_record_is_not_expected() -> None:
    assert not kinds({"trades": records(*HAPPENED[2:])}, history(*HAPPENED))


def test_a_trade_that_is_missing_at_the_end_is_found() -> None:
    assert kinds({"trades": records(*HAPPENED[:-1])}, history(*HAPPENED)) == ["trades lost unreported"]


def test_a_market_without_any_record_is_found() -> None:
    assert kinds({}, history(*HAPPENED)) == ["no record"]


def test_missing_trades_in_a_gap_are_right_and_those_beside_it_are_found() -> None:
    kept = records(*HAPPENED[:1], *HAPPENED[4:])  # 2, 4 and 5 are missing
    assert not kinds({"trades": kept, "events": [gap(HAPPENED[0], HAPPENED[4])]}, history(*HAPPENED))
    narrow = check({"trades": kept, "events": [gap(HAPPENED[1], HAPPENED[4])]}, history(*HAPPENED))
    assert [one.kind for one in narrow.violations] == ["trades lost unreported"]
    assert "1 trades" in narrow.violations[0].what
    assert (narrow.figures["trades missing"], narrow.figures["trades in gaps"]) == (3, 2)


def test_a_missing_trade_in_a_closed_gap_is_found() -> None:
    kept = records(*HAPPENED[:1], *HAPPENED[2:])
    events = [gap(HAPPENED[0], HAPPENED[2], closed_by="clean_list")]
    expected = ["trades lost unreported", "trades missing from a closed gap"]
    assert kinds({"trades": kept, "events": events}, history(*HAPPENED)) == expected


def test_a_closed_gap_without_a_missing_trade_is_right() -> None:
    events = [gap(HAPPENED[0], HAPPENED[3], closed_by="clean_list")]
    assert not kinds({"trades": ALL, "events": events}, history(*HAPPENED))


def test_a_trade_in_two_sessions_is_found() -> None:
    again = records(HAPPENED[-1], session="other")
    assert kinds({"trades": [*ALL, *again]}, history(*HAPPENED)) == ["trade twice"]


def test_second_copies_are_right_at_least_once_and_wrong_exactly_once() -> None:
    topic = [*ALL, *ALL[-2:]]
    assert kinds({"trades": topic}, history(*HAPPENED)) == ["record twice"] * 2
    assert not kinds({"trades": topic}, history(*HAPPENED), delivery="at-least-once")


def test_a_trade_may_come_again_after_a_takeover_at_least_once() -> None:
    again = records(HAPPENED[-1], session="other")
    again[0]["received_us"] = at(20)
    takeover = event("takeover", received_us=at(10))
    topics = {"trades": [*ALL, *again], "events": [takeover]}
    assert not kinds(topics, history(*HAPPENED), delivery="at-least-once")
    assert kinds(topics, history(*HAPPENED)) == ["trade twice"]
    topics = {"trades": [*ALL, *again], "events": [{**takeover, "received_us": at(21)}]}
    assert kinds(topics, history(*HAPPENED), delivery="at-least-once") == ["trade twice"]


def test_two_different_records_with_one_seq_are_found_at_least_once_too() -> None:
    topic = [*ALL, {**ALL[-1], "price": "9"}]
    assert kinds({"trades": topic}, history(*HAPPENED), delivery="at-least-once") == ["seq twice"]


def test_a_trade_that_never_happened_is_found() -> None:
    happened = [*HAPPENED, *trades(10, begin=7)]
    wrong = {**records(happened[-1], begin=7)[0], "amount": "3"}
    expected = ["invented trade", "trades lost unreported"]
    assert kinds({"trades": [*ALL, wrong]}, history(*happened)) == expected


def test_a_gap_with_a_bound_that_never_happened_is_found() -> None:
    wrong = gap(HAPPENED[0], HAPPENED[1], after_id=3)
    assert kinds({"trades": ALL, "events": [wrong]}, history(*HAPPENED)) == ["invented bound"]


def test_a_gap_of_a_takeover_may_end_behind_a_trade_that_was_held() -> None:
    """It is missing too, if the process ended while it was held."""
    behind = gap(HAPPENED[0], HAPPENED[1], before_id=HAPPENED[1].id + 1, cause="takeover")
    assert kinds({"trades": ALL, "events": [behind]}, history(*HAPPENED)) == []


@pytest.mark.parametrize("seconds", [12, 14])
def test_a_gap_that_comes_late_is_found(seconds: int) -> None:
    """Three seconds for a reply, twice, five more, and two for a busy machine, after the record behind it."""
    kept = records(*HAPPENED[:1], *HAPPENED[2:])
    told = gap(HAPPENED[0], HAPPENED[2], 2.5 + seconds)
    expected = ["late gap"] if seconds > 13 else []
    assert kinds({"trades": kept, "events": [told]}, history(*HAPPENED)) == expected


def test_a_gap_may_be_as_much_later_as_the_bridge_did_not_run() -> None:
    kept = records(*HAPPENED[:1], *HAPPENED[2:])
    topics = {"trades": kept, "events": [gap(HAPPENED[0], HAPPENED[2], 20)]}
    running = [(at(-9), at(3)), (at(9), at(30))]
    assert kinds(topics, history(*HAPPENED)) == ["late gap"]
    assert not kinds(topics, history(*HAPPENED), running=running)


EPOCHS = [*trades(101, 102, 103), *trades(1, 2, 3, epoch=1, begin=3)]


def test_a_gap_across_epochs_covers_by_time() -> None:
    kept = records(*EPOCHS[:1], *EPOCHS[4:])
    assert not kinds({"trades": kept, "events": [gap(EPOCHS[0], EPOCHS[4])]}, history(*EPOCHS))
    assert kinds({"trades": kept, "events": [gap(EPOCHS[2], EPOCHS[4])]}, history(*EPOCHS)) == [
        "trades lost unreported"
    ]


def test_the_same_id_in_two_epochs_is_two_trades() -> None:
    happened = [*trades(1, 2), *trades(1, 2, epoch=1, begin=2)]
    assert not kinds({"trades": records(*happened)}, history(*happened))
    assert kinds({"trades": records(*happened[:2], *happened[3:])}, history(*happened)) == [
        "trades lost unreported"
    ]


def test_ids_that_begin_anew_are_reported_once_and_only_when_they_do() -> None:
    def restarted(after: Trade, before: Trade) -> dict[str, Any]:
        return {**gap(after, before), "event": "ids_restarted"}

    right, topic = restarted(EPOCHS[2], EPOCHS[3]), records(*EPOCHS)
    assert not kinds({"trades": topic, "events": [right]}, history(*EPOCHS))
    assert kinds({"trades": topic, "events": [right, right]}, history(*EPOCHS)) == ["epoch twice"]
    wrong = restarted(EPOCHS[0], EPOCHS[1])
    assert kinds({"trades": topic, "events": [wrong]}, history(*EPOCHS)) == ["invented epoch"]
    invented = {**right, "before_id": 77}
    assert kinds({"trades": topic, "events": [invented]}, history(*EPOCHS)) == ["invented epoch"]
    late = restarted(EPOCHS[4], EPOCHS[5])  # a second after the first trade of its epoch
    assert kinds({"trades": topic, "events": [late]}, history(*EPOCHS)) == ["invented epoch"]


def test_one_more_epoch_may_be_reported_within_the_second_in_which_one_began() -> None:
    again = {**gap(EPOCHS[3], EPOCHS[4]), "event": "ids_restarted"}
    assert not kinds({"trades": records(*EPOCHS), "events": [again]}, history(*EPOCHS))


# Order and seq


def test_a_hole_in_seq_is_found_unless_a_dead_letter_explains_it() -> None:
    topic = [*ALL[:3], *({**one, "seq": one["seq"] + 1} for one in ALL[3:])]
    letter = {"session": "s", "channel": None, "received_us": ALL[3]["received_us"] - 1}
    assert kinds({"trades": topic}, history(*HAPPENED)) == ["hole in seq"]
    assert not kinds({"trades": topic, "deadletter": [letter]}, history(*HAPPENED))
    for other in ({"session": "t"}, {"channel": "depth"}, {"received_us": at(60)}):
        topics = {"trades": topic, "deadletter": [{**letter, **other}]}
        assert kinds(topics, history(*HAPPENED)) == ["hole in seq"]


def test_a_dead_letter_of_the_session_that_was_replaced_explains_a_hole_during_the_rotation() -> None:
    topic = [*ALL[:3], *({**one, "seq": one["seq"] + 1} for one in ALL[3:])]
    letter = {"session": "old", "channel": None, "received_us": BEGIN}
    rotated = event("session_rotated", session="s", detail="replaces session old", received_us=at(60))
    topics = {"trades": topic, "deadletter": [letter], "events": [rotated]}
    assert not kinds(topics, history(*HAPPENED))
    topics["events"] = [{**rotated, "received_us": BEGIN}]
    assert kinds(topics, history(*HAPPENED)) == ["hole in seq"]


def test_a_damaged_spool_explains_a_hole() -> None:
    topic = [*ALL[:3], *({**one, "seq": one["seq"] + 1} for one in ALL[3:])]
    assert not kinds({"trades": topic, "events": [event("spool_damaged")]}, history(*HAPPENED))


def test_a_session_whose_seq_does_not_begin_at_0_is_found() -> None:
    assert kinds({"trades": records(*HAPPENED, begin=1)}, history(*HAPPENED)) == ["hole in seq"]


def test_seq_that_goes_back_is_found() -> None:
    topic = [*ALL[:2], {**ALL[2], "seq": 3}, {**ALL[3], "seq": 2}, *ALL[4:]]
    assert "seq goes back" in kinds({"trades": topic}, history(*HAPPENED))


def test_a_time_of_reception_that_goes_back_is_found() -> None:
    topic = [*ALL[:-1], {**ALL[-1], "received_us": ALL[-2]["received_us"] - 1}]
    assert kinds({"trades": topic}, history(*HAPPENED)) == ["received_us goes back"]


# Depth


def levels(number: int) -> list[list[str]]:
    return [[f"{number}.0", "1"]]


def book_history(changes: int, snapshots: Sequence[int]) -> History:
    """Return a history of `changes` to a book, which was sent whole when it contained so many of them."""
    made = History()
    made.depth[SYMBOL] = [book_text(levels(number), []) for number in range(changes)]
    for number in snapshots:
        made.books[SYMBOL][full_book_text(levels(100 + number), [])].append(number)
    return made


def depth(*numbers: int | str, session: str = "s", begin: int = 0) -> list[dict[str, Any]]:
    """Return depth records: a text like "s3" is the snapshot with 3 changes, a number is that change."""
    found = []
    for seq, one in enumerate(numbers, begin):
        snapshot = isinstance(one, str)
        number = 100 + int(one[1:]) if isinstance(one, str) else one
        found.append(
            {
                "session": session,
                "seq": seq,
                "received_us": BEGIN,
                "symbol": SYMBOL,
                "snapshot": snapshot,
                "asks": levels(number),
                "bids": [],
            }
        )
    return found


def test_a_book_that_is_complete_is_right() -> None:
    topic = [*depth("s0", 0, 1, "s2"), *depth("s3", 3, 4, session="t")]
    assert not kinds({"depth": topic}, book_history(5, [0, 2, 3]))


def test_a_change_that_was_sent_twice_in_a_row_is_right() -> None:
    assert not kinds({"depth": depth("s0", 0, 0, 1, 1)}, book_history(2, [0]))


def test_a_missing_change_is_found() -> None:
    topic = depth("s0", 0, 2)
    assert kinds({"depth": topic}, book_history(3, [0])) == ["wrong book", "wrong book at the end"]


def test_changes_missing_before_a_snapshot_are_found() -> None:
    assert kinds({"depth": depth("s0", 0, "s3")}, book_history(3, [0, 3])) == ["wrong book"]


def test_a_book_is_dropped_at_a_hole_until_the_next_snapshot() -> None:
    topic = [*depth("s0", 0), *depth(3, "s4", 4, begin=4)]
    letter = {"session": "s", "channel": "depth", "received_us": BEGIN}
    assert not kinds({"depth": topic, "deadletter": [letter]}, book_history(5, [0, 4]))
    stuck = [*depth("s0", 0), *depth(3, 4, begin=4)]
    topics = {"depth": stuck, "deadletter": [letter]}
    assert kinds(topics, book_history(5, [0, 4])) == ["wrong book at the end"]


def test_a_snapshot_that_was_never_the_book_is_found() -> None:
    assert kinds({"depth": depth("s9", 0)}, book_history(1, [0])) == [
        "wrong snapshot",
        "wrong book at the end",
    ]


# Tickers


def ticker(number: int, seq: int, session: str = "s") -> dict[str, Any]:
    figures = dict.fromkeys(FIGURES, str(number))
    about = {"session": session, "seq": seq, "received_us": BEGIN, "symbol": SYMBOL, "time_us": number}
    return {**about, **figures}


def ticker_history(number: int, own: int | None = None) -> History:
    """Return a history of tickers, of which `own` was sent to one connection alone."""
    made = History()
    texts = [text_of(ticker(n, 0), n) for n in range(number)]
    made.tickers["ticker", SYMBOL] = [Ticker(text, n != own) for n, text in enumerate(texts)]
    return made


def test_tickers_in_order_are_right_and_may_begin_anywhere() -> None:
    topic = [ticker(n, seq) for seq, n in enumerate((1, 2, 4))]
    assert not kinds({"ticker": topic}, ticker_history(5, own=3))


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        ((0, 2), "tickers lost unreported"),
        ((1, 0, 2), "ticker twice or out of order"),
        ((1, 1, 2), "ticker twice or out of order"),
        ((0, 7, 1, 2), "invented ticker"),
        ((0, 1), "tickers missing at the end"),
    ],
)
def test_a_ticker_that_is_missing_moved_or_invented_is_found(numbers: tuple[int, ...], kind: str) -> None:
    topic = [ticker(number, seq) for seq, number in enumerate(numbers)]
    assert kinds({"ticker": topic}, ticker_history(3)) == [kind]


def test_tickers_that_look_the_same_may_be_any_of_them() -> None:
    """Ticker 1 was sent twice, and a damaged frame has cost the first of the two: a hole before it."""
    made = ticker_history(3)
    series = made.tickers["ticker", SYMBOL]
    series.insert(2, series[1])
    hole = [ticker(0, 0), ticker(1, 2), ticker(2, 3)]
    letter = {"session": "s", "channel": None, "received_us": BEGIN}
    assert not kinds({"ticker": hole, "deadletter": [letter]}, made)
    silent = [ticker(0, 0), ticker(1, 1), ticker(2, 2)]
    assert kinds({"ticker": silent}, made) == ["tickers lost unreported"]


def test_tickers_between_sessions_may_be_missing_unless_one_replaced_the_other_because_of_its_age() -> None:
    topic = [ticker(0, 0), ticker(2, 0, session="t")]
    rotation = event("session_rotated", session="t", detail="replaces session s")
    assert not kinds({"ticker": topic}, ticker_history(3))
    assert kinds({"ticker": topic, "events": [rotation]}, ticker_history(3)) == ["tickers lost unreported"]
    letter = {"session": "t", "channel": None, "received_us": BEGIN}
    topics = {"ticker": topic, "events": [rotation], "deadletter": [letter]}
    assert not kinds(topics, ticker_history(3))


def test_a_ticker_that_comes_again_with_a_rotation_is_found() -> None:
    topic = [ticker(0, 0), ticker(0, 0, session="t"), ticker(1, 1, session="t")]
    rotation = event("session_rotated", session="t", detail="replaces session s")
    topics = {"ticker": topic, "events": [rotation]}
    assert kinds(topics, ticker_history(2)) == ["ticker twice or out of order"]


# Private channels


def balances(*moments: float) -> tuple[History, list[dict[str, Any]]]:
    """Return a history of changes at these moments, each sent to connection 0, and their records."""
    made, topic = History(), []
    made.record_opened(0)
    for seq, moment in enumerate(moments):
        item = {"currency": "BTC", "free": str(seq), "total": "9", "used": "0"}
        made.changes["key"].append(
            Change(Update("balance", "BTC", [item], "key"), at(moment), [Writing(0, at(moment))])
        )
        topic.append({**item, "session": "s", "seq": seq, "received_us": at(moment), "account": "main"})
    return made, topic


def private_gap(
    after: float | None, before: float, channel: str = "balance", account: str = "main"
) -> dict[str, Any]:
    begin = None if after is None else at(after)
    return event("gap", channel=channel, account=account, after_us=begin, before_us=at(before))


ACCOUNTS = {"accounts": {"key": "main"}}


def test_all_changes_once_are_right() -> None:
    made, topic = balances(1, 2, 3)
    assert not kinds({"balance": topic}, made, **ACCOUNTS)


def letter_of(params: object, channel: str = "balance", seconds: float = 2) -> dict[str, Any]:
    """Return a dead letter of a push with these params."""
    frame = zlib.compress(orjson.dumps({"method": f"{channel}.update", "params": params, "id": None}))
    text = base64.b64encode(frame).decode()
    about = {"session": "s", "received_us": at(seconds), "reason": "payload", "channel": channel}
    return {**about, "frame_base64": text}


def test_a_change_that_is_missing_is_right_if_a_dead_letter_has_it() -> None:
    made, topic = balances(1, 2, 3)
    kept = [topic[0], {**topic[2], "session": "t", "seq": 0}]
    item = made.changes["key"][1].update.params[0]
    right = letter_of([{**item, "total": "x"}])
    assert not kinds({"balance": kept, "deadletter": [right, right]}, made, **ACCOUNTS)
    for wrong in (letter_of([{**item, "free": "7"}]), letter_of(None), letter_of([0]), letter_of([])):
        assert kinds({"balance": kept, "deadletter": [wrong]}, made, **ACCOUNTS) == ["change lost unreported"]


def test_second_copies_of_a_dead_letter_count_once() -> None:
    made, topic = balances(1, 2, 3)
    same = made.changes["key"][1].update
    made.changes["key"].append(Change(same, at(2.1), [Writing(0, at(2.1))]))
    kept = [topic[0], {**topic[2], "session": "t", "seq": 0}]
    letter = letter_of(same.params)
    topics = {"balance": kept, "deadletter": [letter, letter]}
    assert kinds(topics, made, **ACCOUNTS) == ["change lost unreported"]
    assert not kinds(
        {**topics, "deadletter": [letter, letter_of(same.params, seconds=2.1)]}, made, **ACCOUNTS
    )


def test_a_change_that_is_missing_is_right_inside_a_gap_of_its_channel_only() -> None:
    made, topic = balances(1, 2, 3)
    kept = [topic[0], {**topic[2], "session": "t", "seq": 0}]
    assert kinds({"balance": kept}, made, **ACCOUNTS) == ["change lost unreported"]
    for right in (private_gap(1.5, 2.5), private_gap(None, 2.5), private_gap(2, 2)):
        assert not kinds({"balance": kept, "events": [right]}, made, **ACCOUNTS)
    for wrong in (
        private_gap(2.1, 2.5),
        private_gap(1, 1.9),
        private_gap(1, 3, channel="order"),
        private_gap(1, 3, account="other"),
    ):
        topics = {"balance": kept, "events": [wrong]}
        assert kinds(topics, made, **ACCOUNTS) == ["change lost unreported"]


def test_a_change_may_come_as_often_as_it_was_sent_to_one_connection() -> None:
    made, topic = balances(1)
    twice = [topic[0], {**topic[0], "seq": 1}]
    assert kinds({"balance": twice}, made, **ACCOUNTS) == ["change twice"]
    change = made.changes["key"][0]
    change.writings.append(Writing(1, at(1)))
    assert kinds({"balance": twice}, made, **ACCOUNTS) == ["change twice"]
    change.writings.append(Writing(0, at(1)))
    assert not kinds({"balance": twice}, made, **ACCOUNTS)


def test_a_change_that_never_happened_is_found() -> None:
    made, topic = balances(1)
    wrong = {**topic[0], "seq": 1, "free": "77"}
    assert kinds({"balance": [topic[0], wrong]}, made, **ACCOUNTS) == ["invented change"]
