"""When the parts of a session that was halved are joined again."""

from bridge.websocket.part import Part

AGE = 100.0  # seconds between two rotations


def test_parts_that_cannot_be_joined_are_tried_ever_more_rarely() -> None:
    """At the first rotation, then at the second, fourth and eighth after that, as the docstring says."""
    part, now, tried = Part(30), 0.0, []
    for number in range(1, 16):
        now += 0.99 * AGE
        if now >= part.not_before:
            part = part.postponed(now, AGE)
            tried.append(number)
    assert tried == [1, 3, 7, 15]


def test_a_joined_session_that_is_halved_again_counts_as_a_failure_until_it_has_been_rotated() -> None:
    failed = Part(30).postponed(0.0, AGE)
    joined = failed.with_other(Part(20))
    assert (joined.whole, joined.failed, joined.joined) == (30, 1, True)
    assert joined.postponed(0.0, AGE).not_before == 3 * AGE
    assert joined.rotated() == Part(30)
    assert failed.rotated() == failed


def test_the_wait_has_an_end() -> None:
    part = Part(30)
    for _ in range(2000):
        part = part.postponed(0.0, AGE)
    assert part.not_before < 2000 * AGE
