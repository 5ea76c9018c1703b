"""`corelocker grant`: purchases that the publisher's own backend signs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from corelocker.cli.app import Json, emit
from corelocker.cli.service_options import DEFAULT_CONFIG, ConfigOption, load_service_config, require_service_extra
from corelocker.errors import ConfigError

grant = typer.Typer(help="Grants: purchases that the publisher's own backend signs.", no_args_is_help=True)


@grant.command("keygen")
def keygen(
    path: Annotated[Path, typer.Argument(help="Of the new private key (PEM).")] = Path("grant-key.pem"),
    json: Json = False,
) -> None:
    """Make a key that signs grants. The backend keeps it; the service is configured with its public half.

    Example: corelocker grant keygen grant-key.pem
    """
    require_service_extra()
    from corelocker.service.setup import new_grant_key

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
    require_service_extra()
    import time

    from corelocker.licensing.tokens import SoftwareSigner
    from corelocker.purchases.grant import issue_grant
    from corelocker.service.app_config import app_of
    from corelocker.service.setup import load_signing_key

    configuration = load_service_config(config)
    name = app_of(configuration, app)
    settings = configuration.apps[name].grant
    if settings is None:
        raise ConfigError(f"{config}: the app {name} takes no grants")
    products = sorted({entry.product for entry in configuration.products if entry.app == name})
    if product not in products:
        raise ConfigError(f"{config}: the app {name} sells no {product}", hint=f"It sells {', '.join(products)}")
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
    perpetual = configuration.licenses.lifetime is None and until is None

    def text() -> None:
        print(token)
        if perpetual:
            message = "its licenses are perpetual: each device counts against the purchase's device limit for ever"
            print(f"note: {message}", file=sys.stderr)

    emit(json, {"grant": token, "perpetual": perpetual}, text)
