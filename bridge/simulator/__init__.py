"""A simulated DigiFinex that runs anywhere, for tests, the demo and benchmarks."""

from bridge.simulator.dialects import Dialect, parse_dialect
from bridge.simulator.faults import Faults, parse
from bridge.simulator.samples import all_ticker_frames, frames
from bridge.simulator.server import Setup, Simulator

__all__ = ["Dialect", "Faults", "Setup", "Simulator", "all_ticker_frames", "frames", "parse", "parse_dialect"]
