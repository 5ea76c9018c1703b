"""`corelocker export`: from a torch model to locked files for ExecuTorch and Core ML, in one run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from corelocker.cli import lock as locking
from corelocker.cli.app import Force, Json, KeystorePath, PassphraseFile, emit, progress_bar
from corelocker.cli.lock import (
    Consumers,
    Exclude,
    IncludeIo,
    InputStatistics,
    LockOptions,
    OptionalCriterion,
    OptionalFill,
    OptionalScope,
    OptionalTiers,
    PresetOption,
    SavePlan,
    Seed,
    Source,
)
from corelocker.errors import ConfigError

if TYPE_CHECKING:
    from corelocker.export import ExportConfig


class ExportFormat(StrEnum):
    """What `--format` takes."""

    executorch = "executorch"
    coreml = "coreml"


def export(
    model: Annotated[str | None, typer.Argument(help="package.module:factory, or a .pt2 file.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the locked models and the key bundle.")] = Path("dist"),
    config: Annotated[
        Path | None, typer.Option(help="A corelocker.toml that holds the model, the targets and the lock.")
    ] = None,
    name: Annotated[str, typer.Option(help="File name of the exported models, without suffix.")] = "model",
    to: Annotated[
        list[ExportFormat] | None,
        typer.Option("--format", help="What to export to; repeatable.", show_default="both"),
    ] = None,
    backend: Annotated[
        Literal["portable", "xnnpack"] | None, typer.Option(help="For ExecuTorch.", show_default="xnnpack")
    ] = None,
    precision: Annotated[Literal["fp16", "fp32"] | None, typer.Option(help="For Core ML.", show_default="fp16")] = None,
    quantize: Annotated[Literal["int8", "int4"] | None, typer.Option(help="int4 is for ExecuTorch on XNNPACK.")] = None,
    external_weights: Annotated[
        bool, typer.Option("--external-weights", help="ExecuTorch: weights in a .ptd file.")
    ] = False,
    lock: Annotated[
        bool, typer.Option("--lock/--no-lock", help="Lock what was exported; the unlocked files are not kept.")
    ] = True,
    model_id: Annotated[
        str | None, typer.Option(help="Id of the model; the bundle is MODEL_ID.clkey.", show_default="--name")
    ] = None,
    model_version: Annotated[int | None, typer.Option(min=0, help="Grows with every version; needed to lock.")] = None,
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
    seed: Seed = None,
    save_plan: SavePlan = None,
    keystore: KeystorePath = None,
    passphrase_file: PassphraseFile = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Export a torch model for phones and lock all of it under one key bundle. Needs `corelocker[export]`.

    Example: corelocker export shop.models:classifier --quantize int8 --model-version 3 --out dist

    Example: corelocker export --config corelocker.toml --out dist
    """
    from corelocker.export import ExportConfig, ExportTarget, parse_config
    from corelocker.locking.tiers import parse_tiers

    if (model is None) == (config is None):
        raise ConfigError("name either a model (package.module:factory or a .pt2 file) or --config, not both")
    options: LockOptions | None = None
    if config is not None:
        build = parse_config(config)
        if build.lock is not None and lock:
            given = {key: value for key, value in vars(build.lock).items() if value is not None}
            keystore = given.pop("keystore", None) or keystore
            options = LockOptions(**given, model=build.factory)
    else:
        targets = [
            ExportTarget(
                name,
                kind.value,
                backend=backend if kind == "executorch" else None,
                quantize=quantize,
                precision=precision if kind == "coreml" else None,
                external_weights=external_weights and kind == "executorch",
            )
            for kind in (to or list(ExportFormat))
        ]
        build = ExportConfig(str(model), model_id or name, model_version, None, tuple(targets))
        if lock:
            if model_version is None:
                raise ConfigError("locking needs --model-version", hint="Or pass --no-lock")
            options = LockOptions(
                None if tiers is None else parse_tiers(tiers), criterion, scope, fill, consumers, include_io,
                tuple(exclude or ()), source, seed, None, save_plan, build.factory, input_stats, preset,
            )  # fmt: skip
    _export(build, out, options, keystore, passphrase_file, force=force, as_json=json)


def _export(
    build: ExportConfig,
    out: Path,
    options: LockOptions | None,
    keystore: Path | None,
    passphrase_file: Path | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    from corelocker.cli.app import open_keystore
    from corelocker.export import export_target, load_model
    from corelocker.files import move_into_place, staging_folder

    # Before the export: a wrong passphrase must not cost minutes.
    store = open_keystore(keystore, passphrase_file) if options is not None else None
    notes: dict[str, list[str]] = {}
    with staging_folder(out) as folder:
        with progress_bar(as_json) as show:
            show("load", 0, 1)
            source = load_model(build.factory)
            show("load", 1, 1)
            paths: list[Path] = []
            for target in build.targets:
                made = export_target(
                    source, target, folder, progress=lambda step, done, total: show("export", done, total)
                )
                paths += made.files
                notes[target.filename] = list(made.notes)
        if options is None or store is None:
            move_into_place(paths, out, force=force)
            result: dict[str, Any] = {"outputs": [str(out / p.name) for p in paths], "notes": notes}
            emit(as_json, result, lambda: _say(result["outputs"], notes))
            return
        publication, plan = locking.lock_files(
            paths,
            out,
            options,
            build.model_id or "model",
            build.model_version or 0,
            lambda: store,
            force=force,
            quiet=as_json,
        )
    result = locking.document(publication, plan) | {"notes": notes}
    if not as_json:
        _say([], notes)
    locking.report(result, as_json=as_json)


def _say(outputs: list[str], notes: dict[str, list[str]]) -> None:
    if outputs:
        print(f"exported, not locked: {', '.join(outputs)}")
    for name, lines in notes.items():
        for line in lines:
            print(f"{name}: {line}")
