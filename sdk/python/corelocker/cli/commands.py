"""Which commands there are, in the order in which the help lists them.

Only the module of the command that runs is imported, and modules import what they need inside the command: every command
would pay for what another one uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import typer

# name: (module, function or group of commands in it, what the list of commands says)
COMMANDS = {
    "lock": ("lock", "lock", "Lock finished models, with one key bundle for all."),
    "calibrate": ("calibrate", "calibrate", "Find the tiers' fractions for wanted utilities."),
    "inspect": ("inspect", "inspect", "Show the layers of a model, or what a bundle holds."),
    "verify": ("restore", "verify", "Check that a locked model and a bundle fit."),
    "restore": ("restore", "restore", "Write a locked model restored: for its owner."),
    "export": ("export", "export", "Export a torch model for phones, and lock it."),
    "audit": ("audit", "audit", "Measure what a lock is worth."),
    "keystore": ("keystore", "app", "The publisher's secrets."),
    "service": ("service", "service", "The unlock service: set it up, check it, run it."),
    "license": ("service", "license_", "Licenses that the unlock service has issued."),
    "entitlement": ("service", "entitlement", "Purchases, and the devices that use them."),
    "grant": ("service", "grant", "Purchases that the publisher's own backend signs."),
    "device": ("device", "app", "A device in software, for development and CI."),
    "demo": ("demo", "demo", "Lock and unlock a small classifier, and show it."),
}


def register(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Add the command that the arguments name to the application, or all of them when they name none."""
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name in [wanted] if wanted in COMMANDS else COMMANDS:
        module, member, summary = COMMANDS[name]
        command = getattr(import_module(f"corelocker.cli.{module}"), member)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, short_help=summary)
        else:
            app.command(name, short_help=summary)(command)
