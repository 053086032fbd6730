"""Which proxy is used, and what is refused before anything is opened."""

from pathlib import Path

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import InvalidProxy, InvalidStatus
from websockets.http11 import Response

from bridge.config import ExchangeConfig
from bridge.errors import ConfigError
from bridge.websocket import opening

EXCHANGE = "wss://exchange.example/ws/v1/"
VARIABLES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "SOCKS_PROXY")


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "HTTP_PROXY", "http_proxy", "socks_proxy", "WSS_PROXY", "wss_proxy"):
        monkeypatch.delenv(name, raising=False)


def config(**settings: object) -> ExchangeConfig:
    return ExchangeConfig.model_validate({"url": EXCHANGE, **settings}, context={"folder": Path()})


def test_without_a_key_the_environment_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opening.proxy_of(config()) is None
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert opening.proxy_of(config()) == "http://proxy:3128"
    monkeypatch.setenv("no_proxy", "exchange.example")
    assert opening.proxy_of(config()) is None


def test_the_key_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert opening.proxy_of(config(proxy="http://other:3128")) == "http://other:3128"
    assert opening.proxy_of(config(proxy="")) is None


def test_a_connection_in_clear_on_this_machine_uses_no_proxy() -> None:
    assert opening.proxy_of(config(url="ws://127.0.0.1:9000/", proxy="http://proxy:3128")) is None


@pytest.mark.parametrize("variable", ["https_proxy", "socks_proxy"])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4"])
def test_a_socks_proxy_of_the_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    monkeypatch.setenv(variable, f"{scheme}://me:password@proxy:1080")
    with pytest.raises(ConfigError, match="names a SOCKS proxy") as refused:
        opening.verify(config())
    assert "password" not in str(refused.value)
    opening.verify(config(proxy=""))


def test_certificates_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"exchange.ssl_cafile: cannot be used"):
        opening.verify(config(ssl_cafile=file))


def test_errors_say_what_was_refused_and_contain_no_password() -> None:
    moved = InvalidStatus(Response(302, "Found", Headers(Location="wss://elsewhere/")))
    assert opening.in_words(moved) == "HTTP 302: a redirect, which is not followed"
    assert "password" not in opening.in_words(
        InvalidProxy("x://me:password@proxy", "scheme x is not supported")
    )
    assert opening.in_words(EOFError()) == "EOFError"
