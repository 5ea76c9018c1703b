"""What a lock may do to a torch module: the layers that it can reach, and what may stand in the place of their channels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Artifact, Part
from corelocker.artifacts.safetensors_header import read_header
from corelocker.artifacts.torch_module import open_state, plain_state
from corelocker.locking.criteria.synthetic import need
from corelocker.locking.drawing import lock_artifacts
from corelocker.locking.options import Fill
from corelocker.locking.plan import Plan, TierMap
from corelocker.locking.tiers import Tier

if TYPE_CHECKING:
    from torch import Tensor, nn

DRAWS = 3  # of decoys


@dataclass(frozen=True)
class LockableLayer:
    """A layer whose channels can be locked.

    Attributes:
        name: of its weight in the state dict.
        channels: how many.
        cost: bytes of the access key for one channel.
        places: tensor of the state dict -> axis of it along which the channels lie.
        changes: for each draw, tensor -> fill less original, in the tensor's shape.
    """

    name: str
    channels: int
    cost: float
    places: dict[str, int]
    changes: list[dict[str, Tensor]] = field(repr=False)


def along(axis: int, dimensions: int) -> list[int]:
    """The shape that spreads one number a channel over a tensor of that many dimensions."""
    return [-1 if a == axis else 1 for a in range(dimensions)]


def fillings(module: nn.Module, costs: Mapping[str, float], fill: Fill, seed: bytes) -> list[LockableLayer]:
    """What the lock may put in the place of every channel of the layers in `costs`.

    Decoys are drawn from the channels that remain, so one half of a layer is filled from the other, then the other half.
    """
    torch = need("torch")
    state = plain_state(module)
    with tempfile.TemporaryDirectory(prefix="corelocker-") as folder:
        artifact = open_state(state, Path(folder) / "model.safetensors")
        first: dict[int, str] = {}  # of the names of a tied parameter the one that gradients go by
        for name, parameter in module.named_parameters(remove_duplicate=False):
            first.setdefault(id(parameter), name)
        tied = {name: first[id(p)] for name, p in module.named_parameters(remove_duplicate=False)}
        names = {entry.offset: tied.get(entry.name, entry.name) for entry in read_header(artifact.files[0])}
        layers = [
            LockableLayer(
                tensor.name,
                tensor.channels,
                costs[tensor.name],
                {names[p.offset]: int(isinstance(p, Part) and p.count > 1) for p in tensor.parts},
                [],
            )
            for tensor in artifact.tensors
            if tensor.name in costs and tensor.channels > 1 and not _repeats(tensor.name, tied, costs)
        ]
    generator = np.random.default_rng([0, *seed])
    for draw in range(DRAWS if fill == "decoy" else 1):
        chosen = {layer.name: generator.permutation(layer.channels) < layer.channels // 2 for layer in layers}
        one, other = (
            locked_state(
                artifact, {n: (half == side).astype(np.uint8) for n, half in chosen.items()}, fill, b"%d/" % draw + seed
            )
            for side in (True, False)
        )
        for layer in layers:
            half = torch.from_numpy(chosen[layer.name])
            changes = {}
            for name, axis in layer.places.items():
                filled = torch.where(half.view(along(axis, state[name].ndim)), one[name], other[name])
                changes[name] = filled.float() - state[name].float()
            layer.changes.append(changes)
    return [_without_statistics(module, layer) for layer in layers]


def _repeats(name: str, tied: Mapping[str, str], costs: Mapping[str, float]) -> bool:
    """Whether the layer stands in `costs` under the first of its names too."""
    return tied.get(name, name) != name and tied[name] in costs


def _without_statistics(module: nn.Module, layer: LockableLayer) -> LockableLayer:
    """A BatchNorm's mean and variance take no gradient: their change becomes one of its weight and bias that does the same."""
    places = dict(layer.places)
    for name in [n for n in places if n.endswith("running_var")]:
        norm: Any = module.get_submodule(name.rpartition(".")[0])
        weight, bias, mean = (name.replace("running_var", leaf) for leaf in ("weight", "bias", "running_mean"))
        for changes in layer.changes:
            old = (norm.running_var + norm.eps).sqrt()
            new = (norm.running_var + changes.pop(name) + norm.eps).sqrt()
            gain = norm.weight.detach() + changes[weight]
            changes[bias] = changes[bias] - gain * changes.pop(mean) / new
            changes[weight] = gain * old / new - norm.weight.detach()
        del places[name], places[mean]
    return LockableLayer(layer.name, layer.channels, layer.cost, places, layer.changes)


def replaced_state(
    module: nn.Module, layers: Sequence[LockableLayer], masks: Sequence[npt.NDArray[np.bool_]], draw: int
) -> dict[str, Tensor]:
    """The module's parameters and buffers with some channels replaced by a draw.

    Args:
        layers: from `fillings`.
        masks: for each layer, bool (channels,): which are replaced.
        draw: which of the draws in `layers`; counts on from the first after the last.
    """
    torch = need("torch")
    state = {name: value.detach() for name, value in [*module.named_parameters(), *module.named_buffers()]}
    for layer, mask in zip(layers, masks, strict=True):
        if not mask.any():
            continue
        chosen = torch.from_numpy(mask).float()
        for name, axis in layer.places.items():
            change = layer.changes[draw % len(layer.changes)][name]
            state[name] = state[name] + (chosen.view(along(axis, change.ndim)) * change).to(state[name].dtype)
    return state


def locked_state(artifact: Artifact, tier_of: Mapping[str, TierMap], fill: Fill, seed: bytes) -> dict[str, Tensor]:
    """The state dict that ships when the channels with 1 in `tier_of` (layer -> uint8 (channels,)) are locked.

    `artifact` is a checkpoint of one file. Raises LockingError.
    """
    plan = Plan(
        (Tier("free", 0.5), Tier("full", 0.0)), fill, seed, False, "given", "layer", [dict(tier_of)], [artifact.path.name],
        [{}],
    )  # fmt: skip
    (locked,) = lock_artifacts([artifact], plan)
    (file,) = locked.files
    content = file.file.data.copy()
    file.apply(0, content, 0)
    state: dict[str, Tensor] = need("safetensors.torch").load(content.tobytes())
    return state


def fold_batch_norms(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Fold every BatchNorm into the convolution or linear layer whose output it reads, in place, as exporters do."""
    torch = need("torch")
    kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear)
    made: dict[int, tuple[str, Any]] = {}  # id of an output -> who made it; the outputs are kept, or ids would repeat
    pairs: dict[str, str] = {}
    uses: dict[str, int] = {}

    def after(name: str) -> Callable[..., None]:
        def hook(layer: Any, args: tuple[Any, ...], output: Any) -> None:
            uses[name] = uses.get(name, 0) + 1
            if isinstance(layer, kinds):
                made[id(output)] = (name, output)
            elif args and id(args[0]) in made and layer.running_mean is not None:
                pairs[name] = made[id(args[0])][0]

        return hook

    norms = torch.nn.modules.batchnorm._BatchNorm
    hooks = [m.register_forward_hook(after(n)) for n, m in module.named_modules() if isinstance(m, (*kinds, norms))]
    try:
        with torch.no_grad():
            module(*(v[:1] if torch.is_tensor(v) and v.ndim else v for v in inputs))
    finally:
        for hook in hooks:
            hook.remove()
    for norm, layer in pairs.items():
        if uses[norm] > 1 or uses[layer] > 1:
            continue
        old, parameters = module.get_submodule(layer), module.get_submodule(norm)
        fusion = need("torch.nn.utils.fusion")
        fuse = fusion.fuse_linear_bn_eval if isinstance(old, torch.nn.Linear) else fusion.fuse_conv_bn_eval
        for name, new in ((layer, fuse(old, parameters)), (norm, torch.nn.Identity())):
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, new)
