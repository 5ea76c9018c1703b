"""Reproduce the tables of the CoreLocker paper (IEEE S&P 2024) on what is available here.

    python tools/reproduce_paper.py --data FOLDER --work FOLDER [--only checkpoints,fashion,attacks]
        [--networks VGG,ResNet,DenseNet] [--epochs N] [--images N] [--threads N]

FOLDER of --data holds checkpoints/resnet{20,32,56}-*.th, cifar10/{train10k,test}.npz and fashion-mnist/{train,test}.npz. Every
finished number is kept in --work/results-<images>.json, and a later call goes on from there. Writes docs/data/reproduction.json and
docs/reproduction.md. On one core of a current server with 10 epochs: checkpoints half an hour, fashion about six hours, attacks
about eight.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors.torch import load_file, save_file
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "sdk" / "python")]

from corelocker.audit.attacks import (  # noqa: E402  # noqa: E402
    FULL,
    AttackBench,
    AttackTarget,
    fine_tune,
    prune,
)
from corelocker.audit.data import DataSet, load_metric  # noqa: E402
from corelocker.audit.evaluators import measure_module  # noqa: E402
from corelocker.audit.models import lock_model  # noqa: E402
from corelocker.audit.training import TrainingRecipe, seeded, train  # noqa: E402

from tools.research.fashion_nets import NETS  # noqa: E402
from tools.research.resnet_cifar import BFLOAT16, load, normalize  # noqa: E402

CHECKPOINTS = {
    "ResNet-20": "resnet20-12fca82f.th",
    "ResNet-32": "resnet32-d509ac18.th",
    "ResNet-56": "resnet56-4bfd9763.th",
}
PARTIAL = (0.0005, 0.0025, 0.005, 0.0075, 0.01)
REMOVED = (0.05, 0.1)
RANDOM_SEEDS = ("1", "2", "3")
ATTACKS = {
    "fine-tune": "fine-tuning, 10 % of the data, location {}",
    "pruning": "pruning the smallest {} of the weights",
}
TOP1 = load_metric("top-1")
PAPER = {
    "table": {
        "Fashion-MNIST": {"original": [94.62, 94.88, 93.50], "random": [91.17, 88.24, 82.30], "l1": [10.01, 10.00, 9.72],
                          "bn-scale": [10.00, 10.01, 10.00]},
        "CIFAR-10": {"original": [94.04, 94.71, 93.52], "random": [87.41, 85.23, 88.31], "l1": [10.00, 10.01, 10.11],
                     "bn-scale": [10.03, 10.00, 10.00]},
    },
    "networks": ["Dense-40", "Res-164", "VGG-19"],
    "partial": {"0.0005": 73.3, "0.0025": 63.1, "0.005": 51.9, "0.0075": 32.0, "0.01": 24.4},
    "fine-tuning, 10 % of the data": [33.9, 35.1, 39.5],
}  # fmt: skip


class Notebook:
    """Numbers by name, kept in a file after each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.numbers: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """The number under that name, computed when it is not there yet."""
        if name not in self.numbers:
            self.numbers[name] = compute()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._path.with_suffix(".tmp")
            scratch.write_text(json.dumps(self.numbers, indent=1))
            scratch.replace(self._path)
        return self.numbers[name]


def top1(module: nn.Module, data: DataSet) -> list[float]:
    """Top-1 in percent with its 95 % interval: [value, low, high]."""
    found = TOP1.interval(measure_module(module, data, TOP1))
    return [round(100 * v, 2) for v in (found.value, found.low, found.high)]


def removals(module: nn.Module, data: DataSet) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The paper's removal tables of one network: channels set to zero, nothing retrained; beside them the product's decoys."""

    def measure(
        criterion: str, scope: str, removed: float, seed: str = "paper", fill: Literal["zero", "decoy"] = "zero"
    ) -> dict[str, Any]:
        locked = lock_model(
            module,
            tiers=f"free={removed},full=0",
            criterion=criterion,
            scope=scope,
            fill=fill,
            seed=seed,  # type: ignore[arg-type]
        )
        copy = load_into(module, locked.shipped.state)
        return {"top1": top1(copy, data), "key": round(100 * locked.shipped.locked_fraction, 3)}

    yield "original", lambda: {"top1": top1(module, data), "key": 0.0}
    for removed in REMOVED:
        for criterion, scope in (("l1", "layer"), ("l1", "global"), ("bn-scale", "global"), ("bn-scale", "layer")):
            yield (
                f"{criterion}/{scope}/{removed}",
                lambda c=criterion, s=scope, r=removed: measure(c, s, r),  # type: ignore[misc]
            )
        yield f"l1/decoy/{removed}", lambda r=removed: measure("l1", "layer", r, fill="decoy")  # type: ignore[misc]
        for seed in RANDOM_SEEDS:
            yield f"random/{removed}/{seed}", lambda r=removed, s=seed: measure("random", "layer", r, s)  # type: ignore[misc]
    for removed in PARTIAL:
        yield f"bn-scale/global/{removed}", lambda r=removed: measure("bn-scale", "global", r)  # type: ignore[misc]


def load_into(module: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    """A copy of the module with this state."""
    from copy import deepcopy

    copy = deepcopy(module)
    copy.load_state_dict(state)
    return copy.eval()


def cifar(folder: Path, images: int) -> tuple[DataSet, DataSet]:
    """(10,000 training images, test images)."""
    sets = []
    for name, count in (("train10k", 10_000), ("test", images)):
        with np.load(folder / "cifar10" / f"{name}.npz") as file:
            x, y = file["x"][:count], file["y"][:count]
        sets.append(DataSet(f"CIFAR-10 {name}", normalize(torch.from_numpy(x)), torch.from_numpy(y)))
    return sets[0], sets[1]


def fashion(folder: Path, images: int) -> tuple[DataSet, DataSet]:
    """(60,000 training images, test images) in [0, 1]."""
    sets = []
    for name, count in (("train", 60_000), ("test", images)):
        with np.load(folder / "fashion-mnist" / f"{name}.npz") as file:
            mixed = np.random.default_rng(0).permutation(len(file["y"]))[:count]  # the files are sorted by class
            x, y = file["x"][mixed], file["y"][mixed]
        sets.append(
            DataSet(f"Fashion-MNIST {name}", torch.from_numpy(x)[:, None].float() / 255, torch.from_numpy(y).long())
        )
    return sets[0], sets[1]


def trained(name: str, data: DataSet, epochs: int, work: Path, report: Callable[[int, int], None]) -> nn.Module:
    """A Fashion-MNIST network, trained once and kept in the work folder."""
    path = work / f"fashion-{name.lower()}-{epochs}.safetensors"
    with seeded(0):
        module: nn.Module = NETS[name]()
    if not path.exists():
        train(
            module,
            data,
            TrainingRecipe(epochs=epochs, batch=128, augmentation="shift-flip", bfloat16=BFLOAT16),
            0.1,
            0,
            progress=report,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({n: v.contiguous() for n, v in module.state_dict().items()}, path)
    module.load_state_dict(load_file(path))
    return module.eval()


def attack_jobs(module: nn.Module, sets: tuple[DataSet, DataSet], work: Path, share: float) -> Iterator[Any]:
    """Fine-tuning and pruning against the paper's lock (l1, 5 %, zero fill); `share` of `sets[0]` is 10 % of all training data."""
    locked = lock_model(module, tiers="free=0.05,full=0", criterion="l1", fill="zero")
    recipe = TrainingRecipe(augmentation="shift-flip", bfloat16=BFLOAT16, learning_rates=(0.05,))
    bench: list[AttackBench] = []

    def ready() -> AttackBench:
        if not bench:
            budget = replace(FULL, recipe=recipe, share=share)
            bench.append(AttackBench(AttackTarget.of(module, locked, *sets), budget, 0, work / "attacks"))
        return bench[0]

    for knowledge, words in (("known", "known"), ("none", "unknown")):
        yield f"fine-tune/{words}", lambda k=knowledge: fine_tune(ready(), share, k, "all").to_json()
    for pruned in (0.2, 0.4):
        yield f"pruning/{pruned}", lambda p=pruned: next(prune(ready(), p)).to_json()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default="checkpoints,fashion,attacks")
    parser.add_argument("--images", type=int, default=10_000, help="test images at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10, help="of training the Fashion-MNIST networks")
    parser.add_argument("--networks", default=",".join(NETS), help="of the Fashion-MNIST networks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    notebook, stages = Notebook(options.work / f"results-{options.images}.json"), options.only.split(",")
    sets = cifar(options.data, options.images)
    jobs: list[tuple[str, Callable[[], Any]]] = []
    if "checkpoints" in stages:
        for name, file in CHECKPOINTS.items():
            module = load(options.data / "checkpoints" / file)
            jobs += [(f"CIFAR-10/{name}/{key}", job) for key, job in removals(module, sets[1])]
    if "attacks" in stages:
        module = load(options.data / "checkpoints" / CHECKPOINTS["ResNet-20"])
        jobs += [(f"CIFAR-10/ResNet-20/attack/{k}", j) for k, j in attack_jobs(module, sets, options.work, 0.5)]
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), transient=False
    ) as bar:
        if "fashion" in stages:
            fashion_sets = fashion(options.data, options.images)
            for name in options.networks.split(","):
                notebook.once(f"epochs/{name}", lambda: options.epochs)
                task = bar.add_task(f"train {name}", total=None)
                module = trained(
                    name,
                    fashion_sets[0],
                    options.epochs,
                    options.work,
                    lambda d, t, i=task: bar.update(i, completed=d, total=t),  # type: ignore[misc]
                )
                jobs += [(f"Fashion-MNIST/{name}/{key}", job) for key, job in removals(module, fashion_sets[1])]
                if "attacks" in stages:
                    jobs += [
                        (f"Fashion-MNIST/{name}/attack/{k}", j)
                        for k, j in attack_jobs(module, fashion_sets, options.work, 0.1)
                    ]
        task = bar.add_task("tables", total=len(jobs))
        for key, job in jobs:
            bar.update(task, description=key)
            notebook.once(key, job)
            bar.advance(task)
    notebook.once("images", lambda: options.images)
    write(notebook.numbers)


def write(numbers: dict[str, Any]) -> None:
    """docs/data/reproduction.json and docs/reproduction.md."""
    document = {"format": "corelocker-reproduction", "torch": torch.__version__, "paper": PAPER, "measured": numbers}
    (ROOT / "docs" / "data").mkdir(parents=True, exist_ok=True)
    (ROOT / "docs" / "data" / "reproduction.json").write_text(json.dumps(document, indent=1) + "\n")
    (ROOT / "docs" / "reproduction.md").write_text(page(numbers))


def page(numbers: dict[str, Any]) -> str:
    """The rendered page."""
    names = sorted({tuple(key.split("/")[:2]) for key in numbers if "/original" in key})
    lines = [
        "# The paper's tables, measured here", "",
        "Made by `tools/reproduce_paper.py`; numbers with their intervals: [data/reproduction.json](data/reproduction.json).",
        "Top-1 in percent; channels are set to zero and nothing is retrained; no input and output layers. In brackets: the share",
        f"of all weights in the access key. At most {numbers.get('images', 'all')} test images.", "",
        "## Removal", "",
        "| data, network | original | random 5 % | l1 5 % | l1 10 % | BN scale 5 % | BN scale 10 % | l1 5 %, decoys |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip

    def cell(prefix: str, key: str) -> str:
        found = numbers.get(f"{prefix}/{key}")
        return "not run" if found is None else f"{found['top1'][0]:.1f} ({found['key']:.1f} %)"

    for pair in names:
        prefix, title = "/".join(pair), ", ".join(pair)
        if f"epochs/{pair[1]}" in numbers and pair[0] == "Fashion-MNIST":
            title += f" ({numbers[f'epochs/{pair[1]}']} epochs)"
        drawn = [numbers[k]["top1"][0] for s in RANDOM_SEEDS if (k := f"{prefix}/random/0.05/{s}") in numbers]
        random = f"{min(drawn):.1f} to {max(drawn):.1f}" if drawn else "not run"
        lines.append(
            f"| {title} | {numbers[f'{prefix}/original']['top1'][0]:.1f} | {random} | "
            + " | ".join(
                cell(prefix, k)
                for k in (
                    "l1/layer/0.05",
                    "l1/layer/0.1",
                    "bn-scale/global/0.05",
                    "bn-scale/global/0.1",
                    "l1/decoy/0.05",
                )
            )
            + " |"
        )
    for data, rows in PAPER["table"].items():  # type: ignore[attr-defined]
        for index, network in enumerate(PAPER["networks"]):
            lines.append(
                f"| *paper:* {data}, {network} | {rows['original'][index]} | {rows['random'][index]} | {rows['l1'][index]} | | "
                f"{rows['bn-scale'][index]} | | |"
            )
    lines += ["", "## Partial utility (BN scale, whole network)", ""]
    lines += ["| data, network | " + " | ".join(f"{100 * r:g} %" for r in PARTIAL) + " |"]
    lines += ["|---" * (len(PARTIAL) + 1) + "|"]
    for pair in names:
        values = [numbers.get(f"{'/'.join(pair)}/bn-scale/global/{r}") for r in PARTIAL]
        if any(values):
            lines.append(
                f"| {', '.join(pair)} | "
                + " | ".join("" if v is None else f"{v['top1'][0]:.1f}" for v in values)
                + " |"
            )
    lines.append("| *paper:* CIFAR-100, Res-164 | " + " | ".join(str(v) for v in PAPER["partial"].values()) + " |")  # type: ignore[attr-defined]
    attacks = {key: value for key, value in numbers.items() if "/attack/" in key}
    if attacks:
        lines += ["", "## Attacks on the paper's lock (l1, 5 % of the channels, zero fill)", ""]
        lines += [
            "| data, network, attack | locked | attacker | training from scratch | original |",
            "|---|---|---|---|---|",
        ]
        for key, value in attacks.items():
            data, network, _, attack, how = key.split("/")
            base = f"{100 * value['baseline']:.1f}" if value["baseline_name"].startswith("training") else "-"
            shown = [f"{100 * value[k]:.1f}" for k in ("locked", "recovered", "original")]
            lines.append(
                f"| {data}, {network}: {ATTACKS[attack].format(how)} | {shown[0]} | {shown[1]} | {base} | {shown[2]} |"
            )
        lines.append(
            "| *paper:* CIFAR-10, Dense-40 / Res-164 / VGG-19: fine-tuning, 10 % of the data | 10.0 | 33.9 / 35.1 / 39.5 | | |"
        )
    return "\n".join([*lines, "", *DIFFERENCES, ""])


DIFFERENCES = [
    "## What differs from the paper, and why", "",
    "- **Random-guess accuracy at 5 % is not reproduced on these networks.** The paper's ResNet-164 drops to 10 %; here a lock of",
    "  5 % by l1 leaves far more, and one by the BN scale over the whole network more still. Two reasons: the networks are",
    "  shallower, and a locked channel is silent: its bias and BatchNorm numbers are zero too, as in the paper's removal of",
    "  feature maps. Where only the filter is zeroed and BatchNorm goes on, the channel gives a constant that no layer expects,",
    "  and the same 5 % leave 20 to 22 % of ResNet-20 and 56.",
    "- No input and output layer is locked, and one channel of each layer stays.",
    "- CIFAR-10 has 9,979 test and 10,000 training images here; 10 % of the training data are 5,000 of these. CIFAR-100, BERT,",
    "  CNN-LSTM and ViT are not reproduced.",
    "- The Fashion-MNIST networks are small members of the paper's families, trained for as few epochs as the table says (the tool",
    "  asks for 10 by itself). On the ResNet, 10 % by BN scale leave a guess, as in the paper; the DenseNet keeps most, since",
    "  later layers read every layer. On Fashion-MNIST training from scratch with 10 % of the data comes so close to the original",
    "  that any lock leaks little. Of the CIFAR-10 checkpoints only ResNet-20 was attacked.",
    "- No attack is as weak here as in the paper: fine-tuning with 10 % of the data brings back 88 to 92 %, with or without",
    "  knowing where the key was. A key of 5 % is a matter of use, not of keeping the weights secret; see the preset `hardened`.",
    "- Attackers: the paper's fine-tuning reaches 33.9 to 39.5 %. An attacker who draws the locked channels anew and trains with a",
    "  one-cycle rate reaches far more (audit.md). The honest yardstick is training from scratch with the same data.",
]  # fmt: skip


if __name__ == "__main__":
    main()
