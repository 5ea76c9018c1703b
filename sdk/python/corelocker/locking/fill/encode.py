"""Decoys as bytes: quantized as an exporter would, with the biases and BatchNorm numbers that belong to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from corelocker.artifacts import Part, WeightTensor
from corelocker.artifacts.elements import Numbers
from corelocker.artifacts.weights import Floats, SparsePart
from corelocker.files import Bytes
from corelocker.locking.fill.candidates import JITTER
from corelocker.locking.fill.statistics import centred_codes, code_ends, extremes
from corelocker.locking.layout import Indices

Rows = Bytes | Sequence[Bytes]  # the bytes of each channel; where they have equally many, the rows of one array


@dataclass(frozen=True)
class Filled:
    """New bytes for the locked channels of one tensor.

    `parts[i][j]` is what part `i` of the tensor holds for the j-th locked channel, uint8.
    """

    tensor: WeightTensor
    channels: Indices
    parts: list[Rows]


def encode_decoys(
    tensor: WeightTensor,
    leader: WeightTensor,
    decoys: Floats,
    channels: Indices,
    pool: Indices,
    targets: Indices,
    noise: Floats,
) -> Filled:
    values = _to_order_of(tensor, leader, decoys).copy()
    donors = pool[targets]
    if tensor is not leader:
        # A BatchNorm folded into one copy scales its channels; the target's scaling is the decoy's.
        own, led = (np.sqrt((t.values(donors) ** 2).mean(axis=1, keepdims=True)) for t in (tensor, leader))
        values = values * np.where(led > 0, own / np.maximum(led, 1e-30), 1)
    encoded: list[Rows] = []
    weight, scale_part, zero_part = tensor.weight, tensor.part("scale"), tensor.part("zero_point")
    scale, zero = _scales_and_zeros(tensor, values, pool, targets)
    codes: Numbers = values
    if tensor.quantization is not None:
        codes = tensor.quantization.quantize(values, scale, zero, channels, weight.element)
    encoded.append(weight_bytes(weight, codes, channels))
    for part in tensor.companions:
        if part is scale_part and scale is not None:
            numbers: Numbers = scale
        elif part is zero_part and zero is not None:
            numbers = zero
        elif part.factor is not None and scale is not None:
            numbers = scale * np.float32(part.factor)
        else:
            numbers = _companions(part, tensor, donors, pool, scale, noise)
        encoded.append(part.element.encode(numbers))
    return Filled(tensor, channels, encoded)


def _to_order_of(tensor: WeightTensor, leader: WeightTensor, decoys: Floats) -> Floats:
    """Decoys in the leader's file order to those in the tensor's."""
    if tensor is leader:
        return decoys
    n = decoys.shape[0]
    logical = decoys.reshape(n, *leader.file_shape).transpose(0, *(a + 1 for a in leader.axes))
    logical = logical.reshape(n, *tensor.shape[1:])
    inverse = np.argsort(tensor.axes)
    return np.ascontiguousarray(logical.transpose(0, *(a + 1 for a in inverse))).reshape(n, -1)


def weight_bytes(weight: Part | SparsePart, codes: Numbers, channels: Indices) -> Rows:
    if isinstance(weight, Part):
        return weight.element.encode(codes)
    return [weight.element.encode(codes[i : i + 1, weight.mask[c]])[0] for i, c in enumerate(channels)]


def _scales_and_zeros(
    tensor: WeightTensor, values: Floats, pool: Indices, targets: Indices
) -> tuple[Floats | None, Floats | None]:
    """Scale and zero point (n, groups) by which the codes of `values` reach as far as their targets' do.

    Where codes reach to both ends of two's complement (7 and -8), the exporter divided the largest of each group to what lies
    between (7.5), and the code shows its sign: a decoy's largest takes sign and code of its target's (`values` is changed).
    """
    scale_part, zero_part = tensor.part("scale"), tensor.part("zero_point")
    donors = pool[targets]
    zero = np.asarray(zero_part.read(donors), np.float32) if zero_part is not None else None
    if scale_part is None or tensor.quantization is None:
        return None, zero
    groups = scale_part.elements
    wanted = values.reshape(values.shape[0], groups, -1)
    skewed = zero is not None and zero_part is not None and zero.shape[1] == groups and np.ptp(zero_part.read()) > 0
    if skewed:
        low, high = np.minimum(wanted.min(axis=2), 0), np.maximum(wanted.max(axis=2), 0)
        codes = np.asarray(tensor.weight.read(donors), np.float32).reshape(wanted.shape)
        found = (high - low) / np.maximum(codes.max(axis=2) - codes.min(axis=2), 1)
    else:
        known = extremes(centred_codes(tensor, pool, groups))[0]
        largest, where = extremes(wanted)
        up, down = code_ends(known)
        known = known[targets]
        uneven = min(up, down) > 0 and abs(up - down) == 1
        steps = np.where(uneven & (np.abs(known) >= min(up, down)), (up + down) / 2, np.abs(known))
        found = np.abs(largest) / np.maximum(steps, 1)
    old = np.abs(np.asarray(scale_part.read(donors), np.float32))
    stored = scale_part.element.encode(np.where(found > 0, found, old).astype(np.float32))
    scale = np.asarray(scale_part.element.decode(stored), np.float32)
    scale = np.where(scale > 0, scale, old)  # too small for the file's float: the donor's own is not
    if not skewed and uneven:
        # The exporter's rounding decided which of the two ends 7.5 steps became.
        ends = np.where(np.abs(known) >= min(up, down), known * scale, np.copysign(largest, known))
        np.put_along_axis(wanted, where[:, :, None], ends[:, :, None], axis=2)
    if skewed and zero_part is not None:
        first = codes.min(axis=2) - low / scale
        zero = np.asarray(np.clip(np.rint(first), zero_part.element.low, zero_part.element.high), np.float32)
    return scale, zero


def _companions(
    part: Part, tensor: WeightTensor, donors: Indices, pool: Indices, scale: Floats | None, noise: Floats
) -> Numbers:
    """Biases and BatchNorm numbers of the donors, a little moved."""
    numbers = np.asarray(part.read(donors), np.float64)
    spread = float(np.asarray(part.read(pool), np.float64).std())
    scale_part = tensor.part("scale")
    if (
        part.kind == "bias"
        and not part.element.is_float
        and scale is not None
        and scale_part is not None
        and scale.shape[1] == 1
    ):
        # An integer bias counts in steps of input scale x weight scale; keep its value, not its count.
        old = np.asarray(scale_part.read(donors), np.float64)
        numbers = numbers * np.where(scale > 0, old / np.maximum(scale, 1e-30), 1)
    if part.kind == "variance":
        return np.asarray(np.abs(numbers * (1 + JITTER * noise[1][:, None])), np.float32)
    moved = numbers + JITTER * spread * noise[0][:, None]
    return np.asarray(moved if part.element.is_float else np.rint(moved), np.float64)  # type: ignore[return-value]
