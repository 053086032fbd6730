"""The channels of the API: every module here with a CHANNEL is one."""

import pkgutil
from importlib import import_module

from bridge.channels.channel import Channel


def _channels() -> dict[str, Channel]:
    modules = (import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    channels = (module.CHANNEL for module in modules if hasattr(module, "CHANNEL"))
    return {channel.name: channel for channel in channels}


CHANNELS = _channels()
