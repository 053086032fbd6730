"""What happens in a chaos run, and when: all of it follows from the seed. Pure."""

import dataclasses
import random
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from bridge.simulator.market import symbol_names

Kind: TypeAlias = Literal[
    "kill",
    "stop",
    "freeze",
    "full disk",
    "kill broker",
    "freeze broker",
    "hang up",
    "refuse",
    "stall",
    "mute",
    "faults",
    "restart ids",
    "stray id",
]

SYMBOLS = tuple(symbol_names(3))

_FIRST = 1.0  # seconds; nothing happens before
_FREEZE = 18.0  # seconds; the longest freeze
_RESTART = 6.0  # seconds that a bridge is given to start again and to get into trouble by itself
_BROKER = 12.0  # seconds that the broker is given to start again
_STRAY = (10**6, 10**9, 10**15, -(10**9))  # by how much an id is out of line
_STARTS = (0, 1_000, 5_000_000_000)  # where ids begin anew; the last is below the simulator's first id
_SAME_START = 60.0  # seconds; ids begin anew with the same ones only after so long
_ASIDE = 10_000  # by how much they begin higher before

# Faults of the exchange and how strong each is, at least and at most; a window has one to three of them.
_SHARES = {
    "damaged": (0.002, 0.1),
    "bad_item": (0.002, 0.1),
    "bad_params": (0.002, 0.1),
    "duplicated": (0.02, 0.5),
    "reordered": (0.02, 0.5),
    "clean_again": (0.01, 0.1),
    "clean_damaged": (0.2, 0.9),
    "clean_missing": (0.2, 0.9),
    "clean_late": (0.2, 0.9),
    "clean_empty": (0.2, 0.9),
    "clean_short": (0.2, 0.9),
    "corrupt": (0.01, 0.05),
    "bad_json": (0.01, 0.05),
}
# Ways of the exchange, one of which a run has for each of these assumptions.
_DIALECTS = {
    "compressed": ("zlib", "answers"),
    "answer_order": ("answer_first", "push_first"),
    "adds": ("adds", "replaces"),
    "long_lists": ("100", "100", "5", "20", "200"),
    "trade_times": ("fraction", "fraction", "rounded"),
}
_LATE = (0.5, 2.0, 4.0, 10.0)  # seconds by which lists and snapshots are late; a bridge waits for 3


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that goes wrong, `at` seconds after the start; which of the other fields count, `kind` says.

    - kill, stop: of a bridge, with SIGKILL or SIGTERM; it is started again `seconds` after its end.
    - freeze: a bridge is stopped for `seconds`, then goes on. full disk: no file of it may grow meanwhile.
    - kill broker, freeze broker: for `seconds`.
    - hang up: a `share` of the connections is cut, and the next `number` handshakes are answered with 502.
    - refuse: the next `number` handshakes are answered with 502. stall: nothing is sent for `seconds`.
    - mute: the present connections are ignored, and stay open.
    - faults: those in `text`, for `seconds`.
    - restart ids: of the trades of `symbol`, above `number`; `text` says what lists show of the older trades.
    - stray id: the next trade of `symbol` has an id that is out of line by `number`.
    """

    at: float
    kind: Kind
    replica: int = 0
    seconds: float = 0.0
    number: int = 0
    share: float = 1.0
    symbol: str = ""
    text: str = ""

    def __str__(self) -> str:
        fields = dataclasses.fields(self)[2:]
        about = [(field, getattr(self, field.name)) for field in fields]
        said = [f"{field.name}={value}" for field, value in about if value != field.default]
        return f"{self.at:8.2f} s  {self.kind:13} {' '.join(said)}".rstrip()


@dataclass(frozen=True, slots=True)
class Settings:
    """How the bridge and the exchange of a run are set up."""

    delivery: Literal["exactly-once", "at-least-once"]
    replicas: int
    shards: int
    rate: int  # updates a second, over all symbols
    max_pending_bytes: int
    spool_bytes: int
    subscriptions_per_session: int
    max_session_age: float  # seconds
    warm: bool  # whether the bridge is ready before the first action
    faults: str  # those of the exchange that last for the whole run
    dialect: str  # how the exchange behaves where the API document leaves it open

    def __str__(self) -> str:
        return " ".join(f"{field.name}={getattr(self, field.name)}" for field in dataclasses.fields(self))


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a run that its seed decides."""

    seed: int
    seconds: float
    settings: Settings
    actions: tuple[Action, ...]  # by time

    def without(self, *names: str) -> "Plan":
        """Return the plan without these kinds of actions and faults, to find out what makes a run fail."""
        actions = []
        for action in self.actions:
            if action.kind in names:
                continue
            parts = [part for part in action.text.split(",") if part.partition("=")[0] not in names]
            actions.append(dataclasses.replace(action, text=",".join(parts)))
        return dataclasses.replace(self, actions=tuple(actions))

    def __str__(self) -> str:
        head = f"seed {self.seed}, {self.seconds:g} s: {self.settings}"
        return "\n".join([head, *map(str, self.actions)])


def plan(seed: int, seconds: float, **settings: Any) -> Plan:
    """Return the plan of a seed; `settings` that are not None replace those that the seed has chosen."""
    rng = random.Random(f"chaos {seed}")
    chosen = dataclasses.replace(
        _settings(rng), **{name: value for name, value in settings.items() if value is not None}
    )
    chosen = dataclasses.replace(chosen, shards=max(chosen.shards, chosen.replicas))
    # How eventful the run is: where much happens, little of it comes to its end by itself.
    calm = rng.choice((0.7, 1.0, 2.0))
    actions = [*_at_the_broker(rng, seconds, calm), *_at_the_exchange(rng, seconds, calm)]
    for replica in range(chosen.replicas):
        actions += _at_a_bridge(rng, seconds, calm * chosen.replicas, replica)
    return Plan(seed, seconds, chosen, _told_apart(sorted(actions, key=lambda action: action.at)))


def _told_apart(actions: list[Action]) -> tuple[Action, ...]:
    """Return the actions with epochs of ids that can be told apart.

    Two that begin with the same ids within seconds can't: where times are whole seconds, trades of both have
    the same id and the same time.
    """
    begun: dict[tuple[str, int], float] = {}
    apart = []
    for action in actions:
        if action.kind == "restart ids":
            number = action.number
            while action.at < begun.get((action.symbol, number), -_SAME_START) + _SAME_START:
                number += _ASIDE
            begun[action.symbol, number] = action.at
            action = dataclasses.replace(action, number=number)  # noqa: PLW2901
        apart.append(action)
    return tuple(apart)


def _settings(rng: random.Random) -> Settings:
    faults = [f"lag={rng.choice((0.0, 0.0, 0.1, 0.5))}"]
    faults += [f"clock_offset={rng.choice((0.0, 0.0, 3.0, -3.0))}"]
    faults += [f"{name}={rng.choice(('true', 'false'))}" for name in ("newest_first", "whole_seconds")]
    replicas = rng.choice((1, 1, 2))
    return Settings(
        delivery=rng.choice(("exactly-once", "at-least-once")),
        replicas=replicas,
        shards=replicas if rng.random() < 0.5 else replicas + 1,
        rate=rng.choice((100, 200, 300)),
        max_pending_bytes=rng.choice((65_536, 65_536, 300_000, 33_554_432)),
        spool_bytes=rng.choice((0, 300_000, 2_400_000, 1_073_741_824)),
        subscriptions_per_session=rng.choice((2, 5, 30)),
        max_session_age=_moment(rng.uniform(12, 30)),
        warm=rng.random() < 0.7,
        faults=",".join(faults),
        dialect=",".join(f"{name}={rng.choice(ways)}" for name, ways in _DIALECTS.items()),
    )


def _at_the_broker(rng: random.Random, seconds: float, calm: float) -> list[Action]:
    actions = []
    at = _FIRST + rng.expovariate(1 / (15 * calm))
    while at < seconds:
        kind: Kind = rng.choice(("kill broker", "freeze broker", "freeze broker"))
        length = _length(rng)
        actions.append(Action(_moment(at), kind, seconds=_moment(length)))
        at += length + (_BROKER if kind == "kill broker" else 0) + rng.expovariate(1 / (15 * calm))
    return actions


def _at_a_bridge(rng: random.Random, seconds: float, calm: float, replica: int) -> list[Action]:
    """Return what happens to one replica; a stop often meets a broker that is being killed."""
    actions = []
    at = _FIRST + rng.expovariate(1 / (10 * calm))
    while at < seconds:
        kind: Kind = rng.choice(("kill", "kill", "stop", "stop", "freeze", "full disk"))
        match kind:
            case "kill" | "stop":
                length = rng.choice((0.0, rng.uniform(0, 3)))
                took = length + _RESTART
            case _:
                length = _length(rng)
                took = length
        if kind == "stop" and rng.random() < 0.4:
            before = _moment(max(0.0, at - rng.uniform(0, 1)))
            actions.append(Action(before, "kill broker", seconds=_moment(rng.uniform(2, 15))))
        actions.append(Action(_moment(at), kind, replica=replica, seconds=_moment(length)))
        at += took + rng.expovariate(1 / (8 * calm))
    return actions


def _at_the_exchange(rng: random.Random, seconds: float, calm: float) -> list[Action]:
    actions: list[Action] = []
    at = _FIRST + rng.expovariate(1 / calm)
    while at < seconds:
        draw = rng.random()
        if draw < 0.45:
            actions += _hang_ups(rng, at)
        elif draw < 0.5:
            actions.append(Action(_moment(at), "stall", seconds=_moment(rng.uniform(0.5, 4))))
        elif draw < 0.55:
            actions.append(Action(_moment(at), "mute"))
        elif draw < 0.75:
            actions.append(
                Action(_moment(at), "faults", seconds=_moment(rng.uniform(1, 8)), text=_faults(rng))
            )
        elif draw < 0.9:
            symbol = rng.choice(SYMBOLS)
            for _ in range(rng.choice((1, 1, 1, 2))):
                text, start = rng.choice(("kept", "cut", "mixed")), rng.choice(_STARTS)
                actions.append(Action(_moment(at), "restart ids", number=start, symbol=symbol, text=text))
                at += rng.uniform(0.2, 1.5)
        else:
            offset = rng.choice(_STRAY)
            actions.append(Action(_moment(at), "stray id", number=offset, symbol=rng.choice(SYMBOLS)))
            if rng.random() < 0.5:
                # Lists with it as their newest trade come late, when it is no longer the newest.
                late = f"clean_late=0.8,late_by={rng.choice(_LATE)}"
                actions.append(Action(_moment(at), "faults", seconds=2.0, text=late))
                actions.append(Action(_moment(at + rng.uniform(0.02, 0.4)), "hang up"))
        at += rng.expovariate(1 / (2.5 * calm))
    return actions


def _hang_ups(rng: random.Random, at: float) -> list[Action]:
    """Return one hang-up, refusals alone, or a storm: several hang-ups within seconds."""
    draw = rng.random()
    if draw < 0.15:
        return [Action(_moment(at), "refuse", number=rng.randint(1, 6))]
    actions = []
    for _ in range(1 if draw < 0.7 else rng.randint(2, 8)):
        share = rng.choice((1.0, 1.0, 0.5, 0.1))
        refused = rng.choice((0, 0, 0, 1, 3))
        actions.append(Action(_moment(at), "hang up", number=refused, share=share))
        at += rng.uniform(0.02, 1.5)
    return actions


def _faults(rng: random.Random) -> str:
    names = rng.sample(sorted(_SHARES), rng.randint(1, 3))
    return ",".join(
        [*(f"{name}={rng.uniform(*_SHARES[name]):.3f}" for name in names), f"late_by={rng.choice(_LATE)}"]
    )


def _length(rng: random.Random) -> float:
    """Return for how long something is frozen, in seconds: mostly for less than Kafka's session timeout."""
    return rng.uniform(0.1, 4) if rng.random() < 0.7 else rng.uniform(4, _FREEZE)


def _moment(seconds: float) -> float:
    return round(seconds, 2)
