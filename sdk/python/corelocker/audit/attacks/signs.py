"""Attacks on locks by sign: the attacker knows every magnitude and looks for the signs.

With labels the signs are trained: softly, where a weight is its magnitude times a number between -1 and 1 (tanh, as in continuous
relaxations of binary networks), and straight through, where it is its magnitude times the sign of a trained number (Bengio et al.
2013). Without labels they are sought by what first layers of vision models are known to be: smooth filters whose outputs have the
mean and variance that the BatchNorm behind them holds.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from corelocker.audit import need
from corelocker.audit.attacks.bench import SCRATCH, AttackBench, percent, state_digest
from corelocker.audit.results import AttackResult
from corelocker.audit.training import train

if TYPE_CHECKING:
    from torch import Tensor, nn

Floats = npt.NDArray[np.float64]
Cost = Callable[[Floats], float]

WIDTH = 0.5  # deviation of the numbers that signs are trained from
SPEED = 10.0  # times the learning rate, for these numbers: tanh and sign are flat
SWEEPS = 4  # over all weights of a filter
STARTS = 8  # of a search; the best counts


def train_signs(bench: AttackBench, how: str) -> AttackResult:
    """Train the signs with the magnitudes as they are.

    Args:
        how: "soft" or "straight-through".
    """
    started = time.monotonic()
    data = bench.samples(bench.budget.share)
    names = [name for name in bench.target.channels if name in bench.target.elements]
    rates = {}
    for rate in bench.budget.recipe.learning_rates:
        inputs = ["signs", how, state_digest(bench.target.state), sorted(names), data.digest(), rate]
        inputs.append(repr(bench.budget.recipe))

        def run(rate: float = rate) -> dict[str, Any]:
            module = bench.module(bench.target.state)
            _free_signs(module, bench, names, how)
            train(module, data, bench.budget.recipe, rate, bench.seed)
            return {"utility": bench.measure(module.eval())}

        rates[str(rate)] = float(bench.cached(inputs, run)["utility"])
    title = {
        "soft": "Signs trained softly",
        "straight-through": "Signs trained straight through",
    }[how]
    return bench.result(
        started, f"signs-{how}", f"{title}, all magnitudes known, with {percent(bench.budget.share)} of the training data",
        bench.spent(bench.budget.share, data), bench.best(list(rates.values())), baseline=bench.scratch(data),
        baseline_name=SCRATCH, details={"by_learning_rate": rates},
    )  # fmt: skip


def _free_signs(module: nn.Module, bench: AttackBench, names: list[str], how: str) -> None:
    """Make the locked weights magnitudes times something that can be trained."""
    torch = need("torch")
    parametrize = need("torch.nn.utils.parametrize")

    class Straight(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(context: Any, value: Tensor) -> Tensor:
            context.save_for_backward(value)
            return torch.where(value >= 0, 1.0, -1.0).to(value.dtype)

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> Tensor:
            (value,) = context.saved_tensors
            return gradient * (value.abs() <= 1)

    class Signed(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, magnitude: Tensor, locked: Tensor, known: Tensor) -> None:
            super().__init__()
            self.register_buffer("magnitude", magnitude)
            self.register_buffer("locked", locked)
            self.register_buffer("known", known)

        def forward(self, free: Tensor) -> Tensor:
            scaled = free * SPEED
            sign = torch.tanh(scaled) if how == "soft" else Straight.apply(scaled)
            return torch.where(self.locked, self.magnitude * sign, self.known)

    generator = torch.Generator().manual_seed(bench.seed)
    for name in names:
        path, _, member = name.rpartition(".")
        owner = module.get_submodule(path)
        weight = getattr(owner, member).detach().clone()
        locked = torch.from_numpy(np.ascontiguousarray(bench.target.elements[name]))
        parametrize.register_parametrization(owner, member, Signed(weight.abs(), locked, weight), unsafe=True)
        drawn = torch.randn(weight.shape, generator=generator) * WIDTH / SPEED
        with torch.no_grad():
            owner.parametrizations[member].original.copy_(drawn.to(weight.dtype))


def search_first_layer(bench: AttackBench) -> list[AttackResult]:
    """Look for the signs of the first convolution without labels: by smoothness, and by the BatchNorm behind it.

    The result says how many of its signs were found (as an AUC says it: 0.5 is a blind guess, up to the sign of a whole filter for
    smoothness), and what the model is worth with them.
    """
    name = first_convolution(bench)
    if name is None:
        return []
    inputs = [
        "signs-first-layer", name, state_digest(bench.target.state), state_digest(bench.target.original),
        hashlib.sha256(np.packbits(bench.target.elements[name]).tobytes()).hexdigest(), bench.samples(bench.budget.share).digest(),
    ]  # fmt: skip
    found = bench.cached(inputs, lambda: {"results": [result.to_json() for result in _searches(bench, name)]})
    return [AttackResult.from_json(result) for result in found["results"]]


def _searches(bench: AttackBench, name: str) -> list[AttackResult]:
    weight = bench.target.state[name].detach().double().numpy()
    truth = bench.target.original[name].detach().double().numpy()
    locked = bench.target.elements[name]
    found = {}
    if min(weight.shape[2:]) >= 3:
        found["smoothness"] = np.stack([_smoothest(w, m, bench.seed) for w, m in zip(weight, locked, strict=True)])
    statistics = _statistics_behind(bench, name)
    if statistics is not None:
        found["batchnorm"] = _fitted(bench, name, weight, locked, statistics)
    return [_searched(bench, name, how, signs, truth, locked) for how, signs in found.items()]


def first_convolution(bench: AttackBench) -> str | None:
    """The weight of the first convolution that the module runs, if it is locked."""
    torch = need("torch")
    order: list[str] = []
    module = bench.module(bench.target.state)
    hooks = [
        part.register_forward_hook(lambda *_, at=f"{path}.weight": order.append(at))
        for path, part in module.named_modules()
        if isinstance(part, torch.nn.Conv2d)
    ]
    with torch.no_grad():
        module(bench.target.train.x[:2])
    for hook in hooks:
        hook.remove()
    return order[0] if order and order[0] in bench.target.elements else None


def _searched(
    bench: AttackBench, name: str, how: str, found: Floats, truth: Floats, locked: npt.NDArray[np.bool_]
) -> AttackResult:
    torch = need("torch")
    started = time.monotonic()
    same = (np.sign(found) == np.sign(truth)) & locked & (truth != 0)
    counted = locked & (truth != 0)
    shares = np.array([s.sum() / max(1, c.sum()) for s, c in zip(same, counted, strict=True)])
    right = float(np.maximum(shares, 1 - shares).mean() if how == "smoothness" else shares.mean())
    blind = _blind_guess(counted) if how == "smoothness" else 0.5
    state = dict(bench.target.state) | {name: torch.from_numpy(found).to(bench.target.state[name].dtype)}
    words = {"smoothness": "smooth filters", "batchnorm": "the BatchNorm behind it"}[how]
    return bench.result(
        started, f"signs-{how}", f"Signs of the first layer by {words}, without labels",
        {"data": 0.0, "samples": 0, "labels": 0.0}, bench.value(state), baseline=bench.locked,
        baseline_name="the locked model as it ships", details={"signs_found": right, "blind_guess": blind, "layer": name},
    )  # fmt: skip


def _blind_guess(counted: npt.NDArray[np.bool_]) -> float:
    """What share of the signs a guess gets where a whole filter may be turned: the larger of both sides of a coin's tosses."""
    tosses = np.random.default_rng(0)
    shares = [tosses.binomial(int(c.sum()), 0.5, 200) / max(1, int(c.sum())) for c in counted]
    return float(np.mean([np.maximum(s, 1 - s).mean() for s in shares]))


def _smoothest(weight: Floats, locked: npt.NDArray[np.bool_], seed: int) -> Floats:
    """The signs of one filter (inputs, height, width) with the least squared differences between neighbors."""

    def rough(values: Floats) -> float:
        filter_ = values.reshape(weight.shape)
        return float((np.diff(filter_, axis=1) ** 2).sum() + (np.diff(filter_, axis=2) ** 2).sum())

    return _descended(weight, locked, rough, seed)


def _descended(weight: Floats, locked: npt.NDArray[np.bool_], cost: Cost, seed: int) -> Floats:
    """The signs with the least cost, by turning one after the other from several starts."""
    random = np.random.default_rng(seed)
    free = np.flatnonzero(locked.reshape(-1))
    best, least = weight.reshape(-1).copy(), np.inf
    for _ in range(STARTS):
        values = weight.reshape(-1).copy()
        values[free] *= random.choice([-1.0, 1.0], free.size)
        reached = cost(values)
        for _ in range(SWEEPS):
            before = reached
            for at in random.permutation(free):
                values[at] = -values[at]
                turned = cost(values)
                if turned < reached:
                    reached = turned
                else:
                    values[at] = -values[at]
            if reached >= before:
                break
        if reached < least:
            best, least = values, reached
    return best.reshape(weight.shape)


def _statistics_behind(bench: AttackBench, name: str) -> tuple[Floats, Floats] | None:
    """Mean and variance that the BatchNorm behind a convolution holds; None where none is recognized or it is locked too."""
    torch = need("torch")
    module = bench.module(bench.target.state)
    parts = list(module.named_modules())
    at = next(i for i, (path, _) in enumerate(parts) if f"{path}.weight" == name)
    behind = next(((p, m) for p, m in parts[at + 1 :] if not list(m.children())), None)
    if behind is None or not isinstance(behind[1], torch.nn.BatchNorm2d):
        return None
    mean, variance = (bench.target.state.get(f"{behind[0]}.{n}") for n in ("running_mean", "running_var"))
    if mean is None or variance is None or f"{behind[0]}.running_mean" in bench.target.elements:
        return None
    return mean.double().numpy(), variance.double().numpy()


def _fitted(
    bench: AttackBench, name: str, weight: Floats, locked: npt.NDArray[np.bool_], statistics: tuple[Floats, Floats]
) -> Floats:
    """The signs of each filter whose outputs on the attacker's inputs have the mean and the variance of the BatchNorm."""
    mean, moments = _patches(bench, name)
    wanted_mean, wanted_variance = statistics
    bias = bench.target.state.get(name.removesuffix("weight") + "bias")
    shift = np.zeros(len(weight)) if bias is None else bias.double().numpy()

    def fit(filter_: int) -> Cost:
        deviation = float(np.sqrt(max(wanted_variance[filter_], 1e-12)))

        def cost(values: Floats) -> float:
            got_mean = values @ mean + shift[filter_]
            got_variance = max(float(values @ moments @ values), 1e-12)
            return float(
                ((got_mean - wanted_mean[filter_]) / deviation) ** 2
                + np.log(got_variance / max(wanted_variance[filter_], 1e-12)) ** 2
            )

        return cost

    return np.stack([_descended(w, locked[i], fit(i), bench.seed) for i, w in enumerate(weight)])


def _patches(bench: AttackBench, name: str) -> tuple[Floats, Floats]:
    """Mean and covariance of what a filter of the layer sees, from the attacker's inputs without labels."""
    torch = need("torch")
    layer = bench.module(bench.target.state).get_submodule(name.removesuffix(".weight"))
    x = bench.samples(bench.budget.share).x[:256].double()
    columns = torch.nn.functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    rows = columns.transpose(1, 2).reshape(-1, columns.shape[1]).numpy()
    rows = rows[:: max(1, len(rows) // 20_000), : int(np.prod(layer.weight.shape[1:]))]
    return rows.mean(axis=0), np.cov(rows, rowvar=False)


def base_signs(bench: AttackBench) -> list[AttackResult]:
    """Put the signs of the public checkpoint that the model was tuned from before the shipped magnitudes; then tune."""
    started = time.monotonic()
    base = bench.target.base or {}
    state, agreeing, counted = _with_signs_of(base, bench)
    fresh = bench.fresh()
    start = fresh | {n: v for n, v in base.items() if n in fresh and v.shape == fresh[n].shape}
    first = bench.result(
        started, "signs-base", "Signs of the public base checkpoint before the shipped magnitudes, without labels",
        {"data": 0.0, "samples": 0, "labels": 0.0}, bench.value(state), baseline=bench.value(start),
        baseline_name="the base checkpoint alone", details={"signs_that_agree": agreeing / max(1, counted)},
    )  # fmt: skip
    if not bench.trainable:
        return [first]
    started = time.monotonic()
    data = bench.samples(bench.budget.share)
    recovered, rates = bench.trained(state, data)
    return [
        first,
        bench.result(
            started, "signs-base-fine-tune", f"Signs of the public base, then {percent(bench.budget.share)} of the training data",
            bench.spent(bench.budget.share, data), recovered, baseline=bench.trained(start, data)[0],
            baseline_name="the base checkpoint tuned with the same data and budget", details={"by_learning_rate": rates},
        ),
    ]  # fmt: skip


def _with_signs_of(base: Mapping[str, Tensor], bench: AttackBench) -> tuple[dict[str, Tensor], int, int]:
    """(the shipped state with the base's signs, how many of them are the original's, of how many)."""
    torch = need("torch")
    state = {name: value.clone() for name, value in bench.target.state.items()}
    agreeing = counted = 0
    for name, mask in bench.target.elements.items():
        if name not in base or base[name].shape != state[name].shape:
            continue
        where = torch.from_numpy(np.ascontiguousarray(mask))
        signed = torch.copysign(state[name].abs(), base[name].to(state[name].dtype))
        state[name][where] = signed[where]
        counted += int(where.sum())
        agreeing += int((torch.sign(signed) == torch.sign(bench.target.original[name]))[where].sum())
    return state, agreeing, counted
