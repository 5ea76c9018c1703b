"""Which commands there are, in the order in which the help lists them.

Only the module of the command that runs is imported, and modules import what they need inside the command: every command
would pay for what another one uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import typer

# name: (module, function or group of commands in it)
COMMANDS = {
    "lock": ("lock", "lock"),
    "calibrate": ("calibrate", "calibrate"),
    "inspect": ("inspect", "inspect"),
    "verify": ("restore", "verify"),
    "restore": ("restore", "restore"),
    "export": ("export", "export"),
    "audit": ("audit", "audit"),
    "keystore": ("keystore", "app"),
    "service": ("service", "service"),
    "license": ("service", "license_"),
    "entitlement": ("service", "entitlement"),
    "grant": ("service", "grant"),
    "device": ("device", "app"),
    "demo": ("demo", "demo"),
}


def register(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Add the command that the arguments name to the application, or all of them when they name none."""
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name in [wanted] if wanted in COMMANDS else COMMANDS:
        module, member = COMMANDS[name]
        command = getattr(import_module(f"corelocker.cli.{module}"), member)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
