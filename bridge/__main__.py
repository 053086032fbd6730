"""`python -m bridge` is the same program as `digifinex-bridge`."""

from bridge.cli import main

main()
