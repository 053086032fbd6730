"""Looks at sockets of this machine from outside."""

import asyncio
from pathlib import Path


def unread(transport: asyncio.BaseTransport) -> int:
    """Return how many bytes the other end of an IPv4 connection to 127.0.0.1 has not read from the kernel."""
    ends = (transport.get_extra_info("peername"), transport.get_extra_info("sockname"))
    if None in ends:
        return 0  # closed
    wanted = [f"0100007F:{port:04X}" for _, port in ends]
    for line in Path("/proc/net/tcp").read_text().splitlines():
        fields = line.split()
        if fields[1:3] == wanted:
            return int(fields[4].partition(":")[2], 16)
    return 0
