"""The layers of an ML Program: which operation uses which constant as its weight, and how its channels lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from corelocker.artifacts.coreml.constant_resolver import ConstantResolver
from corelocker.artifacts.coreml.mil_constants import MilConstant
from corelocker.artifacts.coreml.mlprogram import Block, Operation
from corelocker.artifacts.coreml.weight_bin import Blob
from corelocker.artifacts.weights import Kind, Role
from corelocker.errors import MalformedArtifactError

NORMS: dict[str, tuple[Kind, ...]] = {
    "batch_norm": ("gamma", "beta", "mean", "variance"),
    "layer_norm": ("gamma", "beta"),
    "instance_norm": ("gamma", "beta"),
}
RECURRENT = ("lstm", "gru", "rnn")
BlobKey = tuple[str, int]


def blob_key(blob: Blob) -> BlobKey:
    """What identifies a blob: its file and the offset of its metadata."""
    return blob.file.name, blob.metadata


@dataclass
class WeightUse:
    """One weight of one operation.

    Attributes:
        op, argument: where it is used.
        role: of the layer.
        constant: the weight.
        out, order, into: as `lay_out` takes them. Stacked matrices, such as experts, lie above each other.
        bias: the layer's biases, if they are a constant.
        why_not: a reason known before the layout is looked at.
        key: the weight's blob, which identifies the tensor; None when it has none.
    """

    op: Operation
    role: Role
    constant: MilConstant
    out: int
    order: tuple[int, ...]
    into: int | None
    bias: MilConstant | None = None
    why_not: str | None = None

    @property
    def key(self) -> BlobKey | None:
        return blob_key(self.constant.blob) if self.constant.blob is not None else None


def weight_uses(op: Operation, constants: ConstantResolver) -> Iterator[WeightUse]:
    """The constant weights of an operation, in the order of its matrices."""
    of, name = constants.of, result_name(op)
    if op.type in ("conv", "conv_transpose"):
        weight = of(op.argument("weight"), name)
        if weight is None:
            return
        rank, bias = len(weight.shape), of(op.argument("bias"), f"{name}.bias")
        groups = constants.integer(op.argument("groups"), 1)
        if weight.problem is not None:
            yield WeightUse(op, "conv", weight, 0, (), None, bias, weight.problem)
        elif rank < 3 or groups < 1 or weight.shape[0] % groups:
            raise MalformedArtifactError(f"{weight.name}: shape {weight.shape} with {groups} groups is no convolution")
        elif op.type == "conv" or (groups == weight.shape[0] and weight.shape[1] == 1):
            role: Role = "depthwise" if groups > 1 and weight.shape[1] == 1 else "conv"
            yield WeightUse(op, role, weight, 0, tuple(range(1, rank)), 1 if groups == 1 else None, bias)
        else:
            scattered = (
                "belongs to a transposed convolution with groups, whose channels are scattered" if groups > 1 else None
            )
            yield WeightUse(op, "conv", weight, 1, (0, *range(2, rank)), 0, bias, scattered)
    elif op.type == "linear":
        weight = of(op.argument("weight"), name)
        if weight is not None:
            yield _matrix(op, weight, of(op.argument("bias"), f"{name}.bias"))
    elif op.type == "matmul":
        x, y = of(op.argument("x"), name), of(op.argument("y"), name)
        weight = y if y is not None else x
        flag = "transpose_y" if y is not None else "transpose_x"
        if weight is None or (x is not None and y is not None) or len(weight.shape) < 2:
            return
        rank = len(weight.shape)
        rows = bool(constants.integer(op.argument(flag), 0)) == (y is not None)
        out, into = (rank - 2, rank - 1) if rows else (rank - 1, rank - 2)
        stacked = [axis for axis, size in enumerate(weight.shape[:-2]) if size != 1]
        if not stacked:
            yield WeightUse(op, "linear", weight, out, (into,), into, None, weight.problem)
            return
        above_each_other = weight.rows() if weight.problem is None else weight
        yield WeightUse(op, "linear", above_each_other, 0, (1,), None, None, weight.problem)
    elif op.type == "gather":
        table = of(op.argument("x"), name)
        if table is None or table.blob is None or table.element is None or of(op.argument("indices")) is not None:
            return
        if len(table.shape) < 2 or constants.integer(op.argument("axis"), 0) % len(table.shape) != 0:
            return
        if table.element.is_float or table.scale is not None or table.lut is not None:
            yield WeightUse(op, "embedding", table, 0, tuple(range(1, len(table.shape))), None, None, table.problem)
    elif op.type in RECURRENT:
        for ending in ("", "_back"):
            bias = of(op.argument(f"bias{ending}"), f"{name}.bias{ending}")
            for matrix in ("weight_ih", "weight_hh"):
                weight = of(op.argument(f"{matrix}{ending}"), f"{name}.{matrix}{ending}")
                if weight is not None:
                    yield _matrix(op, weight, bias if matrix == "weight_ih" else None)


def _matrix(op: Operation, weight: MilConstant, bias: MilConstant | None) -> WeightUse:
    """A matrix (out, in)."""
    problem = weight.problem or (None if len(weight.shape) == 2 else f"has shape {weight.shape}, not that of a matrix")
    return WeightUse(op, "linear", weight, 0, (1,), 1, bias, problem)


def all_operations(block: Block) -> Iterator[Operation]:
    """All operations, those of nested blocks before the one that holds them."""
    for op in block.operations:
        for inner in op.blocks:
            yield from all_operations(inner)
        yield op


def result_name(op: Operation) -> str:
    """The name of an operation's first result, or its type where it has none."""
    return op.outputs[0][0] if op.outputs else op.type
