"""What a file that ships shows of the weights of a layer: nothing, their magnitudes, or everything.

A lock takes channels, so a level for each channel says nearly all. Two things cut across: columns that `--consumers` takes, the
weights of all channels that read a locked input, and weights of a sign lock that keep their signs, because they are 0 or have no
negative. Together they give the level of every weight.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import WeightTensor
from corelocker.artifacts.weights import SparsePart
from corelocker.bundle.keystore import MAX_KEPT, RecordedLayer
from corelocker.locking.consumers import ConsumerLocks
from corelocker.locking.groups import Member
from corelocker.locking.plan import Plan
from corelocker.locking.signs.encoding import Flags, SignEncoding, sign_encoding

OPEN, SIGN, VALUE = 0, 1, 2
Levels = npt.NDArray[np.uint8]

FEW = 1e-4  # share of a layer's weights that keep their signs below which their places are not looked for
BLOCK = 1 << 22  # weights that are looked at at a time


@dataclass(frozen=True, eq=False)
class Shown:
    """What a file shows of one layer: OPEN, SIGN (its magnitudes) or VALUE (nothing).

    Attributes:
        rows: uint8 (channels,), the level of each channel.
        columns: bool (inputs,), input channels whose weights are locked by value in all channels; (0,) where none are.
        kept: from channels to bool (n, elements), the weights that a sign lock leaves as they are; None where these are none, or
            where their places are not known.
    """

    rows: Levels = field(repr=False)
    columns: Flags = field(repr=False)
    kept: Callable[[slice], Flags] | None = field(default=None, repr=False)

    def weights(self, rows: slice, elements: int, *, with_kept: bool = True) -> Levels:
        """The level of each weight of some channels, uint8 (n, elements)."""
        levels = np.repeat(self.rows[rows, None], elements, axis=1)
        if with_kept and self.kept is not None and (levels[:, :1] == SIGN).any():
            levels[(levels == SIGN) & self.kept(rows)] = OPEN
        if self.columns.any() and elements % self.columns.size == 0:
            levels[:, np.repeat(self.columns, elements // self.columns.size)] = VALUE
        return levels

    def hidden(self, elements: int) -> int:
        """How many weights are locked, in either way; those that keep their signs count."""
        rows = int((self.rows > OPEN).sum())
        columns = int(self.columns.sum()) * elements // self.columns.size if self.columns.size else 0
        return rows * elements + (self.rows.size - rows) * columns


def elements_of(tensor: WeightTensor) -> int:
    """Weights of one channel."""
    return int(np.prod(tensor.shape[1:]))


def blocks(channels: int, elements: int) -> Iterator[slice]:
    """The channels in parts of about BLOCK weights, each but the last of eight channels or a multiple of them."""
    step = max(8, BLOCK // max(1, elements) // 8 * 8)
    return (slice(start, min(start + step, channels)) for start in range(0, channels, step))


def shown_by_plan(plan: Plan, group: Sequence[Member], extra: ConsumerLocks | None = None) -> Shown:
    """What the files of a plan show together of a layer that is in all members of the group: the most open of them counts.

    Args:
        extra: what the plan takes of consumers besides; None where it takes none.
    """
    tensor = group[0].tensor
    rows, columns, kept = [], [], []
    for member in group:
        own = plan.tier_of[member.artifact].get(member.tensor.name, np.zeros(tensor.channels, np.uint8)) > 0
        column = None
        if extra is not None:
            own = own | (extra.rows[member.artifact].get(member.tensor.name, np.zeros(1, np.uint8)) > 0)
            column = extra.columns[member.artifact].get(member.tensor.name)
        signs = plan.signs_of(member)
        rows.append(np.where(own, VALUE if signs is None else SIGN, OPEN).astype(np.uint8))
        columns.append(np.zeros(0, np.bool_) if column is None else column > 0)
        if signs is not None and own.any() and signs.zeros + signs.unpaired > FEW:
            kept.append(_keeping(member.tensor))
    same = len({c.size for c in columns}) == 1
    return Shown(
        np.minimum.reduce(rows),
        np.logical_and.reduce(columns) if same else np.zeros(0, np.bool_),
        (lambda picked: np.logical_or.reduce([keeps(picked) for keeps in kept])) if kept else None,
    )


def shown_by_record(layer: RecordedLayer, elements: int) -> Shown:
    """What the shipped file shows of a recorded layer with so many weights a channel."""
    value, sign = (_bits(mask, layer.channels) for mask in (layer.value, layer.sign))
    rows = np.where(value, VALUE, np.where(sign, SIGN, OPEN)).astype(np.uint8)
    kept = None
    if layer.kept and layer.elements == elements:
        flags = _bits(zlib.decompress(layer.kept), layer.channels * elements)
        kept = flags.reshape(layer.channels, elements).__getitem__
    return Shown(rows, _bits(layer.columns, layer.inputs), kept)


def packed_kept(shown: Shown, elements: int) -> bytes:
    """The weights that a sign lock leaves as they are, as a record holds them; empty where none are, or where that is too long."""
    if shown.kept is None:
        return b""
    packer, packed, found = zlib.compressobj(9), b"", False
    for rows in blocks(shown.rows.size, elements):
        flags = shown.kept(rows) & (shown.rows[rows, None] == SIGN)
        found = found or bool(flags.any())
        packed += packer.compress(np.packbits(flags.reshape(-1), bitorder="little").tobytes())
        if len(packed) > MAX_KEPT:
            return b""
    packed += packer.flush()
    return packed if found and len(packed) <= MAX_KEPT else b""


def _bits(mask: bytes, count: int) -> Flags:
    return np.unpackbits(np.frombuffer(mask, np.uint8), count=count, bitorder="little").astype(np.bool_)


def _keeping(tensor: WeightTensor) -> Callable[[slice], Flags]:
    encoding = sign_encoding(tensor)
    assert not isinstance(encoding, str)  # noqa: S101 - its signs were read

    def keeps(rows: slice) -> Flags:
        flags = _keeps(tensor, encoding, rows)
        filed = flags.reshape(len(flags), *tensor.file_shape).transpose(0, *(a + 1 for a in tensor.axes))
        tensor.release()
        return np.ascontiguousarray(filed).reshape(len(flags), -1)

    return keeps


def _keeps(tensor: WeightTensor, encoding: SignEncoding, rows: slice) -> Flags:
    """bool (n, elements) in file order."""
    weight, codes = tensor.weight, tensor.weight.read(rows)
    if weight.element.is_float:
        flags = np.asarray(codes == 0)
    else:
        codes = np.asarray(codes, np.int32) & ((1 << weight.element.bits) - 1)
        of_group = encoding.of_group if len(encoding.of_group) == 1 else encoding.of_group[rows]
        of_element = np.repeat(
            np.broadcast_to(of_group, (len(codes), of_group.shape[1])), codes.shape[1] // of_group.shape[1], axis=1
        )
        flags = np.zeros(codes.shape, np.bool_)
        for place, mirror in enumerate(encoding.mirrors):
            if mirror.partners is not None:
                flags |= (of_element == place) & ~mirror.partners[codes]
    return flags | ~weight.mask[rows] if isinstance(weight, SparsePart) else flags
