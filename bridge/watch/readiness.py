"""How the sessions of a replica stand, and what that means for its readiness; pure.

A replica is ready while it does its work. What it does less well than configured makes it degraded, which is
reported and not a reason to restart it or to wait for it.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from bridge.exchange.words import printable

LARGEST = 65_536
"""Bytes of the body of a response, at most."""

State: TypeAlias = Literal["confirmed", "pending", "silent", "refused"]
"""How a subscription stands. One that is confirmed and does not bring what it should is silent."""

STATES: tuple[State, ...] = ("confirmed", "pending", "silent", "refused")

_CAUSE = 200  # characters of a cause
_CAUSES = 20  # causes of one kind
_FEW_CAUSES = 5  # as many fit into a response of every kind, however long they are
_NAMES = 10  # names for each cause
_RESERVED = 1024  # bytes of a response for all that is not in its longest list


@dataclass(frozen=True, slots=True)
class Standing:
    """How one connector and its subscriptions stand.

    `session` and `address` are None while it has no session; `trouble` is why it is not live, "" if it is.
    `coming_up` until its first session has become live or has failed, unless it was opened for a market that
    was listed later. `subscriptions` has each subscription (channel, and symbol, "" if there is none) with
    its state and, if it is refused, why.
    """

    account: str | None
    session: str | None
    address: str | None
    trouble: str
    coming_up: bool
    subscriptions: Mapping[tuple[str, str], tuple[State, str]]

    @property
    def live(self) -> bool:
        """Whether its session is live."""
        return not self.trouble


@dataclass(frozen=True, slots=True)
class Readiness:
    """What keeps a replica from being ready, and in what it is degraded; by subject, in JSON values."""

    missing: dict[str, object] = field(default_factory=dict)
    degraded: dict[str, object] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    def body(self, *, named: bool) -> dict[str, object]:
        """Return it as the body of a response, of at most half the largest size.

        With the names of accounts and subscriptions only if `named`, and fewer of them or fewer causes than
        there are, if it would be too large.
        """
        for causes, names in ((_CAUSES, _NAMES), (_CAUSES, 2), (_CAUSES, 0), (_FEW_CAUSES, 0)):
            body: dict[str, object] = {"ready": self.ready}
            for name, part in (("missing", self.missing), ("degraded", self.degraded)):
                if part:
                    body[name] = {what: _short(why, causes, names * named) for what, why in part.items()}
            if len(as_json(body)) <= LARGEST // 2:
                break
        return body


def of_sessions(standings: Sequence[Standing]) -> Readiness:
    """Return the readiness of a replica as far as its sessions decide it.

    It needs one live session, of the public ones if it has any, and that no session is still coming up for
    the first time. Sessions that are refused or reconnect while others are live, and subscriptions that are
    refused or silent, make it degraded.
    """
    public = [one for one in standings if one.account is None] or standings
    coming_up = [one for one in standings if one.coming_up]
    down = [one for one in standings if not one.live and not one.coming_up]
    missing: dict[str, object] = {}
    degraded: dict[str, object] = {}
    if standings and not any(one.live for one in public):
        missing["sessions"] = _by_cause((one.trouble, _name(one)) for one in public)
    elif coming_up:
        missing["sessions"] = _by_cause((one.trouble, _name(one)) for one in coming_up)
    if "sessions" not in missing and (sessions := [one for one in down if one.account is None]):
        degraded["sessions"] = _by_cause((one.trouble, _name(one)) for one in sessions)
    if accounts := [one for one in down if one.account is not None]:
        degraded["accounts"] = _by_cause((one.trouble, one.account or "") for one in accounts)
    if refused := list(_of_state(standings, "refused")):
        degraded["refused"] = _by_cause(refused)
    if silent := list(_of_state(standings, "silent")):
        degraded["silent"] = _by_cause(silent)
    return Readiness(missing, degraded)


def counts(standings: Iterable[Standing]) -> Counter[tuple[str, State]]:
    """Return the number of subscriptions by channel and state."""
    return Counter(
        (channel, state) for one in standings for (channel, _), (state, _) in one.subscriptions.items()
    )


def sessions_of(shard: int, standings: Iterable[Standing]) -> Iterator[dict[str, object]]:
    """Return the sessions of a shard as `/status` lists them, each with what is not confirmed."""
    for one in standings:
        numbers = Counter(state for state, _ in one.subscriptions.values())
        yield {
            "shard": shard,
            "session": one.session,
            "account": one.account,
            "address": one.address,
            "state": _cut(one.trouble) or "live",
            "subscriptions": {state: numbers[state] for state in STATES if numbers[state]},
            "not_confirmed": [_cut(name) for name, state, _ in _named(one) if state != "confirmed"][:_NAMES],
        }


def subscriptions_of(session: str, standings: Iterable[Standing]) -> list[dict[str, object]] | None:
    """Return the subscriptions of one session, those that are not confirmed first; None if it is unknown."""
    for one in standings:
        if one.session == session:
            listed = sorted(_named(one), key=lambda item: (item[1] == "confirmed", item[0]))
            return [
                {"subscription": _cut(name), "state": state, "why": _cut(why)} for name, state, why in listed
            ]
    return None


def fitting(body: dict[str, object], key: str, items: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """Return a body with as many of these items as fit into a response, and `left_out`, if any do not."""
    room = LARGEST - _RESERVED - len(as_json(body))
    kept: list[Mapping[str, Any]] = []
    for item in items:
        room -= len(as_json(item)) + 2
        if room < 0:
            break
        kept.append(item)
    left_out = len(items) - len(kept)
    return body | {key: kept} | ({"left_out": left_out} if left_out else {})


def as_json(value: object) -> bytes:
    """Return a JSON text in UTF-8."""
    return json.dumps(value, ensure_ascii=False).encode(errors="replace")


def _of_state(standings: Iterable[Standing], wanted: State) -> Iterator[tuple[str, str]]:
    for one in standings:
        for name, state, why in _named(one):
            if state == wanted:
                yield why or "no list or snapshot", name


def _named(standing: Standing) -> Iterator[tuple[str, State, str]]:
    for (channel, symbol), (state, why) in standing.subscriptions.items():
        yield f"{channel} {symbol}".rstrip(), state, why


def _name(standing: Standing) -> str:
    if standing.account is not None:
        return f"account {standing.account}"
    first = next(_named(standing), ("", "", ""))[0]
    others = len(standing.subscriptions) - 1
    return f"{first} and {others} more" if others > 0 else first


def _by_cause(found: Iterable[tuple[str, str]]) -> list[dict[str, object]]:
    """Group names by their cause, the most frequent first."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for cause, name in found:
        groups[_cut(cause)].append(name)
    most = sorted(groups.items(), key=lambda group: -len(group[1]))
    return [
        {"cause": cause, "number": len(names), "names": [_cut(name) for name in names[:_NAMES]]}
        for cause, names in most
    ]


def _short(why: object, causes: int, names: int) -> object:
    """Return a text, or a list of causes, with at most so many causes and names for each."""
    if isinstance(why, str):
        return _cut(why)
    if not isinstance(why, list):
        return why
    shown = [dict(group) for group in why[:causes]]
    if rest := sum(group["number"] for group in why[causes:]):
        shown.append({"cause": "other causes", "number": rest})
    for group in shown:
        if some := group.pop("names", [])[:names]:
            group["names"] = some
    return shown


def _cut(text: str) -> str:
    """Return a text of others as it may be shown: the middle of a long one is cut, its end has the reason."""
    shortened = text if len(text) <= _CAUSE else f"{text[: _CAUSE // 2]} … {text[-_CAUSE // 2 :]}"
    return printable(shortened)
