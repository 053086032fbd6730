"""`python -m bridge` and `digifinex-bridge`: listens to signals before it imports what takes its time."""

from bridge.stopping import STOP


def main() -> None:
    """Run the command of the command line, see `bridge.cli`."""
    STOP.listen()
    from bridge import cli  # noqa: PLC0415

    cli.main()


if __name__ == "__main__":
    main()
