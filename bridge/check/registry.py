"""Whether the schema registry is ready for the bridge."""

from functools import partial

from bridge import plan
from bridge.check.lines import Say, plural
from bridge.config import Config, Framing
from bridge.errors import SchemaRefused
from bridge.kafka.registry import registered_topics
from bridge.kafka.subjects import Unavailable, require, try_registering
from bridge.threads import in_thread


async def check_registry(config: Config, say: Say) -> bool:
    """Print the state of the registry; return whether `run` could work with it. Registers nothing.

    Without a framing records do not depend on the registry: then it need not be reached.

    Raises:
        ConfigError: the client is not installed, or the authorities to trust cannot be used.
    """
    registry = config.schema_registry
    require(registry)
    say(f"schema registry at {registry.address}")
    topics = registered_topics(config.kafka, plan.channels(config))
    try:
        missing = await in_thread(partial(try_registering, registry, topics), "registry")
    except SchemaRefused as error:
        say(f"  {error}")
        return False
    except Unavailable as error:
        say(f"  {error}")
        return registry.framing is Framing.NONE
    say(f"  {plural(len(topics) - len(missing), 'schema')} registered and compatible")
    if missing:
        say(f"  run would register {', '.join(missing)}")
    return True
