"""Measures the bridge against the floor of its work and a plain peer: `python -m benchmarks`."""
