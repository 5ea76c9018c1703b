"""Reads the configuration of a running service anew: keys, products, policies and limits may change while it runs."""

from __future__ import annotations

from corelocker.errors import ConfigError
from corelocker.service.checks import check_config
from corelocker.service.config import ServiceConfig
from corelocker.service.config_file import load_config
from corelocker.service.errors import ServiceRefusesToStartError

# What the parent process holds, or has compared with the epoch at the start.
_FIXED_HTTP = ("host", "port", "socket", "metrics_host", "metrics_port")
_FIXED = ("environment", "database_url")


def reread(running: ServiceConfig) -> ServiceConfig:
    """The configuration of the file that the running one was read from.

    Raises FileAccessError, ConfigError, or ServiceRefusesToStartError with the errors that `check_config` found.
    """
    config = load_config(running.path)
    for name in _FIXED:
        if getattr(config, name) != getattr(running, name):
            raise ConfigError(f"{name} does not change while the service runs", hint="Restart it")
    for name in _FIXED_HTTP:
        if getattr(config.http, name) != getattr(running.http, name):
            raise ConfigError(f"http.{name} does not change while the service runs", hint="Restart it")
    errors = [finding for finding in check_config(config) if finding.level == "error"]
    if errors:
        raise ServiceRefusesToStartError("; ".join(f"{finding.message} [{finding.code}]" for finding in errors))
    return config
