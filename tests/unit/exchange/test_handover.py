"""A handover: what the exchange pushed is passed on once and in order, although two sessions brought it."""

import json
import tracemalloc
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.channels import CHANNELS
from bridge.errors import BadFrame
from bridge.exchange.frames import Messages, Push
from bridge.exchange.handover import Bad, Handover, size_of

Book = dict[str, dict[str, str]]
Context = TypeVar("Context")


class Happened(NamedTuple):
    """A push of the exchange, and the subscription that brings it."""

    channel: str
    symbol: str
    params: Any


def push(channel: str, params: Any) -> Push:
    text = params if isinstance(params, str) else json.dumps(params, separators=(",", ":"))
    message = Messages().decode(f'{{"method":"{channel}.update","params":{text},"id":null}}'.encode())
    assert isinstance(message, Push)
    return message


def released(old: list[Push], new: list[Push]) -> list[tuple[str, Any]]:
    """Return which pushes of `new` are passed on after the old session has brought `old`."""
    handover: Handover[int] = Handover(CHANNELS)
    for message in old:
        handover.remember(message)
    for place, message in enumerate(new):
        handover.hold(message, place)
    return [(message.channel, json.loads(bytes(message.params))) for message, _ in released_by(handover)]


def released_by(handover: Handover[Context]) -> list[tuple[Push, Context]]:
    """Return the pushes that are passed on, without bad frames."""
    return [(message, context) for message, context in handover.release() if isinstance(message, Push)]


def balances(*totals: str, currency: str = "USDT") -> list[Push]:
    return [push("balance", [balance(currency, total)]) for total in totals]


def balance(currency: str, total: str) -> dict[str, str]:
    return {"currency": currency, "free": total, "total": total, "used": "0"}


def ticker(symbol: str, last: str) -> dict[str, str]:
    return {"symbol": symbol, "last": last}


def totals(messages: list[tuple[str, Any]]) -> str:
    return "".join(item["total"] for _, items in messages for item in items)


# Items: order, order_algo, balance, ticker, all_ticker


@pytest.mark.parametrize(
    ("old", "new", "passed_on"),
    [
        pytest.param("", "", "", id="nothing happened"),
        pytest.param("AB", "", "", id="everything before the new session subscribed"),
        pytest.param("", "AB", "AB", id="everything after the old one's last"),
        pytest.param("AB", "B", "", id="the new one saw the end"),
        pytest.param("AB", "BC", "C", id="both saw the middle"),
        pytest.param("AB", "C", "C", id="nothing in common"),
        pytest.param("AB", "BA", "A", id="returns to an earlier value"),
        pytest.param("AB", "A", "A", id="returns to an earlier value after the old one's last"),
        pytest.param("AB", "XB", "XB", id="returns to the old one's last"),
        pytest.param("AAA", "AAB", "B", id="the same value repeated"),
        pytest.param("ABAB", "BABA", "A", id="alternating values"),
    ],
)
def test_the_new_session_continues_where_the_old_one_ended(old: str, new: str, passed_on: str) -> None:
    assert totals(released(balances(*old), balances(*new))) == passed_on


@given(st.text("AB", max_size=12), st.text("AB", max_size=12))
def test_the_longest_part_that_both_may_have_brought_is_not_repeated(old: str, new: str) -> None:
    seen = max(number for number in range(len(new) + 1) if old.endswith(new[:number]))
    assert totals(released(balances(*old), balances(*new))) == new[seen:]


@pytest.mark.parametrize("damaged", [False, True])
def test_many_items_that_are_alike_take_no_more_than_linear_time(damaged: bool) -> None:
    """With quadratic time, these would take half a minute; nothing else runs meanwhile."""
    number = 24_000
    handover: Handover[None] = Handover(CHANNELS)
    handover.remember(push("balance", [balance("USDT", "A")] * number + [balance("USDT", "B")]))
    if damaged:
        handover.remember(Bad(b"a frame", BadFrame("json", "no JSON")))
    handover.hold(push("balance", [balance("USDT", "A")] * number), None)
    assert len(handover.release()) == (not damaged)


@pytest.mark.parametrize(
    ("keys", "items", "aligned"),
    [
        pytest.param(1, 60, [0], id="few items"),
        pytest.param(1, 500, [], id="many items of one key"),
        pytest.param(300, 60, [*range(95)], id="a few items of each of many keys"),
        pytest.param(20, 200, [0, 1], id="more items of some keys"),
    ],
)
def test_items_of_damaged_sessions_are_aligned_until_that_takes_too_long(
    keys: int, items: int, aligned: list[int]
) -> None:
    """It takes the cube of the items. Then whatever stands before the last item of both counts as seen."""
    old, new = ([], [])
    for key in range(keys):
        again, *others = (balance(str(key), str(figure)) for figure in range(items))
        old.append(push("balance", [again, *others[:-2], others[-1]]))
        new.append(push("balance", [*others, again]))
    handover: Handover[int] = Handover(CHANNELS)
    for message in old:
        handover.remember(message)
    handover.remember(bad("!"))
    for key, message in enumerate(new):
        handover.hold(message, key)
    assert [key for _, key in released_by(handover)] == aligned


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(f"[{'10,' * 20_000}10]", id="numbers"),
        pytest.param(f"[[{'10,' * 20_000}10]]", id="numbers in a nested list"),
        pytest.param(f"[{{}},{'10,' * 20_000}10]", id="numbers behind an object"),
        pytest.param(f"[{'[],' * 10_000}{{}},{'[],' * 10_000}{{}}]", id="empty lists around an object"),
        pytest.param(f"[{','.join(['{},1'] * 2_000)}]", id="objects and numbers by turns"),
        pytest.param(f"[{','.join(['{}'] * 2_000)}]", id="objects"),
    ],
)
def test_what_a_rotation_takes_when_it_ends_is_no_more_than_was_counted(params: str) -> None:
    handover: Handover[None] = Handover(CHANNELS)
    message = push("moon", params)
    for _ in range(3):
        handover.remember(message)
        handover.hold(message, None)
    counted = handover.held_bytes
    assert counted == 6 * size_of(message)
    while_one_is_split = 4_000_000
    tracemalloc.start()
    try:
        assert handover.release() == []
        assert tracemalloc.get_traced_memory()[1] < counted + while_one_is_split
    finally:
        tracemalloc.stop()


def test_numbers_between_objects_are_passed_on_once_with_what_they_stand_beside() -> None:
    a, b, c = (ticker("A", last) for last in "123")
    assert released([push("moon", [a, 1, 2])], [push("moon", [a, 1, 2, b, 3, 4, c])]) == [
        ("moon", [b, 3, 4, c])
    ]


def test_many_items_that_are_none_count_for_more_than_their_text() -> None:
    """Time is spent on each; 56 MiB of a rotation are then at most three million of them."""
    word, numbers = (size_of(push("moon", text)) for text in (f'["{"x" * 20_000}"]', f"[{'1,' * 10_000}1]"))
    assert numbers - word == 10_000 * 20 - 1


def test_each_currency_is_aligned_separately() -> None:
    old = [*balances("A"), *balances("X", currency="BTC"), *balances("B")]
    new = [*balances("B", "C"), *balances("Y", currency="BTC")]
    assert released(old, new) == [("balance", [balance("USDT", "C")]), ("balance", [balance("BTC", "Y")])]


def test_a_symbol_in_two_channels_is_aligned_separately_in_each() -> None:
    item = {"symbol": "BTC_USDT", "id": "1"}
    assert released([push("order", [item])], [push("order_algo", [item])]) == [("order_algo", [item])]


def test_a_currency_that_only_the_old_session_brought_does_not_affect_the_others() -> None:
    other = balances("X", currency="BTC")
    assert released([*balances("A"), *other, *balances("B")], balances("A", "B", "C")) == [
        ("balance", [balance("USDT", "C")])
    ]


def test_only_the_unseen_items_of_a_push_are_passed_on() -> None:
    seen, unseen = ticker("A", "1"), ticker("B", "2")
    assert released([push("all_ticker", [seen])], [push("all_ticker", [seen, unseen])]) == [
        ("all_ticker", [unseen])
    ]


def test_items_of_a_nested_list_are_compared_one_by_one() -> None:
    seen, unseen = ticker("A", "1"), ticker("B", "2")
    old, new = [push("all_ticker", [[seen]])], [push("all_ticker", [[seen, unseen]])]
    assert released(old, new) == [("all_ticker", [unseen])]


def test_the_state_a_ticker_starts_with_is_dropped_when_it_is_outdated() -> None:
    old = [push("ticker", [ticker("A", last)]) for last in "123"]
    new = [push("ticker", [ticker("A", last)]) for last in ("state", "2", "3", "4")]
    assert released(old, new) == [("ticker", [ticker("A", "4")])]


def test_the_state_a_ticker_starts_with_is_passed_on_when_the_old_session_has_nothing_newer() -> None:
    old = [push("ticker", [ticker("A", "1")])]
    new = [push("ticker", [ticker("A", last)]) for last in ("state", "2")]
    assert released(old, new) == [("ticker", [ticker("A", "state")]), ("ticker", [ticker("A", "2")])]


def test_a_held_push_is_released_unchanged_with_its_context() -> None:
    handover: Handover[str] = Handover(CHANNELS)
    held = push("order", '[ {"symbol" : "A"} , {"symbol" : "B"} ]')
    handover.hold(held, "context")
    assert handover.release() == [(held, "context")]
    assert handover.release() == []


# Trades and depth


def test_all_trades_are_passed_on_because_their_ids_show_which_are_new() -> None:
    message = push("trades", [True, [{"id": 1}], "A"])
    assert released([message], [message]) == [("trades", [True, [{"id": 1}], "A"])]


def test_a_book_is_passed_on_from_its_last_snapshot() -> None:
    new = [
        push("depth", [True, {"asks": [["1", "1"]]}, "A"]),
        push("depth", [True, {}, "B"]),
        push("depth", [False, {"asks": [["2", "1"]]}, "A"]),
        push("depth", [True, {"asks": [["3", "1"]]}, "a"]),
        push("depth", [False, {"asks": [["4", "1"]]}, "A"]),
        push("depth", [False, {}, "C"]),
    ]
    assert released([], new) == [
        ("depth", [True, {}, "B"]),
        ("depth", [True, {"asks": [["3", "1"]]}, "a"]),
        ("depth", [False, {"asks": [["4", "1"]]}, "A"]),
        ("depth", [False, {}, "C"]),
    ]


# Bad frames


def bad(content: str) -> Bad:
    return Bad(content.encode(), BadFrame("json", "not JSON"))


def released_bad(old: str, new: str) -> str:
    """Return the contents of the new session's bad frames that are passed on after those of `old`."""
    handover: Handover[None] = Handover(CHANNELS)
    for content in old:
        handover.remember(bad(content))
    for content in new:
        handover.hold(bad(content), None)
    frames = [message for message, _ in handover.release() if isinstance(message, Bad)]
    assert "".join(message.frame.decode() for message in frames) == new
    return "".join(message.frame.decode() for message in frames if not message.repeated)


@pytest.mark.parametrize(
    ("old", "new", "passed_on"),
    [
        pytest.param("", "AB", "AB", id="only the new session brought it"),
        pytest.param("AB", "", "", id="only the old session brought it"),
        pytest.param("AB", "AB", "", id="both brought it"),
        pytest.param("ABX", "YB", "Y", id="each brought a different one"),
        pytest.param("A", "AA", "A", id="the new session brought one more"),
        pytest.param("AA", "A", "", id="one came before the new session was open"),
    ],
)
def test_a_bad_frame_that_both_sessions_bring_is_passed_on_once(old: str, new: str, passed_on: str) -> None:
    assert released_bad(old, new) == passed_on


@pytest.mark.parametrize(
    ("old", "new", "passed_on"),
    [
        pytest.param("A!C", "ABCD", "D", id="in the old session, between items of both"),
        pytest.param("!BC", "ABCD", "D", id="in the old session, in front of them"),
        pytest.param("AB!", "ABCD", "CD", id="in the old session, the last one, which the new one brings"),
        pytest.param("ABC", "A!CD", "!D", id="in the new session, between items of both"),
        pytest.param("ABC", "AB!D", "!D", id="in the new session, the last one of both"),
        pytest.param("A!C", "A!CD", "D", id="in both"),
        pytest.param("A!CDE", "ABC?EF", "?F", id="a different one in each"),
        pytest.param("!", "ABC", "ABC", id="the only one of the old session"),
    ],
)
@pytest.mark.parametrize("channel", ["order", "ticker"])
def test_an_item_whose_frame_could_not_be_read_in_one_session_repeats_no_other(
    channel: str, old: str, new: str, passed_on: str
) -> None:
    def message(item: str) -> Push | Bad:
        return bad(item) if item in "!?" else push(channel, [{"symbol": "A", "figure": item}])

    handover: Handover[str] = Handover(CHANNELS)
    for item in old:
        handover.remember(message(item))
    for item in new:
        handover.hold(message(item), item)
    released = [
        item for message, item in handover.release() if not (isinstance(message, Bad) and message.repeated)
    ]
    assert "".join(released) == passed_on


@given(st.text("ABC"), st.text("ABC"))
def test_rotation_passes_each_bad_frame_once(old: str, new: str) -> None:
    assert Counter(old + released_bad(old, new)) == Counter(old) | Counter(new)


def test_a_bad_frame_keeps_its_place_among_the_pushes_and_its_context() -> None:
    handover: Handover[int] = Handover(CHANNELS)
    snapshot, delta = (push("depth", [clean, {}, "A"]) for clean in (True, False))
    held: list[Push | Bad] = [delta, bad("X"), snapshot, bad("Y"), delta]
    handover.remember(bad("Y"))
    for place, message in enumerate(held):
        handover.hold(message, place)
    repeated = bad("Y")._replace(repeated=True)
    released = [
        (message.frame, message.repeated) if isinstance(message, Bad) else message
        for message, place in handover.release()
    ]
    assert released == [(b"X", False), held[2], (repeated.frame, True), held[4]]


# Params of any shape


@pytest.mark.parametrize("channel", ["depth", "trades", "ticker", "balance", "moon"])
@pytest.mark.parametrize(
    "params",
    [
        "null",
        "1",
        '""',
        "{}",
        "[]",
        "[[]]",
        "[[[]]]",
        "[[],[]]",
        "[null]",
        "[1,2]",
        '[{"symbol":1}]',
        "[[1],2]",
    ],
)
def test_params_of_any_shape_are_passed_on_to_the_normaliser(channel: str, params: str) -> None:
    assert released([], [push(channel, params)]) == [(channel, json.loads(params))]


@pytest.mark.parametrize(
    "params", ["null", "{}", "[]", "[[]]", "[1,2]", '[{"symbol":1}]', '[{"no":"symbol"},{"symbol":"A"}]']
)
def test_params_of_any_shape_are_passed_on_once(params: str) -> None:
    assert released([push("ticker", params)], [push("ticker", params)]) == []


@pytest.mark.parametrize("channel", ["depth", "ticker"])
def test_params_nested_as_deep_as_the_stack_allows_do_not_end_a_handover(channel: str) -> None:
    def rotate(message: Push, calls_down: int) -> None:
        if calls_down:
            rotate(message, calls_down - 1)
            return
        handover: Handover[None] = Handover(CHANNELS)
        handover.remember(message)
        handover.hold(message, None)
        handover.release()

    for depth in range(800, 1000):
        rotate(Push(channel, b"[" * depth + b"]" * depth), 20)


def test_a_symbol_that_is_not_utf8_does_not_end_a_handover() -> None:
    for channel, params in [("depth", b'[true,{},"\xff"]'), ("ticker", b'[{"symbol":"\xff"}]')]:
        message = Messages().decode(b'{"method":"%s.update","params":%s}' % (channel.encode(), params))
        assert isinstance(message, Push)
        handover: Handover[None] = Handover(CHANNELS)
        handover.hold(message, None)
        assert handover.release() == [(message, None)]


# Laws


@dataclass(frozen=True)
class Rotation:
    """What the exchange pushed, and when in this the two sessions saw it.

    The old session gets everything up to `old_end`, the new one everything of a subscription since it
    subscribed to that. It is released at `release`, when it has brought all that the old one has.
    """

    pushes: list[Happened]
    subscribed: dict[tuple[str, str], int]
    old_end: int
    release: int

    def of_new(self, start: int, end: int) -> list[Happened]:
        return [
            happened
            for place, happened in enumerate(self.pushes[start:end], start)
            if place >= self.subscribed[happened.channel, happened.symbol]
        ]


@st.composite
def rotations(draw: st.DrawFn, happenings: st.SearchStrategy[list[Happened]]) -> Rotation:
    pushes = draw(happenings)
    release = draw(st.integers(0, len(pushes)))
    old_end = draw(st.integers(0, release))
    series = sorted({(happened.channel, happened.symbol) for happened in pushes})
    return Rotation(pushes, {name: draw(st.integers(0, old_end)) for name in series}, old_end, release)


def merged(rotation: Rotation, draw: st.DataObject, first: dict[int, list[Happened]]) -> list[Happened]:
    """Return what is passed on, in order; `first` has, by place, the pushes a subscription starts with."""
    handover: Handover[str] = Handover(CHANNELS)
    on: list[Happened] = []
    old = rotation.pushes[: rotation.old_end]
    new: list[Happened] = []
    for place in range(rotation.release + 1):
        new += first.get(place, [])
        new += rotation.of_new(place, min(place + 1, rotation.release))
    # The pushes of one session come in order, those of two in any.
    turns = draw.draw(st.permutations([True] * len(old) + [False] * len(new)))
    of_old, of_new = iter(old), iter(new)
    for turn in turns:
        happened = next(of_old if turn else of_new)
        message = push(happened.channel, happened.params)
        if turn:
            handover.remember(message)
            on.append(happened)
        else:
            handover.hold(message, happened.symbol)
    on += [
        Happened(message.channel, symbol, json.loads(bytes(message.params)))
        for message, symbol in released_by(handover)
    ]
    return on + rotation.of_new(rotation.release, len(rotation.pushes))


def items(pushes: list[Happened]) -> dict[tuple[str, str], list[Any]]:
    """Return the items of every series, in order."""
    series = defaultdict(list)
    for happened in pushes:
        for item in happened.params:
            series[happened.channel, item.get("symbol") or item["currency"]].append(item)
    return dict(series)


names = st.sampled_from(["A", "B"])


@st.composite
def different_items(draw: st.DrawFn) -> list[Happened]:
    """Return pushes of all channels of items, no item the same as another."""
    drawn = draw(
        st.lists(
            st.tuples(st.sampled_from(["ticker", "order", "balance"]), names)
            | st.tuples(st.just("all_ticker"), st.lists(names, min_size=1, unique=True)),
            max_size=25,
        )
    )
    pushes = []
    for number, (channel, named) in enumerate(drawn):
        field = "currency" if channel == "balance" else "symbol"
        symbols = named if isinstance(named, list) else [named]
        params = [{field: symbol, "figure": str(number)} for symbol in symbols]
        pushes.append(Happened(channel, "" if isinstance(named, list) else named, params))
    return pushes


@given(rotations(different_items()), st.data())
def test_every_item_is_passed_on_once_and_in_order(rotation: Rotation, data: st.DataObject) -> None:
    assert items(merged(rotation, data, {})) == items(rotation.pushes)


@given(rotations(different_items()), st.data())
def test_the_states_tickers_start_with_are_in_order_or_dropped(
    rotation: Rotation, data: st.DataObject
) -> None:
    states: dict[int, list[Happened]] = defaultdict(list)
    for (channel, symbol), place in rotation.subscribed.items():
        if channel == "ticker":
            state = {"symbol": symbol, "figure": str(place - 0.5)}
            states[place].append(Happened(channel, symbol, [state]))
    truth = items(rotation.pushes)
    for series, passed_on in items(merged(rotation, data, states)).items():
        figures = [float(item["figure"]) for item in passed_on]
        assert figures == sorted(figures)
        assert [item for item in passed_on if float(item["figure"]).is_integer()] == truth.get(series, [])


@st.composite
def same_balances(draw: st.DrawFn) -> list[Happened]:
    """Return pushes of a balance that changes between two values."""
    return [Happened("balance", "A", [balance("A", total)]) for total in draw(st.text("12", max_size=12))]


@given(rotations(same_balances()), st.data())
def test_equal_items_are_never_repeated_and_the_last_one_is_always_passed_on(
    rotation: Rotation, data: st.DataObject
) -> None:
    truth = items(rotation.pushes)
    passed_on = items(merged(rotation, data, {}))
    assert passed_on.keys() == truth.keys()
    for key, found in passed_on.items():
        in_order = iter(truth[key])
        assert all(item in in_order for item in found)
        assert found[-1] == truth[key][-1]


@st.composite
def books(draw: st.DrawFn) -> list[Happened]:
    """Return changes of books and, now and then, a whole one again."""
    level = st.tuples(st.sampled_from(["1", "2", "3"]), st.sampled_from(["0", "5", "6"])).map(list)
    change = st.fixed_dictionaries(
        {}, optional={side: st.lists(level, max_size=2) for side in ("asks", "bids")}
    )
    now: dict[str, Book] = defaultdict(lambda: {"asks": {}, "bids": {}})
    pushes = []
    for symbol, book, again in draw(st.lists(st.tuples(names, change, st.booleans()), max_size=25)):
        apply(now[symbol], book)
        params = snapshot(symbol, now[symbol]) if again else [False, book, symbol]
        pushes.append(Happened("depth", symbol, params))
    return pushes


def apply(book: Book, change: dict[str, Any]) -> None:
    for side, levels in change.items():
        for price, amount in levels:
            book[side][price] = amount
            if amount == "0":
                del book[side][price]


def snapshot(symbol: str, book: Book) -> list[Any]:
    return [True, {side: [list(level) for level in levels.items()] for side, levels in book.items()}, symbol]


def rebuilt(pushes: list[Happened]) -> dict[str, Book]:
    """Return the books as a consumer has them at the end."""
    now: dict[str, Book] = {}
    for happened in pushes:
        clean, change, symbol = happened.params
        if clean or symbol not in now:
            now[symbol] = {"asks": {}, "bids": {}}
        apply(now[symbol], change)
    return now


@given(rotations(books()), st.data())
def test_books_rebuilt_from_what_is_passed_on_equal_those_of_the_exchange(
    rotation: Rotation, data: st.DataObject
) -> None:
    first: dict[int, list[Happened]] = defaultdict(list)
    for (channel, symbol), place in rotation.subscribed.items():
        book = rebuilt(rotation.pushes[:place]).get(symbol, {"asks": {}, "bids": {}})
        first[place].append(Happened(channel, symbol, snapshot(symbol, book)))
    on = merged(rotation, data, first)
    assert rebuilt(on) == rebuilt(rotation.pushes)
    snapshots = Counter(happened.symbol for happened in on if happened.params[0])
    assert all(snapshots[symbol] for _, symbol in rotation.subscribed)


@given(
    st.lists(st.tuples(names, st.booleans(), st.lists(st.integers(0, 99), max_size=3)), max_size=10),
    st.data(),
)
def test_trades_are_passed_on_unchanged(
    drawn: list[tuple[str, bool, list[int]]], data: st.DataObject
) -> None:
    new = [push("trades", [clean, [{"id": number} for number in ids], name]) for name, clean, ids in drawn]
    old = data.draw(st.lists(st.sampled_from(new))) if new else []
    assert released(old, new) == [("trades", json.loads(bytes(message.params))) for message in new]
