"""The command line: `digifinex-bridge`, or `python -m bridge`.

Each command calls one function of the module that does the work, imported only then: the demo needs more
packages than the rest.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from bridge import __version__, logs
from bridge.config import ConfigError, load

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
