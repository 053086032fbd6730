"""What was listened to, and what of it may be saved; `test_saves` has the law."""

from bridge.websocket.listening import NOTHING_READ, Listening, Missed, ReadUpTo


def at_once(us: int) -> ReadUpTo:
    """Return that a ping was sent and answered at this time."""
    return ReadUpTo(us, us)


def test_the_documented_example() -> None:
    """The times are those of the module's docstring, in seconds."""
    listening = Listening({"order": 50})
    assert listening.note({"order": 60}, NOTHING_READ) == [Missed("order", 50, 60)]
    listening.advance({"order": 60}, ReadUpTo(85, 86))
    listening.advance({"order": 60}, ReadUpTo(100, 101))
    assert listening.savable(97, {}) == {"order": 85}
    after_the_kill = Listening({"order": 85})
    (missed,) = after_the_kill.note({"order": 117}, at_once(120))
    assert missed == Missed("order", 85, 117)
    after_the_kill.record(missed, 121)
    assert after_the_kill.savable(120, {"order": 85}) == {"order": 85}
    assert after_the_kill.savable(121, {"order": 85}) == {"order": 120}


def test_a_change_that_was_pushed_early_and_read_late_is_not_saved_before_it_is_on_kafka() -> None:
    """It is pushed at 98, the process is frozen, and it is read at 118, before the pong of a ping of 99."""
    listening = Listening({})
    listening.note({"order": 60}, ReadUpTo(85, 86))
    listening.advance({"order": 60}, ReadUpTo(99, 118))
    assert listening.savable(117, {}) == {"order": 85}
    assert listening.savable(118, {}) == {"order": 99}


def test_if_everything_is_on_kafka_the_newest_proof_counts() -> None:
    listening = Listening({"order": 50})
    listening.note({"order": 60}, at_once(80))
    listening.advance({"order": 60}, at_once(100))
    assert listening.savable(None, {}) == {"order": 100}


def test_proofs_that_wait_for_kafka_for_long_are_thinned_out() -> None:
    listening = Listening({})
    listening.note({"order": 0}, NOTHING_READ)
    for second in range(1, 5000):
        listening.advance({"order": 0}, at_once(second))
    assert len(listening._read["order"]) <= 1000
    assert listening.savable(0, {}) == {"order": 0}
    assert 4000 < listening.savable(4500, {})["order"] <= 4500
    assert listening.savable(None, {}) == {"order": 4999}


def test_a_channel_without_a_time_counts_as_not_listened_to_until_its_gap_is_on_kafka() -> None:
    listening = Listening({})
    (missed,) = listening.note({"order": 60}, at_once(100))
    assert missed == Missed("order", None, 60)
    listening.record(missed, 101)
    assert listening.savable(100, {}) == {}
    assert listening.savable(101, {}) == {"order": 100}


def test_a_gap_is_returned_once_for_each_session() -> None:
    listening = Listening({})
    assert len(listening.note({"order": 60}, at_once(100))) == 1
    assert listening.note({"order": 60}, at_once(110)) == []
    assert listening.note({"order": 60, "balance": 105}, at_once(110)) == [Missed("balance", None, 105)]
    listening.begin_session()
    assert listening.note({"order": 130}, at_once(131)) == [Missed("order", 110, 130)]


def test_a_gap_of_one_channel_does_not_hold_another_back() -> None:
    listening = Listening({"order": 50, "balance": 50})
    listening.note({"order": 60}, at_once(60))
    listening.keep(["order"])
    for missed in listening.note({"order": 60, "balance": 65}, at_once(100)):
        listening.record(missed, 110)
    assert listening.savable(100, {"order": 50, "balance": 50}) == {"order": 100, "balance": 50}


def test_a_channel_that_was_not_noted_does_not_advance() -> None:
    listening = Listening({"order": 50})
    listening.advance({"order": 60}, at_once(100))
    assert listening.savable(None, {}) == {"order": 50}
