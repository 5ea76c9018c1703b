"""`corelocker audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
        Path | None,
        typer.Option(
            help="Public checkpoint that the model was tuned from: .safetensors, .pt, .pth, .pte or .mlpackage."
        ),
    ] = None,
    published: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file of the model that was published earlier; repeatable. The report says what both leave open together."
        ),
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
    from corelocker.audit.to_file import audit_to_file, locked_input
    from corelocker.files import check_can_be_written

    check_can_be_written(out, force=force)  # before anybody is asked for a passphrase

    options = AuditOptions(
        model,
        data,
        module=model_factory,
        train_data=train_data,
        base=base,
        published=tuple(published or ()),
        metric=metric,
        seed=seed,
        quick=quick,
        attacks=attacks,
        work=work,
    )
    lock = lock_options(
        preset=preset, tiers=tiers, criterion=criterion, scope=scope, fill=fill, consumers=consumers, include_io=include_io,
        exclude=exclude, source=source, plan=plan, model=model_factory or model, input_stats=input_stats,
    )  # fmt: skip
    sealed = None
    if bundle is not None:
        sealed = locked_input(
            Path(model),
            bundle,
            publisher_thumbprint(publisher),
            lambda bundle_id: open_keystore(keystore, passphrase_file).content_key(bundle_id),
        )
    with progress_bar(json) as show:
        document = audit_to_file(options, lock, out, sealed=sealed, force=force, progress=show)
    emit(json, document | {"report": str(out)}, lambda: _print(document, out))


def _print(document: dict[str, Any], out: Path) -> None:
    from rich.table import Table

    from corelocker.audit.report import number

    console, metric = wide_console(), document["metric"]
    table = Table(
        "tier",
        metric["name"],
        "95 % interval",
        "channels locked",
        "key still missing",
        "of weights",
        "agreement",
        "chance",
    )
    for tier in document["tiers"]:
        value, agreed = tier["utility"], tier["agreement"]
        table.add_row(
            tier["name"],
            number(value["value"], metric),
            f"{number(value['low'], metric)} to {number(value['high'], metric)}",
            f"{100 * tier['removed']:.2f} %",
            human(tier["locked_bytes"]),
            f"{100 * tier['locked_fraction']:.2f} %",
            *(f"{100 * agreed[key]:.1f} %" if agreed else "" for key in ("value", "chance")),
        )
    console.print(table)
    console.print(f"[bold]{document['verdict']['headline']}[/bold]")
    for sentence in document["verdict"]["sentences"]:
        console.print(sentence, highlight=False)
    for step in document["verdict"]["next_steps"]:
        console.print(f"[bold]next:[/bold] {step['text']}", highlight=False)
    console.print(f"report: {out}", highlight=False)
