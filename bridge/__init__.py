"""Every push of the DigiFinex WebSocket API onto Kafka: normalised, in order, exactly once."""

from importlib.metadata import version

__version__ = version("digifinex-bridge")
