"""ConfigError: what is wrong with a configuration."""


class ConfigError(Exception):
    """What is wrong with the configuration: where (`source`), which `key`, and what to do, in one line."""

    def __init__(self, key: str, message: str, source: str = "") -> None:
        line = ": ".join(part for part in (source, key, message) if part)
        super().__init__(" ".join(line.split()))
        self.key = key
        self.message = message
        self.source = source
