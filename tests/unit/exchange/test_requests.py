"""Requests: the exact text that is sent, as in the API document."""

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.exchange import requests
from bridge.exchange.requests import Credentials
from bridge.exchange.words import Confidential

CHANNELS = {
    "trades": ("ETH_USDT", "BTC_USDT"),
    "depth": ("ETH_USDT", "BTC_USDT"),
    "ticker": ("ETH_USDT", "BTC_USDT"),
    "all_ticker": (),
    "order": ("ETH_USDT", "BTC_USDT"),
    "order_algo": ("ETH_USDT", "BTC_USDT"),
    "balance": ("ETH", "USDT"),
}

names = st.text(st.characters(exclude_categories=["Cs"]))


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """Return the HMAC of RFC 2104, by its definition."""
    block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in block) + inner).digest()


def test_ping_request() -> None:
    assert requests.ping(12312) == '{"id":12312,"method":"server.ping","params":[]}'


def test_time_request() -> None:
    assert requests.time(12312) == '{"id":12312,"method":"server.time","params":[]}'


def test_auth_looks_like_the_example_of_the_api_document() -> None:
    text = requests.auth(12312, Credentials("5a8e6b662ddb0", "secret"), 1583135616239)
    assert text == (
        '{"id":12312,"method":"server.auth","params":["5a8e6b662ddb0","1583135616239",'
        '"LX7ahH6PQmnbVvv6lyqjlSkiCfr1tPxhZN4qCTwndzc="]}'
    )
    example = "lXU0njGw4F+89g+EMxWtS9cLjKOqvUQ3+vsKK2yda40="
    signature = json.loads(text)["params"][2]
    assert len(base64.b64decode(signature, validate=True)) == len(base64.b64decode(example, validate=True))


@given(names, names, st.integers(0, 10**14))
def test_the_signature_is_the_base64_hmac_of_the_timestamp_text(
    api_key: str, secret: str, timestamp_ms: int
) -> None:
    request = json.loads(requests.auth(1, Credentials(api_key, secret), timestamp_ms))
    signed_key, timestamp, signature = request["params"]
    assert (signed_key, timestamp) == (api_key, str(timestamp_ms))
    assert base64.b64decode(signature) == hmac_sha256(secret.encode(), timestamp.encode())


def test_key_and_secret_are_masked_in_texts_of_the_exchange() -> None:
    credentials = Credentials("5a8e6b662ddb0", "s3cr3t")
    assert (
        Confidential([credentials]).words("no key 5a8e6b662ddb0, signed with s3cr3t")
        == "no key ***, signed with ***"
    )


@pytest.mark.parametrize(("channel", "symbols"), CHANNELS.items())
def test_subscribe_and_unsubscribe_requests(channel: str, symbols: tuple[str, ...]) -> None:
    listed = ",".join(f'"{symbol}"' for symbol in symbols)
    subscribe = f'{{"id":12312,"method":"{channel}.subscribe","params":[{listed}]}}'
    unsubscribe = f'{{"id":12312,"method":"{channel}.unsubscribe","params":[{listed}]}}'
    assert requests.subscribe(12312, channel, symbols) == subscribe
    assert requests.unsubscribe(12312, channel, list(symbols)) == unsubscribe


@pytest.mark.parametrize("channel", CHANNELS)
def test_unsubscribing_from_everything_has_empty_params(channel: str) -> None:
    assert requests.unsubscribe(1, channel, []) == f'{{"id":1,"method":"{channel}.unsubscribe","params":[]}}'


@given(st.integers(1, 2**63 - 1), names, st.lists(names))
def test_every_request_has_an_integer_id_a_method_and_a_list_of_params(
    request_id: int, name: str, symbols: list[str]
) -> None:
    for text, method, params in [
        (requests.ping(request_id), "server.ping", []),
        (requests.time(request_id), "server.time", []),
        (requests.subscribe(request_id, name, symbols), f"{name}.subscribe", symbols),
        (requests.unsubscribe(request_id, name, symbols), f"{name}.unsubscribe", symbols),
    ]:
        assert json.loads(text) == {"id": request_id, "method": method, "params": params}
