"""Asks the running replicas whether they are ready, each at its own address."""

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from bridge.check.lines import Say
from bridge.watch.readiness import LARGEST

_PATIENCE = 10.0  # seconds for the response of a replica


async def check_replicas(place: str, say: Say) -> bool:
    """Print what keeps each replica at a `host:port` from being ready; return whether nothing does.

    An IPv6 address is in brackets, as in a url.
    """
    say(f"replicas at {place}")
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        say(f"  {place} is not HOST:PORT")
        return False
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        say(f"  {host} cannot be found: {error.strerror or error}")
        return False
    addresses = sorted({str(where[0]) for *_, where in found})
    answers = await asyncio.gather(*(asyncio.to_thread(_trouble, one, port) for one in addresses))
    for address, trouble in zip(addresses, answers, strict=True):
        say(f"  {address}: {f'not ready: {trouble}' if trouble else 'ready'}")
    return not any(answers)


def _trouble(address: str, port: int) -> str:
    """Return why a replica is not ready; empty if it is."""
    asking = http.client.HTTPConnection(address, port, timeout=_PATIENCE)
    try:
        asking.request("GET", "/readyz")
        answer = asking.getresponse()
        body = answer.read(LARGEST)
    except (OSError, http.client.HTTPException) as error:
        return f"no response: {error}"
    finally:
        asking.close()
    if answer.status == http.HTTPStatus.OK:
        return ""
    try:
        return "; ".join(_causes(json.loads(body)["missing"]))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # not one of the bridge
        return f"HTTP {answer.status}"


def _causes(missing: dict[str, Any]) -> Iterator[str]:
    for subject, why in missing.items():
        causes = [why] if isinstance(why, str) else [f"{one['cause']} ({one['number']})" for one in why]
        yield f"{subject}: {', '.join(causes)}"
