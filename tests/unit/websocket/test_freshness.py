"""How long a session may bring nothing."""

from bridge.websocket.freshness import Freshness


def test_the_documented_intervals() -> None:
    """Those of a market that is quiet: each new session brings its snapshots when it becomes live."""
    freshness, now = Freshness(120.0, 10.0), 1000.0
    waits = []
    for _ in range(8):
        stale_at = freshness.stale_at(now, now + 1.0)
        waits.append(stale_at - now - 1.0)
        freshness.replaced()
        now = stale_at
    assert waits == [120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0, 3600.0]


def test_a_push_after_the_beginning_starts_it_over() -> None:
    freshness = Freshness(120.0, 10.0)
    freshness.replaced()
    assert freshness.stale_at(1000.0, 1010.0) == 1250.0
    assert freshness.stale_at(1000.0, 1011.0) == 1131.0


def test_an_interval_of_more_than_an_hour_stays_as_it_is() -> None:
    freshness = Freshness(7200.0, 10.0)
    freshness.replaced()
    assert freshness.stale_at(0.0, 0.0) == 7200.0
