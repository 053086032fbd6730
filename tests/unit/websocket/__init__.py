"""The edge to the exchange."""
