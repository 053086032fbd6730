"""Tokens for Amazon MSK: requests signed with the credentials of AWS that the process has.

They are sent as SASL OAUTHBEARER. The signer is Amazon's, in the extra `msk`; it finds credentials as all of
AWS's tools do: in the environment, by the identity of a pod or an instance, or in files.
"""

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module

from bridge.config import KafkaConfig
from bridge.errors import ConfigError
from bridge.exchange.words import Confidential
from bridge.kafka.tokens import Granted, TokenUnavailable
from bridge.threads import in_thread

_TIMEOUT = 4.0  # seconds for a token: the credentials may have to be fetched; as short as in `tokens`
_REGION = re.compile(r"\.kafka(?:-serverless)?\.([a-z0-9-]+)\.amazonaws\.com")

Sign = Callable[[str], tuple[str, int]]
"""From a region to a token and the end of its life, in ms since the epoch."""


def signer(config: KafkaConfig) -> Callable[[], Awaitable[Granted]]:
    """Return what signs a token for the cluster.

    Raises:
        ConfigError: the signer is not installed, or the region is not known.
    """
    try:
        sign: Sign = import_module("aws_msk_iam_sasl_signer.MSKAuthTokenProvider").generate_auth_token
    except ModuleNotFoundError as error:
        raise ConfigError(
            "kafka.sasl_mechanism",
            f"AWS_MSK_IAM needs the package {error.name}: pip install 'digifinex-bridge[msk]'",
        ) from None
    return partial(_signed, sign, _region(config.bootstrap_servers))


def _region(servers: str) -> str:
    found = _REGION.search(servers)
    region = found[1] if found else os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        raise ConfigError(
            "kafka.bootstrap_servers", "name no region of AWS: set AWS_REGION in the environment"
        )
    return region


async def _signed(sign: Sign, region: str) -> Granted:
    """Sign a token.

    Raises:
        TokenUnavailable: there are no credentials, or they cannot be fetched.
    """
    try:
        async with asyncio.timeout(_TIMEOUT):
            token, end_ms = await in_thread(partial(sign, region), "aws")
    except TimeoutError:
        raise TokenUnavailable(f"no credentials of AWS within {_TIMEOUT:g} s") from None
    except AttributeError:  # the signer looks for the key of credentials that are None
        raise TokenUnavailable("no credentials of AWS found") from None
    except Exception as error:  # noqa: BLE001 - what looks for them raises errors of many libraries
        raise TokenUnavailable(f"no credentials of AWS: {Confidential().words(str(error))}") from None
    return Granted(token, end_ms / 1000 - time.time())
