"""What an attacker regains of a model whose weights all lack their signs.

    python tools/research/sign_lock.py --data FOLDER --work FOLDER [--net NET ...] [--seed SEED ...]
    python tools/research/sign_lock.py --table

NET is a public ResNet-20 for CIFAR-10 or CIFAR-100, whose attacker has 5,000 images, or one of tools/research/small_nets.py, which
is trained first on 10,000 images of CIFAR-10 and whose attacker has 1,000 of them. Seed 0 screens: every attack and training from
scratch run at several peak rates in a short training; a thousand images that are not test images choose each side's rate. Then the
strongest training from scratch and the two strongest attacks are repeated with every seed in a long one: the short training tells
who starts nearer, the long one who arrives. Seed 0 tries the two best rates of each, other seeds the better of them. The seed
draws masks, fresh weights and the order of images.

Each finished training is a row of docs/data/sign_lock.json; a run that is started again goes on with what is missing.
--table prints what each side reaches, the share of the gap regained for each network and seed, and its mean over the seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "sdk" / "python")]

from corelocker.audit.attacks import FULL, AttackBench, AttackTarget, fine_tune  # noqa: E402
from corelocker.audit.attacks.signs import train_signs  # noqa: E402
from corelocker.audit.data import DataSet  # noqa: E402
from corelocker.audit.models import lock_model  # noqa: E402
from corelocker.audit.training import TrainingRecipe  # noqa: E402

from tools.research import small_nets  # noqa: E402
from tools.research.resnet_cifar import CIFAR100, load, load_wide, normalize  # noqa: E402

Row = dict[str, Any]

ROWS = ROOT / "docs" / "data" / "sign_lock.json"
# In float32 also where bfloat16 is faster: rows of several machines are compared.
RESNET = TrainingRecipe(epochs=3, batch=64, learning_rates=(0.1, 0.03, 0.01), augmentation="shift-flip")
RESNET_EPOCHS = 30  # of what is repeated, over five thousand images
SCREENING_EPOCHS, EPOCHS = 40, 120  # over a thousand images
VIT_SCREENING_EPOCHS = 20
SCREENING = 0  # the seed that runs everything
SCRATCH = "scratch"
SCRATCH_NARROW = "scratch-narrow"  # weights a third as wide, as tuned weights are
SCRATCH_SOFT = "scratch-signs-soft"  # what training signs softly is worth where nothing is known
CONFIRMED, RATES = 2, 2  # attacks that are repeated, and rates of each with the screening seed
VALIDATION = 1000  # images that choose the rate


@dataclass(frozen=True)
class Subject:
    """A trained network, the attacker's data, validation and test images, and how both sides train.

    Attributes:
        epochs: of the trainings that are repeated; the recipe has those of the screening.
    """

    module: nn.Module
    train: DataSet
    validation: DataSet
    test: DataSet
    recipe: TrainingRecipe
    epochs: int


class SplitBench(AttackBench):
    """A bench that remembers (validation, test) accuracy of the last model that it measured, and trains no baseline of its own."""

    def __init__(self, target: AttackTarget, validation: DataSet, recipe: TrainingRecipe, seed: int) -> None:
        self.tested, self.validation = target, replace(target, test=validation)
        self.last = (0.0, 0.0)
        super().__init__(target, replace(FULL, recipe=recipe, share=1.0), seed)

    def at(self, rate: float) -> SplitBench:
        """This bench with the locked network, for an attack at one peak rate."""
        self.target = self.tested
        self.budget = replace(self.budget, recipe=replace(self.budget.recipe, learning_rates=(rate,)))
        return self

    def measure(self, module: nn.Module) -> float:
        tested = super().measure(module)
        target, self.target = self.target, self.validation
        self.last = (super().measure(module), tested)
        self.target = target
        return tested

    def of(self, state: Mapping[str, torch.Tensor]) -> AttackBench:
        """This bench for a network in that state, which the next attack starts from."""
        self.target = replace(self.target, state=state)
        return self

    def scratch(self, data: DataSet) -> float:
        return 0.0


def _narrow(bench: SplitBench) -> dict[str, torch.Tensor]:
    """Fresh weights a third as wide."""
    return {name: value / 3 if value.dim() > 1 else value for name, value in bench.fresh().items()}


def _shuffled(bench: SplitBench) -> dict[str, torch.Tensor]:
    """The locked network with the weights of each layer in another order: what tuning makes of their distribution alone."""
    generator = torch.Generator().manual_seed(bench.seed)
    state = {name: value.clone() for name, value in bench.target.state.items()}
    for name in bench.target.elements:
        order = torch.randperm(state[name].numel(), generator=generator)
        state[name] = state[name].flatten()[order].view_as(state[name])
    return state


ATTACKS: dict[str, Callable[[SplitBench], object]] = {
    SCRATCH: lambda bench: bench.trained(bench.fresh(), bench.samples(1.0)),
    SCRATCH_NARROW: lambda bench: bench.trained(_narrow(bench), bench.samples(1.0)),
    "signs-soft": lambda bench: train_signs(bench, "soft"),
    SCRATCH_SOFT: lambda bench: train_signs(bench.of(bench.fresh()), "soft"),
    "tuning": lambda bench: fine_tune(bench, 1.0, "none", "all"),
    "drawn-anew": lambda bench: fine_tune(bench, 1.0, "known", "all"),
    "tuning-shuffled": lambda bench: fine_tune(bench.of(_shuffled(bench)), 1.0, "none", "all"),
    "signs-straight-through": lambda bench: train_signs(bench, "straight-through"),
}
BASELINES = (SCRATCH, SCRATCH_NARROW, SCRATCH_SOFT)  # the best of them is what the attacker has without the file
NETS = ("resnet20-cifar10", "resnet20-cifar100", *small_nets.NETS)


def subject(net: str, folder: Path, work: Path) -> Subject:
    """The network of that name; trained first, and kept in `work`, if it is one of `small_nets`."""
    classes = "cifar100" if net == "resnet20-cifar100" else "cifar10"
    norm = CIFAR100 if classes == "cifar100" else ()

    def images(kind: str) -> DataSet:
        with np.load(folder / classes / f"{kind}.npz") as file:
            return DataSet(kind, normalize(torch.from_numpy(file["x"]), *norm), torch.from_numpy(file["y"]).long())

    owner, held = images("train10k"), images("test")
    validation, test = held.take(slice(VALIDATION)), held.take(slice(VALIDATION, None))
    if net == "resnet20-cifar10":
        model: nn.Module = load(folder / "checkpoints" / "resnet20-12fca82f.th")
        return Subject(model, owner.take(slice(5000)), validation, test, RESNET, RESNET_EPOCHS)
    if net == "resnet20-cifar100":
        model = load_wide(folder / "checkpoints" / "resnet20_cifar100.pth")
        return Subject(model, owner.take(slice(5000)), validation, test, RESNET, RESNET_EPOCHS)
    recipe = small_nets.NETS[net][1]
    model = small_nets.trained(net, owner, replace(recipe, epochs=small_nets.OWNER_EPOCHS), work)
    rates = (0.003, 0.001, 0.0003) if recipe.optimizer == "adamw" else (0.3, 0.1, 0.03)
    screening = VIT_SCREENING_EPOCHS if net == "vit" else SCREENING_EPOCHS
    attacker = replace(recipe, epochs=screening, learning_rates=rates)
    return Subject(model, owner.take(slice(1000)), validation, test, attacker, EPOCHS)


def run(net: str, seed: int, folder: Path, work: Path) -> None:
    """All trainings of one network and seed that have no row yet.

    Raises:
        SystemExit: seed 0, which chooses attacks and rates for the others, is not finished.
    """
    prepared = subject(net, folder, work)
    rates = prepared.recipe.learning_rates
    screening = [(SCRATCH, round(3 * rates[0], 4)), *((attack, rate) for attack in ATTACKS for rate in rates)]
    if seed == SCREENING:
        _train(net, seed, prepared, screening)
    elif _missing(net, SCREENING, prepared.recipe.epochs, screening):
        raise SystemExit(f"{net}: run seed {SCREENING} first; it chooses the attacks and rates of the other seeds")
    strongest = _strongest(net, prepared.recipe.epochs)
    repeated = replace(prepared, recipe=replace(prepared.recipe, epochs=prepared.epochs))
    _train(net, SCREENING, repeated, [(attack, rate) for attack, best in strongest.items() for rate in best])
    if seed != SCREENING:
        chosen = _chosen(_rows(net, SCREENING, prepared.epochs))
        _train(net, seed, repeated, [(attack, chosen[attack]["rate"]) for attack in strongest])


def _missing(net: str, seed: int, epochs: int, planned: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Those of the planned (attack, rate) that have no row yet."""
    found = {(r["attack"], r["rate"]) for r in _rows(net, seed, epochs)}
    return [pair for pair in planned if pair not in found]


def _train(net: str, seed: int, prepared: Subject, planned: Sequence[tuple[str, float]]) -> None:
    """Train those of the planned (attack, rate) that have no row yet."""
    epochs = prepared.recipe.epochs
    missing = _missing(net, seed, epochs, planned)
    if not missing:
        return
    locked = lock_model(prepared.module, tiers="free=1,full=0", unit="sign", include_io=True, seed=f"signs {seed}")
    target = AttackTarget.of(prepared.module, locked, prepared.train, prepared.test)
    bench = SplitBench(target, prepared.validation, prepared.recipe, seed)
    for attack, rate in missing:
        started = time.process_time()
        ATTACKS[attack](bench.at(rate))
        row = {
            "net": net, "seed": seed, "attack": attack, "rate": rate, "validation": round(bench.last[0], 4),
            "test": round(bench.last[1], 4), "locked": round(bench.locked, 4), "original": round(bench.original, 4),
            "key": round(locked.shipped.locked_fraction, 5), "epochs": epochs,
            "images": len(prepared.train), "cpu_seconds": round(time.process_time() - started),
        }  # fmt: skip
        print(json.dumps(row), flush=True)
        _keep(row)


def _all_rows() -> list[Row]:
    rows: list[Row] = json.loads(ROWS.read_bytes()) if ROWS.exists() else []
    return rows


def _rows(net: str, seed: int, epochs: int) -> list[Row]:
    return [r for r in _all_rows() if (r["net"], r["seed"], r["epochs"]) == (net, seed, epochs)]


def _keep(row: Row) -> None:
    text = ",\n".join(json.dumps(r) for r in [*_all_rows(), row])
    ROWS.write_text(f"[\n{text}\n]\n")


def _chosen(rows: Sequence[Row]) -> dict[str, Row]:
    """For each attack the row whose rate the validation images chose."""
    return {
        a: max((r for r in rows if r["attack"] == a), key=_validation) for a in dict.fromkeys(r["attack"] for r in rows)
    }


def _strongest(net: str, epochs: int) -> dict[str, list[float]]:
    """The best training from scratch and the best attacks of the screening, with the best rates of each."""
    rows = _rows(net, SCREENING, epochs)
    best = sorted(_chosen(rows).values(), key=_validation, reverse=True)
    baselines = [r["attack"] for r in best if r["attack"] in BASELINES]
    attacks = [r["attack"] for r in best if r["attack"] not in BASELINES]
    names = baselines[:1] + attacks[:CONFIRMED]
    return {
        name: [
            r["rate"] for r in sorted((r for r in rows if r["attack"] == name), key=_validation, reverse=True)[:RATES]
        ]
        for name in names
    }


def _validation(row: Row) -> float:
    return float(row["validation"])


def table() -> None:
    """For each network what each side reaches, by epochs and seed, and the mean share of the gap that each attack regains."""
    rows = _all_rows()
    for net, epochs in dict.fromkeys((r["net"], r["epochs"]) for r in rows):
        shares: dict[str, list[float]] = {}
        for seed in sorted({r["seed"] for r in rows if (r["net"], r["epochs"]) == (net, epochs)}):
            chosen = _chosen(_rows(net, seed, epochs))
            scratch = max((row for a, row in chosen.items() if a in BASELINES), key=_validation, default=None)
            first = next(iter(chosen.values()))
            print(
                f"{net}, seed {seed}: original {first['original']:.2%}, locked {first['locked']:.2%}, key {first['key']:.2%}, "
                f"{first['images']} images, {epochs} epochs"
            )
            for attack, row in chosen.items():
                line = f"  {attack:24} {row['test']:.2%} at rate {row['rate']:g}"
                if scratch is not None and attack not in BASELINES:
                    share = (row["test"] - scratch["test"]) / (row["original"] - scratch["test"])
                    shares.setdefault(attack, []).append(share)
                    line += f", share of the gap {share:+.3f}"
                print(line)
        for attack, found in shares.items():
            if len(found) > 1:
                error = float(np.std(found, ddof=1)) / len(found) ** 0.5
                print(f"  mean of {len(found)} seeds: {attack:24} {np.mean(found):+.3f}, standard error {error:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder with checkpoints, cifar10 and cifar100")
    parser.add_argument("--work", type=Path, help="where networks that are trained here are kept")
    parser.add_argument("--net", nargs="+", default=list(NETS), choices=NETS)
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--table", action="store_true", help="print what was found so far")
    options = parser.parse_args()
    if options.table:
        return table()
    if options.data is None or options.work is None:
        parser.error("--data and --work are needed")
    torch.set_num_threads(1)
    for seed in options.seed:
        for net in options.net:
            run(net, seed, options.data, options.work)
    return None


if __name__ == "__main__":
    main()
