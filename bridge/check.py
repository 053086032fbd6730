"""What `run` would do, and whether Kafka and the exchange would let it. Writes nothing to Kafka."""

import asyncio
import time
from collections.abc import Callable, Iterator

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from bridge import plan
from bridge.config import AccountConfig, Config, ExchangeConfig, KafkaConfig
from bridge.exchange.frames import BadFrame, inflate
from bridge.exchange.session import ClockRead, Credentials, Event, Ponged, Session, Timing
from bridge.kafka.access import denied
from bridge.kafka.client import connection
from bridge.kafka.topics import existing, mismatch, partitions, topic_name
from bridge.records import DEADLETTER, EVENTS, STATE

Say = Callable[[str], None]

_KAFKA_PATIENCE = 15.0  # seconds


class Refused(Exception):
    """The exchange does not answer, or not as it should; the text says what happened."""


async def check(config: Config, say: Say = print) -> int:
    """Say what `run` would do and what stands in its way; return the exit status, 1 if anything does."""
    for line in _sessions(config):
        say(line)
    kafka = await _kafka(config, say)
    exchange = await _exchange(config, say)
    wrong = [name for name, right in (("Kafka", kafka), ("the exchange", exchange)) if not right]
    say(f"not ready: {' and '.join(wrong)}, see above" if wrong else "ready to run")
    return 1 if wrong else 0


def _sessions(config: Config) -> Iterator[str]:
    for number in range(config.kafka.shards):
        shard = plan.plan(config, number)
        yield f"shard {number} of {config.kafka.shards}"
        for wanted in shard.public:
            yield f"  session with {_subscriptions(wanted)}"
        for account, wanted in shard.private:
            yield f"  session of account {account.name} with {_subscriptions(wanted)}"
        if shard.follows:
            yield f"  sessions for {', '.join(shard.follows)} of every market that all_ticker tells of"


def _subscriptions(wanted: plan.Wanted) -> str:
    number = plan.count(wanted)
    what = ", ".join(f"{channel} {' '.join(symbols)}".rstrip() for channel, symbols in wanted.items())
    return f"{number} subscription{'s' if number > 1 else ''}: {what}"


async def _kafka(config: Config, say: Say) -> bool:
    """Say how the topics stand; return whether `run` could use them."""
    say(f"Kafka at {config.kafka.bootstrap_servers}")
    channels = (*sorted(plan.channels(config)), DEADLETTER, EVENTS, STATE)
    names = [topic_name(config.kafka, channel) for channel in channels]
    try:
        async with asyncio.timeout(_KAFKA_PATIENCE):
            refused = await denied(config.kafka, plan.channels(config))
            for one in refused:
                say(f"  missing ACL: {one}" + (", so its limits are assumed" if one.optional else ""))
            if not all(one.optional for one in refused):
                return False
            found = await _partitions(config.kafka, names)
    except TimeoutError:
        say(f"  no answer within {_KAFKA_PATIENCE:g} s")
        return False
    except (KafkaError, OSError) as error:
        say(f"  {error}")
        return False
    named = zip(channels, names, strict=True)
    usable = [_topic(config.kafka, channel, found.get(name), say) for channel, name in named]
    return all(usable)


async def _partitions(config: KafkaConfig, names: list[str]) -> dict[str, int]:
    admin = AIOKafkaAdminClient(**connection(config))
    try:
        await admin.start()
        return await existing(admin, names)
    finally:
        await admin.close()


def _topic(config: KafkaConfig, channel: str, found: int | None, say: Say) -> bool:
    name, wanted = topic_name(config, channel), partitions(config, channel)
    number = f"{wanted} partition{'s' if wanted > 1 else ''}"
    if found is None:
        will = f"would be created with {number}"
        say(f"  {name}: missing, {will if config.create_topics else 'and kafka.create_topics is false'}")
        return config.create_topics
    if found != wanted:
        say(f"  {mismatch(channel, name, found, wanted)}")
        return False
    say(f"  {name}: exists, {number}")
    return True


async def _exchange(config: Config, say: Say) -> bool:
    """Say how the exchange answers, with each account; return whether all is well."""
    say(f"the exchange at {config.exchange.url}")
    welcome = [await _login(config.exchange, account, say) for account in config.accounts or (None,)]
    return all(welcome)


async def _login(config: ExchangeConfig, account: AccountConfig | None, say: Say) -> bool:
    name, credentials = "without an account", None
    if account:
        name = f"account {account.name}"
        credentials = Credentials(account.api_key.get_secret_value(), account.secret.get_secret_value())
    try:
        offset, ping = await _greet(config, credentials)
    except Refused as error:
        say(f"  {name}: {error}")
        return False
    say(f"  {name}: welcome; its clock is {offset:+.1f} s from ours, a ping takes {ping * 1000:.0f} ms")
    return True


async def _greet(config: ExchangeConfig, credentials: Credentials | None) -> tuple[float, float]:
    """Open a session, authenticate and ping; return the exchange's clock offset and the ping, in seconds.

    Raises:
        Refused: anything of that did not work.
    """
    timing = Timing(config.ping_interval, config.reply_timeout, config.stale_after)
    session = Session({}, timing=timing, wall_offset=time.time() - time.monotonic(), credentials=credentials)
    opening = connect(
        config.url,
        compression=None,
        max_size=config.max_frame_bytes,
        open_timeout=config.reply_timeout,
        ping_interval=None,
    )
    try:
        async with asyncio.timeout(2 * config.reply_timeout), opening as socket:
            return await _converse(session, socket, config.max_frame_bytes)
    except TimeoutError:
        raise Refused(f"no answer within {config.reply_timeout:g} s") from None
    except (OSError, EOFError, WebSocketException, BadFrame) as error:
        raise Refused(str(error) or type(error).__name__) from None


async def _converse(session: Session, socket: ClientConnection, limit: int) -> tuple[float, float]:
    """Exchange messages until the session is live and its ping answered."""
    session.start(time.monotonic())
    session.ping(time.monotonic())
    happened: dict[type[Event], Event] = {}
    while True:
        for request in session.to_send():
            await socket.send(request)
        happened |= {type(event): event for event in session.events()}
        clock, pong = happened.get(ClockRead), happened.get(Ponged)
        if session.over:
            raise Refused(session.over.detail)
        if session.live and isinstance(clock, ClockRead) and isinstance(pong, Ponged):
            return clock.offset, pong.seconds
        message = await socket.recv(decode=False)
        session.receive(inflate(message, limit), time.monotonic())
