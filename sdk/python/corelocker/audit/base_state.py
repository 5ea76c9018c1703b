"""A public base as a state of the audited module."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corelocker.artifacts import Artifact, Part, WeightTensor
from corelocker.artifacts.safetensors_header import read_header
from corelocker.artifacts.torch_module import PICKLED, open_state, read_pickled
from corelocker.artifacts.weights import Floats, Kind
from corelocker.audit import need
from corelocker.errors import ConfigError
from corelocker.files import Bytes
from corelocker.locking.base import folded_scale, opened_base, pair_layers
from corelocker.locking.base_states import Guessed, guessed_state
from corelocker.locking.drawing import runs_of_part

if TYPE_CHECKING:
    from torch import Tensor


def base_state(path: Path, original: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the public base holds of a model, by the names of its state dict and in its shapes.

    Of a checkpoint all that has the name and the shape of a tensor of the model; besides, and of a finished model, the layers that
    resemble those of the model, as `lock --base` finds them. Where a BatchNorm is folded into the base, its channels stand before
    the model's own BatchNorm so that both together do what the base's do.

    Args:
        original: the model's state dict.

    Raises what opening the base raises, and ConfigError when it has no layer of the model.
    """
    with opened_base(path) as base, tempfile.TemporaryDirectory(prefix="corelocker-audit-") as folder:
        state = {
            name: value for name, value in _checkpoint(path).items()
            if name in original and original[name].shape == value.shape
        }  # fmt: skip
        model = open_state(original, Path(folder) / "model.safetensors")
        pairs = zip(model.tensors, pair_layers(model.tensors, base.tensors), strict=True)
        state |= _of_layers(model, {t.name: (t, b) for t, b in pairs if b is not None and t.name not in state})
    if not state:
        raise ConfigError(
            f"{path} has no tensor of the model",
            hint="--base names the public checkpoint that the model was tuned from",
        )
    return state


def _checkpoint(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint by their names; none of a finished model."""
    if path.suffix in PICKLED:
        return dict(read_pickled(path))
    return dict(need("safetensors.torch").load_file(path)) if path.suffix == ".safetensors" else {}


def _of_layers(model: Artifact, pairs: Mapping[str, tuple[WeightTensor, WeightTensor]]) -> dict[str, Any]:
    """The base's layers as tensors of the model's checkpoint, with what belongs to their channels besides."""
    if not pairs:
        return {}
    guesses = {
        name: Guessed(base, np.ones(base.channels, np.bool_), by_sign=False) for name, (_, base) in pairs.items()
    }
    files = guessed_state(model, guesses, "base")
    known: set[tuple[str, int]] = set()
    for tensor, base in pairs.values():
        known.add((tensor.weight.file.name, tensor.weight.extent[0]))
        for kind, values in _companions(tensor, base).items():
            part = tensor.part(kind)
            if part is not None:
                _write(tensor, kind, values, files)
                known.add((part.file.name, part.offset))
    load, found = need("safetensors.torch").load, dict[str, Any]()
    for file in model.files:
        tensors = load(files[file.name].tobytes())
        found |= {e.name: tensors[e.name] for e in read_header(file) if (file.name, e.offset) in known}
    return found


def _companions(tensor: WeightTensor, base: WeightTensor) -> dict[Kind, Floats]:
    """Biases and BatchNorm numbers as the model holds them, float32 (channels,) each; what the base does not tell is left out."""
    own, other = ({p.kind: _numbers(p) for p in t.companions if p.element.is_float} for t in (tensor, base))
    scale, folded = folded_scale(tensor), folded_scale(base)
    none = np.zeros(tensor.channels, np.float32)
    if scale is not None and folded is None:
        shift = other.get("bias", none) - (own.get("bias", none) - own.get("mean", none)) * scale
        return own | {"beta": shift}
    if scale is None and folded is not None:
        return {"bias": (other.get("bias", none) - other.get("mean", none)) * folded + other.get("beta", none)}
    return other


def _numbers(part: Part) -> Floats:
    return np.asarray(part.read(), np.float32).reshape(-1)


def _write(tensor: WeightTensor, kind: Kind, values: Floats, files: Mapping[str, Bytes]) -> None:
    part = tensor.part(kind)
    assert part is not None  # noqa: S101 - the caller has looked
    every = np.arange(tensor.channels)
    for runs in runs_of_part(part, every, np.ones(every.size, np.uint8), part.element.encode(values[:, None])):
        runs.apply(0, files[part.file.name], 0)
