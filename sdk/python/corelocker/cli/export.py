"""`corelocker export`: from a torch model to locked files for ExecuTorch and Core ML, in one run."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from corelocker.cli.app import Force, Json, KeystorePath, PassphraseFile, emit, open_keystore, progress_bar
from corelocker.cli.lock import (
    Base,
    Consumers,
    Exclude,
    ForgetEarlierLocks,
    IncludeIo,
    InputStatistics,
    MeasureSeconds,
    OptionalCriterion,
    OptionalFill,
    OptionalScope,
    OptionalTiers,
    PresetOption,
    Require,
    Samples,
    SavePlan,
    Seed,
    Source,
    UnitOption,
    document,
    lock_options,
    report,
)
from corelocker.errors import ConfigError, ExportError
from corelocker.locking.options import MEASURE_SECONDS

if TYPE_CHECKING:
    from corelocker.exporting import ExportResult


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
    unit: UnitOption = None,
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
    require: Require = "collapse",
    samples: Samples = None,
    measure_seconds: MeasureSeconds = MEASURE_SECONDS,
    base: Base = None,
    forget_earlier_locks: ForgetEarlierLocks = False,
    keystore: KeystorePath = None,
    passphrase_file: PassphraseFile = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Export a torch model for phones and lock all of it under one key bundle. Needs `corelocker[export]`.

    Example: corelocker export shop.models:classifier --quantize int8 --model-version 3 --out dist

    Example: corelocker export --config corelocker.toml --out dist
    """
    from corelocker.exporting import ExportConfig, ExportTarget, parse_config
    from corelocker.exporting import export as export_model
    from corelocker.locking.requirement import Requirement

    if (model is None) == (config is None):
        raise ConfigError("name either a model (package.module:factory or a .pt2 file) or --config, not both")
    if config is not None:
        build = parse_config(config)
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
        if lock and model_version is None:
            raise ConfigError("locking needs --model-version", hint="Or pass --no-lock")
        options = lock_options(
            preset=preset, unit=unit, tiers=tiers, criterion=criterion, scope=scope, fill=fill, consumers=consumers,
            include_io=include_io, exclude=exclude, source=source, model=str(model), input_stats=input_stats, seed=seed,
            save_plan=save_plan, samples=samples, measure_seconds=measure_seconds, base=base,
        )  # fmt: skip
        build = ExportConfig(
            str(model), model_id or name, model_version, options, None, tuple(targets), Requirement.parse(require)
        )
    wanted = replace(build.lock, forget_earlier_locks=forget_earlier_locks) if lock and build.lock else None
    # Before the export: a wrong passphrase must not cost minutes.
    store = open_keystore(build.keystore or keystore, passphrase_file) if wanted is not None else None
    with progress_bar(json) as show:
        result = export_model(
            build.factory,
            build.targets,
            out,
            lock=wanted,
            model_id=build.model_id,
            model_version=build.model_version,
            keystore=store,
            require=build.require,
            force=force,
            progress=show,
        )
    _report(result, as_json=json)
    for file, why in result.failed.items():
        print(f"corelocker: {file} was not exported: {why} [{ExportError.code}]", file=sys.stderr)
    if result.failed:
        raise typer.Exit(1)


def _report(result: ExportResult, *, as_json: bool) -> None:
    if not as_json:
        for name, lines in result.notes.items():
            for line in lines:
                print(f"{name}: {line}")
    if result.lock is not None:
        report(document(result.lock) | {"notes": result.notes, "failed": result.failed}, as_json=as_json)
        return
    outputs = [str(path) for path in result.outputs]
    emit(
        as_json,
        {"outputs": outputs, "notes": result.notes, "failed": result.failed},
        lambda: print(f"exported, not locked: {', '.join(outputs)}"),
    )
