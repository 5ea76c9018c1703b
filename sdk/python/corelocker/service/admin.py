"""What operators do beside running the service: set it up, look, revoke, make room for a device.

Every change is one transaction with a row in the audit log. A revoked license is not renewed, and its device gets no
other for the purchase; what the device holds already works until it ends, since nobody asks the service before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
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
from corelocker.errors import ConfigError, FileAccessError, KeystoreEntryError, OutputExistsError
from corelocker.files import write_atomically
from corelocker.licensing.development import DevelopmentRoot
from corelocker.purchases.entitlements import Entitlement, Provider, release
from corelocker.service.config import ServiceConfig
from corelocker.service.config_file import load_config
from corelocker.service.errors import EntitlementUnknownError, LicenseUnknownError
from corelocker.service.records import AuditRow, PurchaseKey, StoredEntitlement, StoredLicense
from corelocker.service.storage import Storage

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
    for path in vars(files).values():
        if path.exists():
            raise OutputExistsError(f"{path} exists already", hint="Choose another folder")
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
    _write(files.config, "\n".join(settings) + "\n", secret=True)
    load_config(files.config)
    return files


def import_content_keys(store: Keystore, publisher: Keystore, bundles: Sequence[UUID] | None) -> list[UUID]:
    """Copy content keys of bundles (all, with None) into the service's keystore. Returns those that were new there.

    Raises KeystoreEntryError for a bundle that the publisher has no key for.
    """
    known = {key.bundle for key in store.content_keys}
    wanted = [key.bundle for key in publisher.content_keys] if bundles is None else bundles
    new = [bundle for bundle in wanted if bundle not in known]
    for bundle in wanted:
        key = publisher.entry(bundle)
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


# --- licenses and entitlements -------------------------------------------------------------------


def find_license(storage: Storage, license_id: str) -> StoredLicense:
    """A license. Raises LicenseUnknownError."""
    found = storage.license(license_id)
    if found is None:
        raise LicenseUnknownError(f"there is no license {license_id}")
    return found


def find_entitlement(storage: Storage, key: PurchaseKey) -> StoredEntitlement:
    """What is known of a purchase. Raises EntitlementUnknownError."""
    found = storage.entitlement(key)
    if found is None:
        raise EntitlementUnknownError("nothing is known of this purchase")
    return found


def purchase_key(config: ServiceConfig, provider: Provider, app: str, purchase_id: str) -> PurchaseKey:
    """The name of a purchase, from the app's identifier in the configuration. Raises ConfigError."""
    if app not in config.apps:
        raise ConfigError(f"there is no app {app} in {config.path}")
    return PurchaseKey(provider, config.apps[app].purchase_app(provider), purchase_id)


def revoke_license(
    storage: Storage,
    license_id: str,
    *,
    purchase: bool = False,
    reason: str = "",
    clock: Callable[[], float] = time.time,
) -> int:
    """Revoke a license, with all others of its device for the same purchase; returns how many that were.

    The device gets no further license for the purchase. With `purchase` no device does: the purchase is closed,
    whatever its store says. Raises LicenseUnknownError.
    """
    found = find_license(storage, license_id)
    key, now = found.purchase, clock()
    with storage.transaction() as transaction:
        stored = transaction.entitlements([key])[key]
        stored = replace(stored, blocked=stored.blocked | {found.device})
        if purchase:
            stored = replace(stored, entitlement=replace(stored.entitlement, closed="revoked"))
        transaction.save(stored)
        count = transaction.revoke_licenses(key, found.device, int(now))
        transaction.audit(
            _row(
                "revoke-purchase" if purchase else "revoke-license",
                now,
                key,
                reason,
                found.app,
                found.device,
                found.jti,
            )
        )
    return count


def allow_device(
    storage: Storage, key: PurchaseKey, device: str, *, reason: str = "", clock: Callable[[], float] = time.time
) -> None:
    """Let a device whose license was revoked unlock anew. Raises EntitlementUnknownError when it is not shut out."""
    with storage.transaction() as transaction:
        stored = transaction.entitlements([key])[key]
        if device not in stored.blocked:
            raise EntitlementUnknownError("the device is not shut out of this purchase")
        transaction.save(replace(stored, blocked=stored.blocked - {device}))
        transaction.audit(_row("allow-device", clock(), key, reason, None, device, None))


def release_device(
    storage: Storage,
    key: PurchaseKey,
    device: str,
    *,
    at_once: bool = False,
    reason: str = "",
    clock: Callable[[], float] = time.time,
) -> Entitlement:
    """Take a device's place of a purchase back, for another device to take after the cool-down, or at once.

    Its licenses are not renewed any more. Raises EntitlementUnknownError, DeviceInactiveError.
    """
    with storage.transaction() as transaction:
        stored = transaction.entitlements([key])[key]
        if stored.entitlement == Entitlement(key.provider, key.app, key.purchase_id):
            raise EntitlementUnknownError("nothing is known of this purchase")
        released = release(stored.entitlement, device, at_once=at_once)
        transaction.save(replace(stored, entitlement=released))
        transaction.audit(_row("release-device", clock(), key, reason, None, device, None))
    return released


def _row(
    event: str, now: float, key: PurchaseKey, reason: str, app: str | None, device: str, license_id: str | None
) -> AuditRow:
    return AuditRow(
        event=event,
        outcome="ok",
        at_ms=int(now * 1000),
        detail=reason[:512] or None,
        app=app or key.app,
        device=device,
        license_id=license_id,
        provider=key.provider,
        purchase=key.tag,
    )


def license_document(found: StoredLicense) -> Mapping[str, object]:
    """What `corelocker license show` prints: everything but the purchase's identifier."""
    hidden = {"device_jwk", "purchase_id", "attest_key", "chain_serials"}
    document = {name: value for name, value in vars(found).items() if name not in hidden}
    return document | {"purchase": found.purchase.tag}


def entitlement_document(stored: StoredEntitlement) -> Mapping[str, object]:
    """What `corelocker entitlement show` prints: everything but identifiers and tokens of the store."""
    known = stored.entitlement
    return {
        "provider": known.provider,
        "app": known.app,
        "purchase": PurchaseKey.of(known).tag,
        "closed": known.closed,
        "purchases": [
            {
                "product": purchase.product,
                "status": purchase.status,
                "expires_at": purchase.expires_at,
                "as_of_ms": purchase.as_of_ms,
                "acknowledged": purchase.acknowledged,
            }
            for purchase in known.purchases
        ],
        "places": [vars(place) for place in known.places],
        "blocked": sorted(stored.blocked),
    }
