"""Watermarks: what a restart has to know to repeat no trade and to miss none."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bridge.channels.channel import Source
from bridge.channels.trades import Trades
from bridge.ledger import KEPT, KEPT_OPEN, Watermark, Watermarks, advanced
from bridge.records import Record, Stretch

SYMBOL = b"ETH_USDT"


def record(trade_id: int, open_stretch: Stretch | None = None) -> Record:
    return Record("trades", SYMBOL, b"{}", 1, (trade_id, trade_id * 10, open_stretch))


def after(*ids: int) -> Watermark:
    return advanced({}, map(record, ids))[SYMBOL]


def push(trades: Trades, source: Source, ids: list[int], *, clean: bool) -> list[Record]:
    items = [
        {"id": one, "time": 1_597_419_159, "price": "1", "amount": "2", "type": "buy"}
        for one in reversed(ids)
    ]
    return trades.push(msgspec.json.encode([clean, items, SYMBOL.decode()]), source, 1).records


def ids_of(records: list[Record]) -> list[int]:
    return [record.mark[0] for record in records if record.mark]


def without_holes(ids: list[int], stream: list[int]) -> bool:
    return not ids or ids == [one for one in stream if ids[0] <= one <= ids[-1]]


def test_a_watermark_has_the_newest_ids_in_order_and_the_time_of_the_last() -> None:
    assert after(1, 2, 5, 3) == Watermark([1, 2, 3, 5], time_us=50)
    assert after(*range(100)).ids == list(range(100 - KEPT, 100))


def test_records_of_other_channels_do_not_change_watermarks() -> None:
    assert advanced({}, [Record("depth", SYMBOL, b"{}", 1)]) == {}


def test_a_watermark_extends_the_previous_one_without_modifying_it() -> None:
    before: Watermarks = {SYMBOL: Watermark([1, 2], time_us=20)}
    assert advanced(before, [record(3)]) == {SYMBOL: Watermark([1, 2, 3], time_us=30)}
    assert before == {SYMBOL: Watermark([1, 2], time_us=20)}


def test_ids_from_the_start_of_an_open_stretch_on_are_kept() -> None:
    """The clean list that closes it may bring new trades within it, and known ones from before it."""
    stretch = Stretch(5, 50, 10, 100)
    known = [*map(record, range(6)), *(record(n, stretch) for n in range(10, 200))]
    watermark = advanced({}, known)[SYMBOL]
    assert watermark.ids == [5, *range(10, 200)]
    assert watermark.open == stretch
    assert advanced({SYMBOL: watermark}, [record(200)])[SYMBOL].ids == list(range(201 - KEPT, 201))


def test_a_watermark_stays_bounded_if_the_clean_list_never_arrives() -> None:
    stretch = Stretch(5, 50, 10, 100)
    watermarks: Watermarks = {SYMBOL: after(*range(6))}
    for begin in range(10, 10_000, 100):
        watermarks = advanced(watermarks, (record(n, stretch) for n in range(begin, begin + 100)))
    watermark = watermarks[SYMBOL]
    assert watermark.ids == list(range(watermark.ids[-1] + 1 - KEPT_OPEN, watermark.ids[-1] + 1))
    assert watermark.open == stretch


def test_a_late_clean_list_repeats_no_trade_and_leaves_its_gap_open() -> None:
    stretch = Stretch(5, 50, 10, 100)
    trades = Trades({SYMBOL: advanced({}, (record(n, stretch) for n in range(10, 2_000)))[SYMBOL]})
    made = push(trades, Source("second"), list(range(1_900, 2_010)), clean=True)
    assert ids_of(made) == list(range(2_000, 2_010))


def test_a_clean_list_after_many_trades_and_a_restart_fills_in_what_was_missed() -> None:
    known, early = list(range(100)), list(range(150, 190))
    before = Trades({SYMBOL: after(*known)})
    made = push(before, Source("first"), early, clean=False)
    trades = Trades(advanced({SYMBOL: after(*known)}, made))
    assert ids_of(push(trades, Source("second"), list(range(95, 195)), clean=True)) == [
        *range(100, 150),
        *range(190, 195),
    ]


def test_a_watermark_survives_encoding_and_decoding() -> None:
    for watermark in (after(1, 2), Watermark([7], 1, Stretch(1, 2, 3, 4))):
        assert msgspec.json.decode(msgspec.json.encode(watermark), type=Watermark) == watermark


@given(st.data())
def test_a_crash_at_any_record_repeats_no_trade_and_misses_none(data: st.DataObject) -> None:
    """When the process dies, any number of its first records may have been committed."""
    stream = list(range(data.draw(st.integers(2, 300))))
    watermarks: dict[bytes, Watermark] = {}
    on_kafka: list[int] = []
    shown = 0
    for life in range(data.draw(st.integers(1, 5))):
        trades, source = Trades(watermarks), Source(f"s{life}")
        made: list[Record] = []
        whole = without_holes(on_kafka, stream)
        # The clean list reaches back to where no trade is missing.
        begin = stream.index(on_kafka[-1 if whole else 0]) if on_kafka else 0
        # The exchange may have pushed more since then, and trades may arrive before the clean list.
        shown = max(shown, begin + 1)
        listed = data.draw(st.integers(shown, len(stream)))
        early = data.draw(st.integers(listed, min(listed + 2 * KEPT, len(stream))))
        list_comes = data.draw(st.sampled_from(["first", "late", "never"]))
        if list_comes != "first" and early > listed:
            made += push(trades, source, stream[listed:early], clean=False)
        if list_comes != "never":
            made += push(trades, source, stream[begin:early], clean=True)
        shown = early
        while shown < len(stream) and data.draw(st.booleans()):
            made += push(trades, source, stream[shown : shown + 2], clean=False)
            shown = min(shown + 2, len(stream))
        kept = made[: data.draw(st.integers(0, len(made)))]
        watermarks.update(advanced(watermarks, kept))
        on_kafka = sorted(on_kafka + ids_of(kept))
        if list_comes == "first" and whole:
            assert without_holes(on_kafka, stream)
    trades = Trades(watermarks)
    on_kafka += ids_of(push(trades, Source("last"), stream, clean=True))
    assert without_holes(sorted(on_kafka), stream)
    assert max(on_kafka) == stream[-1]
