"""`corelocker service`: set the unlock service up, check it, run it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corelocker.cli.app import Json, KeystorePath, PassphraseFile, emit, open_keystore
from corelocker.cli.service_options import (
    DEFAULT_CONFIG,
    ConfigOption,
    load_service_config,
    opened_storage,
    require_service_extra,
    time_text,
)

if TYPE_CHECKING:
    from corelocker.service.setup import Product

service = typer.Typer(help="The unlock service: set it up, check it, run it.", no_args_is_help=True)


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
    require_service_extra()
    from corelocker.bundle.keystore import Keystore
    from corelocker.service import setup

    products = None if not product else [_product(text) for text in product]
    files = setup.init_development(
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
    require_service_extra()
    from uuid import UUID

    from corelocker.service import setup
    from corelocker.service.keys import open_service_keystore

    try:
        wanted = None if not bundle else [UUID(name) for name in bundle]
    except ValueError:
        raise typer.BadParameter("a bundle's id is a UUID") from None
    store = open_service_keystore(load_service_config(config).keys)
    new = setup.import_content_keys(store, open_keystore(keystore, passphrase_file), wanted)
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
    require_service_extra()
    from corelocker.bundle.jose import public_jwk, thumbprint
    from corelocker.service.keys import open_keys, open_service_keystore
    from corelocker.service.setup import public_pem

    settings = load_service_config(config).keys
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


@service.command("app-config")
def app_config(
    url: Annotated[str, typer.Option("--service", help="The service's base URL, as devices reach it.")],
    config: ConfigOption = DEFAULT_CONFIG,
    app: Annotated[str | None, typer.Option("--app", help="The app.", show_default="the only one")] = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("corelocker.json"),
    publisher: Annotated[
        str | None,
        typer.Option(help="Thumbprint of the key that signs bundles.", show_default="keys.publishers, or --keystore"),
    ] = None,
    keystore: KeystorePath = None,
    offline_grace: Annotated[
        int, typer.Option(help="Seconds after its end in which a license still counts.", min=0)
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    json: Json = False,
) -> None:
    """Write corelocker.json, which an app carries: the service, the keys that it trusts, the publisher.

    Nothing in it is secret. Example: corelocker service app-config --service https://unlock.example.com
    """
    require_service_extra()
    from corelocker.bundle import jose
    from corelocker.bundle.keystore import Keystore
    from corelocker.service.app_config import write_app_config

    if publisher is None and keystore is not None:
        publisher = Keystore.open(keystore).publisher
    made = write_app_config(
        load_service_config(config),
        out,
        service=url,
        app=app,
        publisher=publisher,
        offline_grace=offline_grace,
        force=force,
    )
    keys = [jose.thumbprint(key) for key in made.license_keys]
    emit(
        json,
        {"app_config": str(out), "app": made.app, "environment": made.environment, "license_keys": keys},
        lambda: print(f"{out}: for {made.app}, {made.environment}; licenses signed by {', '.join(keys)}"),
    )


@service.command("check-config")
def check_config(config: ConfigOption = DEFAULT_CONFIG, json: Json = False) -> None:
    """Say what is wrong with a configuration, and try out its database, clock and stores.

    The exit code is 1 when the service would not start.

    Example: corelocker service check-config --config service.toml
    """
    require_service_extra()
    from corelocker.service.checks import look_over
    from corelocker.service.trial import try_out

    loaded = load_service_config(config)
    found = look_over(loaded)
    findings = [finding for finding in found if finding.level != "ok"]
    tried = [*(finding for finding in found if finding.level == "ok"), *try_out(loaded)]
    errors = [finding for finding in (*findings, *tried) if finding.level == "error"]
    warnings = [finding for finding in (*findings, *tried) if finding.level == "warning"]

    def text() -> None:
        for finding in (*tried, *findings):
            print(f"{finding.level}: {finding.message} [{finding.code}]")
            if finding.hint:
                print(f"  {finding.hint}")
        print(f"{config}: {len(errors)} errors, {len(warnings)} warnings")

    document = {"findings": [vars(finding) for finding in findings], "trials": [vars(finding) for finding in tried]}
    emit(json, {"config": str(config), "ok": not errors} | document, text)
    if errors:
        raise typer.Exit(1)


@service.command("migrate")
def migrate(config: ConfigOption = DEFAULT_CONFIG, json: Json = False) -> None:
    """Make the tables of the database, or bring them to this release's version.

    Example: corelocker service migrate --config service.toml
    """
    require_service_extra()
    from corelocker.service.schema import REVISION
    from corelocker.service.storage import Storage

    Storage.open(load_service_config(config).database_url, migrate=True).close()
    emit(json, {"version": REVISION}, lambda: print(f"the database is of version {REVISION}"))


@service.command("accept-rollback")
def accept_rollback(config: ConfigOption = DEFAULT_CONFIG, json: Json = False) -> None:
    """Go on with a database that is an older copy, such as a restored backup, which `run` refuses.

    Challenges that were given out before no longer count. What the copy forgot has to be done anew: revocations, and
    devices whose places were released. Example: corelocker service accept-rollback --config service.toml
    """
    with opened_storage(config) as (loaded, storage):
        from corelocker.service.epoch import Epoch

        behind = Epoch.of(loaded, storage).accept()
    emit(json, {"epochs_behind": behind}, lambda: print(f"accepted: the database was {behind} epochs behind"))


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
    with opened_storage(config) as (_, storage):
        rows = storage.audit_rows(limit=limit, event=event)

    def text() -> None:
        for row in rows:
            parts = (time_text(row.at_ms // 1000), row.event, row.outcome, row.app, row.tier, row.device, row.detail)
            print("  ".join(part for part in parts if part))

    emit(json, {"rows": [vars(row) for row in rows]}, text)


@service.command("status")
def status(
    config: ConfigOption = DEFAULT_CONFIG,
    hours: Annotated[float, typer.Option(help="Count the decisions of so many hours.", min=0.01)] = 24,
    json: Json = False,
) -> None:
    """Show how the service is doing: unlocks, refusals by reason, devices per purchase, what waits, how old keys are.

    It reads the database and the keystore, so it works beside the running service. Example: corelocker service status
    --hours 1
    """
    with opened_storage(config) as (loaded, storage):
        from corelocker.service.status import status as read

        found = read(loaded, storage, hours)

    def text() -> None:
        decided = found.decisions
        print(
            f"last {hours:g} hours: {decided['unlock']} unlocks, {decided['renew']} renewals, "
            f"{decided['notice']} notifications of stores"
        )
        for refused in found.refusals:
            reason = f" ({refused['reason']})" if refused["reason"] else ""
            print(f"  refused: {refused['number']} x {refused['event']}, {refused['code']}{reason}")
        used = ", ".join(f"{number} on {devices}" for devices, number in found.devices.items()) or "none"
        print(f"purchases by devices that use them: {used}")
        print(f"waiting: {found.waiting['acknowledgements']} acknowledgements to Google Play")
        if found.waiting["requests"] is None:
            print("this host's workers: not known, no http.metrics_port answers")
        else:
            print(
                f"this host's workers: {found.waiting['requests']} requests under way, "
                f"{found.waiting['connections']} connections"
            )
        print("stored: " + ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in found.stored.items()))
        for key in found.keys:
            age = "in a token" if key["days"] is None else f"{key['days']} days old"
            print(f"key {key['thumbprint']}: {age}{', signs licenses' if key['signs'] else ''}")

    emit(json, vars(found), text)


@service.command("run")
def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the service until it is told to stop (SIGTERM, Ctrl-C). SIGHUP makes it read its configuration and keys anew.

    Example: corelocker service run --config service.toml
    """
    require_service_extra()
    from corelocker.service.run import serve

    serve(load_service_config(config))


def _product(text: str) -> Product:
    from corelocker.service.setup import Product

    name, equals, unlocked = text.partition("=")
    bundle, colon, tier = unlocked.partition(":")
    if not (name and equals and bundle and colon and tier):
        raise typer.BadParameter("--product needs NAME=BUNDLE:TIER")
    return Product(name, bundle, tier)
