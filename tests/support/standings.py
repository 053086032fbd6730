"""How a connector stands, as lines."""

from bridge.websocket.connector import Connector


def not_confirmed(connector: Connector) -> list[str]:
    """Return why its session is not live, or else the subscriptions that are not confirmed."""
    standing = connector.standing()
    if standing.trouble:
        return [standing.trouble]
    return [
        f"{channel} {symbol}: {state}: {why}"
        for (channel, symbol), (state, why) in standing.subscriptions.items()
        if state != "confirmed"
    ]
