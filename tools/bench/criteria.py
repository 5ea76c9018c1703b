"""Key bytes until a model is at chance: sensitivity beside l1, BatchNorm scale and random channels, with both fills.

    python tools/bench/criteria.py --checkpoints DIR --cifar10 test.npz --out docs/data/criteria.json

Locks the public CIFAR-10 ResNets and the demo's model at growing fractions (ratio 1.35) through the product's own path, and notes
the fewest key bytes from which on the accuracy stays at chance + 2 points for this and the next step. sensitivity sees no
data. `inner` leaves the input and output layers alone, as the paper does; `all` may lock them too. Resumable: finished rows in
--out are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "sdk" / "python")]

from corelocker.artifacts.torch_module import open_state, plain_state  # noqa: E402
from corelocker.audit.models import lock_model  # noqa: E402
from corelocker.errors import LockingError  # noqa: E402
from corelocker.locking.criteria.ranking import Ranking, rank  # noqa: E402
from corelocker.locking.criteria.synthetic import InputStats, synthesize  # noqa: E402

from tools.demo_model.fashion_mobilenet import trained  # noqa: E402
from tools.research.resnet_cifar import load, normalize  # noqa: E402

RATIO = 1.35
LEAST = 0.002
MOST = 0.6
POINTS = 0.02
ALL = (("sensitivity", "global"), ("l1", "layer"))  # what is measured with input and output layers too
Model = tuple[str, torch.nn.Module, tuple[Any, ...], InputStats | None, torch.Tensor, torch.Tensor]


def models(checkpoints: Path, cifar10: Path, images: int) -> list[Callable[[], Model]]:
    def resnet(path: Path) -> Model:
        with np.load(cifar10) as data:
            x, y = torch.from_numpy(data["x"][:images]), torch.from_numpy(data["y"][:images]).long()
        return path.stem.partition("-")[0], load(path), (torch.zeros(1, 3, 32, 32),), None, normalize(x), y

    def demo() -> Model:
        with np.load(ROOT / "tools" / "demo_model" / "data" / "fashion_test_2000.npz") as data:  # sorted by class
            chosen = np.linspace(0, len(data["y"]) - 1, min(images, len(data["y"]))).astype(np.int64)
            x, y = (
                torch.from_numpy(data["x"][chosen][:, None]).float() / 255,
                torch.from_numpy(data["y"][chosen]).long(),
            )
        model, example = trained()
        return "fashion_mobilenet (demo)", model, example, InputStats((0.286,), (0.353,)), x, y

    found: list[Callable[[], Model]] = [demo]
    return found + [lambda path=path: resnet(path) for path in sorted(checkpoints.glob("resnet*.th"))]


def accuracy(module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.inference_mode():
        right = sum(int((module(x[i : i + 250]).argmax(1) == y[i : i + 250]).sum()) for i in range(0, len(y), 250))
    return right / len(y)


def bytes_to_chance(
    model: Model, fill: str, layers: str, criterion: str, scope: str, ranking: Ranking | None
) -> dict[str, Any]:
    """The curve of one way to choose, and where it reaches chance."""
    _, module, _, _, x, y = model
    original = plain_state(module)
    chance = 1 / int(module(x[:1]).shape[1])
    curve: list[dict[str, float]] = []
    fraction, low = LEAST if criterion == "sensitivity" else 0.02, 0
    while fraction < MOST and low < 2:
        try:
            locked = lock_model(
                original,
                tiers=f"free={fraction},full=0",
                criterion=criterion,
                scope=scope,  # type: ignore[arg-type]
                fill=fill,  # type: ignore[arg-type]
                include_io=layers == "all",
                seed=b"bench",
                scores=None if ranking is None else ranking.scores,
            )
        except LockingError as error:
            return {"error": str(error)}
        module.load_state_dict(locked.shipped.state)
        value = accuracy(module, x, y)
        point = {
            "channels": fraction,
            "key_bytes": locked.shipped.locked_bytes,
            "key_fraction": round(locked.shipped.locked_fraction, 6),
            "accuracy": round(value, 4),
        }
        if not curve or point["key_bytes"] > curve[-1]["key_bytes"]:
            curve.append(point)
            low = low + 1 if value <= chance + POINTS else 0
        fraction *= RATIO
    module.load_state_dict(original)
    reached = curve[-low] if low else None
    return {"reached": reached, "curve": curve}


def measure(model: Model, out: Path, document: dict[str, Any]) -> None:
    name, module, example, stats, x, y = model
    with torch.inference_mode():
        document["original"].setdefault(name, round(accuracy(module, x, y), 4))
    started = time.perf_counter()
    inputs: tuple[Any, ...] | None = None
    for layers in ("inner", "all"):
        for fill in ("zero", "decoy"):
            for criterion, scope in (
                ("sensitivity", "global"), ("l1", "layer"), ("l1", "global"), ("bn-scale", "layer"), ("bn-scale", "global"),
                ("random", "layer"),
            ):  # fmt: skip
                key = f"{name}/{layers}/{fill}/{criterion}/{scope}"
                if key in document["rows"] or (layers == "all" and (criterion, scope) not in ALL):
                    continue
                ranking, seconds = None, None
                if criterion == "sensitivity":
                    if inputs is None:
                        started = time.perf_counter()
                        inputs = synthesize(module, example, stats)
                        document["inputs_s"][name] = round(time.perf_counter() - started, 1)
                    artifact = open_state(plain_state(module), out.with_suffix(f".{name[:9]}.scratch"))
                    costs = {
                        t.name: sum(p.size for p in t.parts) / t.channels
                        for t in artifact.tensors
                        if layers == "all" or t.name not in artifact.inputs | artifact.outputs
                    }
                    out.with_suffix(f".{name[:9]}.scratch").unlink()
                    started = time.perf_counter()
                    ranking = rank(module, inputs, costs, fill, seed=b"rank")  # type: ignore[arg-type]
                    seconds = round(time.perf_counter() - started, 1)
                row = bytes_to_chance(model, fill, layers, criterion, scope, ranking)
                document["rows"][key] = row | ({} if seconds is None else {"rank_s": seconds})
                out.write_text(json.dumps(document, indent=1) + "\n")
                print(key, row.get("reached", row.get("error")), seconds or "", flush=True)


def table(document: dict[str, Any]) -> str:
    """The rows as markdown: the better scope of each criterion."""
    names = list(document["original"])
    lines = [
        "| model (accuracy) | layers | fill | sensitivity | l1 | bn-scale | random |", "|---|---|---|---|---|---|---|"
    ]  # fmt: skip
    for name in names:
        for layers in ("inner", "all"):
            for fill in ("zero", "decoy"):
                cells = []
                for criterion in ("sensitivity", "l1", "bn-scale", "random"):
                    rows = [
                        r
                        for key, r in document["rows"].items()
                        if key.startswith(f"{name}/{layers}/{fill}/{criterion}/")
                    ]
                    found = [r["reached"] for r in rows if r.get("reached")]
                    best = min(found, key=lambda r: r["key_bytes"], default=None)
                    cells.append(
                        f"{best['key_bytes']:,} ({100 * best['key_fraction']:.2f} %)"
                        if best
                        else "not reached"
                        if rows
                        else "—"
                    )
                if any(c != "—" for c in cells):
                    lines.append(
                        f"| {name} ({100 * document['original'][name]:.1f} %) | {layers} | {fill} | {' | '.join(cells)} |"
                    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder with the public resnet*.th")
    parser.add_argument("--cifar10", type=Path, required=True, help=".npz with x and y")
    parser.add_argument("--out", type=Path, required=True, help="results as JSON")
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--only", default="", help="models whose name holds this")
    options = parser.parse_args()
    document: dict[str, Any] = {"images": options.images, "original": {}, "inputs_s": {}, "rows": {}}
    if options.out.exists():
        document = json.loads(options.out.read_text())
    for make in models(options.checkpoints, options.cifar10, options.images):
        model = make()
        if options.only in model[0]:
            measure(model, options.out, document)
    print(table(document))


if __name__ == "__main__":
    main()
