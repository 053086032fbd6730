"""Compares the bridge with the minimum of its work and with a plain peer: `python -m benchmarks`."""
