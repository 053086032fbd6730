"""Bring the public channels in the alert rules up to date with the table of channels.

The rules in `helm/digifinex-bridge/rules/` are written by hand, except for their matchers `channel=~"…"`: an
alert on silence has to name the channels that are never silent for long, and those are the public ones.
"""

import re
from pathlib import Path

from bridge.channels import CHANNELS

TARGET = Path(__file__).parents[1] / "helm" / "digifinex-bridge" / "rules" / "digifinex-bridge.yaml"

_MATCHER = re.compile(r'channel=~"[^"]*"')


def document() -> str:
    """Return the text of the rules."""
    public = "|".join(name for name, channel in CHANNELS.items() if not channel.private)
    return _MATCHER.sub(f'channel=~"{public}"', TARGET.read_text())


if __name__ == "__main__":
    TARGET.write_text(document())
