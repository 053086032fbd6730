"""A DigiFinex that runs anywhere, for tests, the demo and benchmarks."""

from bridge.simulator.faults import Faults, parse
from bridge.simulator.samples import all_ticker_frames, frames
from bridge.simulator.server import Simulator

__all__ = ["Faults", "Simulator", "all_ticker_frames", "frames", "parse"]
