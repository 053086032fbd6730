"""Runs the bridge through everything that can go wrong, chosen by a seed, and accounts for every update."""
