"""Small artifacts made by the tests, and the detectors that a decoy must withstand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import numpy as np
import numpy.typing as npt
from corelocker.artifacts import Artifact, Edge, Identity, Part, Quantization, WeightTensor
from corelocker.artifacts.elements import FLOAT16, FLOAT32, INT4, INT8, INT32, ElementType
from corelocker.artifacts.weights import Floats
from corelocker.files import MappedFile

NUMPY_NAMES = {"float32": "F32", "float16": "F16", "int64": "I64", "float64": "F64", "uint8": "U8", "int8": "I8"}


def write_safetensors(path: Path, tensors: dict[str, npt.NDArray[np.generic]], bfloat16: Sequence[str] = ()) -> Path:
    """The reference layout, so that tests need no torch. bfloat16 tensors are given as uint16."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = np.ascontiguousarray(tensor).tobytes()
        dtype = "BF16" if name in bfloat16 else NUMPY_NAMES[str(tensor.dtype)]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def calls(work: Callable[[], object]) -> int:
    """The calls, of Python's functions and of built-in ones, that a piece of work makes on this thread.

    What work costs, counted instead of timed: the same on a busy machine as on an idle one.
    """
    count = 0

    def profile(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    previous = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(previous)
    return count


def trained_like(generator: np.random.Generator, channels: int, *shape: int) -> Floats:
    """Weights with what trained layers have: channels of unequal size, some heavy tails, a common direction."""
    sizes = np.exp(generator.normal(0, 0.35, channels)) * 0.05
    base = generator.standard_normal((channels, *shape)) * 0.9 + generator.laplace(size=(channels, *shape)) * 0.4
    common = generator.standard_normal(shape) * 0.25
    return np.asarray((base + common) * sizes.reshape(-1, *(1 for _ in shape)), np.float32)


class Builder:
    """Lays tensors out in one file and describes them as an artifact."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = bytearray(b"HEAD" * 4)
        self._tensors: list[tuple[str, dict[str, object]]] = []

    def add(self, raw: bytes) -> int:
        offset = len(self._data)
        self._data += raw + b"\0" * (-len(raw) % 4)
        return offset

    def artifact(self, describe: Sequence[object], **extra: object) -> Artifact:
        """`describe` holds functions from the mapped file to a WeightTensor."""
        self.path.write_bytes(self._data)
        file = MappedFile(self.path, self.path.name)
        tensors = tuple(make(file) for make in describe)  # type: ignore[operator]
        if "identities" in extra:
            extra["identities"] = tuple(make(file) for make in extra["identities"])  # type: ignore[attr-defined]
        return Artifact("safetensors", self.path, (file,), tensors, **extra)  # type: ignore[arg-type]


def float_layer(builder: Builder, name: str, weight: Floats, order: int = 0, *, bias: Floats | None = None, half: bool = False,
                output_last: bool = False, depthwise: bool = False):  # fmt: skip
    """A float layer: rows in order, or [in, out] when `output_last`, or [1, kh, kw, C] for a depthwise one."""
    element = FLOAT16 if half else FLOAT32
    dtype, width = (np.float16, 2) if half else (np.float32, 4)
    channels, fan_in = weight.shape[0], int(np.prod(weight.shape[1:]))
    stored = weight.reshape(channels, fan_in).astype(dtype)
    offset = builder.add((stored.T if output_last or depthwise else stored).tobytes())
    bias_at = builder.add(bias.astype(dtype).tobytes()) if bias is not None else 0

    def make(file: MappedFile) -> WeightTensor:
        row = fan_in * width
        if output_last or depthwise:
            part = Part("weight", element, file, offset, channels, width, width, channels * width, fan_in)
            inputs = Part("weight", element, file, offset, fan_in, channels * width, channels * width, channels * width)
        else:
            part = Part("weight", element, file, offset, channels, row, row, row)
            step = int(np.prod(weight.shape[2:])) * width
            inputs = Part("weight", element, file, offset, weight.shape[1], step, step, row, channels)
        parts = [part]
        if bias is not None:
            parts.append(Part("bias", element, file, bias_at, channels, width, width, width))
        role = "depthwise" if depthwise else "linear" if weight.ndim == 2 else "conv"
        axes = tuple(range(weight.ndim - 1))
        return WeightTensor(name, role, weight.shape, element.name, order, tuple(parts), weight.shape[1:], axes,
                            inputs=None if depthwise else inputs)  # fmt: skip

    return make


def quantized_layer(
    builder: Builder, name: str, weight: Floats, order: int = 0, *, bits: int = 8, group: int | None = None
):
    """Symmetric integer codes with a float scale for each channel, or for each group of `group` inputs.

    8 bits use -127 to 127 (XNNPACK's quantizer), 4 bits -8 to 7 with 7.5 steps to an extreme (torchao)."""
    channels, fan_in = weight.shape[0], int(np.prod(weight.shape[1:]))
    groups = fan_in // (group or fan_in)
    reach = 127 if bits == 8 else 7.5
    grouped = weight.reshape(channels, groups, -1)
    scales = (np.abs(grouped).max(axis=2) / reach).astype(np.float32)
    codes = (
        np.clip(np.rint(grouped / scales[:, :, None]), -127 if bits == 8 else -8, 127 if bits == 8 else 7)
        .astype(np.int32)
        .reshape(channels, fan_in)
    )
    element: ElementType = INT8 if bits == 8 else INT4
    offset = builder.add(element.encode(codes).tobytes())
    scale_at = builder.add(scales.tobytes())
    bias_at = builder.add((np.arange(channels) * 37 % 1000 - 500).astype("<i4").tobytes())
    row = fan_in * bits // 8

    def make(file: MappedFile) -> WeightTensor:
        parts = (
            Part("weight", element, file, offset, channels, row, row, row),
            Part("scale", FLOAT32, file, scale_at, channels, 4 * groups, 4 * groups, 4 * groups),
            Part("bias", INT32, file, bias_at, channels, 4, 4, 4),
        )
        inputs = (
            Part("weight", element, file, offset, weight.shape[1], 1, 1, row, channels)
            if bits == 8 and weight.ndim == 2
            else None
        )
        axes = tuple(range(weight.ndim - 1))
        return WeightTensor(
            name, "linear", weight.shape, f"int{bits}", order, parts, weight.shape[1:], axes, Quantization(), inputs
        )

    return make


def _kurtosis(v: Floats) -> Floats:
    centred = v - v.mean(axis=1, keepdims=True)
    return np.asarray((centred**4).mean(axis=1) / np.maximum((centred**2).mean(axis=1) ** 2, 1e-30))


DETECTORS = {
    "l1": lambda v: np.abs(v).sum(axis=1),
    "max": lambda v: np.abs(v).max(axis=1),
    "kurtosis": _kurtosis,
    "distance to the mean": lambda v: np.linalg.norm(v - v.mean(axis=0), axis=1),
    "distance of the l1": lambda v: np.abs(np.abs(v).sum(axis=1) - np.abs(v).sum(axis=1).mean()),
}


def auc(scores: npt.NDArray[np.float64], locked: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve, ties counted half; 0.5 is a blind guess."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    positive, negative = int(locked.sum()), int((~locked).sum())
    return float((ranks[places][locked].sum() - positive * (positive + 1) / 2) / (positive * negative))


def detection(artifact: Artifact, tier_of: dict[str, npt.NDArray[np.uint8]]) -> dict[str, float]:
    """AUC of each detector over all locked layers; scores count by their rank within the layer."""
    found: dict[str, list[npt.NDArray[np.float64]]] = {}
    truth = []
    for tensor in artifact.tensors:
        locked = tier_of.get(tensor.name, np.zeros(1, np.uint8)) > 0
        if not locked.any():
            continue
        truth.append(locked)
        values = tensor.values().astype(np.float64)
        scores = {name: detector(values) for name, detector in DETECTORS.items()}
        if scale := tensor.part("scale"):
            scores["scale"] = np.asarray(scale.read(), np.float64).mean(axis=1)
            zero = tensor.quantization.zero_point if tensor.quantization is not None else None
            codes = np.abs(tensor.weight.read().astype(np.float64) - (0 if zero is None else zero))
            scores["reach of the codes"] = codes.reshape(tensor.channels, scale.elements, -1).max(axis=2).mean(axis=1)
        for name, score in scores.items():
            places = np.unique(score, return_inverse=True)[1].reshape(-1)
            found.setdefault(name, []).append(places / max(1, places.max()))
    every = np.concatenate(truth)
    return {name: auc(np.concatenate(parts), every) for name, parts in found.items() if len(parts) == len(truth)}


__all__ = [
    "DETECTORS",
    "Builder",
    "Edge",
    "Identity",
    "auc",
    "detection",
    "float_layer",
    "quantized_layer",
    "trained_like",
    "write_safetensors",
]
