"""The queue of subscribe requests: how symbols are split into requests, and when refused ones are retried."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.exchange.awaited import NEVER
from bridge.exchange.subscribing import (
    MOST_SYMBOLS,
    Subscribe,
    SubscribeQueue,
    subscribe_requests,
    subscribes,
)


@given(st.lists(st.text(min_size=1), max_size=300))
def test_every_symbol_is_requested_once_in_order_and_as_many_together_as_may_be(symbols: list[str]) -> None:
    requests = subscribes("depth", symbols)
    assert [symbol for request in requests for symbol in request.symbols] == symbols
    assert all(len(request.symbols) == MOST_SYMBOLS for request in requests[:-1])
    assert subscribe_requests({"depth": symbols}) == len(requests)


def test_a_channel_without_symbols_takes_one_request() -> None:
    assert subscribes("all_ticker", []) == [Subscribe("all_ticker", ())]
    assert subscribe_requests({"all_ticker": [], "trades": ["A", "B"]}) == 2


def test_requests_leave_the_queue_in_the_order_they_were_held() -> None:
    queue = SubscribeQueue(30.0)
    first, second, third = (Subscribe("trades", (symbol,)) for symbol in "ABC")
    queue.hold([first, second])
    queue.hold([third])
    assert [queue.pop() for _ in range(len(queue))] == [first, second, third]


def test_a_refused_subscription_is_retried_ever_less_often() -> None:
    queue, retried = SubscribeQueue(30.0), list[float]()
    queue.refuse("trades", ("BAD",), 0.0)
    while len(retried) < 7:
        now = queue.retry_at
        queue.hold_due_retries(now)
        assert queue.pop() == Subscribe("trades", ("BAD",), retry=True)
        retried.append(now)
        queue.refuse("trades", ("BAD",), now)
    assert retried == [30, 90, 210, 450, 930, 1830, 2730]


def test_subscriptions_refused_at_different_times_are_retried_together() -> None:
    queue = SubscribeQueue(30.0)
    queue.refuse("trades", ("BAD",), 0.0)
    queue.refuse("depth", ("WORSE",), 29.0)
    queue.hold_due_retries(29.9)
    assert len(queue) == 0
    queue.hold_due_retries(30.0)
    assert [queue.pop() for _ in range(len(queue))] == [
        Subscribe("trades", ("BAD",), retry=True),
        Subscribe("depth", ("WORSE",), retry=True),
    ]
    assert queue.retry_at == NEVER


def test_a_queue_of_retries_is_distinguished_from_one_with_other_requests() -> None:
    queue = SubscribeQueue(30.0)
    assert queue.only_settled()
    queue.hold([Subscribe("trades", ("BAD",), retry=True)])
    assert queue.only_settled()
    queue.hold([Subscribe("trades", ("A",))])
    assert not queue.only_settled()


def test_of_each_channel_one_request_is_sendable_while_none_is_unanswered() -> None:
    queue = SubscribeQueue(30.0)
    first, second, third = (Subscribe(name, ("A",)) for name in ("trades", "trades", "depth"))
    queue.hold([first, second, third])
    assert (queue.sendable([]), queue.sendable(["trades"]), queue.sendable(["trades", "depth"])) == (2, 1, 0)
    assert queue.pop(["trades"]) == third
    assert queue.pop(["trades"]) is None
    assert queue.pop() == first


def test_parts_of_a_request_leave_the_queue_before_others() -> None:
    queue = SubscribeQueue(30.0)
    first, second, third = (Subscribe("trades", (symbol,)) for symbol in "ABC")
    queue.hold([third])
    queue.hold_next([first, second])
    assert [queue.pop() for _ in range(len(queue))] == [first, second, third]
