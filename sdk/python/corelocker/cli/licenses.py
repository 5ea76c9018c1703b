"""`corelocker license|entitlement`: what the unlock service has issued, and the devices that use a purchase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from corelocker.cli.app import Json, emit, wide_console
from corelocker.cli.service_options import (
    DEFAULT_CONFIG,
    THUMBPRINT,
    ConfigOption,
    Reason,
    opened_storage,
    require_service_extra,
    time_text,
)

if TYPE_CHECKING:
    from corelocker.service.config import ServiceConfig
    from corelocker.service.records import PurchaseKey, StoredLicense
    from corelocker.service.storage import Storage

license_ = typer.Typer(help="Licenses that the unlock service has issued.", no_args_is_help=True)
entitlement = typer.Typer(help="Purchases, and the devices that use them.", no_args_is_help=True)

# Characters of a line that a table of licenses needs.
_WHOLE_IDS = 170
LicenseId = Annotated[str, typer.Argument(help="The license's id (jti).")]


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
    require_service_extra()
    from corelocker.service.admin import license_document

    with opened_storage(config) as (_, storage):
        found = storage.list_licenses(app=app, bundle=bundle, device=device, limit=limit)

    def text() -> None:
        from rich.table import Column, Table

        # Whole ids: they are what the other commands take.
        table = Table(
            Column("license", no_wrap=True), "app", "tier", Column("device", no_wrap=True), "issued", "ends", "state"
        )
        for entry in found:
            table.add_row(
                entry.jti,
                entry.app,
                entry.tier,
                entry.device,
                time_text(entry.issued_at),
                time_text(entry.expires_at),
                _state(entry),
            )
        # A narrow terminal breaks the lines; an id that is cut would be of no use.
        wide_console(_WHOLE_IDS).print(table)

    emit(json, {"licenses": [license_document(entry) for entry in found]}, text)


@license_.command("show")
def show_license(license_id: LicenseId, config: ConfigOption = DEFAULT_CONFIG, json: Json = False) -> None:
    """Show one license. The token itself is not kept.

    Example: corelocker license show 2b5d...
    """
    require_service_extra()
    from corelocker.service.admin import find_license, license_document

    with opened_storage(config) as (_, storage):
        document = dict(license_document(find_license(storage, license_id)))
    emit(json, document, lambda: _print_document(document))


@license_.command("revoke")
def revoke_license(
    license_id: LicenseId,
    config: ConfigOption = DEFAULT_CONFIG,
    purchase: Annotated[
        bool,
        typer.Option(
            "--purchase/--device-only",
            help="Close the purchase for the app, so that no device gets a license for it any more; or shut out this "
            "device key alone, which a reinstalled app does not keep.",
        ),
    ] = True,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Revoke a license and close its purchase: nothing is renewed, and no device gets another license for it.

    What is on a device works until it ends. `corelocker entitlement allow-device` undoes it.
    Example: corelocker license revoke 2b5d... --reason "lost phone"
    """
    require_service_extra()
    from corelocker.service import admin

    with opened_storage(config) as (_, storage):
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
    require_service_extra()
    from corelocker.service import admin

    with opened_storage(config) as (configuration, storage):
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
    require_service_extra()
    from corelocker.service import admin

    with opened_storage(config) as (configuration, storage):
        key = _purchase(configuration, storage, license_id, purchase)
        left = admin.release_device(storage, key, device, at_once=at_once, reason=reason)
    held = sum(not place.released for place in left.places)
    perpetual = any(place.device == device and place.perpetual for place in left.places)

    def text() -> None:
        print(f"released; {held} devices use the purchase")
        if perpetual:
            print("its license is perpetual: it counts against the device limit for ever, unless you say --at-once")

    emit(json, {"device": device, "places": held, "perpetual": perpetual}, text)


@entitlement.command("allow-device", context_settings=THUMBPRINT)
def allow_device(
    device: Annotated[str, typer.Argument(help="Thumbprint of the device key.")],
    config: ConfigOption = DEFAULT_CONFIG,
    license_id: OfLicense = None,
    purchase: Purchase = None,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Undo `license revoke`: the device may unlock anew, and the purchase is open again.

    Example: corelocker entitlement allow-device THUMBPRINT --license 2b5d...
    """
    require_service_extra()
    from corelocker.service import admin

    with opened_storage(config) as (configuration, storage):
        admin.allow_device(storage, _purchase(configuration, storage, license_id, purchase), device, reason=reason)
    emit(json, {"device": device}, lambda: print("the device may unlock anew, the purchase is open"))


# --- shared --------------------------------------------------------------------------------------


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


def _print_document(document: dict[str, Any]) -> None:
    for name, value in document.items():
        if isinstance(value, list):
            print(f"{name}:" if value else f"{name}: none")
            for entry in value:
                described = entry.items() if isinstance(entry, dict) else ()
                print("  " + (", ".join(f"{key} {item}" for key, item in described) or str(entry)))
        else:
            print(f"{name}: {value}")
