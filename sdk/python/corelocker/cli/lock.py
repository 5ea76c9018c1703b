"""`corelocker lock`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from corelocker.cli.app import (
    Force,
    Json,
    KeystorePath,
    PassphraseFile,
    emit,
    human,
    keystore_beside,
    progress_bar,
    wide_console,
)
from corelocker.digests import FileDigests
from corelocker.errors import ConfigError

if TYPE_CHECKING:
    from corelocker.artifacts import Artifact
    from corelocker.bundle.keystore import Keystore
    from corelocker.locking.criteria.sensitivity import SensitivityScorer
    from corelocker.locking.plan import Plan
    from corelocker.locking.publish import Publication
    from corelocker.locking.tiers import Tier

DEFAULT_TIERS = "free=0.05,full=0"

ModelVersion = Annotated[int, typer.Option(min=0, help="Grows with every version.")]
Tiers = Annotated[str, typer.Option(help="NAME=FRACTION of channels that stay removed, first what ships, last 0.")]
CriterionName = Annotated[
    Literal["l1", "bn-scale", "random", "sensitivity"],
    typer.Option(help="What ranks channels. sensitivity needs --model. random is a baseline, not a lock."),
]
ScopeName = Annotated[
    Literal["layer", "global"], typer.Option(help="Rank within each layer, or over the whole network.")
]
FillName = Annotated[
    Literal["zero", "decoy"],
    typer.Option(help="What stands in the place of locked channels. zero shows where they are."),
]
OptionalTiers = Annotated[
    str | None,
    typer.Option(
        help="NAME=FRACTION of channels that stay removed, first what ships, last 0.", show_default=DEFAULT_TIERS
    ),
]
OptionalCriterion = Annotated[
    Literal["l1", "bn-scale", "random", "sensitivity"] | None,
    typer.Option(
        help="What ranks channels. sensitivity needs --model. random is a baseline, not a lock.", show_default="l1"
    ),
]
OptionalScope = Annotated[
    Literal["layer", "global"] | None,
    typer.Option(
        help="Rank within each layer, or over the whole network.", show_default="layer; global for sensitivity"
    ),
]
OptionalFill = Annotated[
    Literal["zero", "decoy"] | None,
    typer.Option(help="What stands in the place of locked channels. zero shows where they are.", show_default="decoy"),
]
Consumers = Annotated[
    bool, typer.Option("--consumers", help="Also take the next layers' weights that read a locked channel.")
]
IncludeIo = Annotated[bool, typer.Option("--include-io", help="Also lock input and output layers.")]
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
    typer.Option("--model", help="package.module:factory of the trained torch module, for sensitivity."),
]
InputStatistics = Annotated[
    str | None,
    typer.Option(
        help="MEAN[,MEAN...]/STD[,STD...] of the model's input, for sensitivity; calibration inputs give it too."
    ),
]
PresetOption = Annotated[
    Literal["minimal", "balanced", "hardened"] | None,
    typer.Option(
        help="minimal: fewest bytes. balanced: a tenth of every layer. hardened: withstands fine-tuning; little "
        "is known for language models."
    ),
]
Seed = Annotated[
    str | None,
    typer.Option(help="Makes the lock repeatable. Whoever knows it can find the decoys: keep it secret."),
]
SavePlan = Annotated[
    Path | None, typer.Option(help="Save the plan here. It tells where the access key was: keep it secret.")
]


@dataclass(frozen=True)
class LockOptions:
    """How to lock; the same for `corelocker lock`, `corelocker export` and `[lock]` of a corelocker.toml.

    What is None is the preset's, or else the default: free=0.05,full=0, l1 (sensitivity ranks the whole network, the other
    criteria each layer) and decoys.
    """

    tiers: tuple[Tier, ...] | None = None
    criterion: Literal["l1", "bn-scale", "random", "sensitivity"] | None = None
    scope: Literal["layer", "global"] | None = None
    fill: Literal["zero", "decoy"] | None = None
    consumers: bool = False
    include_io: bool = False
    exclude: Sequence[str] = ()
    source: Path | None = None
    seed: str | None = None
    plan: Path | None = None
    save_plan: Path | None = None
    model: str | None = None
    input_stats: str | None = None
    preset: Literal["minimal", "balanced", "hardened"] | None = None


def lock(
    context: typer.Context,
    artifacts: Annotated[
        list[Path],
        typer.Argument(
            help="Finished models: .pte (its .ptd files behind it), .mlpackage, .mlmodelc, .safetensors or its index.json."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the locked models and the key bundle.")],
    model_id: Annotated[
        str, typer.Option(help="Id of the model, the same for all its versions. The bundle is MODEL_ID.clkey.")
    ],
    model_version: ModelVersion,
    preset: PresetOption = None,
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
    keystore: KeystorePath = None,
    passphrase_file: PassphraseFile = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Lock finished models and pack their access keys into one encrypted, signed key bundle.

    The originals stay as they are; the locked files have the same names and lengths.

    Example: corelocker lock A.pte B.mlpackage --out dist --model-id scanner --model-version 3
    --tiers free=0.05,plus=0.01,full=0

    Example: corelocker lock A.pte --preset minimal --model shop.models:classifier --out dist --model-id scanner
    --model-version 3
    """
    from corelocker.locking.tiers import parse_tiers

    # What is wrong with the options is said before anybody is asked for a passphrase.
    options = LockOptions(
        None if tiers is None else parse_tiers(tiers), criterion, scope, fill, consumers, include_io,
        tuple(exclude or ()), source, seed, plan, save_plan, model, input_stats, preset,
    )  # fmt: skip
    originals: FileDigests = context.obj or FileDigests()
    originals.begin(path for path in artifacts if path.is_file())
    with originals, keystore_beside(keystore, passphrase_file) as store:
        publication, chosen = lock_files(
            artifacts, out, options, model_id, model_version, store, originals, force=force, quiet=json
        )
    report(document(publication, chosen), as_json=json)


def lock_files(
    paths: Sequence[Path],
    out: Path,
    options: LockOptions,
    model_id: str,
    model_version: int,
    store: Callable[[], Keystore],
    originals: FileDigests | None = None,
    *,
    force: bool,
    quiet: bool,
) -> tuple[Publication, Plan]:
    """Lock the files at `paths` into `out` under one bundle, and save its content key in the keystore that `store` gives.

    `originals` is given where their hashing has begun already.
    """
    import secrets
    from uuid import uuid4

    from corelocker.artifacts.detect import open_artifacts
    from corelocker.bundle.content_keys import new_content_key
    from corelocker.errors import OutputExistsError
    from corelocker.locking.plan import Plan
    from corelocker.locking.publish import publish
    from corelocker.locking.tiers import NAME

    if not NAME.fullmatch(model_id):
        raise ConfigError(f"model id {model_id!r} is not letters, digits, '.', '_' and '-' (at most 64)")
    if options.save_plan is not None and options.save_plan.exists() and not force:
        raise OutputExistsError(f"{options.save_plan} exists already", hint="Choose another name or pass --force")
    artifacts = open_artifacts(paths)
    seed = secrets.token_bytes(32) if options.seed is None else options.seed.encode()
    with progress_bar(quiet) as show, originals or FileDigests() as digests, ThreadPoolExecutor(1) as pool:
        digests.begin(file.path for artifact in artifacts for file in artifact.files)
        saved = options.plan
        plan = choose(artifacts, options, seed, show) if saved is None else Plan.load(saved, artifacts)
        bundle_id, content_key = uuid4(), new_content_key()
        tiers = tuple(tier.name for tier in plan.tiers)
        opened = pool.submit(store)

        def save() -> None:
            if options.save_plan is not None:
                plan.save(options.save_plan, force=force)

        publication = publish(
            artifacts,
            plan,
            out,
            model=model_id,
            model_version=model_version,
            bundle_id=bundle_id,
            signing_key=lambda: store().signing_key,
            content_key=content_key,
            stage_key=lambda samples: store().stage_content_key(
                bundle_id, model_id, model_version, tiers, content_key, samples
            ),
            originals=digests,
            force=force,
            before_writing=opened.result,
            before_commit=save,
            progress=lambda stage: show(stage.name, stage.done, stage.total),
        )
    return publication, plan


def choose(
    artifacts: Sequence[Artifact],
    options: LockOptions,
    seed: bytes,
    show: Callable[[str, int, int], None],
    known: SensitivityScorer | None = None,
) -> Plan:
    """The plan of these options. `show` is told (stage, done, total). `known` is the scorer, where the caller needs it again.

    A preset that was not shown to keep its promise for such models is said on standard error.
    """
    from corelocker.locking.criteria import check_criterion, score
    from corelocker.locking.hardened import hardened
    from corelocker.locking.plan import make_plan
    from corelocker.locking.presets import doubt, preset
    from corelocker.locking.tiers import Tier, parse_tiers

    chosen = preset(options.preset) if options.preset else None
    if options.preset and (words := doubt(options.preset, artifacts)):
        print(f"corelocker: warning: {words}", file=sys.stderr)
    criterion = options.criterion or (chosen.criterion if chosen else "l1")
    scope = options.scope or (chosen.scope if chosen else "global" if criterion == "sensitivity" else "layer")
    fill = options.fill or (chosen.fill if chosen else "decoy")
    tiers: Any = options.tiers or parse_tiers(DEFAULT_TIERS)
    if chosen is not None and chosen.removed is not None and options.tiers is None:
        tiers = (Tier("free", chosen.removed), Tier("full", 0.0))
    if criterion == "sensitivity":
        scorer = known or _sensitivity(options, fill, show)
        if chosen is not None and chosen.margin is not None and options.tiers is None:
            margin = chosen.margin
            tiers = lambda: (Tier("free", scorer.fraction_to_collapse(margin)), Tier("full", 0.0))  # noqa: E731
        rank: Any = scorer
    else:
        if chosen is not None and chosen.margin is not None and options.tiers is None:
            raise ConfigError(
                f"preset {options.preset} measures where the model collapses; criterion {criterion} cannot",
                hint="Leave --criterion out, or give --tiers",
            )
        check_criterion(criterion, list(artifacts), options.source)
        rank = score(criterion, seed, options.source)
    share = chosen.share if chosen is not None else None
    return make_plan(
        artifacts,
        tiers,
        rank,
        criterion=criterion,
        scope=scope,
        fill=fill,
        seed=seed,
        consumers=options.consumers,
        include_io=options.include_io or (chosen is not None and chosen.include_io),
        exclude=options.exclude,
        counts=None if share is None else hardened(share, artifacts),
        progress=lambda done, total: show("rank", done, total),
    )


def _sensitivity(
    options: LockOptions, fill: Literal["zero", "decoy"], show: Callable[[str, int, int], None]
) -> SensitivityScorer:
    if options.model is None:
        raise ConfigError(
            "sensitivity runs the model", hint="Name its trained torch module with --model package.module:factory"
        )
    from corelocker.locking.criteria.sensitivity import SensitivityScorer
    from corelocker.locking.criteria.synthetic import InputStats

    stats = None if options.input_stats is None else InputStats.parse(options.input_stats)
    return SensitivityScorer.from_factory(options.model, fill=fill, stats=stats, progress=show)


def document(publication: Publication, plan: Plan) -> dict[str, Any]:
    """The result of a lock run, as `--json` prints it."""
    artifacts = []
    for index, (locked, outputs, sizes) in enumerate(
        zip(publication.artifacts, publication.outputs, publication.key_bytes, strict=True)
    ):
        artifact: Artifact = locked.artifact
        names = {tensor.name for tensor in artifact.tensors}
        skipped = {s.name: s.reason for s in artifact.skipped}
        artifacts.append(
            {
                "name": artifact.path.name,
                "format": artifact.format,
                "outputs": [str(p) for p in outputs],
                "channels": locked.channels,
                "locked_channels": locked.locked_channels,
                "weight_bytes": locked.weight_bytes,
                "locked_bytes": locked.locked_bytes,
                "locked_fraction": round(locked.locked_bytes / max(1, locked.weight_bytes), 6),
                "patch_bytes": dict(zip([t.name for t in plan.tiers[1:]], sizes, strict=True)),
                "left_alone": plan.left_alone[index] | {n: r for n, r in skipped.items() if n not in names},
                "notes": {n: r for n, r in skipped.items() if n in names},
                "consumers_not_followed": locked.not_followed,
            }
        )
    return {
        "bundle": str(publication.bundle),
        "bundle_bytes": publication.bundle_bytes,
        "tiers": [{"name": t.name, "removed": t.removed} for t in plan.tiers],
        "criterion": plan.criterion,
        "scope": plan.scope,
        "fill": plan.fill,
        "artifacts": artifacts,
    }


def report(result: dict[str, Any], *, as_json: bool) -> None:
    """Print what was locked, from its `document`."""

    def text() -> None:
        from rich.table import Table

        console = wide_console()
        table = Table("locked", "channels", "access key", "of weights")
        for entry in result["artifacts"]:
            table.add_row(
                ", ".join(entry["outputs"]),
                f"{entry['locked_channels']} of {entry['channels']}",
                human(entry["locked_bytes"]),
                f"{100 * entry['locked_fraction']:.2f} %",
            )
        console.print(table)
        tiers = " > ".join(tier["name"] for tier in result["tiers"])
        console.print(
            f"key bundle: {result['bundle']} ({human(result['bundle_bytes'])}), tiers {tiers}", highlight=False
        )
        for entry in result["artifacts"]:
            for key, words in (
                ("left_alone", "left alone"),
                ("notes", "note"),
                ("consumers_not_followed", "not followed"),
            ):
                if entry[key]:
                    console.print(f"{entry['name']}: {words}: {_some(entry[key])}", highlight=False)

    emit(as_json, result, text)


def _some(reasons: dict[str, str], most: int = 6) -> str:
    shown = [f"{name} ({reason})" for name, reason in list(reasons.items())[:most]]
    return ", ".join(shown) + (f" and {len(reasons) - most} more (--json lists them)" if len(reasons) > most else "")
