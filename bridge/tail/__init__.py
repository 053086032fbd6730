"""Prints records of the topics as they are committed, until it is stopped or nobody reads it any more."""

import asyncio
from contextlib import aclosing
from functools import partial

from bridge.config import KafkaConfig
from bridge.stopping import STOP
from bridge.tail.asked import Asked, asked
from bridge.tail.lines import Form, heading, line
from bridge.tail.output import Output
from bridge.tail.reading import read

__all__ = ["Asked", "Form", "asked", "tail"]


async def tail(config: KafkaConfig, wanted: Asked, form: Form | None = None) -> None:
    """Print the records that were asked for; without a form as a table at a terminal, else as JSON.

    Returns after a stop, and when the reader of the standard output is gone.

    Raises:
        BrokerError: Kafka is unavailable at the start, a topic is missing, or a topic cannot be read.
        OSError: the standard output cannot be written to.
    """
    output = Output()
    form = form or (Form.TABLE if output.is_terminal else Form.JSON)
    task = asyncio.current_task()
    assert task is not None  # noqa: S101
    stop = partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
    try:
        with STOP.calls(partial(output.stop, stop)):
            if form is Form.TABLE:
                output.write(heading(wanted, output.width))
            async with aclosing(read(config, wanted)) as batches:
                async for messages in batches:
                    for message in messages:
                        output.write(line(message, form, wanted, output.width))
    except (asyncio.CancelledError, BrokenPipeError):
        return
