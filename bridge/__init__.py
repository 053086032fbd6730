"""Streams every update of the DigiFinex WebSocket API to Kafka: normalised, in order, exactly once."""


def __getattr__(name: str) -> str:
    """Return `__version__`, which takes a search: a process that starts has to listen to signals first."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415

    return version("digifinex-bridge")
