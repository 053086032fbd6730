"""What was listened to, and what of it may be saved; `test_saves` has the law."""

from bridge.websocket.listening import Listening, Missed


def test_the_documented_example() -> None:
    """The times are those of the module's docstring, in seconds."""
    listening = Listening({"order": 50})
    assert listening.note({"order": 60}, 100) == [Missed("order", 50, 60)]
    assert listening.savable(None, {}) == {"order": 100}
    assert listening.savable(97, {}) == {"order": 97}
    after_the_kill = Listening({"order": 97})
    (missed,) = after_the_kill.note({"order": 107}, 110)
    assert missed == Missed("order", 97, 107)
    after_the_kill.record(missed, 111)
    assert after_the_kill.savable(110, {"order": 97}) == {"order": 97}
    assert after_the_kill.savable(111, {"order": 97}) == {"order": 110}


def test_a_channel_without_a_time_counts_as_not_listened_to_until_its_gap_is_on_kafka() -> None:
    listening = Listening({})
    (missed,) = listening.note({"order": 60}, 100)
    assert missed == Missed("order", None, 60)
    listening.record(missed, 101)
    assert listening.savable(100, {}) == {}
    assert listening.savable(101, {}) == {"order": 100}


def test_a_gap_is_returned_once_for_each_session() -> None:
    listening = Listening({})
    assert len(listening.note({"order": 60}, 100)) == 1
    assert listening.note({"order": 60}, 110) == []
    assert listening.note({"order": 60, "balance": 105}, 110) == [Missed("balance", None, 105)]
    listening.begin_session()
    assert listening.note({"order": 130}, 131) == [Missed("order", 110, 130)]


def test_a_gap_of_one_channel_does_not_hold_another_back() -> None:
    listening = Listening({"order": 50, "balance": 50})
    for missed in listening.note({"order": 60}, 100):
        listening.record(missed, 100)
    assert listening.savable(70, {"order": 50, "balance": 50}) == {"order": 50, "balance": 50}
    listening.keep(["order", "balance"])
    assert listening.savable(None, {}) == {"order": 100, "balance": 50}


def test_a_channel_that_was_not_noted_does_not_advance() -> None:
    listening = Listening({"order": 50})
    listening.advance({"order": 60}, 100)
    assert listening.savable(None, {}) == {"order": 50}
