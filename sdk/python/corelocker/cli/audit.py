"""`corelocker audit`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corelocker.cli.app import (
    Force,
    Json,
    KeystorePath,
    PassphraseFile,
    Publisher,
    emit,
    human,
    open_keystore,
    progress_bar,
    publisher_thumbprint,
    wide_console,
)
from corelocker.cli.lock import (
    Consumers,
    Exclude,
    IncludeIo,
    InputStatistics,
    OptionalCriterion,
    OptionalFill,
    OptionalScope,
    OptionalTiers,
    PresetOption,
    Source,
    lock_options,
)

if TYPE_CHECKING:
    from corelocker.artifacts import Artifact
    from corelocker.audit.options import LockedInput
    from corelocker.locking.plan import Plan


def audit(
    model: Annotated[
        str,
        typer.Argument(help="A finished model, locked or not, or package.module:factory of a torch module."),
    ],
    data: Annotated[str, typer.Option(help=".npz with x and y, or package.module:function that returns them.")],
    model_factory: Annotated[
        str | None,
        typer.Option(
            "--model", help="package.module:factory of the torch module: to run checkpoints, to attack, to bound."
        ),
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="The key bundle of a locked model.")] = None,
    train_data: Annotated[
        str | None, typer.Option(help="What attackers train on; half of --data if there is none.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="The public checkpoint (.safetensors) that the model was tuned from.")
    ] = None,
    metric: Annotated[
        str, typer.Option(help="top-1, top-5, perplexity, or package.module:function of (outputs, labels).")
    ] = "top-1",
    preset: PresetOption = None,
    tiers: OptionalTiers = None,
    criterion: OptionalCriterion = None,
    scope: OptionalScope = None,
    fill: OptionalFill = None,
    consumers: Consumers = False,
    include_io: IncludeIo = False,
    exclude: Exclude = None,
    source: Source = None,
    input_stats: InputStatistics = None,
    plan: Annotated[Path | None, typer.Option(help="Lock the channels of a saved plan.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random; the same seed gives the same report.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer samples, points and attacks: minutes, not hours.")
    ] = False,
    attacks: Annotated[bool, typer.Option(help="Whether to attack the locked model.")] = True,
    out: Annotated[Path, typer.Option(help="The report, one HTML file.")] = Path("audit.html"),
    work: Annotated[
        Path | None, typer.Option(help="Keep finished pieces in this folder; the same audit goes on from there.")
    ] = None,
    publisher: Publisher = None,
    keystore: KeystorePath = None,
    passphrase_file: PassphraseFile = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Measure what a lock is worth: utility of every tier, what attackers get back, and how far the lock moves the network.

    A locked model is audited with --bundle and --keystore. An unlocked one is locked in memory with the given options; nothing
    is written but the report. The report tells where locked channels are: keep it with the publisher's secrets.

    Example: corelocker audit tools.demo_model.fashion_mobilenet:trained --data tools/demo_model/data/fashion_test_2000.npz
    --criterion bn-scale --tiers free=0.045,plus=0.01,full=0 --quick
    """
    from corelocker.audit.options import AuditOptions
    from corelocker.audit.report import html
    from corelocker.audit.run import audit as run_audit
    from corelocker.errors import FileAccessError, OutputExistsError
    from corelocker.files import write_atomically
    from corelocker.locking.choose import choose_channels
    from corelocker.locking.presets import preset as preset_of

    if out.exists() and not force:
        raise OutputExistsError(f"{out} exists already", hint="Choose another --out or pass --force")
    if not os.access(out.absolute().parent, os.W_OK):  # an audit may take hours: say so before
        raise FileAccessError(f"{out}: its folder is missing or cannot be written")
    lock = lock_options(
        preset=preset, tiers=tiers, criterion=criterion, scope=scope, fill=fill, consumers=consumers, include_io=include_io,
        exclude=exclude, source=source, model=model_factory or model, input_stats=input_stats,
    )  # fmt: skip
    named = preset_of(preset) if preset is not None else None
    ranked = criterion or (named.criterion if named else "l1")

    def planned(
        artifacts: Sequence[Artifact], secret: bytes, scorer: Any, show: Callable[[str, int, int], None]
    ) -> Plan:
        return choose_channels(artifacts, lock, secret, show, scorer if ranked == "sensitivity" else None)

    options = AuditOptions(
        model,
        data,
        module=model_factory,
        train_data=train_data,
        base=base,
        metric=metric,
        criterion=ranked,
        scope=scope or (named.scope if named else "global" if ranked == "sensitivity" else "layer"),
        fill=fill or (named.fill if named else "decoy"),
        consumers=consumers,
        include_io=include_io or (named is not None and named.include_io),
        exclude=tuple(exclude or ()),
        source=source,
        plan=plan,
        seed=seed,
        quick=quick,
        attacks=attacks,
        work=work,
        input_stats=input_stats,
        choose=planned,
        preset=preset,
    )
    sealed = None if bundle is None else _sealed(Path(model), bundle, publisher, keystore, passphrase_file)
    with progress_bar(json) as show:
        document = run_audit(options, sealed, show)
    with write_atomically(out, force=force, mode=0o600) as file:
        file.write(html(document).encode())
    emit(json, document | {"report": str(out)}, lambda: _print(document, out))


def _sealed(
    model: Path, bundle: Path, publisher: str | None, keystore: Path | None, passphrase_file: Path | None
) -> LockedInput:
    """A locked model with its bundle and content key."""
    from corelocker.audit.options import LockedInput
    from corelocker.bundle.clkey import KeyBundle
    from corelocker.runtime.locate import locate_files

    opened = KeyBundle.open(bundle, publisher_thumbprint(publisher))
    files = [(file.path, file.artifact, file.file) for file in locate_files(model, opened)]
    return LockedInput(opened, open_keystore(keystore, passphrase_file).content_key(opened.id), files)


def _print(document: dict[str, Any], out: Path) -> None:
    from rich.table import Table

    from corelocker.audit.report import number

    console, metric = wide_console(), document["metric"]
    table = Table("tier", metric["name"], "95 % interval", "channels locked", "key still missing", "of weights")
    for tier in document["tiers"]:
        value = tier["utility"]
        table.add_row(
            tier["name"],
            number(value["value"], metric),
            f"{number(value['low'], metric)} to {number(value['high'], metric)}",
            f"{100 * tier['removed']:.2f} %",
            human(tier["locked_bytes"]),
            f"{100 * tier['locked_fraction']:.2f} %",
        )
    console.print(table)
    console.print(f"[bold]{document['verdict']['headline']}[/bold]")
    for sentence in document["verdict"]["sentences"]:
        console.print(sentence, highlight=False)
    for step in document["verdict"]["next_steps"]:
        console.print(f"[bold]next:[/bold] {step['text']}", highlight=False)
    console.print(f"report: {out}", highlight=False)
