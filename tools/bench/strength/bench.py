"""How few bytes silence a model, and what is left of it on real inputs.

    tools/bench/strength/run.sh [--data FOLDER] [--nets FOLDER] [--images 1000] [--out FILE.json]

Each model is exported for XNNPACK and locked in memory by the product's own path: the default (`hardened`), `minimal` in either
unit, and the rankings `sensitivity` and `l1`, whose fraction grows until the finished file says nothing on synthetic inputs. Nobody
sees data or labels but the last column: top-1 on real test images, the mean of three draws. A row `missed` stays above chance + 2
points although the lock was taken to hold. Resumable: finished rows of --out are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
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
from corelocker.audit.agreement.smallest import find_smallest, left  # noqa: E402
from corelocker.exporting.source import ExportSource  # noqa: E402
from corelocker.exporting.to_executorch import export_executorch  # noqa: E402
from corelocker.locking.choose import choose_channels  # noqa: E402
from corelocker.locking.criteria import l1  # noqa: E402
from corelocker.locking.criteria.sensitivity import SensitivityScorer  # noqa: E402
from corelocker.locking.drawing import lock_artifacts  # noqa: E402
from corelocker.locking.options import LockOptions  # noqa: E402
from corelocker.locking.plan import Plan  # noqa: E402
from corelocker.locking.planning import given_plan, make_plan  # noqa: E402
from corelocker.locking.tiers import Tier  # noqa: E402

from tools.bench.strength.models import Subject, subjects  # noqa: E402

DRAWS, POINTS, RATIO, LEAST, MOST = 3, 0.02, 1.5, 0.0005, 0.9
KINDS = ("default", "minimal sign", "minimal value", "sensitivity", "l1")


def states(artifact: Artifact, plan: Plan) -> tuple[dict[str, Any], int]:
    """The files that ship, and the bytes of the access key."""
    (locked,) = lock_artifacts([artifact], plan)
    found = {}
    for file in locked.files:
        found[file.file.name] = file.file.data.copy()
        file.apply(0, found[file.file.name], 0)
    return found, locked.locked_bytes


def accuracy(artifact: Artifact, state: dict[str, Any], subject: Subject) -> float:
    call = ProgramRunner(artifact).load(state)
    answers = [int(call.one("forward", [subject.x[i : i + 1]])[0].argmax()) for i in range(len(subject.x))]
    return float((torch.tensor(answers) == subject.y).float().mean())


def plans(kind: str, artifact: Artifact, examined: Examined, subject: Subject) -> Iterator[Plan]:
    """The lock of this kind in three draws. Raises CannotRunError when there is none."""
    if kind == "default":
        yield from (choose_channels([artifact], LockOptions(), b"%d" % draw) for draw in range(DRAWS))
    elif kind.startswith("minimal"):
        unit: Any = kind.split()[1]
        broad = Examined(artifact, kinds=smallest.KINDS)
        small = find_smallest(broad, [unit], (), lambda done, total: None)[0]
        channels = {(0, name): chosen for name, chosen in small["channels"].items()}
        for draw in range(DRAWS):
            yield given_plan([artifact], channels, unit=unit, criterion="search", fill="decoy", seed=b"bench/%d" % draw)
    else:
        scorer: Any = l1
        if kind == "sensitivity":
            scorer = SensitivityScorer(subject.module, subject.example, fill="decoy")

        def plan(removed: float, draw: int) -> Plan:
            return make_plan(
                [artifact], (Tier("free", removed), Tier("full", 0)), scorer, criterion="l1" if scorer is l1 else "sensitivity",
                scope="layer" if scorer is l1 else "global", fill="decoy", seed=b"bench/%d" % draw, include_io=True,
            )  # fmt: skip

        removed = LEAST
        while removed <= MOST and any(
            left(examined.compare(states(artifact, plan(removed, draw))[0])) > 1 for draw in range(2)
        ):
            removed *= RATIO
        if removed > MOST:
            raise CannotRunError("never silent")
        yield from (plan(removed, draw) for draw in range(DRAWS))


def measure(subject: Subject, folder: Path, kinds: list[str]) -> dict[str, Any]:
    path = folder / "model.pte"
    calibration = [(x,) for x in subject.x[:64].split(1)] if subject.quantize else None
    program = torch.export.export(subject.module, subject.example)
    source = ExportSource(subject.name, program, subject.example, calibration=calibration)
    export_executorch(source, path, quantize=subject.quantize, force=True)
    artifact = open_artifact(path)
    examined = Examined(artifact)
    row: dict[str, Any] = {
        "weight_bytes": artifact.lockable_bytes,
        "original": accuracy(artifact, {f.name: f.data for f in artifact.files}, subject),
        "chance": subject.chance,
        "locks": {},
    }
    for kind in kinds:
        started = time.process_time()
        try:
            made = [states(artifact, plan) for plan in plans(kind, artifact, examined, subject)]
        except CannotRunError as error:
            row["locks"][kind] = {"reason": str(error)}
            continue
        spent = time.process_time() - started
        agreements = [examined.compare(state) for state, _ in made]
        found = [accuracy(artifact, state, subject) for state, _ in made]
        row["locks"][kind] = {
            "bytes": max(size for _, size in made),
            "fraction": max(size for _, size in made) / artifact.lockable_bytes,
            "accuracy": statistics.mean(found),
            "worst": max(found),
            "agreement": max(a.value for a in agreements),
            "missed": statistics.mean(found) > subject.chance + POINTS,
            "seconds": round(spent, 1),
        }
        print(f"  {kind}: {row['locks'][kind]}", flush=True)
    return row


def table(document: dict[str, Any]) -> str:
    lines = ["| model | original | chance | " + " | ".join(KINDS) + " |", "|---" * (3 + len(KINDS)) + "|"]
    for name, row in document.items():
        cells = []
        for kind in KINDS:
            lock = row["locks"].get(kind, {"reason": "not run"})
            cells.append(
                lock["reason"] if "reason" in lock else f"{lock['bytes']:,} B ({100 * lock['fraction']:.3g} %), "
                f"{100 * lock['accuracy']:.1f} %" + (" missed" if lock["missed"] else "")
            )  # fmt: skip
        lines.append(
            f"| {name} | {100 * row['original']:.1f} % | {100 * row['chance']:.1f} % | " + " | ".join(cells) + " |"
        )
    for kind in KINDS:
        locks = [row["locks"][kind] for row in document.values() if "bytes" in row["locks"].get(kind, {})]
        if locks:
            shares = [100 * lock["fraction"] for lock in locks]
            lines.append(
                f"{kind}: median {statistics.median(shares):.3g} %, most {max(shares):.3g} %, missed "
                f"{sum(lock['missed'] for lock in locks)} of {len(locks)}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--nets", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--out", type=Path, default=ROOT / ".build" / "strength.json")
    arguments = parser.parse_args()
    use_one_thread()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    document = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    np.seterr(all="ignore")
    for make in subjects(arguments.data, arguments.nets, arguments.images):
        subject = make()
        known = document.get(subject.name, {"locks": {}})
        kinds = [kind for kind in arguments.kinds.split(",") if kind not in known["locks"]]
        if not kinds:
            continue
        print(subject.name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            row = measure(subject, Path(folder), kinds)
        row["locks"] = known["locks"] | row["locks"]
        document[subject.name] = row
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    print(table(document))


if __name__ == "__main__":
    main()
