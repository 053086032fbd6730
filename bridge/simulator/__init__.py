"""A DigiFinex that runs anywhere, for tests, the demo and benchmarks."""

from bridge.simulator.faults import Faults, parse
from bridge.simulator.server import Simulator

__all__ = ["Faults", "Simulator", "parse"]
