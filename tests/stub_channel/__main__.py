"""`python -m tests.stub_channel` is the bridge's command with one more line in the table of channels."""

import bridge.channels
from bridge.channels.channel import table
from tests.stub_channel.stub import CHANNEL

# Before anything else is imported: configuration, metrics and the rest are derived from the table on import.
bridge.channels.CHANNELS = table(*bridge.channels.CHANNELS.values(), CHANNEL)

if __name__ == "__main__":
    from bridge.cli import main

    main()
