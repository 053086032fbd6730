"""`python -m tests.support.short_hour` is the bridge's command, which waits five seconds for a market's name.

For an hour otherwise, until one that an earlier process knew is gone.
"""

import bridge.channels.markets
from bridge.cli import main

bridge.channels.markets._UNNAMED = 5.0

if __name__ == "__main__":
    main()
