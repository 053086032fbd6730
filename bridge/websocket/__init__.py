"""The edge to the exchange: connections, the sessions on them, and what keeps them alive."""
