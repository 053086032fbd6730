"""The frames that benchmarks use."""

import zlib
from collections import Counter
from typing import Any

import orjson
import pytest

from bridge.simulator import all_ticker_frames, frames


def decoded(made: list[bytes]) -> list[dict[str, Any]]:
    return [orjson.loads(zlib.decompress(frame)) for frame in made]


def test_the_same_seed_gives_the_same_frames() -> None:
    assert frames(1, count=200) == frames(1, count=200)
    assert frames(1, count=200) != frames(2, count=200)


def test_frames_have_the_requested_number_and_mix() -> None:
    made = decoded(frames(3, 5, count=1000))
    channels = Counter(frame["method"] for frame in made)
    assert channels == {"depth.update": 600, "trades.update": 250, "ticker.update": 150}
    assert {frame["id"] for frame in made} == {None}


def test_a_mix_may_leave_channels_out() -> None:
    made = decoded(frames(4, ["BTC_USDT"], {"trades": 0.5, "ticker": 0.5}, 100))
    assert Counter(frame["method"] for frame in made) == {"trades.update": 50, "ticker.update": 50}


def test_a_mix_of_an_unknown_channel_is_an_error() -> None:
    with pytest.raises(KeyError, match="moon"):
        frames(5, mix={"moon": 1.0}, count=1)


def test_frames_are_spread_over_the_symbols() -> None:
    made = decoded(frames(6, 50, {"depth": 1.0}, 2000))
    assert len({frame["params"][2] for frame in made}) == 50


def test_all_ticker_starts_with_every_market_then_lists_changes() -> None:
    whole, *rest = decoded(all_ticker_frames(7, count=4))
    assert len(whole["params"]) == 700
    assert all(0 < len(frame["params"]) < 700 for frame in rest)
    times = [{ticker["timestamp"] for ticker in frame["params"]} for frame in (whole, *rest)]
    assert [max(one) - min(times[0]) for one in times] == [0, 1000, 2000, 3000]
