"""Streams every update of the DigiFinex WebSocket API to Kafka: normalised, in order, exactly once."""

from importlib.metadata import version

__version__ = version("digifinex-bridge")
