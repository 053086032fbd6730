"""Books whose damage no frame shows: each is reported, and made right by a snapshot."""

import time
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from bridge.books.doubts import RESULTS
from bridge.records import EVENTS, Record
from bridge.simulator import Simulator
from bridge.simulator.market import Market, Update, amount_text, price_text
from bridge.simulator.mishaps import Harm
from tests.support.consumers import read_topic
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import SYMBOLS, RunningBridge, config
from tests.support.schemas import validate
from tests.support.waiting import eventually

HARMS: dict[str, Harm] = dict(zip(SYMBOLS, ("crossed", "stays", "lost"), strict=False))


def settings(url: str, kafka: Broker, prefix: str, **book: Any) -> dict[str, Any]:
    return config(url, kafka, prefix, {"channels": {"book": ["*"]}, "book": {"interval": 0.2, **book}})


def suspected(kafka: Broker, prefix: str) -> dict[str, list[dict[str, Any]]]:
    """Return the events of suspected books, by symbol."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in read_topic(kafka.bootstrap, f"{prefix}.events.v1"):
        if one.json["event"] == "book_suspect":
            validate(Record(EVENTS, one.key, one.value, one.json["received_us"]))
            found[one.json["symbol"]].append(one.json)
    return found


def harm_the_best_ask(exchange: Simulator, market: Market, harm: Harm) -> dict[str, str | None]:
    """Change the best level, with one harm on the way; return how the kept book differs, as an event says it.

    Of a crossed book it is the bid that the exchange does not have.
    """
    price, before = market.best_ask, amount_text(market.asks[market.best_ask])
    if harm == "stays":
        del market.asks[price]
        found, amount = None, "0"
    else:
        market.asks[price] += 1
        found = amount = amount_text(market.asks[price])
    exchange.harm(market.symbol, harm)
    level = [price_text(price), amount]
    exchange.happen(Update("depth", market.symbol, [False, {"asks": [level], "bids": []}, market.symbol]))
    if harm == "crossed":
        return {"side": "bids", "price": level[0], "kept": amount, "found": None}
    return {"side": "asks", "price": level[0], "kept": before, "found": found}


def test_one_harm_at_the_best_price_is_reported_once_with_its_level_and_of_no_other_book(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """Signs show a crossed book and a wrong best price; a wrong amount is shown by a snapshot only."""
    crossed, stays, lost, *_ = symbols = [*SYMBOLS, "XRP_USDT", "DFT_USDT"]
    harms: dict[str, Harm] = {crossed: "crossed", stays: "stays", lost: "lost"}
    with ExchangeThread(symbols=symbols, rate=0) as exchange:
        simulator = exchange.simulator
        setting = settings(exchange.url, kafka, prefix, patience=0.2)
        setting["exchange"] |= {"reply_timeout": 5.0, "ping_interval": 0.2}
        setting["channels"] = {"book": ["*"], "depth": symbols, "ticker": symbols}
        with RunningBridge(tmp_path, setting) as bridge:
            bridge.wait_ready()
            eventually(lambda: bridge.metric("records_total", channel="book") == len(symbols), 60, "books")
            requests = simulator.requests["depth.subscribe"]
            for symbol in symbols:  # those that are requested do not come yet
                exchange.call(simulator.spoil, "depth", symbol, *["missing"] * 1000)
            markets = simulator.market.markets
            levels = {
                symbol: exchange.call(harm_the_best_ask, simulator, markets[symbol], harm)
                for symbol, harm in harms.items()
            }

            def are_suspected() -> bool:
                for symbol in symbols:
                    exchange.call(simulator.push, "ticker", [markets[symbol].ticker(time.time())])
                return bridge.metric("book_suspect") == 2

            eventually(are_suspected, 60, "the two whose damage has signs")
            assert bridge.ready()[1]["degraded"]["books"].startswith("2 suspected")
            eventually(lambda: simulator.requests["depth.subscribe"] > requests, 60, "a request")
            # The first ones show the damage, and the second ones that it is mended.
            for equal in (len(symbols) - len(harms), 2 * len(symbols) - len(harms)):
                for symbol in symbols:
                    exchange.call(simulator.push, "depth", markets[symbol].snapshot().params)
                checks = partial(bridge.metric, "book_checks_total", result="equal")
                eventually(lambda: checks() == equal, 60, "sound books")  # noqa: B023
                eventually(lambda: bridge.metric("book_suspect") == 0, 60, "no suspicion")
            assert bridge.stop() == 0
    found = suspected(kafka, prefix)
    assert found.keys() == harms.keys(), "no sound book"
    for symbol, events in found.items():
        (proof,) = (one for one in events if one["check"] == "different")
        assert proof["levels"] == [levels[symbol]]
    signs = Counter((symbol, one["check"]) for symbol in found for one in found[symbol] if not one["levels"])
    assert signs == {(crossed, "crossed"): 1, (stays, "ticker"): 1}


def test_each_damaged_book_is_reported_and_made_right_by_a_snapshot_that_was_requested(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """Nothing in the frames shows the damage. No session is replaced here, so each is found by its signs."""
    with ExchangeThread(symbols=SYMBOLS, rate=300) as exchange:
        setting = settings(exchange.url, kafka, prefix, patience=0.2)
        setting["exchange"] |= {"reply_timeout": 0.5, "ping_interval": 0.5}
        with RunningBridge(tmp_path, setting) as bridge:
            bridge.wait_ready()
            eventually(lambda: bridge.metric("records_total", channel="book") > 10, 60, "books")
            assert not any(bridge.metric("book_checks_total", result=one) for one in RESULTS)
            requests = exchange.call(lambda: exchange.simulator.requests["depth.subscribe"])

            def all_reported() -> bool:
                # Another change may heal what one has done, so many are damaged.
                for symbol, harm in HARMS.items():
                    exchange.call(exchange.simulator.harm, symbol, *[harm] * 100)
                return suspected(kafka, prefix).keys() == HARMS.keys()

            eventually(all_reported, 60, "a report of each")
            for symbol in HARMS:
                exchange.call(exchange.simulator.unharm, symbol)
            eventually(lambda: bridge.metric("book_suspect") == 0, 60, "new snapshots")
            assert exchange.call(lambda: exchange.simulator.requests["depth.subscribe"]) > requests
            exchange.quiesce()
            assert bridge.stop() == 0
    found = suspected(kafka, prefix)
    assert found.keys() == HARMS.keys()
    assert "crossed" in {one["check"] for one in found[SYMBOLS[0]]}
    for events in found.values():
        assert all(bool(one["levels"]) == (one["check"] == "different") for one in events)


def test_lost_changes_are_found_in_each_book_when_the_session_is_replaced(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """Far from the best prices no other sign shows them, so books are compared with the new session's."""
    damaged = {*SYMBOLS[:2]}
    with ExchangeThread(symbols=SYMBOLS, rate=200) as exchange:
        setting = settings(exchange.url, kafka, prefix, patience=3600.0)
        setting["exchange"]["max_session_age"] = 1.0
        with RunningBridge(tmp_path, setting) as bridge:
            bridge.wait_ready()
            for symbol in damaged:
                exchange.call(exchange.simulator.harm, symbol, *["lost"] * 100_000)
            eventually(lambda: suspected(kafka, prefix).keys() >= damaged, 60, "a report of each")
            for symbol in damaged:
                exchange.call(exchange.simulator.unharm, symbol)
            assert bridge.metric("book_suspect") == 0, "the snapshot has made it right already"
            assert bridge.stop() == 0
    found = suspected(kafka, prefix)
    assert found.keys() == damaged, "no sound book"
    for first, *_ in found.values():
        assert first["check"] == "different"
        assert "the session that has replaced" in first["detail"]
        assert first["levels"]
