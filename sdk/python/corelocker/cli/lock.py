"""`corelocker lock`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corelocker.cli.app import (
    Force,
    Json,
    KeystorePath,
    PassphraseFile,
    emit,
    human,
    open_keystore_beside,
    progress_bar,
    wide_console,
)
from corelocker.locking.options import (
    DEFAULT_PRESET,
    DEFAULT_TIERS,
    MEASURE_SECONDS,
    CriterionName,
    Fill,
    PresetName,
    Scope,
)
from corelocker.locking.tiers import Unit

if TYPE_CHECKING:
    from corelocker.locking.lock import LockResult
    from corelocker.locking.options import LockOptions
    from corelocker.locking.requirement import BaseMeasurement, TierAgreement

ModelVersion = Annotated[int, typer.Option(min=0, help="Grows with every version.")]
UnitOption = Annotated[
    Unit | None,
    typer.Option(
        help="What is taken of a locked channel: value, all its bytes, or sign, one bit a weight.",
        show_default="the preset's; value for --tiers",
    ),
]
OptionalTiers = Annotated[
    str | None,
    typer.Option(
        help="NAME=FRACTION of channels that stay removed, first what ships, last 0. NAME=FRACTION@UTILITY declares what a "
        "tier may be worth.",
        show_default=f"the preset's; {DEFAULT_TIERS['value']} by fractions",
    ),
]
OptionalCriterion = Annotated[
    CriterionName | None,
    typer.Option(
        help="What ranks channels. sensitivity needs --model. random is a baseline, not a lock.", show_default="l1"
    ),
]
OptionalScope = Annotated[
    Scope | None,
    typer.Option(
        help="Rank within each layer, or over the whole network.", show_default="layer; global for sensitivity"
    ),
]
OptionalFill = Annotated[
    Fill | None,
    typer.Option(help="What stands in the place of locked channels. zero shows where they are.", show_default="decoy"),
]
Consumers = Annotated[
    bool, typer.Option("--consumers", help="Also take the next layers' weights that read a locked channel.")
]
IncludeIo = Annotated[bool, typer.Option("--include-io", help="Also lock input and output layers, as all presets do.")]
Exclude = Annotated[
    list[str] | None, typer.Option(help="Leave layers alone whose name matches this pattern; repeatable.")
]
Source = Annotated[
    Path | None,
    typer.Option(
        help="Training checkpoint (.safetensors), for bn-scale and l1 of a model whose BatchNorms are folded."
    ),
]
ModelFactory = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="package.module:factory of the trained torch module: to measure a checkpoint, and for sensitivity.",
    ),
]
InputStatistics = Annotated[
    str | None,
    typer.Option(
        help="MEAN[,MEAN...]/STD[,STD...] of the model's input, for sensitivity; calibration inputs give it too."
    ),
]
PresetOption = Annotated[
    PresetName | None,
    typer.Option(
        help="hardened: the signs of all weights. balanced: those of the half with the largest norms. minimal: the fewest bytes, "
        "found by running the model. cover: by value.",
        show_default=f"{DEFAULT_PRESET}; none with --tiers, --criterion, --scope, --fill, --consumers or --unit value",
    ),
]
Require = Annotated[
    str,
    typer.Option(
        help="What the locked model may be worth, as its agreement with the original: collapse, at-most=0.6, or none (exit code 0 "
        "whatever it is worth)."
    ),
]
Samples = Annotated[
    Path | None,
    typer.Option(
        help="Inputs to measure on: .npy, .npz or a folder of images.",
        show_default="synthetic, from the file's signature",
    ),
]
MeasureSeconds = Annotated[
    int,
    typer.Option(
        min=0,
        help="How long the files may be run, for one lock in all. What was run on too few inputs by then is not measured; 0 "
        "measures nothing.",
    ),
]
Base = Annotated[
    Path | None,
    typer.Option(
        help="The public checkpoint that the model was tuned from: .safetensors, .pt, .pth, .pte or .mlpackage. The lock is held "
        "to what it gives away; without other options it takes by value what tuning changed most."
    ),
]
ForgetEarlierLocks = Annotated[
    bool,
    typer.Option(
        "--forget-earlier-locks",
        help="No file of this model id was ever published: what earlier locks took does not count.",
    ),
]
Seed = Annotated[
    str | None,
    typer.Option(help="Makes the lock repeatable. Whoever knows it can find the decoys: keep it secret."),
]
SavePlan = Annotated[
    Path | None, typer.Option(help="Save the plan here. It tells where the access key was: keep it secret.")
]


def lock(
    context: typer.Context,
    artifacts: Annotated[
        list[Path],
        typer.Argument(
            help="Finished models: .pte (its .ptd files behind it, those of several programs behind each), .mlpackage, .mlmodelc, "
            ".safetensors or its index.json."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the locked models and the key bundle.")],
    model_id: Annotated[
        str, typer.Option(help="Id of the model, the same for all its versions. The bundle is MODEL_ID.clkey.")
    ],
    model_version: ModelVersion,
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
    model: ModelFactory = None,
    input_stats: InputStatistics = None,
    seed: Seed = None,
    plan: Annotated[Path | None, typer.Option(help="Lock the channels of a saved plan.")] = None,
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
    """Lock finished models and pack their access keys into one encrypted, signed key bundle.

    The originals stay as they are; the locked files have the same names and lengths. Every locked file is run and compared with its
    original, which needs corelocker[export]; one that still works is not written.

    Example: corelocker lock A.pte B.mlpackage --out dist --model-id scanner --model-version 3

    Example: corelocker lock A.pte --preset hardened --tiers free=1,plus=0.02,full=0 --out dist --model-id scanner --model-version 3
    """
    from concurrent.futures import ThreadPoolExecutor

    from corelocker.hashing import FileHashes
    from corelocker.locking.requirement import Requirement

    # What is wrong with the options is said before anybody is asked for a passphrase.
    options = lock_options(
        preset=preset, unit=unit, tiers=tiers, criterion=criterion, scope=scope, fill=fill, consumers=consumers,
        include_io=include_io, exclude=exclude, source=source, model=model, input_stats=input_stats, seed=seed, plan=plan,
        save_plan=save_plan, samples=samples, measure_seconds=measure_seconds, base=base, forget_earlier_locks=forget_earlier_locks,
    )  # fmt: skip
    required = Requirement.parse(require)
    with context.obj or FileHashes() as hashes, ThreadPoolExecutor(1) as pool:
        for path in artifacts:
            if path.is_file():
                hashes.begin(path)
        store = open_keystore_beside(pool, keystore, passphrase_file)
        from corelocker.locking.lock import lock as lock_files

        with progress_bar(json) as show:
            result = lock_files(
                artifacts,
                out,
                model_id=model_id,
                model_version=model_version,
                keystore=store,
                options=options,
                require=required,
                force=force,
                hashes=hashes,
                progress=show,
            )
    report(document(result), as_json=json)


def lock_options(
    *, tiers: str | None = None, unit: Unit | None = None, exclude: Sequence[str] | None = None, **given: Any
) -> LockOptions:
    """The options of the command line as `LockOptions`. Raises TierError."""
    from corelocker.locking.options import LockOptions, default_unit
    from corelocker.locking.tiers import parse_tiers

    parsed = None if tiers is None else parse_tiers(tiers, unit or default_unit(given.get("preset")))
    return LockOptions(unit=unit, tiers=parsed, exclude=tuple(exclude or ()), **given)


def document(result: LockResult) -> dict[str, Any]:
    """The result of a lock, as `--json` prints it."""
    return {
        "bundle": str(result.bundle),
        "bundle_bytes": result.bundle_bytes,
        "tiers": [{"name": t.name, "removed": t.removed} for t in result.plan.tiers],
        "preset": result.preset,
        "unit": result.plan.unit,
        "criterion": result.plan.criterion,
        "scope": result.plan.scope,
        "fill": result.plan.fill,
        "earlier": {
            "bundles": [str(bundle) for bundle in result.earlier.bundles],
            "added_channels": result.earlier.added_channels,
            "in_vain": result.earlier.in_vain,
            "locked_channels": result.earlier.locked_channels,
            "in_vain_weights": result.earlier.in_vain_weights,
            "locked_weights": result.earlier.locked_weights,
            "weakest": None if result.earlier.weakest is None else str(result.earlier.weakest),
        },
        "artifacts": [
            {
                "name": artifact.name,
                "format": artifact.format,
                "outputs": [str(path) for path in artifact.outputs],
                "channels": artifact.channels,
                "locked_channels": artifact.locked_channels,
                "weight_bytes": artifact.weight_bytes,
                "locked_bytes": artifact.locked_bytes,
                "locked_fraction": round(artifact.locked_fraction, 6),
                "stored_bytes": artifact.stored_bytes,
                "patch_bytes": artifact.patch_bytes,
                "agreement": {tier.tier: _measured(tier) for tier in artifact.measured.tiers},
                "measured_on": {"inputs": artifact.measured.inputs, "samples": artifact.measured.samples},
                "not_measured": artifact.measured.reason,
                "base": _beside(artifact.base),
                "by_value": artifact.by_value,
                "open_signs": {
                    name: {"zeros": round(zeros, 6), "unpaired": round(unpaired, 6)}
                    for name, (zeros, unpaired) in artifact.open_signs.items()
                },
                "left_alone": artifact.left_alone,
                "notes": artifact.notes,
                "consumers_not_followed": artifact.not_followed,
            }
            for artifact in result.artifacts
        ],
    }


def _measured(found: TierAgreement) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "value": round(found.value, 6),
        "chance": round(found.chance, 6),
        "error": round(found.error, 6),
        "collapsed": found.collapsed,
    }


def _beside(found: BaseMeasurement | None) -> dict[str, Any] | None:
    """What the public base gives away of an artifact."""
    if found is None:
        return None
    states = {"base": found.base, "signs": found.signs, "values": found.values}
    return {
        "signs_that_agree": {name: round(share, 6) for name, share in found.layers.items()},
        "locked_signs_that_agree": None if found.locked_signs is None else round(found.locked_signs, 6),
        "agreement": {name: _measured(state) for name, state in states.items() if state is not None},
        "not_measured": found.reason,
    }


def report(result: dict[str, Any], *, as_json: bool) -> None:
    """Print what was locked, from its `document`."""

    def text() -> None:
        from rich.table import Table

        console = wide_console()
        table = Table("locked", "channels", "access key", "of weights", "agreement with the original", "chance")
        for entry in result["artifacts"]:
            table.add_row(
                ", ".join(entry["outputs"]),
                f"{entry['locked_channels']} of {entry['channels']}",
                human(entry["locked_bytes"]),
                f"{100 * entry['locked_fraction']:.2f} %",
                *_agreement(entry),
            )
        console.print(table)
        tiers = " > ".join(tier["name"] for tier in result["tiers"])
        console.print(
            f"key bundle: {result['bundle']} ({human(result['bundle_bytes'])}), tiers {tiers}", highlight=False
        )
        if result["earlier"]["added_channels"]:
            console.print(
                f"{result['earlier']['added_channels']} channels more than asked for: earlier locks of this model took them",
                highlight=False,
            )
        for entry in result["artifacts"]:
            if entry["not_measured"]:
                some = "not every tier measured" if entry["agreement"] else "not measured"
                console.print(f"{entry['name']}: {some}: {entry['not_measured']}", highlight=False)
            if entry["agreement"]:
                on = entry["measured_on"]
                console.print(f"{entry['name']}: measured on {on['samples']} {on['inputs']}", highlight=False)
            if entry["base"]:
                console.print(f"{entry['name']}: {_base(entry['base'])}", highlight=False)
            for key, words in (
                ("by_value", "values taken"),
                ("left_alone", "left alone"),
                ("notes", "note"),
                ("consumers_not_followed", "not followed"),
            ):
                if entry[key]:
                    console.print(f"{entry['name']}: {words}: {_some(entry[key])}", highlight=False)

    emit(as_json, result, text)


def _agreement(entry: dict[str, Any]) -> tuple[str, str]:
    """The cells of the table that say what each tier is worth."""
    tiers = entry["agreement"]
    if not tiers:
        return "not measured", ""
    first = next(iter(tiers.values()))
    return ", ".join(
        f"{name} {100 * found['value']:.1f} %" for name, found in tiers.items()
    ), f"{100 * first['chance']:.1f} %"


def _base(found: dict[str, Any]) -> str:
    """What the public base gives away, in words."""
    if not found["signs_that_agree"]:
        return "the base has none of its layers"
    shares = found["signs_that_agree"].values()
    said = f"the base has {100 * min(shares):.1f} to {100 * max(shares):.1f} % of the signs of {len(shares)} layers"
    if found["locked_signs_that_agree"] is not None:
        said += f", {100 * found['locked_signs_that_agree']:.1f} % of those that are locked"
    if found["not_measured"]:
        return f"{said}; what it gives away was not measured: {found['not_measured']}"
    value = {name: 100 * state["value"] for name, state in found["agreement"].items()}
    return (
        f"{said}; agreement with the original: the base alone {value['base']:.1f} %, the locked file with the base's signs "
        f"{value['signs']:.1f} %, with its values {value['values']:.1f} %"
    )


def _some(reasons: dict[str, str], most: int = 6) -> str:
    shown = [f"{name} ({reason})" for name, reason in list(reasons.items())[:most]]
    return ", ".join(shown) + (f" and {len(reasons) - most} more (--json lists them)" if len(reasons) > most else "")
