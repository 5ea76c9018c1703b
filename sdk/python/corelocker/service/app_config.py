"""Writes the app configuration that belongs to a service (docs/formats.md, "App configuration")."""

from __future__ import annotations

from pathlib import Path

from corelocker.bundle import jose
from corelocker.errors import ConfigError
from corelocker.files import refuse_existing, write_atomically
from corelocker.licensing.app_config import AppConfig
from corelocker.service.config import ServiceConfig
from corelocker.service.keys import open_keys, open_service_keystore


def write_app_config(
    config: ServiceConfig,
    out: Path,
    *,
    service: str,
    app: str | None = None,
    publisher: str | None = None,
    offline_grace: int = 0,
    force: bool = False,
) -> AppConfig:
    """Write `corelocker.json` for an app of the service, and return what it says.

    Args:
        config: of the service; its keys are opened.
        out: the file, which is replaced only with `force`.
        service: the service's base URL, as devices reach it.
        app: the app; may be left out where there is only one.
        publisher: thumbprint of the key that signs bundles; may be left out where `keys.publishers` has only one.
        offline_grace: seconds after its end in which a license still counts.

    Raises ConfigError, AppConfigError, KeystoreError, OutputExistsError or FileAccessError.
    """
    refuse_existing(out, force=force)
    name = app_of(config, app)
    if publisher is None:
        if len(config.keys.publishers) != 1:
            raise ConfigError(
                f"which publisher? keys.publishers of {config.path} has {len(config.keys.publishers)}",
                hint="Say --publisher or --keystore",
            )
        publisher = config.keys.publishers[0]
    # The key that signs first; others of the keystore sign before or after it, while apps trust both.
    signing = open_keys(config.keys).signer.public_key
    keys = {jose.thumbprint(signing): signing}
    if config.keys.pkcs11 is None:
        keys |= {key.thumbprint: key.public for key in open_service_keystore(config.keys).publisher_keys}
    made = AppConfig(
        service=service,
        issuer=config.issuer,
        app=name,
        environment=config.environment,
        license_keys=tuple(keys.values()),
        publisher=publisher,
        offline_grace=offline_grace,
    )
    with write_atomically(out, force=force) as file:
        file.write(made.to_json())
    return made


def app_of(config: ServiceConfig, app: str | None) -> str:
    """The app of this name, or the only one. Raises ConfigError."""
    name = app or next(iter(config.apps))
    if name not in config.apps or (app is None and len(config.apps) > 1):
        raise ConfigError(f"which app? {config.path} has {', '.join(config.apps)}", hint="Say --app")
    return name
