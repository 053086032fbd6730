"""The sections that name what to subscribe to: their keys are those of the table of channels."""

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import Field, SecretStr, create_model

from bridge.channels import CHANNELS, Channel, SubscribedBy
from bridge.config.values import ExplicitNames, File, Markets, RequiredSecret, Section
from bridge.exchange.requests import Credentials

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
    """The public channels to subscribe to. Symbols are written as `BTC_USDT`, in upper or lower case.

    `["*"]` subscribes to every market, including new listings. In the environment, a list is written as
    `BTC_USDT,ETH_USDT` or as JSON.
    """

    book: Markets = Field(
        default=(),
        description="Present order books, which are made of `depth` and need it: a list of its markets, or "
        '`["*"]` for all of them.',
    )


@_with_channels(private=True)
class AccountConfig(Subscriptions):
    """Accounts of the exchange: one table `[[accounts]]` for each. Every account has its own connections.

    In the environment, `BRIDGE_ACCOUNTS__0__SECRET` sets the secret of the first account in the file, or adds
    an account if the file has none; `BRIDGE_ACCOUNTS` sets all accounts as a JSON list. File names are
    relative to the directory of the configuration file. A line break at the end of a file is removed.
    """

    name: str = Field(
        pattern=r"^[A-Za-z0-9._-]+$",
        description="Unique name of the account in records, metrics and logs. Letters, digits and `._-`.",
    )
    api_key_file: File | None = Field(default=None, description="File that contains the API key.")
    api_key: RequiredSecret = Field(
        default=SecretStr(""), description="API key, if `api_key_file` is not set."
    )
    secret_file: File | None = Field(default=None, description="File that contains the API secret.")
    secret: RequiredSecret = Field(
        default=SecretStr(""),
        description="API secret, if `secret_file` is not set.",
    )

    def credentials(self) -> Credentials:
        """Return what the account signs with."""
        return Credentials(self.api_key.get_secret_value(), self.secret.get_secret_value())
