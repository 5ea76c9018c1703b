"""Setting a service up: a development service that is ready to run, content keys of new bundles, keys for grants."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from corelocker.bundle.keystore import FileKek, Kek, Keystore
from corelocker.errors import ConfigError, FileAccessError, KeystoreEntryError
from corelocker.files import refuse_existing, write_atomically
from corelocker.licensing.development import DevelopmentRoot
from corelocker.service.config_file import load_config

GRANT_ISSUER = "backend"


@dataclass(frozen=True)
class Product:
    """What is sold: `product` unlocks the tier of a bundle."""

    product: str
    bundle: str
    tier: str


@dataclass(frozen=True)
class DevelopmentFiles:
    """The files of a development service.

    Attributes:
        config: service.toml.
        keys: the service's keystore; kek: the file that opens it.
        service_key: PEM of the key that signs licenses, which apps pin.
        development_root: PEM of the root's certificate and key, which certifies software devices.
        grant_key: PEM of the private key that signs grants.
    """

    config: Path
    keys: Path
    kek: Path
    service_key: Path
    development_root: Path
    grant_key: Path


def files_of(folder: Path) -> DevelopmentFiles:
    """Where `init_development` puts what it makes."""
    return DevelopmentFiles(
        config=folder / "service.toml",
        keys=folder / "service-keys.json",
        kek=folder / "service-keys.kek",
        service_key=folder / "service-key.pem",
        development_root=folder / "development-root-key.pem",
        grant_key=folder / "grant-key.pem",
    )


def init_development(
    folder: Path,
    publisher: Keystore,
    app: str,
    *,
    products: Sequence[Product] | None = None,
    host: str = "127.0.0.1",
    port: int = 8440,
    now: Callable[[], float] = time.time,
) -> DevelopmentFiles:
    """Set up a development service that is ready to run: it trusts a new development root and a new grant key.

    Args:
        folder: is made when missing; nothing in it is replaced.
        publisher: the publisher's keystore; the content keys are copied from it, the signing key is not.
        app: the app's identifier.
        products: what is sold; by default each tier of each bundle, under the tier's name.
        host, port: where the service will listen, on this machine.

    Raises OutputExistsError, FileAccessError, ConfigError.
    """
    files = files_of(folder)
    folder.mkdir(parents=True, exist_ok=True)
    refuse_existing(*vars(files).values())
    if products is None:
        products = [Product(tier, str(key.bundle), tier) for key in publisher.content_keys for tier in key.tiers[1:]]
    FileKek.generate(files.kek)
    store = Keystore.create(files.keys, Kek("file", str(files.kek.resolve())))
    import_content_keys(store, publisher, None)
    _write(files.service_key, public_pem(store.signing_key.public_key()))
    moment = datetime.fromtimestamp(now(), UTC)
    root = DevelopmentRoot.create("development root", moment)
    _write(folder / "development-root.pem", root.certificate)
    _write(files.development_root, root.certificate + root.private_pem(), secret=True)
    new_grant_key(files.grant_key)
    text = _development_settings(files, publisher, app, products, host, port)
    _write(files.config, text, secret=True)
    load_config(files.config)
    return files


def _development_settings(
    files: DevelopmentFiles, publisher: Keystore, app: str, products: Sequence[Product], host: str, port: int
) -> str:
    """The text of service.toml."""
    settings = [
        "# A service for development, made by `corelocker service init`. What it issues is worth nothing in production.",
        'environment = "development"',
        f"issuer = {_toml(f'http://{host}:{port}')}",
        'database_url = "sqlite:///unlock.sqlite"',
        "",
        "[keys]",
        f"keystore = {_toml(files.keys.name)}",
        f"publishers = [{', '.join(_toml(key.thumbprint) for key in publisher.publisher_keys)}]",
        "",
        "[http]",
        f"host = {_toml(host)}",
        f"port = {port}",
        "",
        "[[apps]]",
        f"id = {_toml(app)}",
        "[apps.development]",
        'roots = ["development-root.pem"]',
        "[apps.grant]",
        f"issuer = {_toml(GRANT_ISSUER)}",
        f"keys = [{_toml(public_path(files.grant_key).name)}]",
    ]
    for sold in products:
        settings += ["", "[[products]]", f"app = {_toml(app)}", f"product = {_toml(sold.product)}"]
        settings += [f"bundle = {_toml(sold.bundle)}", f"tier = {_toml(sold.tier)}"]
    return "\n".join(settings) + "\n"


def import_content_keys(store: Keystore, publisher: Keystore, bundles: Sequence[UUID] | None) -> list[UUID]:
    """Copy content keys of bundles (all, with None) into the service's keystore. Returns those that were new there.

    Raises KeystoreEntryError for a bundle that the publisher has no key for.
    """
    known = {key.bundle for key in store.content_keys}
    wanted = [key.bundle for key in publisher.content_keys] if bundles is None else bundles
    new = [bundle for bundle in wanted if bundle not in known]
    for bundle in wanted:
        # The samples of a bundle matter where the next one is made, and that is not here.
        key = replace(publisher.entry(bundle), samples=frozenset())
        if bundle in new:
            store.add_content_key(key.bundle, key.model, key.model_version, key.tiers, key.key)
        elif store.entry(bundle) != key:
            raise KeystoreEntryError(f"the service has another content key for bundle {bundle}")
    return new


# --- grants --------------------------------------------------------------------------------------


def new_grant_key(path: Path) -> Path:
    """Make the backend's signing key, readable by its owner alone, and its public half beside it; returns that path.

    Raises OutputExistsError, FileAccessError.
    """
    refuse_existing(path, public_path(path))
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    _write(path, private, secret=True)
    _write(public_path(path), public_pem(key.public_key()))
    return public_path(path)


def public_path(path: Path) -> Path:
    """Where the public half of a key file lies: grant-key.pem -> grant-key.pub.pem."""
    return path.with_name(f"{path.stem}.pub{path.suffix}")


def load_signing_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A P-256 key from an unencrypted PEM file. Raises FileAccessError or ConfigError."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None
    except (ValueError, TypeError):
        raise ConfigError(f"{path}: not an unencrypted private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{path}: not a key on the curve P-256")
    return key


def public_pem(key: ec.EllipticCurvePublicKey) -> str:
    """The PEM of a public key."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _write(path: Path, text: str, *, secret: bool = False) -> None:
    with write_atomically(path, mode=0o600 if secret else 0o644) as file:
        file.write(text.encode())


def _toml(text: str) -> str:
    # For printable text a JSON string is a TOML string.
    if not text.isprintable():
        raise ConfigError(f"{text!r} cannot stand in the configuration")
    return json.dumps(text, ensure_ascii=False)
