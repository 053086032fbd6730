"""The section `schema_registry`: where the schemas of the records are registered."""

from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from bridge.config.values import (
    File,
    Framing,
    RegistryUrl,
    Secret,
    Section,
    is_loopback,
    read_secret,
    shown_url,
)
from bridge.errors import ConfigError


class SchemaRegistryConfig(Section):
    """A schema registry with the API of Confluent's; it needs the extra `registry`.

    The schema of each topic of records is registered at the start, as `<topic>-value`.
    """

    url: RegistryUrl = Field(
        default="",
        description="Address of the registry's API, for example `https://registry:8081`, or of Apicurio "
        "`https://host/apis/ccompat/v7`. Empty: no schemas are registered.",
    )
    username: str = Field(default="", description="User name; with `password_file` or `password`.")
    password_file: File | None = Field(default=None, description="File that contains the password.")
    password: Secret = Field(default=SecretStr(""), description="Password, if `password_file` is not set.")
    ssl_cafile: File | None = Field(
        default=None,
        description="PEM file with the certificate authorities to trust, if not those of the system.",
    )
    framing: Framing = Field(
        default=Framing.NONE,
        description="How a record names its schema: `none` leaves records as they are, so that any client "
        "can read them. `confluent` puts a zero byte and the id of the schema in front of the JSON. `header` "
        "adds the header `__value_schema_id` with its GUID, which not every registry has.",
    )

    @property
    def address(self) -> str:
        """The URL as it may be shown."""
        return shown_url(self.url)

    def credentials(self) -> tuple[str, str] | None:
        """Return the user name and the password as it is now; None without.

        Raises:
            ConfigError: the file of the password cannot be read, as while it is being renewed.
        """
        if not self.username:
            return None
        if self.password_file is None:
            return self.username, self.password.get_secret_value()
        try:
            return self.username, read_secret(self.password_file)
        except ValueError as error:
            raise ConfigError("schema_registry.password_file", str(error)) from None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.url:
            for key in sorted(self.model_fields_set - {"url"}):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ConfigError(f"schema_registry.{key}", "has no effect without schema_registry.url")
            return self
        if self.password and not self.username:
            raise ConfigError("schema_registry.username", "is missing: the password requires it")
        if self.username and not self.password:
            raise ConfigError("schema_registry.password", "is missing: username requires it")
        if ":" in self.username:
            raise ConfigError("schema_registry.username", "must not contain a colon")
        parts = urlsplit(self.url)
        if self.username and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise ConfigError(
                "schema_registry.url",
                "must begin with https://, because http:// sends the password unencrypted",
            )
        if self.ssl_cafile and parts.scheme == "http":
            raise ConfigError("schema_registry.ssl_cafile", "has no effect with http://")
        return self
