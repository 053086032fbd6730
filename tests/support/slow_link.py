"""A slow connection to a broker: a relay that limits the bytes per second."""

import socket
import threading
import time
from types import TracebackType
from typing import Self

_CHUNK = 16_384


class SlowLink:
    """Relays connections on `port` to `target`, another port of this machine, inside its context.

    `rate` limits each connection towards the target, in bytes a second; None: no limit. It can change at any
    time.
    """

    def __init__(self, port: int, target: int) -> None:
        self.rate: float | None = None
        self._target = target
        self._server = socket.create_server(("127.0.0.1", port))
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.rate = None
        for one in (self._server, *self._sockets):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed already
            finally:
                one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return  # the context has ended
            try:
                broker = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self._sockets += [client, broker]
            threading.Thread(target=self._relay, args=(client, broker), daemon=True).start()
            threading.Thread(target=self._relay, args=(broker, client), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        towards_target = source in self._sockets[::2]
        try:
            while data := source.recv(_CHUNK):
                sink.sendall(data)
                if towards_target and (rate := self.rate):
                    time.sleep(len(data) / rate)
        except OSError:
            pass  # the other side has closed
        finally:
            source.close()
            sink.close()
