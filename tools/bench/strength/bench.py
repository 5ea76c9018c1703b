"""How few bytes silence a model, and what is left of it on real inputs.

    tools/bench/strength/run.sh [--data FOLDER] [--nets FOLDER] [--images 500] [--only NAME] [--out FILE.json]
    tools/bench/strength/run.sh --table

Each model is exported for XNNPACK and locked in memory by the product's own path: every preset, `minimal` in either unit, and the
rankings `sensitivity` and `l1`, whose fraction grows until `corelocker lock` would accept the file. As that command does, each
draw is measured, and drawn again or enlarged where it is too weak; one that no attempt makes strong enough is refused.
Nobody sees data or labels but the last column: top-1 on real test images, the mean of three draws that were not refused. A row
`missed` stays above chance + 2 points. Resumable: finished locks of --out are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "sdk" / "python")]

from corelocker.artifacts import Artifact  # noqa: E402
from corelocker.artifacts.detect import open_artifact  # noqa: E402
from corelocker.audit.agreement import smallest  # noqa: E402
from corelocker.audit.agreement.examined import Examined  # noqa: E402
from corelocker.audit.agreement.runners import CannotRunError, ProgramRunner, use_one_thread  # noqa: E402
from corelocker.errors import CoreLockerError  # noqa: E402
from corelocker.exporting.source import ExportSource  # noqa: E402
from corelocker.exporting.to_executorch import export_executorch  # noqa: E402
from corelocker.locking.choose import choose_channels  # noqa: E402
from corelocker.locking.criteria import l1  # noqa: E402
from corelocker.locking.criteria.sensitivity import SensitivityScorer  # noqa: E402
from corelocker.locking.drawing import lock_artifacts  # noqa: E402
from corelocker.locking.lock import DRAWS as ATTEMPTS  # noqa: E402
from corelocker.locking.options import LockOptions, LockWarning  # noqa: E402
from corelocker.locking.plan import Plan  # noqa: E402
from corelocker.locking.planning import given_plan, make_plan  # noqa: E402
from corelocker.locking.tier_patch import tier_patch  # noqa: E402
from corelocker.locking.tiers import Tier  # noqa: E402

from tools.bench.strength.models import Subject, subjects  # noqa: E402
from tools.bench.strength.table import KINDS, ROWS, cell, summary, table  # noqa: E402

DRAWS, POINTS = 3, 0.02
FRACTIONS = [0.0005 * 1.5**step for step in range(19)]  # to 0.74
State = dict[str, Any]


def state_of(artifact: Artifact, plan: Plan) -> tuple[State, int, int]:
    """The files that ship, and the bytes of the access key and of the whole patch."""
    (locked,) = lock_artifacts([artifact], plan)
    found = {}
    for file in locked.files:
        found[file.file.name] = file.file.data.copy()
        file.apply(0, found[file.file.name], 0)
    patches = [patch for file in locked.files if (patch := tier_patch(file, 1)) is not None]
    return found, locked.locked_bytes, sum(patch.patch.size for patch in patches)


def accuracy(artifact: Artifact, state: dict[str, Any], subject: Subject) -> float:
    call = ProgramRunner(artifact).load(state)
    answers = [call.one("forward", [x])[0].nan_to_num().argmax(-1) for x in subject.x.split(1)]
    return float((torch.cat(answers) == subject.y).float().mean())


def attempts(kind: str, artifact: Artifact, broad: Examined, subject: Subject) -> Callable[[int], Iterator[Plan]]:
    """The plans that `corelocker lock` tries in turn, for each draw. Raises CannotRunError when there are none."""
    if kind in ("hardened", "balanced", "cover"):
        options: Any = LockOptions(preset=kind)  # type: ignore[arg-type]
        return lambda draw: (
            choose_channels([artifact], options, b"%d/%d" % (draw, attempt), attempt=attempt)
            for attempt in range(ATTEMPTS)
        )
    if kind.startswith("minimal"):
        unit: Any = kind.split()[1]
        locks = smallest.find_smallest(broad, [unit], (), lambda done, total: None)

        def searched(draw: int) -> Iterator[Plan]:
            for attempt, lock in enumerate(locks):
                channels = {(0, name): chosen for name, chosen in lock["channels"].items()}
                seed = b"bench/%d/%d" % (draw, attempt)
                yield given_plan([artifact], channels, unit=unit, criterion="search", fill="decoy", seed=seed)

        return searched
    scorer: Any = l1 if kind == "l1" else SensitivityScorer(subject.module, subject.example, fill="decoy")

    def ranked(step: int, seed: bytes) -> Plan:
        return make_plan(
            [artifact], (Tier("free", FRACTIONS[step]), Tier("full", 0)), scorer, criterion="l1" if kind == "l1" else
            "sensitivity", scope="layer" if kind == "l1" else "global", fill="decoy", seed=seed, include_io=True,
        )  # fmt: skip

    def silent(step: int) -> bool:
        return broad.compare(state_of(artifact, ranked(step, b"bench/0/0"))[0]).silent

    low, high = -1, len(FRACTIONS) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if silent(middle) else (middle, high)
    return lambda draw: (ranked(step, b"bench/%d/0" % draw) for step in range(high, len(FRACTIONS)))


def measure(subject: Subject, folder: Path, kinds: list[str], row: dict[str, Any], save: Callable[[], None]) -> None:
    """Puts the model's own figures and those of each kind of lock into `row`, and saves them."""
    path = folder / "model.pte"
    calibration = [(x,) for x in subject.x[:64].split(1)] if subject.quantize else None
    program = torch.export.export(subject.module, subject.example)
    source = ExportSource(subject.name, program, subject.example, calibration=calibration)
    export_executorch(source, path, quantize=subject.quantize, force=True)
    artifact = open_artifact(path)
    plain = Examined(artifact) if "hardened" in kinds else None
    broad = Examined(artifact, kinds=smallest.KINDS, seconds=smallest.EACH)
    row |= {
        "weight_bytes": artifact.lockable_bytes,
        "original": accuracy(artifact, {f.name: f.data for f in artifact.files}, subject),
        "chance": subject.chance,
        "images": len(subject.x),
    }

    def keep(kind: str, lock: dict[str, Any]) -> None:
        print(f"{subject.name}, {kind}: {cell(lock)}", flush=True)
        row["locks"][kind] = lock
        save()

    for kind in kinds:
        started = time.process_time()
        try:
            tried = attempts(kind, artifact, broad, subject)
        except (CannotRunError, CoreLockerError) as error:
            keep(kind, {"reason": str(error)})
            continue
        spent = time.process_time() - started
        judge = plain if plain is not None and kind == "hardened" else broad
        rows: list[tuple[int, int, float, float]] = []
        refused = 0
        for draw in range(DRAWS):
            for plan in tried(draw):
                state, size, patch = state_of(artifact, plan)
                agreement = judge.compare(state)
                if agreement.silent:
                    rows.append((size, patch, accuracy(artifact, state, subject), agreement.excess))
                    break
            else:
                refused += 1
        if not rows:
            keep(kind, {"reason": "refused", "seconds": round(spent, 1)})
            continue
        sizes, patches, found, excess = zip(*rows, strict=True)
        keep(kind, {
            "bytes": max(sizes), "patch": max(patches), "fraction": max(sizes) / artifact.lockable_bytes,
            "accuracy": statistics.mean(found), "draws": found, "agreement": max(excess), "refused": refused,
            "missed": statistics.mean(found) > subject.chance + POINTS, "seconds": round(spent, 1),
        })  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with checkpoints, cifar10 and cifar100")
    parser.add_argument("--nets", type=Path, help="a folder with networks of tools/research/small_nets.py, NAME-10.pt")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--only", nargs="+", help="names of models")
    parser.add_argument("--out", type=Path, default=ROWS)
    parser.add_argument("--table", action="store_true", help="print what was found so far")
    arguments = parser.parse_args()
    document: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if arguments.table:
        print(*table(document), *summary(document), sep="\n")
        return

    def save() -> None:
        written = arguments.out.with_name(arguments.out.name + ".part")
        written.write_text(json.dumps(document, indent=1) + "\n")
        written.replace(arguments.out)

    use_one_thread()
    np.seterr(all="ignore")
    warnings.simplefilter("ignore", LockWarning)  # of what was not shown for a kind of model; here it is
    for name, make in subjects(arguments.data, arguments.nets, arguments.images):
        found = document.get(name, {"locks": {}})["locks"]
        kinds = [kind for kind in arguments.kinds.split(",") if kind not in found]
        if not kinds or (arguments.only and name not in arguments.only):
            continue
        row = document.setdefault(name, {"locks": {}})
        with tempfile.TemporaryDirectory() as folder:
            measure(make(), Path(folder), kinds, row, save)
    print(*table(document), *summary(document), sep="\n")


if __name__ == "__main__":
    main()
