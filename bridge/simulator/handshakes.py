"""Which handshakes the simulated exchange accepts, and how it refuses the others."""

import time
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Response

from bridge.simulator.faults import Faults


class Handshakes:
    """The handshakes so far, and what becomes of the next; `faults` may be replaced at any time."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.accepted = 0  # so far
        self.refused = 0  # so far
        self.to_refuse = 0  # of the next handshakes, how many are answered with 502
        # When handshakes were accepted within the last second, in monotonic seconds.
        self._recent: list[float] = []

    def answer(self, connection: ServerConnection, clients: int, url: str) -> Response | None:
        """Return the response that refuses a handshake; None to accept it.

        `clients` are connected already; `url` is where a redirect leads to.
        """
        faults = self.faults
        if self.to_refuse > 0:
            self.to_refuse -= 1
            return self._refuse(connection, HTTPStatus.BAD_GATEWAY, url)
        if faults.refuse_all:
            return self._refuse(connection, HTTPStatus(faults.refuse_all), url)
        if 0 < faults.max_connections <= clients:
            return self._refuse(connection, HTTPStatus.FORBIDDEN, url)
        if faults.max_handshakes:
            second = time.monotonic() - 1
            self._recent = [moment for moment in self._recent if moment > second]
            if len(self._recent) >= faults.max_handshakes:
                return self._refuse(connection, HTTPStatus.TOO_MANY_REQUESTS, url, faults.retry_after or 1)
            self._recent.append(time.monotonic())
        self.accepted += 1
        return None

    def _refuse(
        self, connection: ServerConnection, status: HTTPStatus, url: str, retry_after: float = 0.0
    ) -> Response:
        self.refused += 1
        response = connection.respond(status, f"{status.value} {status.phrase}\n")
        if after := retry_after or self.faults.retry_after:
            response.headers["Retry-After"] = f"{after:g}"
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            response.headers["Location"] = url
        return response
