"""What `tail` makes of its arguments: topics of channels, a key, and where to begin."""

import pytest

from bridge.config import Config
from bridge.tail import Asked, asked
from bridge.tail.asked import moment

PUBLIC = {"channels": {"trades": ["BTC_USDT"]}, "kafka": {"topic_prefix": "mk"}}
PRIVATE = {
    **PUBLIC,
    "accounts": [{"name": "main", "api_key": "k", "secret": "s", "balance": ["USDT"]}],
}


def asked_for(*names: str, config: dict[str, object] | None = None, symbol: str | None = None) -> Asked:
    return asked(Config.model_validate(config or PUBLIC), names, symbol, "end")


def test_a_channel_is_its_topic_below_the_prefix_it_belongs_to() -> None:
    found = asked_for("trades", "order", "book", "deadletter", "events")
    assert found.named
    assert found.topics == (
        "mk.trades.v1",
        "private.mk.order.v1",
        "mk.book.v1",
        "mk.deadletter.v1",
        "mk.events.v1",
    )


def test_a_name_with_a_dot_is_that_of_a_topic_and_one_is_read_once() -> None:
    assert asked_for("trades", "other.topic", "mk.trades.v1").topics == ("mk.trades.v1", "other.topic")


def test_without_names_it_is_what_the_bridge_writes_but_not_its_state() -> None:
    assert asked_for().topics == ("mk.trades.v1", "mk.deadletter.v1", "mk.events.v1")
    assert not asked_for().named
    assert set(asked_for(config=PRIVATE).topics) == {
        "mk.trades.v1",
        "mk.deadletter.v1",
        "mk.events.v1",
        "private.mk.balance.v1",
        "private.mk.deadletter.v1",
        "private.mk.events.v1",
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("trdes", "unknown channel 'trdes', did you mean trades?"),
        ("TRADES", "did you mean trades?"),
        ("klines!", "there are trades, depth, "),
        ("", "unknown channel ''"),
        ("bridge-state", "the name of a topic has a dot"),
    ],
)
def test_a_name_that_is_neither_a_channel_nor_a_topic_is_explained(name: str, words: str) -> None:
    with pytest.raises(ValueError, match="unknown channel") as error:
        asked_for(name)
    assert words in str(error.value)


def test_a_key_is_looked_for_in_upper_case_as_symbols_are_and_as_it_is_given() -> None:
    """Accounts and channels are keys of events and dead letters."""
    assert asked_for(symbol="btc_usdt").keys == {b"BTC_USDT", b"btc_usdt"}
    assert asked_for(symbol="Main").keys == {b"MAIN", b"Main"}
    assert not asked_for().keys


def test_an_empty_symbol_is_refused() -> None:
    """As of a variable of the shell that is not set; no key is empty."""
    with pytest.raises(ValueError, match="--symbol needs a symbol"):
        asked_for(symbol="")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("beginning", "beginning"),
        ("end", "end"),
        ("2020-05-12T07:02:27Z", 1589266947000),
        ("2020-05-12T07:02:27.123456Z", 1589266947123),
        ("2020-05-12T09:02:27+02:00", 1589266947000),
        ("2020-05-12 07:02:27", 1589266947000),
        ("2020-05-12", 1589241600000),
        ("1589266947", 1589266947000),
        ("1589266947123", 1589266947123),
        ("1589266947123456", 1589266947123),
    ],
)
def test_a_time_may_be_written_as_people_do_or_as_in_records(text: str, start: object) -> None:
    assert moment(text) == start


@pytest.mark.parametrize("text", ["", "now", "End", "5", "-1", "2020-13-01", "99999999999999999999", "٣"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is neither beginning, end, nor a time"):
        moment(text)
