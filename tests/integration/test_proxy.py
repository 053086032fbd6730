"""Connections to the exchange with a CA of one's own, and through an HTTP proxy."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop

from bridge.check.exchange import check_exchange
from bridge.config import Config
from bridge.network import Loop
from tests.support.certificates import make_certificates
from tests.support.exchange import ExchangeThread
from tests.support.relays import Relay

SYMBOLS = ["BTC_USDT"]


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "all_proxy", "no_proxy", "socks_proxy", "wss_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the certificate of a CA, and a server's key and certificates."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secure(certificates: tuple[Path, Path]) -> Iterator[Relay]:
    """Give an exchange with TLS."""
    with (
        ExchangeThread(symbols=SYMBOLS, rate=50) as exchange,
        Relay(target=exchange.port, keystore=certificates[1]) as server,
    ):
        yield server


def checked(server: Relay, keys: Mapping[str, Any]) -> tuple[bool, str]:
    """Check the exchange over TLS, as the commands do it; return the result and what was printed."""
    printed: list[str] = []
    settings = Config.model_validate(
        {
            "exchange": {"url": f"wss://localhost:{server.port}/ws/v1/", "reply_timeout": 30.0, **keys},
            "channels": {"trades": SYMBOLS},
        },
        context={"folder": Path()},
    )
    ready = uvloop.run(check_exchange(settings, printed.append, listening=1.0), loop_factory=Loop)
    return ready, "\n".join(printed)


def test_an_exchange_is_reached_whose_certificate_a_private_authority_has_signed(
    secure: Relay, certificates: tuple[Path, Path]
) -> None:
    ready, printed = checked(secure, {"ssl_cafile": certificates[0]})
    assert ready, printed
    assert "confirmed: all_ticker, trades BTC_USDT" in printed


@pytest.mark.parametrize("keys", ["of the system", "of another authority"])
def test_a_certificate_of_an_unknown_authority_is_refused_and_the_key_is_named(
    secure: Relay, keys: str, tmp_path: Path
) -> None:
    other = {} if keys == "of the system" else {"ssl_cafile": make_certificates(tmp_path)[0]}
    ready, printed = checked(secure, other)
    assert not ready
    assert "certificate not accepted" in printed
    assert "exchange.ssl_cafile" in printed


def test_an_exchange_is_reached_through_a_proxy(secure: Relay, certificates: tuple[Path, Path]) -> None:
    with Relay() as proxy:
        keys = {"ssl_cafile": certificates[0], "proxy": f"http://127.0.0.1:{proxy.port}"}
        ready, printed = checked(secure, keys)
        assert ready, printed
        assert set(proxy.asked) == {f"localhost:{secure.port}"}


def test_the_environment_names_a_proxy_which_the_key_turns_off(
    secure: Relay, certificates: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Relay() as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        ready, printed = checked(secure, {"ssl_cafile": certificates[0]})
        assert ready, printed
        asked = len(proxy.asked)
        assert asked
        ready, printed = checked(secure, {"ssl_cafile": certificates[0], "proxy": ""})
        assert ready, printed
        assert len(proxy.asked) == asked


def test_a_proxy_that_does_not_answer_is_named(secure: Relay, certificates: tuple[Path, Path]) -> None:
    with Relay() as proxy:
        gone = proxy.port
    ready, printed = checked(secure, {"ssl_cafile": certificates[0], "proxy": f"http://127.0.0.1:{gone}"})
    assert not ready
    assert "exchange.proxy" in printed
