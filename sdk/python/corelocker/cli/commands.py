"""Which commands there are, in the order in which the help lists them.

Only the module of the command that runs is imported, and modules import what they need inside the command: every command
would pay for what another one uses.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

# name: (module, function or group of commands in it, what the list of commands says)
COMMANDS = {
    "lock": ("lock", "lock", "Lock finished models, with one key bundle for all."),
    "calibrate": ("calibrate", "calibrate", "Find the tiers' fractions for wanted utilities."),
    "inspect": ("inspect", "inspect", "Show the layers of a model, or what a bundle holds."),
    "compare": ("compare", "compare", "What two published files of one model reveal together."),
    "verify": ("restore", "verify", "Check that a locked model and a bundle fit."),
    "restore": ("restore", "restore", "Write a locked model restored: for its owner."),
    "export": ("export", "export", "Export a torch model for phones, and lock it."),
    "audit": ("audit", "audit", "Measure what a lock is worth."),
    "keystore": ("keystore", "app", "The publisher's secrets."),
    "service": ("service", "service", "The unlock service: set it up, check it, run it."),
    "license": ("licenses", "license_", "Licenses that the unlock service has issued."),
    "entitlement": ("licenses", "entitlement", "Purchases, and the devices that use them."),
    "grant": ("grants", "grant", "Purchases that the publisher's own backend signs."),
    "device": ("device", "app", "A device in software, for development and CI."),
}


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are asked for, as click's documentation shows it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, member, summary = COMMANDS[cmd_name]
        found = getattr(import_module(f"corelocker.cli.{module}"), member)
        if not isinstance(found, typer.Typer):
            function, found = found, typer.Typer(add_completion=False, rich_markup_mode=None)
            found.command(cmd_name)(function)
        found._add_completion = False  # the root has it
        command = get_command(found)
        command.name, command.short_help = cmd_name, summary
        return command
