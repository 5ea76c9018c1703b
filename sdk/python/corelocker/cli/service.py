"""`corelocker service|license|entitlement|grant`: set the unlock service up, run it, and look after what it issued."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from corelocker.cli.app import Json, KeystorePath, PassphraseFile, emit, open_keystore, wide_console
from corelocker.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from corelocker.service.admin import Product
    from corelocker.service.config import ServiceConfig
    from corelocker.service.records import PurchaseKey, StoredLicense
    from corelocker.service.storage import Storage

service = typer.Typer(help="The unlock service: set it up, check it, run it.", no_args_is_help=True)
license_ = typer.Typer(help="Licenses that the unlock service has issued.", no_args_is_help=True)
entitlement = typer.Typer(help="Purchases, and the devices that use them.", no_args_is_help=True)
grant = typer.Typer(help="Grants: purchases that the publisher's own backend signs.", no_args_is_help=True)

DEFAULT_CONFIG = Path("service.toml")
ConfigOption = Annotated[
    Path, typer.Option("--config", help="The service's configuration.", envvar="CORELOCKER_SERVICE")
]
THUMBPRINT = {"ignore_unknown_options": True}  # one in 64 begins with a hyphen
LicenseId = Annotated[str, typer.Argument(help="The license's id (jti).")]
Reason = Annotated[str, typer.Option(help="Why, for the audit log.")]


# --- service -------------------------------------------------------------------------------------


@service.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="Where everything is put.")],
    app: Annotated[str, typer.Option("--app", help="The app's identifier, as its requests name it.")],
    keystore: KeystorePath = None,
    passphrase_file: PassphraseFile = None,
    product: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=BUNDLE:TIER, what a product unlocks; may be repeated.",
            show_default="each tier of each bundle, under the tier's name",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Where the service will listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where the service will listen.", min=1, max=65535)] = 8440,
    json: Json = False,
) -> None:
    """Set up a service for development: keys of its own, a development root, a key for grants, an SQLite database.

    The content keys are copied from the publisher's keystore. Example: corelocker service init unlock --app
    com.example.app
    """
    _require_extra()
    from corelocker.bundle.keystore import Keystore
    from corelocker.service import admin

    products = None if not product else [_product(text) for text in product]
    files = admin.init_development(
        folder, open_keystore(keystore, passphrase_file), app, products=products, host=host, port=port
    )
    thumbprint = Keystore.open(files.keys).publisher
    document: dict[str, Any] = {name: str(path) for name, path in vars(files).items()}
    document |= {"service_thumbprint": thumbprint, "url": f"http://{host}:{port}"}

    def text() -> None:
        print(f"{files.config}: a service for development; licenses are signed by {thumbprint}")
        print(f"  apps pin {files.service_key}, software devices are certified by {files.development_root}")
        print(f"  run it: corelocker service run --config {files.config}")

    emit(json, document, text)


@service.command("import-keys")
def import_keys(
    config: ConfigOption = DEFAULT_CONFIG,
    keystore: KeystorePath = None,
    passphrase_file: PassphraseFile = None,
    bundle: Annotated[
        list[str] | None, typer.Option(help="A bundle's id; may be repeated.", show_default="all")
    ] = None,
    json: Json = False,
) -> None:
    """Copy content keys of new bundles from the publisher's keystore into the service's. Restart the service then.

    Example: corelocker service import-keys --config service.toml --keystore keys.json
    """
    _require_extra()
    from uuid import UUID

    from corelocker.service import admin
    from corelocker.service.keys import open_service_keystore

    try:
        wanted = None if not bundle else [UUID(name) for name in bundle]
    except ValueError:
        raise typer.BadParameter("a bundle's id is a UUID") from None
    store = open_service_keystore(_config(config).keys)
    new = admin.import_content_keys(store, open_keystore(keystore, passphrase_file), wanted)
    emit(
        json,
        {"keystore": str(store.path), "imported": [str(name) for name in new]},
        lambda: print(f"{store.path}: {len(new)} new content keys"),
    )


@service.command("keys")
def keys(
    config: ConfigOption = DEFAULT_CONFIG,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write a PEM file for each key to, named by its thumbprint.")
    ] = None,
    json: Json = False,
) -> None:
    """Show the public keys that apps pin: the one that signs licenses, and others that the keystore holds.

    To rotate: `corelocker keystore rotate KEYSTORE --signing-key --keep-private` with `keys.signing_key` set to the old
    thumbprint, ship apps that pin both, remove the setting, restart. Example: corelocker service keys --out pins
    """
    _require_extra()
    from corelocker.bundle.jose import public_jwk, thumbprint
    from corelocker.service.admin import public_pem
    from corelocker.service.keys import open_keys, open_service_keystore

    settings = _config(config).keys
    signing = open_keys(settings).signer.public_key
    known = {thumbprint(signing): signing}
    if settings.pkcs11 is None:
        known |= {key.thumbprint: key.public for key in open_service_keystore(settings).publisher_keys}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, key in known.items():
            (out / f"{name}.pem").write_text(public_pem(key))
    document = {
        "signing": thumbprint(signing),
        "keys": [{"thumbprint": name, "jwk": public_jwk(key)} for name, key in known.items()],
    }

    def text() -> None:
        for name in known:
            print(f"{name}{'  signs licenses' if name == document['signing'] else ''}")

    emit(json, document, text)


@service.command("check-config")
def check_config(config: ConfigOption = DEFAULT_CONFIG, json: Json = False) -> None:
    """Say what is wrong with a configuration; the exit code is 1 when the service would not start.

    Example: corelocker service check-config --config service.toml
    """
    _require_extra()
    from corelocker.service.checks import check_config as check

    findings = check(_config(config))
    errors = [finding for finding in findings if finding.level == "error"]

    def text() -> None:
        for finding in findings:
            print(f"{finding.level}: {finding.message} [{finding.code}]")
            if finding.hint:
                print(f"  {finding.hint}")
        print(f"{config}: {len(errors)} errors, {len(findings) - len(errors)} warnings")

    emit(json, {"config": str(config), "ok": not errors, "findings": [vars(finding) for finding in findings]}, text)
    if errors:
        raise typer.Exit(1)


@service.command("migrate")
def migrate(config: ConfigOption = DEFAULT_CONFIG, json: Json = False) -> None:
    """Make the tables of the database, or bring them to this release's version.

    Example: corelocker service migrate --config service.toml
    """
    _require_extra()
    from corelocker.service.schema import REVISION
    from corelocker.service.storage import Storage

    Storage.open(_config(config).database_url, migrate=True).close()
    emit(json, {"version": REVISION}, lambda: print(f"the database is of version {REVISION}"))


@service.command("audit")
def audit(
    config: ConfigOption = DEFAULT_CONFIG,
    event: Annotated[str | None, typer.Option(help="Only of this kind: unlock, renew, notice, ...")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=100_000)] = 50,
    json: Json = False,
) -> None:
    """Show the newest decisions, newest first: what was asked, what came of it, and why.

    Example: corelocker service audit --event unlock --limit 20
    """
    with _storage(config) as (_, storage):
        rows = storage.audit_rows(limit=limit, event=event)

    def text() -> None:
        for row in rows:
            parts = (_time(row.at_ms // 1000), row.event, row.outcome, row.app, row.tier, row.device, row.detail)
            print("  ".join(part for part in parts if part))

    emit(json, {"rows": [vars(row) for row in rows]}, text)


@service.command("run")
def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the service until it is told to stop (SIGTERM, Ctrl-C).

    Example: corelocker service run --config service.toml
    """
    _require_extra()
    from corelocker.service.run import serve

    serve(_config(config))


# --- licenses ------------------------------------------------------------------------------------


@license_.command("list")
def list_licenses(
    config: ConfigOption = DEFAULT_CONFIG,
    app: Annotated[str | None, typer.Option(help="Of this app.")] = None,
    bundle: Annotated[str | None, typer.Option(help="For this key bundle.")] = None,
    device: Annotated[str | None, typer.Option(help="Of the device key with this thumbprint.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=10_000)] = 50,
    json: Json = False,
) -> None:
    """List the newest licenses.

    Example: corelocker license list --app com.example.app
    """
    from corelocker.service.admin import license_document

    with _storage(config) as (_, storage):
        found = storage.list_licenses(app=app, bundle=bundle, device=device, limit=limit)

    def text() -> None:
        from rich.table import Table

        table = Table("license", "app", "tier", "device", "issued", "ends", "state")
        for entry in found:
            table.add_row(
                entry.jti,
                entry.app,
                entry.tier,
                entry.device,
                _time(entry.issued_at),
                _time(entry.expires_at),
                _state(entry),
            )
        wide_console().print(table)

    emit(json, {"licenses": [license_document(entry) for entry in found]}, text)


@license_.command("show")
def show_license(license_id: LicenseId, config: ConfigOption = DEFAULT_CONFIG, json: Json = False) -> None:
    """Show one license. The token itself is not kept.

    Example: corelocker license show 2b5d...
    """
    from corelocker.service.admin import find_license, license_document

    with _storage(config) as (_, storage):
        document = dict(license_document(find_license(storage, license_id)))
    emit(json, document, lambda: _print_document(document))


@license_.command("revoke")
def revoke_license(
    license_id: LicenseId,
    config: ConfigOption = DEFAULT_CONFIG,
    purchase: Annotated[
        bool, typer.Option("--purchase", help="Close the purchase too: no device gets a license for it any more.")
    ] = False,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Revoke a license: it is not renewed, and its device gets no other for the purchase.

    What is on the device works until it ends. Example: corelocker license revoke 2b5d... --reason "lost phone"
    """
    from corelocker.service import admin

    with _storage(config) as (_, storage):
        count = admin.revoke_license(storage, license_id, purchase=purchase, reason=reason)
    closed = " and the purchase is closed" if purchase else ""
    emit(
        json,
        {"license_id": license_id, "revoked": count, "purchase_closed": purchase},
        lambda: print(f"{count} licenses of this device are revoked{closed}"),
    )


# --- entitlements --------------------------------------------------------------------------------

OfLicense = Annotated[str | None, typer.Option("--license", help="The purchase that this license was issued for.")]
Purchase = Annotated[
    str | None, typer.Option(help="The purchase: PROVIDER:APP:ID, with app-store, google-play or grant as provider.")
]


@entitlement.command("show")
def show_entitlement(
    config: ConfigOption = DEFAULT_CONFIG, license_id: OfLicense = None, purchase: Purchase = None, json: Json = False
) -> None:
    """Show what is known of a purchase, and which devices use it.

    Example: corelocker entitlement show --license 2b5d...
    """
    from corelocker.service import admin

    with _storage(config) as (configuration, storage):
        stored = admin.find_entitlement(storage, _purchase(configuration, storage, license_id, purchase))
    document = dict(admin.entitlement_document(stored))
    emit(json, document, lambda: _print_document(document))


@entitlement.command("release-device", context_settings=THUMBPRINT)
def release_device(
    device: Annotated[str, typer.Argument(help="Thumbprint of the device key.")],
    config: ConfigOption = DEFAULT_CONFIG,
    license_id: OfLicense = None,
    purchase: Purchase = None,
    at_once: Annotated[bool, typer.Option("--at-once", help="Without the cool-down.")] = False,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Take a device's place of a purchase back, so that another device can take it.

    Example: corelocker entitlement release-device THUMBPRINT --license 2b5d... --at-once
    """
    from corelocker.service import admin

    with _storage(config) as (configuration, storage):
        key = _purchase(configuration, storage, license_id, purchase)
        left = admin.release_device(storage, key, device, at_once=at_once, reason=reason)
    held = sum(not place.released for place in left.places)
    emit(json, {"device": device, "places": held}, lambda: print(f"released; {held} devices use the purchase"))


@entitlement.command("allow-device", context_settings=THUMBPRINT)
def allow_device(
    device: Annotated[str, typer.Argument(help="Thumbprint of the device key.")],
    config: ConfigOption = DEFAULT_CONFIG,
    license_id: OfLicense = None,
    purchase: Purchase = None,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Undo `license revoke` for a device: it may unlock anew.

    Example: corelocker entitlement allow-device THUMBPRINT --license 2b5d...
    """
    from corelocker.service import admin

    with _storage(config) as (configuration, storage):
        admin.allow_device(storage, _purchase(configuration, storage, license_id, purchase), device, reason=reason)
    emit(json, {"device": device}, lambda: print("the device may unlock anew"))


# --- grants --------------------------------------------------------------------------------------


@grant.command("keygen")
def keygen(
    path: Annotated[Path, typer.Argument(help="Of the new private key (PEM).")] = Path("grant-key.pem"),
    json: Json = False,
) -> None:
    """Make a key that signs grants. The backend keeps it; the service is configured with its public half.

    Example: corelocker grant keygen grant-key.pem
    """
    from corelocker.service.admin import new_grant_key

    _require_extra()
    public = new_grant_key(path)
    emit(
        json,
        {"private": str(path), "public": str(public)},
        lambda: print(f"{path}: keep it secret. {public}: for apps.grant.keys of the service"),
    )


@grant.command("issue")
def issue(
    product: Annotated[str, typer.Option(help="The product that is granted.")],
    config: ConfigOption = DEFAULT_CONFIG,
    key: Annotated[
        Path | None, typer.Option(help="The private key (PEM).", show_default="grant-key.pem beside the configuration")
    ] = None,
    app: Annotated[str | None, typer.Option(help="The app.", show_default="the only one")] = None,
    purchase: Annotated[
        str | None, typer.Option(help="The purchase; grants for one share its places.", show_default="the grant itself")
    ] = None,
    until: Annotated[int | None, typer.Option(help="End of the right, Unix seconds.", min=1)] = None,
    lifetime: Annotated[int, typer.Option(help="Seconds in which the grant can be shown.", min=1)] = 3600,
    json: Json = False,
) -> None:
    """Sign a grant and print it.

    Example: corelocker grant issue --config unlock/service.toml --product full --purchase order-1
    """
    _require_extra()
    import time

    from corelocker.licensing.tokens import SoftwareSigner
    from corelocker.purchases.grant import issue_grant
    from corelocker.service.admin import load_signing_key

    configuration = _config(config)
    name = app or next(iter(configuration.apps))
    if name not in configuration.apps or (app is None and len(configuration.apps) > 1):
        raise ConfigError(f"which app? {config} has {', '.join(configuration.apps)}", hint="Say --app")
    settings = configuration.apps[name].grant
    if settings is None:
        raise ConfigError(f"{config}: the app {name} takes no grants")
    token = issue_grant(
        SoftwareSigner(load_signing_key(key or config.parent / "grant-key.pem")),
        issuer=settings.issuer,
        app=name,
        environment=configuration.environment,
        product=product,
        issued_at=int(time.time()),
        lifetime=lifetime,
        purchase=purchase,
        until=until,
    )
    emit(json, {"grant": token}, lambda: print(token))


# --- shared --------------------------------------------------------------------------------------


def _require_extra() -> None:
    try:
        import alembic  # noqa: F401
        import joserfc  # noqa: F401
        import rfc8785  # noqa: F401
        import starlette  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name} is not installed", hint="Run: pip install 'corelocker[service]'"
        ) from None


def _config(path: Path) -> ServiceConfig:
    from corelocker.service.config_file import load_config

    return load_config(path)


class _storage:  # noqa: N801 - used like a function
    """The configuration and its database, open while the block runs."""

    def __init__(self, path: Path) -> None:
        _require_extra()
        from corelocker.service.storage import Storage

        self._config = _config(path)
        self._storage = Storage.open(self._config.database_url)

    def __enter__(self) -> tuple[ServiceConfig, Storage]:
        return self._config, self._storage

    def __exit__(self, *_: object) -> None:
        self._storage.close()


def _product(text: str) -> Product:
    from corelocker.service.admin import Product

    name, equals, unlocked = text.partition("=")
    bundle, colon, tier = unlocked.partition(":")
    if not (name and equals and bundle and colon and tier):
        raise typer.BadParameter("--product needs NAME=BUNDLE:TIER")
    return Product(name, bundle, tier)


def _purchase(config: ServiceConfig, storage: Storage, license_id: str | None, purchase: str | None) -> PurchaseKey:
    from corelocker.purchases.entitlements import Provider
    from corelocker.service import admin

    if (license_id is None) == (purchase is None):
        raise typer.BadParameter("name the purchase by --license or by --purchase")
    if license_id is not None:
        return admin.find_license(storage, license_id).purchase
    provider, _, rest = (purchase or "").partition(":")
    app, colon, name = rest.partition(":")
    if provider not in get_args(Provider) or not colon:
        raise typer.BadParameter("--purchase needs PROVIDER:APP:ID")
    return admin.purchase_key(config, cast("Provider", provider), app, name)


def _state(entry: StoredLicense) -> str:
    if entry.revoked_at is not None:
        return "revoked"
    return "renewed" if entry.replaced_by is not None else "issued"


def _time(seconds: int | None) -> str:
    return "never" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _print_document(document: dict[str, Any]) -> None:
    for name, value in document.items():
        if isinstance(value, list):
            print(f"{name}:" if value else f"{name}: none")
            for entry in value:
                described = entry.items() if isinstance(entry, dict) else ()
                print("  " + (", ".join(f"{key} {item}" for key, item in described) or str(entry)))
        else:
            print(f"{name}: {value}")
