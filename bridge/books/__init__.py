"""The order book of a symbol, built from its snapshots and changes, and the checks on it. Pure."""
