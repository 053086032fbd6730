"""What the clients of the simulated exchange get of an update: as it is, or as faults have it."""

import time
from typing import Any

from bridge.simulator import encoding
from bridge.simulator.audience import Audience
from bridge.simulator.client import Client, binary, text
from bridge.simulator.dialects import Dialect, payload, spoken, written
from bridge.simulator.extras import Extras, corrupted
from bridge.simulator.history import History
from bridge.simulator.market import Update
from bridge.simulator.mishaps import Mishaps
from bridge.simulator.truth import Truth


class Sending:
    """Writes updates to `clients`, spelt in `dialect`, and records them in `truth` and `history`.

    `extras` and `dialect` may be replaced at any time, and so may the faults of `mishaps`.
    """

    def __init__(
        self,
        clients: Audience,
        truth: Truth,
        history: History,
        *,
        mishaps: Mishaps,
        extras: Extras,
        dialect: Dialect,
    ) -> None:
        self.extras = extras
        self.dialect = dialect
        self.hushed: set[tuple[str, str]] = set()  # channels and symbols of which no changes are sent
        self._clients = clients
        self._truth = truth
        self._history = history
        self._mishaps = mishaps

    def publish(self, update: Update) -> None:
        """Write an update to all its subscribers, followed by the frames that faults add."""
        if self._write(update):
            for fault, payload in self.extras.bad(update):
                self._truth.bad[fault] += self.write_to_all(payload)
            again = self.extras.again(update)
            if again is not None:
                self._write_again(again)

    def write_late(self) -> None:
        """Write the updates that a fault has held back."""
        for update in self._mishaps.late():
            self._write(update)

    def write_first(self, client: Client, update: Update) -> bool:
        """Write the first update of a subscription to one client, unless faults spoil it.

        Return False if a fault has it come late: then the caller writes it later, with `write_clean`.
        """
        spoiling = self._mishaps.spoils(update) if update.channel in ("trades", "depth") else None
        match spoiling:
            case "missing":
                return True
            case "late":
                return False
            case "damaged":
                client.write(binary(corrupted(update)))
                self._record_written(client, update, damaged=True)
                self._truth.bad["clean_damaged"] += 1
                return True
            case "empty":
                empty: list[Any] | dict[str, Any] = [] if update.channel == "trades" else {}
                update = Update(update.channel, update.symbol, [True, empty, update.symbol])
            case "short":
                update = self._mishaps.shortened(update)
        self.write_clean(client, update)
        return True

    def write_clean(self, client: Client, update: Update) -> None:
        """Write the first update of a subscription to one client, as it is."""
        if update.account is None:
            self._history.record_first(update)
        else:
            self._record_written(client, update, damaged=False)
        client.write(self._frame(update))
        self._truth.record_written(update)

    def push(self, channel: str, params: list[Any]) -> None:
        """As `Simulator.push`."""
        symbol = _symbol(channel, params)
        frame = binary(encoding.compress(encoding.text(Update(channel, symbol or "", params))))
        for client in self._clients.listening():
            subscribed = client.subscriber.subscriptions[channel]
            if symbol in subscribed or (symbol is None and subscribed):
                client.write(frame)
        self._clients.flush()

    def write_to_all(self, payload: bytes) -> int:
        """Write a binary message to all clients that listen; return how many these are."""
        listening = self._clients.listening()
        for client in listening:
            client.write(binary(payload))
        return len(listening)

    def message(self, json: bytes, *, answer: bool = False) -> bytes:
        """Return the WebSocket frame of a message."""
        data = payload(written(json, self.dialect), self.dialect, answer=answer)
        return text(data.encode()) if isinstance(data, str) else binary(data)

    def _write_again(self, full: Update) -> None:
        self._history.record_first(full)
        self._write(full)

    def _write(self, update: Update) -> bool:
        """Write an update, encoded once, to all its subscribers; return whether there are any."""
        hushed = (update.channel, update.symbol) in self.hushed
        subscribers = [] if hushed else self._clients.subscribers(update)
        if subscribers:
            frame, said = self._frame(update), spoken(update, self.dialect)
            bad = self._mishaps.bad(said) if update.account is not None else None
            for client in subscribers:
                damaged = self._mishaps.damaged(said) or bad
                client.write(frame if damaged is None else binary(damaged))
                self._record_written(client, update, damaged=damaged is not None)
                if damaged is not None:
                    self._truth.bad["damaged"] += 1
                else:
                    self._truth.record_written(update)
        return bool(subscribers)

    def _record_written(self, client: Client, update: Update, *, damaged: bool) -> None:
        due_us = now_us() + round(client.lag * 1e6)
        self._history.record_written(update, client.number, due_us, damaged=damaged)

    def _frame(self, update: Update) -> bytes:
        faults, said = self._mishaps.faults, spoken(update, self.dialect)
        json = encoding.text(
            said, newest_first=faults.newest_first, nested_all_ticker=faults.nested_all_ticker
        )
        return self.message(json)


def now_us() -> int:
    """Return the time in µs since the epoch, as `History` wants it."""
    return time.time_ns() // 1000


def _symbol(channel: str, params: list[Any]) -> str | None:
    """Return the symbol or currency in params of this channel, "" for all_ticker, None without one."""
    match channel, params:
        case "all_ticker", _:
            return ""
        case (("trades" | "depth"), [_, _, str(symbol)]):
            return symbol
        case _, [{"symbol": str(symbol)} | {"currency": str(symbol)}, *_]:
            return symbol
        case _:
            return None
