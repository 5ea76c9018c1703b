"""From what was named to what is measured: an artifact, its tiers, and where it is locked."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.artifacts.detect import open_artifact
from corelocker.artifacts.torch_module import open_state, plain_state
from corelocker.audit import need
from corelocker.audit.models import trace_graph
from corelocker.audit.options import AuditOptions, LockedInput, Scorer
from corelocker.audit.tier_bytes import Coverage, LayerMap, TierBytes, layer_maps, mark, states_of_plan, tier_bytes
from corelocker.errors import ConfigError
from corelocker.locking.criteria import Scores, check_criterion, l1, score
from corelocker.locking.groups import Member
from corelocker.locking.locked_already import refuse_locked
from corelocker.locking.options import Fill
from corelocker.locking.plan import Plan
from corelocker.locking.planning import JointScorer, make_plan
from corelocker.locking.tiers import Unit, parse_tiers
from corelocker.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

    from corelocker.bundle.patch_runs import PatchRun


@dataclass
class AuditedModel:
    """What is measured: the original artifact, its tiers, and where it is locked."""

    name: str
    original: Artifact
    tiers: list[TierBytes]
    coverage: Coverage
    lock: dict[str, Any]
    fill: Fill
    score: Scorer
    names: tuple[str, ...] = ()
    unit: Unit = "value"
    module: nn.Module | None = None
    example: Tensor | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def layers(self) -> list[LayerMap]:
        return layer_maps(self.original, self.coverage)


def open_audited(options: AuditOptions, sealed: LockedInput | None, folder: Path, progress: Progress) -> AuditedModel:
    """Lock what is named, or open what was locked. Raises ConfigError, LockingError and what opening raises."""
    path = Path(options.model)
    spec = options.module
    is_factory = ":" in options.model and not path.exists()
    if is_factory:
        spec = options.model
    model = None if spec is None else _module(spec)
    progress("lock", 0, 1)
    if is_factory:
        if sealed is not None or model is None:
            raise ConfigError(
                f"{options.model}: a factory is never locked", hint="Pass the locked file with its bundle"
            )
        graph = trace_graph(model[0], (model[1],)) if options.consumers else None
        artifact = open_state(plain_state(model[0]), folder / "model.safetensors", graph)
        locked = _lock(options, artifact, progress)
        locked.name = options.model
    elif sealed is not None:
        locked = _restored(path, sealed, folder)
        locked.score = _ranked_once(_scorer(options, locked.original, locked.fill, progress))
    else:
        artifact = open_artifact(path)
        refuse_locked([artifact])
        locked = _lock(options, artifact, progress)
    locked.module, locked.example = model or (None, None)
    progress("lock", 1, 1)
    return locked


def _module(spec: str) -> tuple[nn.Module, Tensor]:
    """The module and its (first) example input from a factory such as `corelocker export` takes."""
    from corelocker.factories import call_factory

    torch = need("torch")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = call_factory(spec)
    if (
        not isinstance(made, tuple)
        or len(made) < 2
        or not isinstance(made[0], torch.nn.Module)
        or not isinstance(made[1], tuple)
        or len(made[1]) != 1
        or not torch.is_tensor(made[1][0])
    ):
        raise ConfigError(f"{spec}: must return (module, (example input,)), as for `corelocker export`")
    return made[0].eval(), made[1][0]


def _lock(options: AuditOptions, artifact: Artifact, progress: Progress) -> AuditedModel:
    """Lock an unlocked artifact in memory, as `corelocker lock` would write it."""
    seed = f"audit/{options.seed}".encode()
    scorer = _scorer(options, artifact, options.fill, progress)
    if options.plan is not None:
        plan = Plan.load(options.plan, [artifact])
    elif options.choose is not None:
        plan = options.choose([artifact], seed, scorer, progress)
    else:
        plan = make_plan(
            [artifact],
            parse_tiers(options.tiers),
            scorer,
            criterion=options.criterion,
            scope=options.scope,
            fill=options.fill,
            seed=seed,
            consumers=options.consumers,
            include_io=options.include_io,
            exclude=options.exclude,
        )
    tiers, coverage, locked = states_of_plan(artifact, plan)
    lock = {
        "preset": options.preset or "", "unit": plan.unit,
        "criterion": plan.criterion, "scope": plan.scope, "fill": plan.fill, "consumers": plan.consumers,
        "tiers": ", ".join(f"{t.name}={t.removed:g}" for t in plan.tiers),
    }  # fmt: skip
    found = AuditedModel(
        artifact.path.name,
        artifact,
        tiers,
        coverage,
        lock,
        plan.fill,
        _ranked_once(scorer, done=options.plan is None),
        tuple(t.name for t in plan.tiers),
        plan.unit,
    )
    if locked.not_followed:
        found.notes.append(f"Consumers of {len(locked.not_followed)} layers could not be followed and stay unlocked.")
    if plan.left_alone and plan.left_alone[0]:
        reasons = sorted(set(plan.left_alone[0].values()))
        found.notes.append(f"{len(plan.left_alone[0])} layers are left alone: {', '.join(reasons)}.")
    return found


def _scorer(options: AuditOptions, artifact: Artifact, fill: Fill, progress: Progress) -> Scorer:
    """What ranks the artifact's channels, for its lock and for the curve."""
    if options.criterion == "sensitivity":
        from corelocker.locking.criteria.sensitivity import SensitivityScorer
        from corelocker.locking.criteria.synthetic import InputStats

        spec = options.module or options.model
        if ":" not in spec:
            raise ConfigError("sensitivity needs the model itself", hint="Pass --model package.module:factory")
        stats = None if options.input_stats is None else InputStats.parse(options.input_stats)
        return SensitivityScorer.from_factory(spec, fill=fill, stats=stats, progress=progress)
    check_criterion(options.criterion, [artifact], options.source)
    return score(options.criterion, f"audit/{options.seed}".encode(), options.source)


class _RankedOnce:
    """A scorer that ranks layers together, for several plans of the same artifact: it ranks once."""

    def __init__(self, scorer: JointScorer, done: bool) -> None:
        self._scorer, self._done = scorer, done

    def prepare(self, artifacts: Sequence[Artifact], groups: Sequence[list[Member]]) -> None:
        if not self._done:
            self._scorer.prepare(artifacts, groups)
            self._done = True

    def __call__(self, tensor: WeightTensor) -> Scores:
        return self._scorer(tensor)


def _ranked_once(scorer: Scorer, done: bool = False) -> Scorer:
    return _RankedOnce(scorer, done) if isinstance(scorer, JointScorer) else scorer


def _restored(path: Path, sealed: LockedInput, folder: Path) -> AuditedModel:
    """The tiers of a locked artifact, restored in memory. The adapter needs the original on disk: it lies in a folder that only
    the publisher can read, until the audit ends."""
    from corelocker.bundle.content_keys import tier_keys
    from corelocker.bundle.patch import Patch
    from corelocker.bundle.patch_runs import Kind, rows_of
    from corelocker.runtime.restored import RestoredFile

    bundle = sealed.bundle
    keys = tier_keys(sealed.content_key, bundle.id, len(bundle.tiers))
    states: list[dict[str, Any]] = [{} for _ in bundle.tiers]
    coverage: Coverage = {}
    patches: list[tuple[str, int, list[PatchRun]]] = []
    copy = folder / path.name
    if path.is_dir():
        shutil.copytree(path, copy)
    elif path not in [place for place, _, _ in sealed.files]:
        shutil.copyfile(path, copy)  # the index of a sharded checkpoint
    for place, artifact, file in sealed.files:
        name = place.relative_to(path).as_posix() if path.is_dir() else place.name
        opened = [bundle.decrypt(s, keys[s.tier]) for s in bundle.sections_of(artifact, file, len(bundle.tiers) - 1)]
        tier_at = coverage[name] = np.zeros(place.stat().st_size, np.uint8)
        for section in opened:
            patches.append((name, section.section.tier, rows_of(Patch.parse(section.patch, tier_at.size).table)))
            for row in patches[-1][2]:
                mark(tier_at, row.place, section.section.tier)
        for tier, state in enumerate(states):
            applied = [s for s in opened if s.section.tier <= tier]
            with RestoredFile.open(place, applied, check="always" if applied else "off") as restored:
                state[name] = np.frombuffer(bytes(restored), np.uint8)
        for section in opened:
            section.wipe()
        (copy / name if path.is_dir() else folder / name).write_bytes(states[-1][name].data)
    original = open_artifact(copy)
    key_bytes = _weights_only(original, coverage, patches, len(bundle.tiers))
    # A zero fill is plain to see; anything else is a decoy.
    shipped = [states[0][name][tier_at > 0] for name, tier_at in coverage.items()]
    zero = sum(int((s == 0).sum()) for s in shipped) > 0.9 * max(1, sum(s.size for s in shipped))
    fill: Fill = "zero" if zero else "decoy"
    lock = {"criterion": "", "fill": fill, "bundle": str(bundle.id), "model": f"{bundle.model} {bundle.model_version}"}
    unit: Unit = "sign" if any(row.kind != Kind.REPLACE for _, _, rows in patches for row in rows) else "value"
    lock["unit"] = unit
    tiers = tier_bytes(original, bundle.tiers, states, coverage, key_bytes)
    return AuditedModel(path.name, original, tiers, coverage, lock, fill, l1, tuple(bundle.tiers), unit)


def _weights_only(
    original: Artifact, coverage: Coverage, patches: Sequence[tuple[str, int, Sequence[PatchRun]]], tiers: int
) -> list[int]:
    """Patches also put names of content back, which are no part of the key's weights: they are taken out of `coverage`.

    Returns the bytes of the access key for each tier.
    """
    names = set()
    for identity in original.identities:
        for offset in identity.copies:
            names.add((identity.file.name, offset))
            coverage[identity.file.name][offset : offset + identity.length] = 0
    key_bytes = [0] * tiers
    for file, tier, rows in patches:
        key_bytes[tier] += sum(row.part_size for row in rows if (file, row.offset) not in names)
    return key_bytes
