"""What is read from the topic of trades of a symbol whose state was lost."""

from functools import reduce

from bridge.kafka.rebuilding import _behind, _Trade, _trade
from bridge.ledger import KEPT, Watermark

DEEP = b'{"a":' + b"[" * 100_000


def read(*trades: tuple[int, int]) -> Watermark:
    """Return the watermark behind these trades: their ids and times."""
    known = reduce(_behind, (_Trade(trade_id, time_us) for trade_id, time_us in trades), None)
    assert known is not None
    return known


def test_the_newest_trades_are_known_in_the_order_of_their_ids() -> None:
    known = read(*((n, 10 * n) for n in range(1, 101) if n != 90), (90, 900), (95, 950))
    assert known.ids == list(range(101 - KEPT, 101))
    assert known.times == [10 * trade_id for trade_id in known.ids]
    assert (known.epoch, known.past) == (0, [])


def test_ids_that_begin_anew_begin_an_epoch_with_the_one_before_it_behind() -> None:
    known = read((7, 70), (8, 80), (1, 90), (2, 100))
    assert known == Watermark([1, 2], [90, 100], epoch=1, epoch_us=90, past=[(7, 70), (8, 80)], reported=1)


def test_a_trade_from_before_all_that_is_known_begins_none() -> None:
    assert read((7, 70), (8, 80), (1, 75)).epoch == 0


def test_records_of_others_are_no_trades() -> None:
    values = (None, b"", b"null", b'{"id":"1","time_us":1}', b'{"id":1}', b"\xff", DEEP)
    assert [_trade(value) for value in values] == [None] * len(values)
    assert _trade(b'{"id":1,"time_us":2,"more":3}') == _Trade(1, 2)
