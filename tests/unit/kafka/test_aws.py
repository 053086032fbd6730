"""Tokens for Amazon MSK: signed by Amazon's own signer, without a request to AWS."""

import base64
import sys
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import uvloop
from aiokafka.errors import KafkaError

from bridge.config import ConfigError, KafkaConfig
from bridge.kafka import aws
from bridge.kafka.aws import signer
from bridge.kafka.client import admin, connection, in_words
from bridge.kafka.tokens import Granted, TokenUnavailable
from bridge.network import Loop
from tests.support.certificates import make_certificates
from tests.support.hostile_broker import HostileBroker, mechanisms, token
from tests.support.relays import Relay

BROKERS = "b-1.feed.abc123.c2.kafka.eu-west-3.amazonaws.com:9098"
KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials in the environment, and nowhere else."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)


def config(**keys: str) -> KafkaConfig:
    fixed = {"security_protocol": "SASL_SSL", "sasl_mechanism": "AWS_MSK_IAM", "bootstrap_servers": BROKERS}
    return KafkaConfig.model_validate({**fixed, **keys})


def sign(settings: KafkaConfig) -> Granted:
    async def scenario() -> Granted:
        return await signer(settings)()

    return uvloop.run(scenario())


def signed_for(granted: str) -> tuple[str, str]:
    """Return the host that a token is signed for, and the key that has signed it."""
    url = urlsplit(base64.urlsafe_b64decode(granted + "=" * (-len(granted) % 4)).decode())
    return url.netloc, parse_qs(url.query)["X-Amz-Credential"][0].partition("/")[0]


def test_a_token_is_signed_for_the_region_of_the_brokers() -> None:
    granted = sign(config())
    assert signed_for(granted.access_token) == ("kafka.eu-west-3.amazonaws.com", KEY)
    assert granted.expires_in is not None
    assert 0 < granted.expires_in <= 900


@pytest.mark.parametrize(
    "brokers", ["boot-x.c2.kafka-serverless.us-east-1.amazonaws.com:9098", "broker.example.com:9098"]
)
def test_the_region_is_that_of_the_environment_where_the_brokers_name_none(
    monkeypatch: pytest.MonkeyPatch, brokers: str
) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    host, _ = signed_for(sign(config(bootstrap_servers=brokers)).access_token)
    assert host == "kafka.us-east-1.amazonaws.com"


def test_a_region_that_is_not_known_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="set AWS_REGION"):
        connection(config(bootstrap_servers="broker.example.com:9098"))


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aws_msk_iam_sasl_signer.MSKAuthTokenProvider", None)
    with pytest.raises(ConfigError) as caught:
        connection(config(bootstrap_servers=BROKERS.replace("feed", "other")))
    assert caught.value.key == "kafka.sasl_mechanism"
    assert "pip install 'digifinex-bridge[msk]'" in caught.value.message


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(TokenUnavailable, match="no credentials of AWS"):
        sign(config())


def test_half_of_the_credentials_are_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(TokenUnavailable, match="no credentials of AWS") as caught:
        sign(config())
    assert KEY not in str(caught.value)


def test_credentials_that_cannot_be_fetched_in_time_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signer that hangs delays neither the answer nor the end of the process."""
    monkeypatch.setattr(aws, "_TIMEOUT", 0.1)
    goes_on = threading.Event()

    async def scenario() -> None:
        with pytest.raises(TokenUnavailable, match="no credentials of AWS within"):
            await aws._signed(lambda _: ("", int(goes_on.wait(60))), "eu-west-3")

    uvloop.run(scenario())
    assert not goes_on.is_set()
    goes_on.set()


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"security_protocol": "SASL_PLAINTEXT"}, "kafka.security_protocol"),
        ({"sasl_plain_username": "bridge"}, "kafka.sasl_plain_username"),
        ({"sasl_oauth_client_id": "bridge"}, "kafka.sasl_oauth_client_id"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys: dict[str, str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**keys)
    assert caught.value.key == key


def test_a_token_is_sent_as_a_bearer_token_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, keystore = make_certificates(tmp_path)
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    sent: list[bytes] = []

    def answer(said: bytes) -> bytes:
        sent.append(said)
        return token(b'{"status":"invalid_token"} ' + said)

    broker = HostileBroker(answer)
    broker.mechanisms = mechanisms("OAUTHBEARER")

    async def scenario() -> str:
        async with broker.listening() as address:
            with Relay(target=int(address.rpartition(":")[2]), keystore=keystore) as relay:
                keys = {"bootstrap_servers": f"localhost:{relay.port}", "ssl_cafile": str(authority)}
                with pytest.raises(KafkaError) as caught:
                    async with admin(config(**keys)):
                        pass
        return in_words(caught.value)

    words = uvloop.run(scenario(), loop_factory=Loop)
    assert 'token refused (OAUTHBEARER): {"status":"invalid_token"}' in words
    bearer = sent[0].partition(b"auth=Bearer ")[2].partition(b"\x01")[0].decode()
    assert signed_for(bearer) == ("kafka.eu-west-3.amazonaws.com", KEY)
    assert "auth=Bearer ***" in words, "a broker that repeats the token"
