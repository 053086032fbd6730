"""The sections that name what to subscribe to: their keys are those of the table of channels."""

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import Field, SecretStr, create_model

from bridge.channels import CHANNELS, Channel, SubscribedBy
from bridge.config.values import ExplicitNames, File, Markets, RequiredSecret, Section

S = TypeVar("S", bound="Subscriptions")


class Subscriptions(Section):
    """A section with a key for each channel: a list of markets or currencies, or true."""

    def of(self, channel: str) -> tuple[str, ...]:
        """Return the names that a channel is subscribed by, or `"*"` alone for every market.

        A channel that is subscribed by nothing has one empty name. A channel that is off has no names.
        """
        configured = getattr(self, channel, ())
        return ("",) if configured is True else configured or ()

    @classmethod
    def channels(cls) -> list[str]:
        """Return the channels that have a key here."""
        return [name for name in CHANNELS if name in cls.model_fields]

    def empty(self) -> bool:
        """Whether no channel is subscribed to."""
        return not any(map(self.of, self.channels()))


def _with_channels(*, private: bool) -> Callable[[type[S]], type[S]]:
    """Add keys to a section, behind its own: one for each channel that needs an account, or needs none."""

    def extended(section: type[S]) -> type[S]:
        keys: dict[str, Any] = {
            channel.name: _key(channel) for channel in CHANNELS.values() if channel.private is private
        }
        return create_model(
            section.__name__,
            __base__=section,
            __doc__=section.__doc__,
            __module__=section.__module__,
            **keys,
        )

    return extended


def _key(channel: Channel) -> tuple[object, object]:
    """Return the type of a channel's key, and its default and description."""
    match channel.subscribed_by:
        case SubscribedBy.NOTHING:
            return bool, Field(default=False, description=f"{channel.meaning} True to subscribe.")
        case SubscribedBy.CURRENCY:
            what = "A list of currencies, like `USDT`."
            return ExplicitNames, Field(default=(), description=f"{channel.meaning} {what}")
        case SubscribedBy.MARKET if channel.private:
            what = "A list of markets."
            return ExplicitNames, Field(default=(), description=f"{channel.meaning} {what}")
        case SubscribedBy.MARKET:
            what = 'A list of markets, or `["*"]`.'
            return Markets, Field(default=(), description=f"{channel.meaning} {what}")


@_with_channels(private=False)
class ChannelsConfig(Subscriptions):
    """What to subscribe to without an account. Symbols are like `BTC_USDT`; case does not matter.

    `["*"]` is every market, new listings included. From the environment: `BTC_USDT,ETH_USDT`, or a JSON list.
    """


@_with_channels(private=True)
class AccountConfig(Subscriptions):
    """One account of the exchange, a table `[[accounts]]` each, on a connection of its own.

    `BRIDGE_ACCOUNTS__0__SECRET` in the environment is the secret of the first account in the file, or of a
    new one when it has none; `BRIDGE_ACCOUNTS` is all of them as a JSON list. Files are relative to the
    folder of the configuration file; a line break at their end does not count.
    """

    name: str = Field(
        pattern=r"^[A-Za-z0-9._-]+$",
        description="What records, metrics and logs call it: letters, digits, `.`, `_`, `-`. Each name once.",
    )
    api_key_file: File | None = Field(default=None, description="File that holds the API key.")
    api_key: RequiredSecret = Field(
        default=SecretStr(""), description="The API key, unless `api_key_file` is given."
    )
    secret_file: File | None = Field(default=None, description="File that holds the secret.")
    secret: RequiredSecret = Field(
        default=SecretStr(""),
        description="The API key's secret, unless `secret_file` is given.",
    )
