"""The app configuration, `corelocker.json`: all that an app pins (docs/formats.md, "App configuration").

The service's command writes it, the software device reads it, and so do the phones. Nothing in it is secret.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Self, cast

from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.bundle import jose
from corelocker.bundle.strict_json import Fields, is_plain_text
from corelocker.errors import ConfigError
from corelocker.licensing import Environment
from corelocker.licensing.errors import AppConfigError
from corelocker.licensing.tokens import MAX_TRUSTED_KEYS, TrustedKeys

FORMAT = "corelocker-app-config"
VERSION = "1.0"
MAX_SIZE = 64 << 10
MAX_OFFLINE_GRACE = 365 * 86400

_MAX_URL = 2048
_MAX_NAME = 256
_VERSION = re.compile(r"1\.[0-9]{1,6}")
_URL = re.compile(
    r"(?P<scheme>https?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?(/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?"
)


@dataclass(frozen=True)
class AppConfig:
    """What an app knows from its build on. Raises AppConfigError for whatever a reader would refuse.

    Attributes:
        service: base URL of the unlock service; `http` only in the development environment.
        issuer: the claim `iss` of its licenses.
        app: package name or App ID.
        environment: of the service and its licenses.
        license_keys: the P-256 keys that sign licenses, 1 to 8; several while they rotate.
        publisher: RFC 7638 thumbprint of the key that signs the key bundles.
        offline_grace: seconds after its end in which a license still counts.
    """

    service: str
    issuer: str
    app: str
    environment: Environment
    license_keys: tuple[ec.EllipticCurvePublicKey, ...]
    publisher: str
    offline_grace: int = 0

    def __post_init__(self) -> None:
        if self.environment not in ("production", "development"):
            raise AppConfigError("environment is neither production nor development")
        _check_url(self.service, self.environment)
        for name, value in (("issuer", self.issuer), ("app", self.app)):
            if not is_plain_text(value, _MAX_NAME):
                raise AppConfigError(f"{name} is not 1 to {_MAX_NAME} characters of plain text")
        try:
            publisher = jose.decode_base64url(self.publisher)
        except ValueError:
            publisher = b""
        if len(publisher) != 32:
            raise AppConfigError("publisher is not the thumbprint of a key (43 characters of base64url)")
        if not 0 <= self.offline_grace <= MAX_OFFLINE_GRACE:
            raise AppConfigError(f"offline_grace is not between 0 and {MAX_OFFLINE_GRACE} seconds")
        if len(self.license_keys) > MAX_TRUSTED_KEYS:
            raise AppConfigError(f"license_keys has more than {MAX_TRUSTED_KEYS} keys")
        self.trusted_keys()

    def trusted_keys(self) -> TrustedKeys:
        """The keys whose signatures on licenses count."""
        try:
            return TrustedKeys(self.license_keys)
        except ConfigError as error:
            raise AppConfigError(f"license_keys: {error}") from None

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read the file's bytes. Raises AppConfigError."""
        if len(data) > MAX_SIZE:
            raise AppConfigError(f"the app configuration has more than {MAX_SIZE} bytes")
        fields = Fields.parse(data, "app configuration", AppConfigError)
        if fields.text("format", 64) != FORMAT:
            raise fields.refuse(f"format is not {FORMAT}")
        if not _VERSION.fullmatch(fields.text("version", 16)):
            raise fields.refuse("version is not one that this release reads")
        try:
            keys = tuple(jose.key_of_jwk(entry.values) for entry in fields.child("license_keys").objects("keys"))
        except ValueError as error:
            raise fields.refuse(f"license_keys: {error}") from None
        return cls(
            service=fields.text("service", _MAX_URL),
            issuer=fields.text("issuer", _MAX_NAME),
            app=fields.text("app", _MAX_NAME),
            environment=cast(Environment, fields.text("environment", 16)),
            license_keys=keys,
            publisher=fields.text("publisher", jose.THUMBPRINT_SIZE),
            offline_grace=fields.integer("offline_grace", 0, MAX_OFFLINE_GRACE) if "offline_grace" in fields else 0,
        )

    def to_json(self) -> bytes:
        """The file's bytes."""
        members = {
            "format": FORMAT,
            "version": VERSION,
            "service": self.service,
            "issuer": self.issuer,
            "app": self.app,
            "environment": self.environment,
            "license_keys": {"keys": [jose.public_jwk(key) for key in self.license_keys]},
            "publisher": self.publisher,
            "offline_grace": self.offline_grace,
        }
        return json.dumps(members, indent=2, ensure_ascii=False).encode() + b"\n"


def _check_url(url: str, environment: Environment) -> None:
    match = _URL.fullmatch(url)
    if match is None or len(url) > _MAX_URL or not 1 <= int(match["port"] or 1) <= 65535:
        raise AppConfigError("service is not the URL of a service")
    if match["scheme"] != "https" and environment == "production":
        raise AppConfigError("service: production takes https alone")
