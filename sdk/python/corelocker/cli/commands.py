"""Which commands there are. The modules import what they need inside the command, so that `--help` stays quick."""

from __future__ import annotations

import typer

from corelocker.cli import demo, export, inspect, keystore, lock, restore


def register(app: typer.Typer) -> None:
    """Add every command to the application."""
    app.command("lock")(lock.lock)
    app.command("inspect")(inspect.inspect)
    app.command("verify")(restore.verify)
    app.command("restore")(restore.restore)
    app.command("export")(export.export)
    app.add_typer(keystore.app, name="keystore")
    app.command("demo")(demo.demo)
