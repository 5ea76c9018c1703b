"""How much of a network must be locked before fine-tuning is worth little more than training from scratch?

    python tools/research/hardened.py --data FOLDER --work FOLDER [--net NET] [--images 3000] [--seed 0] RULE [RULE ...]

NET is a public ResNet (20, 32, 56) on CIFAR-10, the demo's network on Fashion-MNIST, or one of tools/research/small_nets.py, which
is trained first, on 10,000 images of CIFAR-10.

A RULE says which channels are locked: parts joined by "+", each `PATTERN@FRACTION:RANK`; PATTERN is a glob of layer names without
".weight", FRACTION of its channels (1 if left out; one channel always stays), RANK l1 (the largest, the default), random or last
(of a layer with queries, keys and values: values). The rule "hardened@SHARE" is the preset's: corelocker.locking.hardened with that
share of the bytes; "minimal" and "balanced" are those presets as they are.
The attacker knows every locked channel, draws it anew, alone and with the weights that read it, and trains on 10 % of the training
data (5,000 images of CIFAR-10 for the public ResNets, 6,000 of Fashion-MNIST) for 15 epochs (of 1,000 images: 60), one-cycle SGD
(AdamW for the transformer); once with every weight at full speed and once with the rest at a tenth of it.
Appends to docs/data/hardened.json; finished trainings are kept in --work. Five minutes a training of ResNet-20 on one core.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "sdk" / "python")]

from corelocker.artifacts.torch_module import ModuleGraph, open_state, plain_state  # noqa: E402
from corelocker.audit.attacks import (  # noqa: E402
    FULL,
    AttackBench,
    AttackTarget,
    Knowledge,
    Reach,
    fine_tune,
)
from corelocker.audit.data import DataSet  # noqa: E402
from corelocker.audit.models import TieredModel, lock_model, trace_graph  # noqa: E402
from corelocker.audit.training import TrainingRecipe  # noqa: E402
from corelocker.locking.criteria import score  # noqa: E402
from corelocker.locking.criteria.ranking import rank  # noqa: E402
from corelocker.locking.criteria.sensitivity import SensitivityScorer  # noqa: E402
from corelocker.locking.criteria.synthetic import synthesize  # noqa: E402
from corelocker.locking.hardened import hardened  # noqa: E402
from corelocker.locking.options import PresetName  # noqa: E402
from corelocker.locking.planning import make_plan  # noqa: E402
from corelocker.locking.presets import preset  # noqa: E402
from corelocker.locking.tiers import parse_tiers  # noqa: E402

from tools.research import small_nets  # noqa: E402
from tools.research.resnet_cifar import BFLOAT16, load, normalize  # noqa: E402

CHECKPOINTS = {"20": "resnet20-12fca82f.th", "32": "resnet32-d509ac18.th", "56": "resnet56-4bfd9763.th"}
RECIPE = TrainingRecipe(epochs=15, batch=32, learning_rates=(0.05, 0.1), augmentation="shift-flip", bfloat16=BFLOAT16)
VARIANTS: tuple[tuple[Knowledge, Reach], ...] = (
    ("known", "all"), ("known", "mostly-locked"), ("known-readers", "all"), ("known-readers", "mostly-locked"),
)  # fmt: skip


def tiers_of(
    rule: str, state: dict[str, torch.Tensor], graph: ModuleGraph | None = None
) -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
    """The plan of a rule: layer -> uint8 (channels,). The preset's rule follows the graph if there is one."""
    if rule.startswith("hardened@"):
        with tempfile.TemporaryDirectory() as scratch:
            artifact = open_state(plain_state(state), Path(scratch) / "state.safetensors", graph)
            plan = make_plan(
                [artifact],
                parse_tiers("free=0.5,full=0"),
                score("l1", b"", None),
                criterion="l1",
                scope="layer",
                fill="decoy",
                seed=b"",
                include_io=True,
                counts=hardened(float(rule.partition("@")[2]), [artifact]),
            )
            return plan.tier_of[0]
    found = {n: np.zeros(len(v), np.uint8) for n, v in state.items() if n.endswith("weight") and v.dim() > 1}
    for part in rule.split("+"):
        pattern, _, rest = part.partition("@")
        fraction, _, rank = rest.partition(":")
        for name, map_ in found.items():
            if not fnmatch.fnmatchcase(name.removesuffix(".weight"), pattern):
                continue
            scores = state[name].abs().flatten(1).sum(1).numpy()
            if rank == "last":
                scores = np.arange(len(map_), dtype=np.float32)
            if rank == "random":
                scores = np.random.default_rng(len(name)).permutation(scores)
            count = min(round(float(fraction or 1) * len(map_)), len(map_) - 1)
            map_[np.argsort(-scores, kind="stable")[:count]] = 1
    return found


def by_sensitivity(name: PresetName, module: nn.Module, example: torch.Tensor, scratch: Path) -> TieredModel:
    """Lock by one of the presets that measure, as `corelocker lock --preset` does."""
    chosen = preset(name)
    artifact = open_state(plain_state(module), scratch)
    edges = frozenset() if chosen.include_io else artifact.inputs | artifact.outputs
    costs = {t.name: sum(p.size for p in t.parts) / t.channels for t in artifact.tensors if t.name not in edges}
    ranking = rank(module, synthesize(module, (example,)), costs, chosen.fill, seed=b"rank")
    scorer = SensitivityScorer(module, (example,), fill=chosen.fill)
    scorer.ranking = ranking
    removed = chosen.removed or scorer.fraction_to_collapse(chosen.margin or 1.0)
    return lock_model(
        module,
        tiers=f"free={removed},full=0",
        criterion=chosen.criterion,
        scope=chosen.scope,
        fill=chosen.fill,
        include_io=chosen.include_io,
        scores=ranking.scores,
    )


def subject(
    net: str, folder: Path, images: int, work: Path, rotations: bool = False
) -> tuple[nn.Module, list[DataSet], TrainingRecipe]:
    """A trained network, a tenth of its training data and test images, and how an attacker trains it."""
    if net == "demo":
        from tools.demo_model.fashion_mobilenet import trained

        sets = [
            _pictures(folder, "fashion-mnist/train", 6000, net),
            _pictures(folder, "fashion-mnist/test", images, net),
        ]
        return trained()[0], sets, RECIPE
    test = _pictures(folder, "cifar10/test", images, net)
    if net in small_nets.NETS:
        recipe = small_nets.NETS[net][1]
        whole, epochs = _pictures(folder, "cifar10/train10k", 10000, net), small_nets.OWNER_EPOCHS
        part = whole.take(slice(1000))
        if rotations:
            recipe, epochs = replace(recipe, augmentation="shift", epochs=recipe.epochs // 4), epochs // 2
            whole, part, test = (small_nets.turned(data) for data in (whole, part, test))
        return small_nets.trained(net, whole, replace(recipe, epochs=epochs), work), [part, test], recipe
    part = _pictures(folder, "cifar10/train10k", 5000, net)
    return load(folder / "checkpoints" / CHECKPOINTS[net]), [part, test], RECIPE


def _pictures(folder: Path, name: str, count: int, net: str) -> DataSet:
    with np.load(folder / f"{name}.npz") as file:
        picked = np.random.default_rng(0).permutation(len(file["y"]))[:count] if net == "demo" else slice(count)
        x, y = torch.from_numpy(file["x"][picked]), torch.from_numpy(file["y"][picked]).long()
    return DataSet(name, x[:, None].float() / 255 if net == "demo" else normalize(x), y)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--net", default="20", choices=[*CHECKPOINTS, "demo", *small_nets.NETS])
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--rotations", action="store_true", help="40 classes; networks that are trained here only")
    parser.add_argument("--consumers", action="store_true", help="with what reads the locked channels; along the graph")
    parser.add_argument("--graph", action="store_true", help="cover the network as an exported program's graph has it")
    parser.add_argument(
        "--anew", default="known,known-readers", help="what is drawn anew: locked channels, their readers too"
    )
    parser.add_argument("--reach", default="all,mostly-locked")
    parser.add_argument("--rates", help="peak learning rates; attacker and baseline both try each and keep the best")
    parser.add_argument(
        "--seed", type=int, default=0, help="of what is drawn anew, of the order of the images, of the baseline"
    )
    parser.add_argument("rules", nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    module, sets, recipe = subject(options.net, options.data, options.images, options.work, options.rotations)
    if options.rates:
        recipe = replace(recipe, learning_rates=tuple(float(rate) for rate in options.rates.split(",")))
    graph = trace_graph(module, (sets[1].x[:1],)) if options.consumers or options.graph else None
    target = ROOT / "docs" / "data" / "hardened.json"
    for rule in options.rules:
        if rule in ("minimal", "balanced"):
            locked = by_sensitivity(rule, module, sets[1].x[:1], options.work / f"{options.net}-{rule}.scratch")
        else:
            plan = tiers_of(rule, module.state_dict(), graph)
            locked = lock_model(module, tiers="free=0.5,full=0", tier_of=plan, consumers=options.consumers, graph=graph)
        budget = replace(FULL, recipe=recipe)
        bench = AttackBench(AttackTarget.of(module, locked, *sets), budget, options.seed, options.work)
        for knowledge, reach in VARIANTS:
            if knowledge not in options.anew.split(",") or reach not in options.reach.split(","):
                continue
            result = fine_tune(bench, 1.0, knowledge, reach)
            row = {
                "network": options.net + ("-rotations" if options.rotations else ""), "rule": rule, "consumers": options.consumers,
                "along": "names" if graph is None else "graph",
                "input_layer": rule.startswith("hardened@"), "anew": knowledge, "reach": reach,
                "key": round(100 * locked.shipped.locked_fraction, 2), "key_bytes": locked.shipped.locked_bytes,
                "test_images": options.images, "seed": options.seed,
                "learning_rates": {
                    "attacker": result.details["by_learning_rate"],
                    "scratch": bench.trained(bench.fresh(), bench.samples(1.0))[1],
                },
                "scratch": _points(result.baseline or 0.0), "locked": _points(result.locked),
                "recovered": _points(result.recovered), "original": _points(result.original),
                "leaked": _points(result.leaked or 0.0),
            }  # fmt: skip
            print(json.dumps(row), flush=True)
            rows = json.loads(target.read_bytes()) if target.exists() else []
            what = ("network", "rule", "consumers", "along", "input_layer", "anew", "reach", "test_images", "seed")
            rows = [r for r in rows if any(r.get(key) != row[key] for key in what)]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps([*rows, row], indent=1) + "\n")


def _points(value: float) -> float:
    return round(100 * value, 2)


if __name__ == "__main__":
    main()
