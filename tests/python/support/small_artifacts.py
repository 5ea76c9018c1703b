"""Small artifacts made by the tests, without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from corelocker.artifacts import Artifact, Part, Quantization, WeightTensor
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
