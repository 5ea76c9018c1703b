"""What the commands of the unlock service share: its configuration, its database, and the extra that they need."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corelocker.errors import MissingExtraError

if TYPE_CHECKING:
    from corelocker.service.config import ServiceConfig
    from corelocker.service.storage import Storage

DEFAULT_CONFIG = Path("service.toml")
ConfigOption = Annotated[
    Path, typer.Option("--config", help="The service's configuration.", envvar="CORELOCKER_SERVICE")
]
THUMBPRINT = {"ignore_unknown_options": True}  # one in 64 begins with a hyphen
Reason = Annotated[str, typer.Option(help="Why, for the audit log.")]


def require_service_extra() -> None:
    try:
        import alembic  # noqa: F401
        import joserfc  # noqa: F401
        import rfc8785  # noqa: F401
        import starlette  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name} is not installed", hint="Run: pip install 'corelocker[service]'"
        ) from None


def load_service_config(path: Path) -> ServiceConfig:
    from corelocker.service.config_file import load_config

    return load_config(path)


class opened_storage:  # noqa: N801 - used like a function
    """The configuration and its database, open while the block runs."""

    def __init__(self, path: Path) -> None:
        require_service_extra()
        from corelocker.service.storage import Storage

        self._config = load_service_config(path)
        self._storage = Storage.open(self._config.database_url)

    def __enter__(self) -> tuple[ServiceConfig, Storage]:
        return self._config, self._storage

    def __exit__(self, *_: object) -> None:
        self._storage.close()


def time_text(seconds: int | None) -> str:
    return "never" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
