"""The command line: `digifinex-bridge`, or `python -m bridge`.

Each command calls one function of the module that does the work, imported only then: the demo needs more
packages than the rest.
"""

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvloop

from bridge import __version__
from bridge.config import load
from bridge.errors import ConfigError
from bridge.watch import logs

if TYPE_CHECKING:
    from bridge.simulator import Simulator

_NAME = "digifinex-bridge"

app = typer.Typer(
    help="Every push of the DigiFinex WebSocket API onto Kafka.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_ConfigFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="TOML file; the environment (BRIDGE_SECTION__KEY) wins over it."),
]
_Rate = Annotated[float, typer.Option(min=0.1, help="Pushes a second, all markets together.")]


def main() -> None:
    """Run the command line and exit: 0 clean stop, 2 bad configuration or command line, 1 other failure."""
    try:
        status = app(prog_name=_NAME, standalone_mode=False)
    except typer.TyperException as error:
        status = _complain(error.format_message(), error.exit_code)
    except ConfigError as error:
        status = _complain(str(error), 2)
    except typer.Abort:
        status = 1
    sys.exit(status)


@app.command()
def run(config: _ConfigFile = None) -> int:
    """Carry every push to Kafka until SIGTERM or SIGINT."""
    from bridge import service  # noqa: PLC0415

    settings = load(config)
    logs.configure(settings.log)
    return uvloop.run(service.run(settings))


@app.command("check", short_help="Try out a configuration and say what `run` would do.")
def check_configuration(config: _ConfigFile = None) -> int:
    """Validate the configuration, try Kafka and the exchange, and say what `run` would do.

    Writes nothing to Kafka. Exits with 1 if one of them does not answer.
    """
    from bridge import check  # noqa: PLC0415

    settings = load(config)
    logs.configure(settings.log)
    return uvloop.run(check.check(settings))


@app.command()
def simulate(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8765,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    symbols: Annotated[int, typer.Option(min=1, help="How many markets there are.")] = 10,
    rate: _Rate = 200.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same market.")] = 7,
    faults: Annotated[str, typer.Option(help="What goes wrong, e.g. drop=1.5,refuse=3,corrupt=0.01")] = "",
) -> None:
    """Be a DigiFinex that runs anywhere, until SIGTERM or SIGINT; prints its address."""
    from bridge.simulator import Setup, Simulator, parse  # noqa: PLC0415

    try:
        wrong = parse(faults)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--faults") from None
    setup = Setup(seed=seed, host=host, port=port)
    exchange = Simulator(symbols=symbols, rate=rate, faults=wrong, setup=setup)
    try:
        uvloop.run(_until_stopped(exchange))
    except OSError as error:
        raise typer.BadParameter(f"cannot listen on {host}:{port}: {error}", param_hint="--port") from None


@app.command()
def demo(
    seconds: Annotated[float | None, typer.Option(min=1, help="Stop after so long; else at Ctrl-C.")] = None,
    symbols: Annotated[int, typer.Option(min=1, help="How many markets to simulate.")] = 6,
    rate: _Rate = 200.0,
) -> int:
    """Show the whole thing at work with nothing installed: simulator, embedded broker and bridge."""
    try:
        from bridge import demo  # noqa: PLC0415
    except ModuleNotFoundError as error:
        return _complain(f"the demo needs {error.name}: pip install '{_NAME}[demo]'", 1)
    return uvloop.run(demo.run(seconds, symbols=symbols, rate=rate))


async def _until_stopped(exchange: "Simulator") -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with exchange:
        typer.echo(exchange.url)
        await stop.wait()


def _complain(message: str, status: int) -> int:
    typer.echo(f"{_NAME}: {' '.join(message.split())}", err=True)
    return status


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{_NAME} {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Every push of the DigiFinex WebSocket API onto Kafka."""
