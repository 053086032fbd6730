"""When one connector tries again: ever later while its sessions end soon, and soon after one that lived."""

import pytest

from bridge.config import ExchangeConfig
from bridge.websocket.courtesy import LIFE, OTHER
from bridge.websocket.feed import Ended, EndReason
from bridge.websocket.retrying import Retrying

CONFIG = ExchangeConfig()  # `reconnect_min` 0.5 s, `reconnect_max` 30 s, `refused_max` 300 s


class Connector:
    """One connector, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.retrying = Retrying(CONFIG, OTHER, self.now)

    def session(self, life: float | None, reason: EndReason = "closed") -> float:
        """Have a session that is live for so long, or never, and ends; return the seconds that it waits."""
        self.retrying.tried()
        live_at = None if life is None else self.now
        self.now += life or 0.0
        return self.retrying.ended(Ended(reason, ""), self.now, live_at)


@pytest.fixture
def tired() -> Connector:
    """Return a connector that has had many short lives."""
    connector = Connector()
    for _ in range(20):
        connector.session(0.2)
    return connector


def test_the_wait_grows_while_sessions_are_live_for_less_than_a_minute(tired: Connector) -> None:
    for life in (None, 0.0, LIFE - 0.1):
        assert CONFIG.reconnect_max / 2 <= tired.session(life) <= CONFIG.reconnect_max


@pytest.mark.parametrize("life", [LIFE, 5 * LIFE, 3600.0])
def test_the_wait_starts_over_after_a_session_that_was_live_for_a_minute(
    tired: Connector, life: float
) -> None:
    assert tired.session(life) <= CONFIG.reconnect_min
    assert tired.session(0.2) <= 2 * CONFIG.reconnect_min


def test_refused_credentials_are_tried_soon_again_if_they_were_accepted_for_a_minute() -> None:
    connector = Connector()
    for _ in range(10):
        connector.session(None, "rejected")
    assert connector.session(LIFE - 0.1, "rejected") >= CONFIG.refused_max / 2
    assert connector.session(LIFE, "rejected") <= CONFIG.reconnect_max


def test_a_session_that_was_live_for_a_minute_ends_a_row_of_short_lives(tired: Connector) -> None:
    assert tired.retrying.keeps_ending
    tired.session(LIFE)
    assert (tired.retrying.short_lives, tired.retrying.keeps_ending) == (0, False)
    reported = []
    for _ in range(12):
        tired.session(LIFE - 0.1)
        reported.append(tired.retrying.reports_short_lives)
    assert [number for number, one in enumerate(reported, 1) if one] == [3, 6, 12]


def test_an_earlier_refusal_delays_nobody_whose_session_was_live_for_a_minute() -> None:
    connector = Connector()
    connector.session(LIFE - 0.1)
    assert connector.retrying.handshake(1).well_at < 0
    connector.session(LIFE)
    assert connector.retrying.handshake(1).well_at == connector.now


def test_a_part_of_a_session_that_kept_ending_needs_one_short_life_to_be_divided_further() -> None:
    connector = Connector()
    connector.retrying.begin_as_part()
    first = connector.retrying.handshake(1)
    assert (first.well_at < 0, first.repeated) == (True, False)
    connector.session(0.2)
    assert connector.retrying.keeps_ending
    assert connector.retrying.handshake(1).repeated
