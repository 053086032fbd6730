"""Watermarks: what a restart has to know to repeat no trade and to miss none."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.channels.channel import Source
from bridge.channels.trades import Trades
from bridge.ledger import KEPT, KEPT_OPEN, Watermark, Watermarks, advanced, covers
from bridge.records import EVENTS, Open, Record, Stretch
from bridge.spool.gaps import Gaps

SYMBOL = b"ETH_USDT"


NOTHING = Open()
CLOSED = Open(2)


def at(trade_id: int) -> int:
    """Return the time of a trade in microseconds."""
    return (1_597_419_159 + trade_id) * 1_000_000


def opened(after: int, before: int) -> Open:
    return Open(1, (Stretch(after, at(after), before, at(before)),))


def record(trade_id: int, still_open: Open = NOTHING, *, epoch: int = 0) -> Record:
    return Record("trades", SYMBOL, b"{}", 1, (trade_id, at(trade_id), epoch, still_open))


def watermark(*ids: int, still_open: Open = NOTHING) -> Watermark:
    return Watermark(list(ids), [at(one) for one in ids], still_open)


def after(*ids: int) -> Watermark:
    return advanced({}, map(record, ids))[SYMBOL]


def push(trades: Trades, source: Source, ids: list[int], *, clean: bool) -> list[Record]:
    items = [
        {"id": one, "time": at(one) // 1_000_000, "price": "1", "amount": "2", "type": "buy"}
        for one in reversed(ids)
    ]
    return trades.push(msgspec.json.encode([clean, items, SYMBOL.decode()]), source, 1).records


def ids_of(records: list[Record]) -> list[int]:
    return [record.mark[0] for record in records if record.mark and record.mark[0] is not None]


def without_holes(ids: list[int], stream: list[int]) -> bool:
    return not ids or ids == [one for one in stream if ids[0] <= one <= ids[-1]]


def test_a_watermark_has_the_newest_ids_in_order_and_the_time_of_the_last() -> None:
    assert after(1, 2, 5, 3) == watermark(1, 2, 3, 5)
    assert after(*range(100)).ids == list(range(100 - KEPT, 100))


def test_records_of_other_channels_do_not_change_watermarks() -> None:
    assert advanced({}, [Record("depth", SYMBOL, b"{}", 1)]) == {}


def test_a_watermark_extends_the_previous_one_without_modifying_it() -> None:
    before: Watermarks = {SYMBOL: watermark(1, 2)}
    assert advanced(before, [record(3)]) == {SYMBOL: watermark(1, 2, 3)}
    assert before == {SYMBOL: watermark(1, 2)}


def test_ids_from_the_start_of_an_open_stretch_on_are_kept() -> None:
    """The clean list that closes it may bring new trades within it, and known ones from before it."""
    stretch = opened(5, 10)
    known = [*map(record, range(6)), *(record(n, stretch) for n in range(10, 200))]
    found = advanced({}, known)[SYMBOL]
    assert found.ids == [5, *range(10, 200)]
    assert found.open == stretch
    assert advanced({SYMBOL: found}, [record(200, CLOSED)])[SYMBOL].ids == list(range(201 - KEPT, 201))


def test_a_watermark_stays_bounded_if_the_clean_list_never_arrives() -> None:
    stretch = opened(5, 10)
    watermarks: Watermarks = {SYMBOL: after(*range(6))}
    for begin in range(10, 10_000, 100):
        watermarks = advanced(watermarks, (record(n, stretch) for n in range(begin, begin + 100)))
    found = watermarks[SYMBOL]
    assert found.ids == list(range(found.ids[-1] + 1 - KEPT_OPEN, found.ids[-1] + 1))
    assert found.open == stretch


def test_a_late_clean_list_repeats_no_trade_and_leaves_its_gap_open() -> None:
    stretch = opened(5, 10)
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
    stretches = Open(4, (Stretch(1, 2, 3, 4), Stretch(5, 6, 7, 8)), overtaken=True)
    for one in (after(1, 2), Watermark([7], [1], stretches, 1, 1, [(9, 0)])):
        assert msgspec.json.decode(msgspec.json.encode(one), type=Watermark) == one


def test_a_gap_that_reaches_kafka_before_the_trades_in_front_of_it_stays_closed() -> None:
    """Events are in another partition than trades, so their order is not that of what they say."""
    stretch = opened(5, 10)
    gap = Record(EVENTS, SYMBOL, b"{}", 1, (None, 0, 0, CLOSED))
    for order in ([record(5), record(10, stretch), gap], [record(5), gap, record(10, stretch)]):
        assert advanced({}, order)[SYMBOL] == watermark(5, 10, still_open=CLOSED)


def test_a_new_epoch_keeps_the_newest_ids_of_the_one_before() -> None:
    """A list may still show them, and they must not appear twice."""
    found = advanced({}, [*map(record, range(100)), record(1, epoch=1), record(2, epoch=1)])[SYMBOL]
    assert (found.epoch, found.ids, found.epoch_us) == (1, [1, 2], at(1))
    assert found.past == [(n, at(n)) for n in range(100 - KEPT, 100)]


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


@pytest.mark.parametrize("stray", [2**62, 400])
def test_an_id_out_of_line_hides_no_trades_that_damage_to_a_spool_has_cost(stray: int) -> None:
    in_front = after(*range(100), stray)
    in_front.times[-1] = at(99)
    behind = {SYMBOL: advanced({SYMBOL: in_front}, map(record, range(100, 110)))[SYMBOL]}
    gaps = Gaps()
    gaps.open({SYMBOL: in_front}, behind)
    gaps.close(record(110))
    (lost,) = gaps.closed()
    assert lost.after.last[1] == at(99)
    gaps.open(behind, behind)
    assert not gaps.any_open


def test_a_trade_with_the_number_of_a_known_one_and_another_time_is_not_covered() -> None:
    """Ids may have begun anew."""
    known = {b"A": Watermark([5, 6], [50, 60])}
    covered = [
        (trade_id, time_us)
        for trade_id in range(3, 9)
        for time_us in (30, 50, 60, 90)
        if covers(known, Record("trades", b"A", b"", 0, (trade_id, time_us, 0, Open())))
    ]
    assert covered == [(3, 30), (3, 50), (4, 30), (4, 50), (5, 50), (6, 60)]
    assert not covers(known, Record("trades", b"B", b"", 0, (5, 50, 0, Open())))
    assert not covers(known, Record("events", b"A", b"", 0, (None, 0, 0, Open())))
    assert not covers(known, Record("depth", b"A", b"", 0))
