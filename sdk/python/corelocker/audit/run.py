"""One audit from beginning to end: lock (or open what was locked), measure, attack, bound, and judge."""

from __future__ import annotations

import hashlib
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corelocker import __version__
from corelocker.artifacts import Artifact, WeightTensor
from corelocker.artifacts.detect import open_artifact
from corelocker.artifacts.torch_module import open_state, plain_state
from corelocker.audit import need
from corelocker.audit.data import DataSet, Metric, load_data, load_metric
from corelocker.audit.models import lock_model, tier_states, trace_graph
from corelocker.audit.report import FORMAT, VERSION, plain, verdict
from corelocker.audit.results import AttackResult
from corelocker.audit.utility import (
    FRACTIONS,
    QUICK_FRACTIONS,
    Coverage,
    Evaluator,
    LayerMap,
    Progress,
    Subject,
    TierBytes,
    Work,
    layer_maps,
    mark,
    no_progress,
    original_state,
    states_of_plan,
    tier_bytes,
)
from corelocker.errors import ConfigError, LockingError
from corelocker.locking.criteria import Scores, check_criterion, l1, score
from corelocker.locking.groups import Member, group_layers
from corelocker.locking.options import CriterionName, Fill, Scope
from corelocker.locking.plan import Plan, Together, make_plan
from corelocker.locking.tiers import Tier, parse_tiers
from corelocker.runs import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from corelocker.bundle.clkey import KeyBundle

Scorer = Callable[[WeightTensor], Scores]
QUICK_SAMPLES = 1000
BOUND_SAMPLES = 64


@dataclass(frozen=True)
class AuditOptions:
    """What to audit and how.

    Attributes:
        model: a finished model (locked or not), or `package.module:factory` of a torch module.
        data: `.npz` or `package.module:function`; see `load_data`.
        module: `package.module:factory` of the module behind an artifact: needed to run checkpoints, to attack and to bound.
        train_data: what the attacker has; half of `data` when there is none.
        metric: see `load_metric`.
        tiers, criterion, scope, fill, consumers, include_io, exclude, source, plan: how to lock an unlocked model, as for
            `corelocker lock`. `criterion` also ranks the curve.
        seed: of everything.
        quick: fewer samples, points and attacks.
        attacks: whether to run them.
        work: folder for finished pieces; an audit that is started again goes on from there.
        input_stats: for `sensitivity`, as for `corelocker lock`.
        choose: makes the plan of (artifacts, seed, scorer, progress) in place of the options above, for a preset.
    """

    model: str
    data: str
    module: str | None = None
    train_data: str | None = None
    metric: str = "top-1"
    tiers: str = "free=0.05,full=0"
    criterion: CriterionName = "l1"
    scope: Scope = "layer"
    fill: Fill = "decoy"
    consumers: bool = False
    include_io: bool = False
    exclude: Sequence[str] = ()
    source: Path | None = None
    plan: Path | None = None
    seed: int = 0
    quick: bool = False
    attacks: bool = True
    work: Path | None = None
    input_stats: str | None = None
    choose: Callable[[Sequence[Artifact], bytes, Scorer, Progress], Plan] | None = None


@dataclass(frozen=True)
class Sealed:
    """How to open a locked model.

    Attributes:
        bundle: its key bundle.
        content_key: of the top tier, 32 bytes.
        files: (path, artifact, file) of each of its files: where it is, and its indexes in the bundle.
    """

    bundle: KeyBundle
    content_key: bytes = field(repr=False)
    files: Sequence[tuple[Path, int, int]]


@dataclass
class _Locked:
    """What is measured: the original artifact, its tiers, and where it is locked."""

    name: str
    original: Artifact
    tiers: list[TierBytes]
    coverage: Coverage
    lock: dict[str, Any]
    fill: Fill
    score: Scorer
    names: tuple[str, ...] = ()
    module: nn.Module | None = None
    example: Tensor | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def layers(self) -> list[LayerMap]:
        return layer_maps(self.original, self.coverage)


def audit(options: AuditOptions, sealed: Sealed | None = None, progress: Progress = no_progress) -> dict[str, Any]:
    """Audit a model; the result is the document that `report.html` renders.

    Args:
        sealed: set when the model is locked already.

    Raises ConfigError, LockingError, MissingExtraError, and what opening the inputs raises.
    """
    for module in ("torch", "safetensors.torch", "matplotlib"):
        need(module)
    with tempfile.TemporaryDirectory(prefix="corelocker-audit-") as folder:
        locked = _open(options, sealed, Path(folder), progress)
        metric = load_metric(options.metric)
        data = load_data(options.data, locked.example)
        rest = None
        if options.quick and len(data) > QUICK_SAMPLES:
            mixed = data.shuffled(options.seed)
            data, rest = mixed.take(slice(QUICK_SAMPLES)), mixed.take(slice(QUICK_SAMPLES, None))
        subject = Subject(
            locked.original,
            Evaluator(locked.original, locked.module),
            data,
            metric,
            options.seed,
            Work(None if options.work is None else options.work / "utility"),
        )
        return _document(options, locked, subject, rest, progress)


def _document(
    options: AuditOptions, locked: _Locked, subject: Subject, rest: DataSet | None, progress: Progress
) -> dict[str, Any]:
    progress("original", 0, 1)
    original = subject.utility(original_state(locked.original))
    progress("original", 1, 1)
    tiers = subject.tiers(locked.tiers, progress)
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "model": _model(locked),
        "data": {
            "name": subject.data.name,
            "samples": len(subject.data),
            "sha256": subject.data.digest(),
            "attacker": "",
        },
        "metric": {
            "name": subject.metric.name,
            "higher_is_better": subject.metric.higher_is_better,
            "proportion": subject.metric.proportion,
            "chance": subject.chance,
        },
        "lock": locked.lock,
        "seed": options.seed,
        "quick": options.quick,
        "runtime": _runtime(locked.original),
        "versions": _versions(locked.original),
        "original": asdict(original),
        "bit_exact": all(np.array_equal(locked.tiers[-1].files[f.name], f.data) for f in locked.original.files),
        "tiers": [asdict(t) for t in tiers],
        "curve": [asdict(p) for p in _curve(options, locked, subject, progress)],
        "curve_samples": len(subject.data),
        "layers": [
            {"name": m.name, "role": m.role, "shape": list(m.shape), "tier_of": m.tier_of.tolist()}
            for m in locked.layers
        ],
        "attacks": [],
        "bounds": None,
        "notes": locked.notes,
    }
    if locked.module is None or locked.example is None:
        locked.notes.append("Attacks and bounds need the torch module: name it with --model package.module:factory.")
    else:
        module = _TorchSide(options, locked)
        document["bounds"] = module.bounds(subject.data, progress)
        if document["bounds"] is not None:  # a checkpoint has no order of computation, the traced module has
            place = {f"{layer['name']}.weight": i for i, layer in enumerate(document["bounds"]["layers"])}
            document["layers"].sort(key=lambda layer: place.get(layer["name"], len(place)))
        if options.attacks:
            found, document["data"]["attacker"] = module.attack(subject.data, rest, subject.metric, progress)
            document["attacks"] = [{k: v for k, v in a.to_json().items() if k != "seconds"} for a in found]
    locked.notes.append("This report tells where locked channels are. Keep it with the publisher's secrets.")
    document = plain(document)
    document["verdict"] = verdict(document)
    return document


def _curve(options: AuditOptions, locked: _Locked, subject: Subject, progress: Progress) -> list[Any]:
    fractions = list(QUICK_FRACTIONS if options.quick else FRACTIONS)
    points = []
    for criterion, stage in ((options.criterion, "curve"), ("random", "random")):
        if stage == "random" and options.criterion == "random":
            break
        points += subject.curve(
            fractions,
            locked.score,
            criterion=criterion,
            scope=options.scope,
            fill=locked.fill,
            consumers=options.consumers,
            include_io=options.include_io,
            exclude=options.exclude,
            repeats=1 if options.quick or stage == "curve" else 3,
            stage=stage,
            progress=progress,
        )
    return points


# --- opening ---------------------------------------------------------------------------------------------------------


def _open(options: AuditOptions, sealed: Sealed | None, folder: Path, progress: Progress) -> _Locked:
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
        locked.score = _once(_scorer(options, locked.original, locked.fill, progress))
    else:
        locked = _lock(options, open_artifact(path), progress)
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


def _lock(options: AuditOptions, artifact: Artifact, progress: Progress) -> _Locked:
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
        "criterion": plan.criterion, "scope": plan.scope, "fill": plan.fill, "consumers": plan.consumers,
        "tiers": ", ".join(f"{t.name}={t.removed:g}" for t in plan.tiers),
    }  # fmt: skip
    found = _Locked(
        artifact.path.name,
        artifact,
        tiers,
        coverage,
        lock,
        plan.fill,
        _once(scorer, done=options.plan is None),
        tuple(t.name for t in plan.tiers),
    )
    if locked.not_followed:
        found.notes.append(f"Consumers of {len(locked.not_followed)} layers could not be followed and stay unlocked.")
    if plan.left_alone and plan.left_alone[0]:
        found.notes.append(f"{len(plan.left_alone[0])} layers are left alone (input and output layers, for example).")
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


class _Once:
    """A scorer that ranks layers together, for several plans of the same artifact: it ranks once."""

    def __init__(self, scorer: Together, done: bool) -> None:
        self._scorer, self._done = scorer, done

    def prepare(self, artifacts: Sequence[Artifact], groups: Sequence[list[Member]]) -> None:
        if not self._done:
            self._scorer.prepare(artifacts, groups)
            self._done = True

    def __call__(self, tensor: WeightTensor) -> Scores:
        return self._scorer(tensor)


def _once(scorer: Scorer, done: bool = False) -> Scorer:
    return _Once(scorer, done) if isinstance(scorer, Together) else scorer


def _restored(path: Path, sealed: Sealed, folder: Path) -> _Locked:
    """The tiers of a locked artifact, restored in memory. The adapter needs the original on disk: it lies in a folder that only
    the publisher can read, until the audit ends."""
    from corelocker.bundle.content_keys import tier_keys
    from corelocker.bundle.patch import Patch
    from corelocker.runtime.restored import RestoredFile

    bundle = sealed.bundle
    keys = tier_keys(sealed.content_key, bundle.id, len(bundle.tiers))
    states: list[dict[str, Any]] = [{} for _ in bundle.tiers]
    coverage: Coverage = {}
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
            for row in Patch.parse(section.patch, tier_at.size).table:
                run = Run(*(int(row[key]) for key in ("offset", "length", "stride", "count")))
                mark(tier_at, run, section.section.tier)
        for tier, state in enumerate(states):
            applied = [s for s in opened if s.section.tier <= tier]
            with RestoredFile.open(place, applied, check="always" if applied else "off") as restored:
                state[name] = np.frombuffer(bytes(restored), np.uint8)
        for section in opened:
            section.wipe()
        (copy / name if path.is_dir() else folder / name).write_bytes(states[-1][name].data)
    original = open_artifact(copy)
    _weights_only(original, coverage)
    # A zero fill is plain to see; anything else is a decoy.
    shipped = [states[0][name][tier_at > 0] for name, tier_at in coverage.items()]
    zero = sum(int((s == 0).sum()) for s in shipped) > 0.9 * max(1, sum(s.size for s in shipped))
    fill: Fill = "zero" if zero else "decoy"
    lock = {"criterion": "", "fill": fill, "bundle": str(bundle.id), "model": f"{bundle.model} {bundle.model_version}"}
    tiers = tier_bytes(original, bundle.tiers, states, coverage)
    return _Locked(path.name, original, tiers, coverage, lock, fill, l1, tuple(bundle.tiers))


def _weights_only(original: Artifact, coverage: Coverage) -> None:
    """Patches also put names of content back; they are no part of the key's weights."""
    for identity in original.identities:
        for offset in identity.copies:
            coverage[identity.file.name][offset : offset + identity.length] = 0


# --- what needs the torch module -------------------------------------------------------------------------------------


class _TorchSide:
    """The module with the same channels locked as in the artifact."""

    def __init__(self, options: AuditOptions, locked: _Locked) -> None:
        assert locked.module is not None  # noqa: S101 - the caller has looked
        self._options, self._locked, self._module = options, locked, locked.module
        if locked.original.format == "safetensors":
            states = tier_states(locked.original, locked.tiers, locked.coverage)
            self._original = states[-1].state
            self._shipped = states[0]
        else:
            found = lock_model(
                self._module,
                tiers=[Tier(name, 1 - (i + 1) / len(locked.names)) for i, name in enumerate(locked.names)],
                fill=locked.fill,
                seed=f"audit/{options.seed}",
                tier_of=_matched(self._module, locked.original, {m.name: m.tier_of for m in locked.layers}),
            )
            self._original, self._shipped = found.original, found.shipped
            locked.notes.append(
                "Attacks and bounds: the torch module with the same channels locked, recognized by their weights; "
                "what the exporter folded or quantized is not."
            )

    def bounds(self, data: DataSet, progress: Progress) -> dict[str, Any] | None:
        """The bounds of the shipped tier, or None where the module cannot be traced."""
        from corelocker.audit.bounds import bounds

        progress("bounds", 0, 1)
        inputs = data.shuffled(self._options.seed).take(slice(BOUND_SAMPLES)).x
        try:
            found = bounds(self._module, self._original, self._shipped.state, inputs)
        except LockingError as error:
            self._locked.notes.append(f"No bounds: {error}")
            return None
        progress("bounds", 1, 1)
        return asdict(found)

    def attack(
        self, data: DataSet, rest: DataSet | None, metric: Metric, progress: Progress
    ) -> tuple[list[AttackResult], str]:
        """Every attack, and a sentence about the attacker's data; `rest` are samples that nothing was measured on."""
        from corelocker.audit.attacks import FULL, QUICK, Target, run_attacks, suited

        options = self._options
        if options.train_data is not None:
            train, test = load_data(options.train_data, self._locked.example), data
            told = f"{train.name}, {len(train):,} samples; attacks are measured on the whole of {data.name}"
        elif rest is not None and len(rest) >= len(data) // 2:
            train, test = rest, data
            told = f"no training data was given: {len(train):,} other samples of {data.name} stand in for it"
        else:
            train, test = data.split(0.5, options.seed)
            told = (
                f"no training data was given: half of {data.name} ({len(train):,} samples) stands in for it, and attacks are "
                "measured on the other half"
            )
        target = Target(
            self._module, self._original, self._shipped.state, self._shipped.channels, self._shipped.elements,
            train, test, metric, self._shipped.name,
        )  # fmt: skip
        found = run_attacks(
            target,
            suited(QUICK if options.quick else FULL, self._module),
            seed=options.seed,
            work=None if options.work is None else options.work / "attacks",
            progress=lambda done, total, title: progress("attacks", done, total),
        )
        return found, told


def _matched(module: nn.Module, artifact: Artifact, tier_of: dict[str, Any]) -> dict[str, Any]:
    """Tier maps by the module's own names: layers are recognized by their weights, through folding and quantization."""
    with tempfile.TemporaryDirectory(prefix="corelocker-audit-") as folder:
        checkpoint = open_state(plain_state(module), Path(folder) / "model.safetensors")
        found = {}
        for group in group_layers([checkpoint, artifact]):
            maps = [tier_of[m.tensor.name] for m in group if m.artifact == 1]
            for member in group:
                if member.artifact == 0 and maps:
                    found[member.tensor.name] = maps[0]
    if not any(m.any() for m in found.values()):
        raise ConfigError("the module is another model than the artifact", hint="Name its own factory with --model")
    return found


# --- what the report says about its inputs ---------------------------------------------------------------------------


def _model(locked: _Locked) -> dict[str, Any]:
    sha256 = hashlib.sha256()
    for name in sorted(locked.tiers[0].files):
        sha256.update(locked.tiers[0].files[name].data)
    artifact = locked.original
    return {
        "name": locked.name,
        "format": artifact.format,
        "sha256": f"{sha256.hexdigest()} (as shipped)",
        "weight_bytes": sum(part.size for t in artifact.tensors for part in t.parts),
        "channels": sum(t.channels for t in artifact.tensors),
        "layers": len(artifact.tensors),
    }


def _runtime(artifact: Artifact) -> str:
    return {
        "executorch": "ExecuTorch",
        "coreml": "the Linux evaluator of ML Programs (fp32 arithmetic; a device rounds elsewhere)",
    }.get(artifact.format, "the torch module")


def _versions(artifact: Artifact) -> dict[str, str]:
    found = {"corelocker": __version__, "python": platform.python_version()}
    wanted = ["torch", "numpy", *(["executorch"] if artifact.format == "executorch" else [])]
    return found | {name: metadata.version(name) for name in wanted}
