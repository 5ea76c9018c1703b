"""One audit from beginning to end: lock (or open what was locked), measure, attack, bound, and judge."""

from __future__ import annotations

import hashlib
import platform
import tempfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corelocker import __version__
from corelocker.artifacts import Artifact
from corelocker.audit import need
from corelocker.audit.data import DataSet, load_data, load_metric
from corelocker.audit.evaluators import Evaluator
from corelocker.audit.module_audit import ModuleAudit
from corelocker.audit.opening import AuditedModel, open_audited
from corelocker.audit.options import AuditOptions, LockedInput
from corelocker.audit.published import attack_together
from corelocker.audit.report import FORMAT, VERSION, plain, verdict
from corelocker.audit.result_cache import ResultCache
from corelocker.audit.results import AttackResult
from corelocker.audit.tier_agreement import TierAgreements
from corelocker.audit.tier_bytes import original_state
from corelocker.audit.utility import FRACTIONS, QUICK_FRACTIONS, Subject
from corelocker.progress import Progress, no_progress

if TYPE_CHECKING:
    pass


QUICK_SAMPLES = 1000


def audit(options: AuditOptions, sealed: LockedInput | None = None, progress: Progress = no_progress) -> dict[str, Any]:
    """Audit a model; the result is the document that `report.html` renders.

    Args:
        sealed: set when the model is locked already.

    Raises ConfigError, LockingError, MissingExtraError, and what opening the inputs raises.
    """
    for module in ("torch", "safetensors.torch", "matplotlib"):
        need(module)
    with tempfile.TemporaryDirectory(prefix="corelocker-audit-") as folder:
        locked = open_audited(options, sealed, Path(folder), progress)
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
            ResultCache(None if options.work is None else options.work / "utility"),
        )
        return _document(options, locked, subject, rest, progress)


def _document(
    options: AuditOptions, locked: AuditedModel, subject: Subject, rest: DataSet | None, progress: Progress
) -> dict[str, Any]:
    progress("original", 0, 1)
    original = subject.utility(original_state(locked.original))
    progress("original", 1, 1)
    tiers = subject.tiers(locked.tiers, progress)
    agreements = TierAgreements(options, locked, subject)
    agreed = []
    for done, tier in enumerate(locked.tiers):
        progress("agreement", done, len(locked.tiers))
        agreed.append(agreements.of(tier.files))
    together = _together(options, locked, subject, agreements, progress)
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
        "tiers": [asdict(t) | {"agreement": a} for t, a in zip(tiers, agreed, strict=True)],
        "agreement": {"inputs": agreements.inputs, "samples": agreements.samples, "not_measured": agreements.reason},
        "curve": [asdict(p) for p in _curve(options, locked, subject, progress)],
        "curve_samples": len(subject.data),
        "layers": [
            {"name": m.name, "role": m.role, "shape": list(m.shape), "tier_of": m.tier_of.tolist()}
            for m in locked.layers
        ],
        "attacks": [_shown(attack) for attack in together],
        "bounds": None,
        "notes": locked.notes,
    }
    if locked.module is None or locked.example is None:
        locked.notes.append("Attacks and bounds need the torch module: name it with --model package.module:factory.")
    else:
        module = ModuleAudit(options, locked)
        document["bounds"] = module.bounds(subject.data, progress)
        if document["bounds"] is not None:  # a checkpoint has no order of computation, the traced module has
            place = {f"{layer['name']}.weight": i for i, layer in enumerate(document["bounds"]["layers"])}
            document["layers"].sort(key=lambda layer: place.get(layer["name"], len(place)))
        if options.attacks:
            found, document["data"]["attacker"] = module.attack(subject.data, rest, subject.metric, progress)
            document["attacks"] += [_shown(attack) for attack in found]
    locked.notes.append("This report tells where locked channels are. Keep it with the publisher's secrets.")
    document = plain(document)
    document["verdict"] = verdict(document)
    return document


def _shown(attack: AttackResult) -> dict[str, Any]:
    return {key: value for key, value in attack.to_json().items() if key != "seconds"}


def _together(
    options: AuditOptions, locked: AuditedModel, subject: Subject, agreements: TierAgreements, progress: Progress
) -> list[AttackResult]:
    """What this file and those that were published earlier are worth together; nothing where none was."""
    if not options.published:
        return []
    progress("published", 0, 1)
    result, state = attack_together(locked, subject, options.published)
    result.details["agreement"] = agreements.of(state)
    progress("published", 1, 1)
    return [result]


def _curve(options: AuditOptions, locked: AuditedModel, subject: Subject, progress: Progress) -> list[Any]:
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


def _model(locked: AuditedModel) -> dict[str, Any]:
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
