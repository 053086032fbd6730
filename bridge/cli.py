"""The command line: `digifinex-bridge`, or `python -m bridge`.

Each command calls one function of the module that does the work. That module is imported only then: the demo
needs packages that the other commands do not.
"""

import asyncio
import sys
from collections.abc import Awaitable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import structlog
import uvloop

from bridge import __version__
from bridge.config import exposed, load
from bridge.errors import BrokerError, ConfigError
from bridge.network import Loop
from bridge.stopping import STOP
from bridge.watch import logs, stderr

if TYPE_CHECKING:
    from bridge.simulator import Simulator

log = structlog.get_logger(__name__)

T = TypeVar("T")

_NAME = "digifinex-bridge"

# Commands whose end is a signal. The others have not done what they were asked for, if one ends them.
_UNTIL_STOPPED = {"run", "probe", "simulate", "tail", "demo"}

_config_file = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=None,
    help="TOML configuration file. Environment variables named BRIDGE_SECTION__KEY override it.",
)
_rate = click.option(
    "--rate",
    metavar="R",
    type=click.FloatRange(min=0.1),
    default=200.0,
    help="Updates per second, all markets together.",
)


def main() -> None:
    """Run the command and exit: 0 clean stop, 2 bad configuration or command line, 1 any other failure."""
    STOP.listen()
    stderr.take_over()
    try:
        status = app(prog_name=_NAME, standalone_mode=False)
    except click.ClickException as error:
        status = _fail(error.format_message(), error.exit_code)
    except ConfigError as error:
        status = _fail(str(error), 2)
    except click.Abort:
        status = 1
    finally:
        STOP.ignores()
    sys.exit(status)


@click.group(no_args_is_help=False, context_settings={"show_default": True})
@click.version_option(
    __version__, prog_name=_NAME, message="%(prog)s %(version)s", help="Print the version and exit."
)
@click.pass_context
def app(context: click.Context) -> None:
    """Streams every update of the DigiFinex WebSocket API to Kafka."""
    STOP.exits(0 if context.invoked_subcommand in _UNTIL_STOPPED else 1)


@app.command()
@_config_file
def run(config: Path | None) -> int:
    """Run the bridge until it receives SIGTERM, SIGINT or SIGHUP."""
    from bridge import service  # noqa: PLC0415

    settings = load(config)
    logs.configure(settings.log)
    for key, file in exposed(settings, config):
        log.warning("file with a secret is readable by everybody", key=key, file=str(file))
    return _run(service.run(settings, stderr.take_over()))


@app.command("check", short_help="Test a configuration, and print what `run` would do.")
@_config_file
@click.option(
    "--no-disk",
    is_flag=True,
    default=False,
    help="Leave out the spool, which is on the disk of `run`.",
)
@click.option(
    "--replicas",
    metavar="HOST:PORT",
    default=None,
    help="Ask the running replicas at all addresses of HOST.",
)
def check_configuration(config: Path | None, *, no_disk: bool, replicas: str | None) -> int:
    """Test a configuration against Kafka, the exchange and the disk, and print what `run` would do.

    Writes nothing to Kafka. Exits with status 1 if something would prevent `run` from working.
    """
    from bridge import check  # noqa: PLC0415

    settings = load(config)
    logs.configure(settings.log)
    for key, file in exposed(settings, config):
        click.echo(f"{key or 'the configuration'}: {file} is readable by everybody: chmod o-rwx {file}")
    return _run(_whole(check.check(settings, disk=not no_disk, replicas=replicas)))


@app.command(short_help="Try every assumption about the exchange on the configured one.")
@_config_file
@click.option("--seconds", metavar="N", type=click.FloatRange(min=1), default=60.0, help="Seconds to listen.")
@click.option(
    "--record",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=None,
    help="Directory for one sample of each form of public message.",
)
@click.option("--json", is_flag=True, default=False, help="Print JSON.")
@click.option(
    "--try-limits",
    is_flag=True,
    default=False,
    help="Try how many subscriptions and connections are allowed.",
)
def probe(config: Path | None, *, seconds: float, record: Path | None, json: bool, try_limits: bool) -> int:
    """Try every assumption about the exchange on the configured one.

    Needs no Kafka. Exits with status 1 if the exchange cannot be visited, or if something does not hold that
    would cost data.
    """
    from bridge import probe as probing  # noqa: PLC0415

    settings = load(config)
    logs.configure(settings.log)
    return _run(probing.probe(settings, seconds, record=record, json=json, limits=try_limits))


@app.command(short_help="Print records as they are committed to Kafka.")
@click.argument("names", metavar="[CHANNEL|TOPIC]...", nargs=-1)
@_config_file
@click.option(
    "--symbol",
    metavar="S",
    default=None,
    help="Only records with this key: a symbol; of balances a currency, of dead letters a channel, and of "
    "events of an account its name.",
)
@click.option(
    "--from",
    "start",
    metavar="WHEN",
    default="end",
    help="Where to begin: `beginning`, `end`, or a time such as 2026-11-27T22:55:43Z.",
)
@click.option(
    "--json",
    is_flag=True,
    default=False,
    help="Print JSON, one record a line, as if piped to another command.",
)
@click.option(
    "--table", is_flag=True, default=False, help="Print a table, one record a line, as at a terminal."
)
def tail(
    names: tuple[str, ...], config: Path | None, *, symbol: str | None, start: str, json: bool, table: bool
) -> int:
    """Print records as they are committed to Kafka, until it receives SIGTERM, SIGINT or SIGHUP.

    A name is that of a channel, book, deadletter, events, or of a topic; without one, it is all that the
    bridge writes to. At a terminal it prints a table, cut to its width, else JSON. Writes nothing to Kafka.
    """
    from bridge.tail import Form, asked, tail  # noqa: PLC0415

    if json and table:
        raise click.BadParameter("cannot be combined", param_hint="--json and --table")
    settings = load(config)
    logs.configure(settings.log)
    try:
        wanted = asked(settings, names, symbol, start)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    form = Form.JSON if json else Form.TABLE if table else None
    try:
        _run(tail(settings.kafka, wanted, form))
    except (BrokerError, OSError) as error:
        return _fail(str(error), 1)
    return 0


@app.command("schema", short_help="Print the JSON Schema of a channel's records.")
@click.argument("channel", metavar="CHANNEL")
def print_schema(channel: str) -> None:
    """Print the JSON Schema of the records of a channel, of book, deadletter or events."""
    from bridge.schema import published  # noqa: PLC0415

    try:
        text = published(channel)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="CHANNEL") from None
    click.echo(text, nl=False)


@app.command(short_help="Simulate the exchange: a WebSocket server with generated markets.")
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    default=8765,
    help="Port to listen on; 0 picks a free one.",
)
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", help="Address to listen on.")
@click.option("--symbols", metavar="N", type=click.IntRange(min=1), default=10, help="Number of markets.")
@_rate
@click.option(
    "--seed",
    metavar="S",
    type=int,
    default=7,
    help="Seed of the generated data: the same seed, the same data.",
)
@click.option(
    "--faults",
    metavar="FAULTS",
    default="",
    show_default=False,
    help="Faults to inject, for example drop=1.5,refuse=3,corrupt=0.01",
)
@click.option(
    "--dialect",
    metavar="DIALECT",
    default="",
    show_default=False,
    help="Assumptions about the exchange that do not hold, for example adds,long_lists=20",
)
def simulate(
    *, port: int, host: str, symbols: int, rate: float, seed: int, faults: str, dialect: str
) -> None:
    """Simulate the exchange: a WebSocket server with generated markets.

    Prints its address, and runs until it receives SIGTERM, SIGINT or SIGHUP. Serves the public channels only.
    """
    from bridge.simulator import Setup, Simulator, parse, parse_dialect  # noqa: PLC0415

    try:
        injected = parse(faults)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--faults") from None
    try:
        spoken = parse_dialect(dialect)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--dialect") from None
    setup = Setup(seed=seed, host=host, port=port)
    exchange = Simulator(symbols=symbols, rate=rate, faults=injected, dialect=spoken, setup=setup)
    try:
        _run(_until_stopped(exchange))
    except OSError as error:
        raise click.BadParameter(f"cannot listen on {host}:{port}: {error}", param_hint="--port") from None


@app.command(short_help="Run the bridge between a simulated exchange and an embedded broker.")
@click.option(
    "--seconds",
    metavar="N",
    type=click.FloatRange(min=1),
    default=None,
    help="Stop after N seconds; without it, run until Ctrl-C.",
)
@click.option(
    "--symbols", metavar="N", type=click.IntRange(min=1), default=6, help="Number of simulated markets."
)
@_rate
def demo(seconds: float | None, symbols: int, rate: float) -> int:
    """Run the bridge between a simulated exchange and an embedded broker.

    Needs no Kafka and no account. Ends by comparing what the exchange sent with what Kafka holds, and exits
    with status 1 if they differ.
    """
    try:
        from bridge import demo  # noqa: PLC0415
    except ModuleNotFoundError as error:
        return _fail(f"the demo needs the package {error.name}: pip install '{_NAME}[demo]'", 1)
    return _run(demo.run(seconds, symbols=symbols, rate=rate))


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Do the work of a command in an event loop, which takes care of a stop from then on."""
    STOP.waits()
    return uvloop.run(work, loop_factory=Loop)


async def _whole(work: Awaitable[int]) -> int:
    """Return the exit status of a command that is to end by itself; 1 if a stop ends it."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101
    with STOP.calls(partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)):
        try:
            return await work
        except asyncio.CancelledError:
            return _fail("stopped before everything was checked", 1)


async def _until_stopped(exchange: "Simulator") -> None:
    stop = asyncio.Event()
    with STOP.calls(partial(asyncio.get_running_loop().call_soon_threadsafe, stop.set)):
        async with exchange:
            click.echo(exchange.url)
            await stop.wait()


def _fail(message: str, status: int) -> int:
    click.echo(f"{_NAME}: {' '.join(message.split())}", err=True)
    return status
