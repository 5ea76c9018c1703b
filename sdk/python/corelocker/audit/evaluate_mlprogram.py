"""Runs a Core ML ML Program on Linux, where Core ML itself does not run, by computing its operations with torch.

What it proves: that a package, with the weight file it ships with or with other bytes in its place, describes the network
that it should. It reads `model.mlmodel` and `weight.bin` and nothing else, and expands compressed weights by itself, so it
also checks the adapter of `corelocker.artifacts.coreml.package`, with which it shares the protobuf reader only.

What it does not prove: the numbers of a device. Every operation is computed in float32 and its result rounded to float16
where the program says float16; the Neural Engine, the GPU and Core ML's own CPU kernels round elsewhere, fuse operations and
may keep weights compressed. Differences of a few thousandths are normal. Restored files are compared by their bytes, not here.

Needs torch. An operation that it does not know raises NotImplementedError.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from corelocker.artifacts.coreml.mlprogram import (
    BlobReference,
    Block,
    Function,
    MilProgram,
    Operation,
    TensorType,
    Value,
    read_model,
)

MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")
NUMPY = {
    "fp16": np.float16, "fp32": np.float32, "int8": np.int8, "uint8": np.uint8, "int16": np.int16, "uint16": np.uint16,
    "int32": np.int32, "uint32": np.uint32, "bool": np.bool_,
}  # fmt: skip
PACKED = {
    "int4": (4, True),
    "uint4": (4, False),
    "uint6": (6, False),
    "uint3": (3, False),
    "uint2": (2, False),
    "uint1": (1, False),
}


class MlProgram:
    """A program with its weights.

    Args:
        package: the `.mlpackage` folder.
        weights: bytes to use in place of its `weight.bin`.
        function: the entry point.
    """

    def __init__(self, package: Path, weights: bytes | memoryview | None = None, function: str = "main") -> None:
        program = read_model((package / MODEL).read_bytes())
        if weights is None and (package / WEIGHTS).exists():
            weights = (package / WEIGHTS).read_bytes()
        self._prepare(program, memoryview(weights if weights is not None else b""), function)

    def with_weights(self, weights: bytes | memoryview) -> MlProgram:
        """The same program with other bytes as its weight file."""
        other = object.__new__(MlProgram)
        other._prepare(self._program, memoryview(weights), self._function.name)
        return other

    def _prepare(self, program: MilProgram, weights: memoryview, function: str) -> None:
        self._program = program
        self._weights = weights
        self._function: Function = next(f for f in program.functions if f.name == function)
        self._constants: dict[str, Any] = {}
        self._fold(self._function.block)

    @property
    def inputs(self) -> dict[str, TensorType | None]:
        """Name and type of each input."""
        return dict(self._function.inputs)

    def constant(self, name: str) -> Tensor:
        """A constant of the program by name, expanded to float32 (or integers)."""
        return self._constants[name]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One call with inputs of the program's own shapes; returns float32 or integer tensors by name."""
        values: dict[str, Any] = {name: _plain(value) for name, value in inputs.items()}
        missing = set(self.inputs) - set(values)
        if missing:
            raise ValueError(f"inputs that were not given: {', '.join(sorted(missing))}")
        self._block(self._function.block, values)
        return {name: values[name] for name in self._function.block.outputs}

    def batch(self, inputs: Mapping[str, Tensor], chunk: int = 256) -> dict[str, Tensor]:
        """Many calls at once: each input has one more sample along dimension 0 than the program's own size of 1 there.

        A program is converted for one sample and has that number written into its reshapes, so it is not called with a
        larger one but mapped over the samples.
        """
        singles = {name: _plain(value).unsqueeze(1) for name, value in inputs.items()}
        names = self._function.block.outputs
        count = next(iter(singles.values())).shape[0]

        def one(sample: dict[str, Tensor]) -> tuple[Tensor, ...]:
            found = self.run(sample)
            return tuple(found[name] for name in names)

        parts = []
        for start in range(0, count, chunk):
            part = {name: value[start : start + chunk] for name, value in singles.items()}
            if any(op.blocks for op in self._function.block.operations):  # a branch is taken for one sample at a time
                rows = [one({n: v[i] for n, v in part.items()}) for i in range(len(next(iter(part.values()))))]
                parts.append(tuple(torch.stack(column) for column in zip(*rows, strict=True)))
            else:
                parts.append(torch.vmap(one)(part))
        return {name: torch.cat([p[i] for p in parts]).flatten(0, 1) for i, name in enumerate(names)}

    def _fold(self, block: Block) -> None:
        """Compute once what depends on constants only."""
        for op in block.operations:
            for inner in op.blocks:
                self._fold(inner)
            if op.type == "const" or op.type.startswith("constexpr_"):
                self._store(op, self._compute(op, self._constants), self._constants)

    def _block(self, block: Block, values: dict[str, Any]) -> None:
        for op in block.operations:
            if op.type != "const" and not op.type.startswith("constexpr_"):
                self._store(op, self._compute(op, values), values)

    def _compute(self, op: Operation, values: dict[str, Any]) -> Any:
        if op.type == "cond":
            taken = op.blocks[0 if bool(self._argument(op, "pred", values)) else 1]
            self._block(taken, values)
            return [self._named(name, values) for name in taken.outputs]
        if op.type == "while_loop":
            condition, body = op.blocks
            state = self._argument(op, "loop_vars", values)
            while bool(self._inside(condition, state, values)[0]):
                state = self._inside(body, state, values)
            return state
        compute = OPERATIONS.get(op.type)
        if compute is None:
            raise NotImplementedError(f"operation {op.type}")
        return compute(Arguments({name: self._argument(op, name, values) for name in op.arguments}, op))

    def _inside(self, block: Block, inputs: Sequence[Any], values: dict[str, Any]) -> list[Any]:
        values.update(zip(block.inputs, inputs, strict=True))
        self._block(block, values)
        return [self._named(name, values) for name in block.outputs]

    @staticmethod
    def _store(op: Operation, results: Any, values: dict[str, Any]) -> None:
        results = results if isinstance(results, (list, tuple)) and op.type != "const" else [results]
        for (name, kind), result in zip(op.outputs, results, strict=False):
            if isinstance(result, Tensor) and result.is_floating_point():
                result = result.half().float() if kind is not None and kind.dtype == "fp16" else result.float()
            values[name] = result

    def _argument(self, op: Operation, name: str, values: dict[str, Any]) -> Any:
        found = [self._named(a, values) if isinstance(a, str) else self._value(a) for a in op.arguments[name]]
        return found if name in ("values", "loop_vars") else found[0]

    def _named(self, name: str, values: dict[str, Any]) -> Any:
        return values[name] if name in values else self._constants[name]

    def _value(self, value: Value) -> Any:
        if value.text is not None:
            return value.text
        if isinstance(value.content, BlobReference) and value.type is not None:
            return _plain(torch.from_numpy(self._blob(value.content.offset, value.type)))
        array = value.array()
        return None if array is None else _plain(torch.from_numpy(np.array(array)))

    def _blob(self, metadata: int, kind: TensorType) -> np.ndarray[Any, Any]:
        sentinel, _, size, offset = struct.unpack_from("<IIQQ", self._weights, metadata)
        if sentinel != 0xDEADBEEF:
            raise ValueError(f"no blob at {metadata}")
        raw = np.frombuffer(self._weights[offset : offset + size], np.uint8)
        shape = [n for n in kind.shape if n is not None]
        if kind.dtype in PACKED:
            bits, signed = PACKED[kind.dtype]
            return unpacked(raw, math.prod(shape), bits, signed=signed).reshape(shape)
        return raw.view(NUMPY[kind.dtype]).reshape(shape).copy()


def unpacked(raw: np.ndarray[Any, Any], count: int, bits: int, *, signed: bool = False) -> np.ndarray[Any, Any]:
    """Elements of `bits` bits, packed from the least significant bit on, int32 (count,)."""
    flags = np.unpackbits(raw, bitorder="little")[: count * bits].reshape(count, bits).astype(np.int32)
    weights = 1 << np.arange(bits, dtype=np.int32)
    if signed:
        weights[-1] = -weights[-1]
    return flags @ weights


def _plain(value: Tensor) -> Tensor:
    """float32 for any float, int64 for small integers: torch's kernels know these best."""
    if value.is_floating_point():
        return value.float()
    return value if value.dtype == torch.bool else value.long()


class Arguments:
    """The arguments of one operation, with the defaults of the MIL reference."""

    def __init__(self, values: dict[str, Any], op: Operation) -> None:
        self._values = values
        self.op = op

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def tensor(self, name: str) -> Tensor:
        return self._values[name]

    def optional(self, name: str) -> Tensor | None:
        return self._values.get(name)

    def tensors(self, name: str) -> list[Tensor]:
        return self._values[name]  # type: ignore[no-any-return]

    def integer(self, name: str, default: int = 0) -> int:
        return int(self._values[name]) if name in self else default

    def integers(self, name: str, default: Sequence[int] = ()) -> list[int]:
        return [int(v) for v in self._values[name].reshape(-1)] if name in self else list(default)

    def number(self, name: str, default: float = 0.0) -> float:
        return float(self._values[name]) if name in self else default

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self._values[name]) if name in self else default

    def text(self, name: str, default: str = "") -> str:
        return str(self._values[name]) if name in self else default

    @property
    def x(self) -> Tensor:
        return self.tensor("x")

    @property
    def y(self) -> Tensor:
        return self.tensor("y")

    @property
    def result_type(self) -> str:
        kind = self.op.outputs[0][1]
        return kind.dtype if kind is not None else ""


Compute = Callable[[Arguments], Any]
OPERATIONS: dict[str, Compute] = {}


def operation(*names: str) -> Callable[[Compute], Compute]:
    """Registers a function under the names of MIL operations."""

    def register(compute: Compute) -> Compute:
        OPERATIONS.update(dict.fromkeys(names, compute))
        return compute

    return register


# --- constants and compressed weights ------------------------------------------------------------


@operation("const")
def _const(a: Arguments) -> Any:
    return a._values.get("val")


@operation("constexpr_cast")
def _constexpr_cast(a: Arguments) -> Tensor:
    return a.tensor("source_val")


@operation("constexpr_affine_dequantize")
def _affine(a: Arguments) -> Tensor:
    data = a.tensor("quantized_data").float()
    shape = [1] * data.dim()
    shape[a.integer("axis")] = -1

    def along(value: Tensor) -> Tensor:
        return value.float().reshape(shape) if value.numel() > 1 else value.float()

    return (data - along(a.tensor("zero_point"))) * along(a.tensor("scale"))


def _over_blocks(table: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat each entry over its block until the leading dimensions are `shape`."""
    for axis, size in enumerate(shape):
        table = table.repeat_interleave(size // table.shape[axis], axis)
    return table


@operation("constexpr_blockwise_shift_scale")
def _blockwise(a: Arguments) -> Tensor:
    data = a.tensor("data").float()
    offset = a.optional("offset")
    if offset is not None:
        data = data - _over_blocks(offset.float(), data.shape)
    return data * _over_blocks(a.tensor("scale").float(), data.shape)


def _looked_up(indices: Tensor, lut: Tensor, vector_axis: int) -> Tensor:
    """iOS 18 tables (*groups, entries, vector)."""
    table = _over_blocks(lut.float(), indices.shape)
    vector = table.shape[-1]
    picked = table.gather(-2, indices.long()[..., None, None].expand(*indices.shape, 1, vector)).squeeze(-2)
    if vector == 1:
        return picked.squeeze(-1)
    axis = vector_axis % indices.dim()
    return picked.movedim(-1, axis + 1).flatten(axis, axis + 1)


@operation("constexpr_lut_to_dense")
def _palettized(a: Arguments) -> Tensor:
    indices, lut = a.tensor("indices"), a.tensor("lut")
    if "shape" not in a:
        return _looked_up(indices, lut, a.integer("vector_axis"))
    shape = a.integers("shape")
    codes = unpacked(indices.to(torch.uint8).numpy(), math.prod(shape), int(math.log2(lut.numel())))
    return lut.float()[torch.from_numpy(codes).long()].reshape(shape)


def _scattered(values: Tensor, mask: Tensor) -> Tensor:
    dense = torch.zeros(mask.shape)
    dense[mask.bool()] = values.float()
    return dense


@operation("constexpr_sparse_to_dense")
def _pruned(a: Arguments) -> Tensor:
    mask = a.tensor("mask")
    if "shape" in a:
        shape = a.integers("shape")
        mask = torch.from_numpy(unpacked(mask.to(torch.uint8).numpy(), math.prod(shape), 1)).reshape(shape)
    return _scattered(a.tensor("nonzero_data"), mask)


@operation("constexpr_lut_to_sparse")
def _lut_to_sparse(a: Arguments) -> list[Tensor]:
    mask = a.tensor("indices_mask")
    axis = a.integer("vector_axis")
    dense = _looked_up(_scattered(a.tensor("indices_nonzero_data"), mask), a.tensor("lut"), axis)
    mask = mask.repeat_interleave(dense.shape[axis] // mask.shape[axis], axis)
    return [mask, dense[mask.bool()]]


@operation("constexpr_sparse_blockwise_shift_scale")
def _sparse_blockwise(a: Arguments) -> list[Tensor]:
    mask = a.tensor("data_mask")
    dense = _scattered(a.tensor("nonzero_data"), mask)
    offset = a.optional("offset")
    if offset is not None:
        dense = dense - _over_blocks(offset.float(), dense.shape)
    return [mask, (dense * _over_blocks(a.tensor("scale").float(), dense.shape))[mask.bool()]]


# --- layers --------------------------------------------------------------------------------------


def _torch_pad(pairs: Sequence[int]) -> list[int]:
    """(before, after) of each dimension, first to last -> torch's order, last to first."""
    return [v for d in reversed(range(len(pairs) // 2)) for v in (pairs[2 * d], pairs[2 * d + 1])]


def _padding(a: Arguments, spatial: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> list[int]:
    """(before, after) of each spatial dimension."""
    kind = a.text("pad_type", "valid")
    if kind == "custom":
        return a.integers("pad", [0] * 2 * len(spatial))
    pairs = []
    for size, reach, stride in zip(spatial, kernel, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + reach - size, 0) if kind in ("same", "same_lower") else 0
        small, large = total // 2, total - total // 2
        pairs += [large, small] if kind == "same_lower" else [small, large]
    return pairs


@operation("conv")
def _conv(a: Arguments) -> Tensor:
    x, weight = a.x, a.tensor("weight")
    n = x.dim() - 2
    strides, dilations = a.integers("strides", [1] * n), a.integers("dilations", [1] * n)
    kernel = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    x = functional.pad(x, _torch_pad(_padding(a, x.shape[2:], kernel, strides)))
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[n - 1]
    return convolve(x, weight, a.optional("bias"), strides, 0, dilations, a.integer("groups", 1))


@operation("conv_transpose")
def _conv_transpose(a: Arguments) -> Tensor:
    x, weight = a.x, a.tensor("weight")
    n = x.dim() - 2
    strides, dilations = a.integers("strides", [1] * n), a.integers("dilations", [1] * n)
    transpose = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[n - 1]
    whole = transpose(x, weight, a.optional("bias"), strides, 0, 0, a.integer("groups", 1), dilations)
    if a.text("pad_type", "valid") == "custom":
        crop = a.integers("pad", [0] * 2 * n)
    elif a.text("pad_type", "valid") == "valid":
        crop = [0] * 2 * n
    else:
        raise NotImplementedError("conv_transpose with 'same' padding")
    wanted = a.integers("output_shape", [0] * (n + 2))[2:]
    for d in range(n):
        size = wanted[d] or whole.shape[2 + d] - crop[2 * d] - crop[2 * d + 1]
        short = crop[2 * d] + size - whole.shape[2 + d]
        if short > 0:  # output padding: rows that no input reaches
            whole = functional.pad(whole, [0, 0] * (n - 1 - d) + [0, short])
        whole = whole.narrow(2 + d, crop[2 * d], size)
    return whole


@operation("linear")
def _linear(a: Arguments) -> Tensor:
    return functional.linear(a.x, a.tensor("weight"), a.optional("bias"))


@operation("matmul")
def _matmul(a: Arguments) -> Tensor:
    x = a.x.mT if a.flag("transpose_x") else a.x
    y = a.y.mT if a.flag("transpose_y") else a.y
    return x @ y


@operation("einsum")
def _einsum(a: Arguments) -> Tensor:
    return torch.einsum(a.text("equation"), *a.tensors("values"))


@operation("scaled_dot_product_attention")
def _attention(a: Arguments) -> Tensor:
    query, key, value = a.tensor("query"), a.tensor("key"), a.tensor("value")
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    mask = a.optional("attn_mask")
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value


@operation("batch_norm")
def _batch_norm(a: Arguments) -> Tensor:
    shape = [1, -1] + [1] * (a.x.dim() - 2)
    gamma, beta = a.optional("gamma"), a.optional("beta")
    values = (a.x - a.tensor("mean").reshape(shape)) * torch.rsqrt(
        a.tensor("variance").reshape(shape) + a.number("epsilon", 1e-5)
    )
    values = values if gamma is None else values * gamma.reshape(shape)
    return values if beta is None else values + beta.reshape(shape)


def _normalized(x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    mean = x.mean(axes, keepdim=True)
    return (x - mean) * torch.rsqrt(((x - mean) ** 2).mean(axes, keepdim=True) + epsilon)


@operation("layer_norm")
def _layer_norm(a: Arguments) -> Tensor:
    gamma, beta = a.optional("gamma"), a.optional("beta")
    values = _normalized(a.x, a.integers("axes", [-1]), a.number("epsilon", 1e-5))
    values = values if gamma is None else values * gamma
    return values if beta is None else values + beta


@operation("instance_norm")
def _instance_norm(a: Arguments) -> Tensor:
    shape = [1, -1] + [1] * (a.x.dim() - 2)
    gamma, beta = a.optional("gamma"), a.optional("beta")
    values = _normalized(a.x, list(range(2, a.x.dim())), a.number("epsilon", 1e-5))
    values = values if gamma is None else values * gamma.reshape(shape)
    return values if beta is None else values + beta.reshape(shape)


@operation("l2_norm")
def _l2_norm(a: Arguments) -> Tensor:
    return a.x * torch.rsqrt((a.x**2).sum([-3, -2, -1], keepdim=True) + a.number("epsilon", 1e-6))


@operation("gather")
def _gather(a: Arguments) -> Tensor:
    x, indices = a.x, a.tensor("indices").long()
    axis = a.integer("axis") % x.dim()
    if a.integer("batch_dims"):
        raise NotImplementedError("gather with batch_dims")
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    picked = x.index_select(axis, indices.reshape(-1))
    return picked.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


GATE_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "linear": lambda v: v,
}


def _recurrent(
    a: Arguments, ending: str, state: tuple[Tensor, ...], *, reverse: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One direction of an LSTM (gates input, forget, output, cell) or a GRU (reset, output, update)."""
    inner = GATE_ACTIVATIONS[a.text("recurrent_activation", "sigmoid")]
    outer = GATE_ACTIVATIONS[a.text("activation", "tanh")]
    cell = GATE_ACTIVATIONS[a.text("cell_activation", "tanh")]
    x, ih, hh = a.x, a.tensor(f"weight_ih{ending}"), a.tensor(f"weight_hh{ending}")
    bias = a.optional(f"bias{ending}")
    into = functional.linear(x, ih, bias)
    steps = []
    for t in reversed(range(x.shape[0])) if reverse else range(x.shape[0]):
        if a.op.type == "lstm":
            i, f, o, z = (into[t] + functional.linear(state[0], hh)).chunk(4, -1)
            c = inner(f) * state[1] + inner(i) * cell(z)
            state = (inner(o) * outer(c), c)
        else:
            ir, io, iz = into[t].chunk(3, -1)
            hr, ho, hz = functional.linear(state[0], hh).chunk(3, -1)
            r, z = inner(ir + hr), inner(iz + hz)
            state = ((1 - z) * outer(io + r * ho) + z * state[0],)
        steps.append(state[0])
    return torch.stack(steps[::-1] if reverse else steps), state


@operation("lstm", "gru")
def _recurrent_layer(a: Arguments) -> list[Tensor]:
    if "peephole" in a or "clip" in a:
        raise NotImplementedError("lstm with peephole or clip")
    names = ("initial_h", "initial_c") if a.op.type == "lstm" else ("initial_h",)
    direction = a.text("direction", "forward")
    if direction == "bidirectional":
        halves = [a.tensor(n).chunk(2, -1) for n in names]
        runs = [_recurrent(a, e, tuple(h[i] for h in halves), reverse=bool(i)) for i, e in enumerate(("", "_back"))]
        sequence = torch.cat([r[0] for r in runs], -1)
        state = tuple(torch.cat([r[1][i] for r in runs], -1) for i in range(len(names)))
    else:
        sequence, state = _recurrent(a, "", tuple(a.tensor(n) for n in names), reverse=direction == "reverse")
    return [sequence if a.flag("output_sequence") else state[0].unsqueeze(0), *state]


# --- activations and elementwise -----------------------------------------------------------------

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu, "relu6": functional.relu6, "sigmoid": torch.sigmoid, "silu": functional.silu, "tanh": torch.tanh,
    "softplus": functional.softplus, "softsign": functional.softsign, "exp": torch.exp, "exp2": torch.exp2, "sqrt": torch.sqrt,
    "square": torch.square, "abs": torch.abs, "sign": torch.sign, "floor": torch.floor, "ceil": torch.ceil,
    "round": torch.round, "erf": torch.erf, "sin": torch.sin, "cos": torch.cos, "tan": torch.tan, "identity": lambda x: x,
    "logical_not": torch.logical_not,
}  # fmt: skip
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "real_div": torch.div, "floor_div": torch.floor_divide,
    "mod": torch.remainder, "pow": torch.pow, "maximum": torch.maximum, "minimum": torch.minimum, "equal": torch.eq,
    "not_equal": torch.ne, "greater": torch.gt, "greater_equal": torch.ge, "less": torch.lt, "less_equal": torch.le,
    "logical_and": torch.logical_and, "logical_or": torch.logical_or, "logical_xor": torch.logical_xor,
}  # fmt: skip


@operation(*UNARY)
def _unary(a: Arguments) -> Tensor:
    return UNARY[a.op.type](a.x)


@operation(*BINARY)
def _binary(a: Arguments) -> Tensor:
    return BINARY[a.op.type](a.x, a.y)


@operation("inverse", "rsqrt", "log")
def _with_epsilon(a: Arguments) -> Tensor:
    defaults = {"inverse": 1e-4, "rsqrt": 1e-12, "log": 1e-45}
    moved = a.x + a.number("epsilon", defaults[a.op.type])
    return {"inverse": torch.reciprocal, "rsqrt": torch.rsqrt, "log": torch.log}[a.op.type](moved)


@operation("leaky_relu", "elu", "thresholded_relu")
def _with_alpha(a: Arguments) -> Tensor:
    alpha = a.number("alpha")
    if a.op.type == "leaky_relu":
        return functional.leaky_relu(a.x, alpha)
    return functional.elu(a.x, alpha) if a.op.type == "elu" else torch.where(a.x >= alpha, a.x, torch.zeros_like(a.x))


@operation("prelu")
def _prelu(a: Arguments) -> Tensor:
    alpha = a.tensor("alpha").reshape([1, -1] + [1] * (a.x.dim() - 2))
    return torch.where(a.x > 0, a.x, a.x * alpha)


@operation("clip", "sigmoid_hard", "linear_activation", "scaled_tanh")
def _with_alpha_and_beta(a: Arguments) -> Tensor:
    alpha, beta = a.number("alpha"), a.number("beta")
    if a.op.type == "clip":
        return a.x.clamp(alpha, beta)
    if a.op.type == "scaled_tanh":
        return alpha * torch.tanh(beta * a.x)
    line = alpha * a.x + beta
    return line.clamp(0, 1) if a.op.type == "sigmoid_hard" else line


@operation("gelu")
def _gelu(a: Arguments) -> Tensor:
    mode = a.text("mode", "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        return a.x * torch.sigmoid(1.702 * a.x)
    return functional.gelu(a.x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


@operation("softmax")
def _softmax(a: Arguments) -> Tensor:
    return a.x.softmax(a.integer("axis", -1))


@operation("cast")
def _cast(a: Arguments) -> Tensor:
    wanted = a.text("dtype")
    if wanted == "bool":
        return a.x.bool()
    return a.x.float() if wanted.startswith("fp") else a.x.long()  # towards zero, as Core ML does


@operation("select")
def _select(a: Arguments) -> Tensor:
    return torch.where(a.tensor("cond").bool(), a.tensor("a"), a.tensor("b"))


# --- shapes --------------------------------------------------------------------------------------


@operation("reshape")
def _reshape(a: Arguments) -> Tensor:
    shape = a.integers("shape")
    return a.x.reshape([a.x.shape[i] if n == 0 else n for i, n in enumerate(shape)])


@operation("transpose")
def _transpose(a: Arguments) -> Tensor:
    return a.x.permute(a.integers("perm"))


@operation("squeeze")
def _squeeze(a: Arguments) -> Tensor:
    axes = a.integers("axes", [d for d, n in enumerate(a.x.shape) if n == 1])
    x = a.x
    for axis in sorted((d % a.x.dim() for d in axes), reverse=True):
        x = x.squeeze(axis)
    return x


@operation("expand_dims")
def _expand_dims(a: Arguments) -> Tensor:
    x = a.x
    rank = x.dim() + len(a.integers("axes"))
    for axis in sorted(d % rank for d in a.integers("axes")):
        x = x.unsqueeze(axis)
    return x


@operation("concat")
def _concat(a: Arguments) -> Tensor:
    if a.flag("interleave"):
        raise NotImplementedError("concat with interleave")
    return torch.cat(a.tensors("values"), a.integer("axis"))


@operation("stack")
def _stack(a: Arguments) -> Tensor:
    return torch.stack(a.tensors("values"), a.integer("axis"))


@operation("split")
def _split(a: Arguments) -> list[Tensor]:
    axis = a.integer("axis")
    sizes = a.integers("split_sizes") or [a.x.shape[axis] // a.integer("num_splits", 1)] * a.integer("num_splits", 1)
    return list(a.x.split(sizes, axis))


@operation("slice_by_index")
def _slice_by_index(a: Arguments) -> Tensor:
    x, rank = a.x, a.x.dim()
    begin, end, stride = a.integers("begin"), a.integers("end"), a.integers("stride", [1] * rank)
    open_begin, open_end, single = (a.integers(f"{m}_mask", [0] * rank) for m in ("begin", "end", "squeeze"))
    for d in range(rank):
        if single[d]:
            x = x.narrow(d, begin[d] % x.shape[d], 1)
            continue
        if stride[d] < 0:
            if stride[d] != -1 or not (open_begin[d] and open_end[d]):
                raise NotImplementedError("slice_by_index that runs backwards over a part")
            x = x.flip(d)
            continue
        chosen = slice(None if open_begin[d] else begin[d], None if open_end[d] else end[d], stride[d])
        x = x[(slice(None),) * d + (chosen,)]
    return x.reshape([n for d, n in enumerate(x.shape) if not single[d]])


@operation("slice_by_size")
def _slice_by_size(a: Arguments) -> Tensor:
    x = a.x
    for d, (begin, size) in enumerate(zip(a.integers("begin"), a.integers("size"), strict=True)):
        x = x.narrow(d, begin, x.shape[d] - begin if size == -1 else size)
    return x


@operation("pad")
def _pad(a: Arguments) -> Tensor:
    mode = a.text("mode", "constant")
    pairs = a.integers("pad")
    if mode == "constant":
        return functional.pad(a.x, _torch_pad(pairs), value=a.number("constant_val"))
    # torch reflects and replicates the last dimensions only, in 2-D or deeper.
    while len(pairs) > 2 and pairs[:2] == [0, 0]:
        pairs = pairs[2:]
    x = a.x
    lead = max(0, len(pairs) // 2 + 2 - x.dim())
    for _ in range(lead):
        x = x.unsqueeze(0)
    x = functional.pad(x, _torch_pad(pairs), mode=mode)
    for _ in range(lead):
        x = x.squeeze(0)
    return x


@operation("scatter")
def _scatter(a: Arguments) -> Tensor:
    if a.text("mode", "add") not in ("add", "update"):
        raise NotImplementedError(f"scatter with {a.text('mode')}")
    data, axis = a.tensor("data").clone(), a.integer("axis")
    indices = a.tensor("indices").long().reshape(-1)
    updates = a.tensor("updates").reshape([*data.shape[:axis], indices.numel(), *data.shape[axis + 1 :]])
    if a.text("mode", "add") == "add":
        return data.index_add(axis, indices, updates)
    return data.index_copy(axis, indices, updates)


@operation("tile")
def _tile(a: Arguments) -> Tensor:
    return a.x.repeat(a.integers("reps"))


@operation("reverse")
def _reverse(a: Arguments) -> Tensor:
    return a.x.flip(a.integers("axes", range(a.x.dim())))


@operation("pixel_shuffle")
def _pixel_shuffle(a: Arguments) -> Tensor:
    return functional.pixel_shuffle(a.x, a.integer("upscale_factor"))


@operation("shape")
def _shape(a: Arguments) -> Tensor:
    return torch.tensor(list(a.x.shape))


@operation("fill")
def _fill(a: Arguments) -> Tensor:
    return torch.full(a.integers("shape"), a.number("value"))


# --- pooling, reductions, resizing ---------------------------------------------------------------


@operation("avg_pool", "max_pool")
def _pool(a: Arguments) -> Tensor:
    x, kernel = a.x, a.integers("kernel_sizes")
    n = len(kernel)
    strides = a.integers("strides", [1] * n)
    pairs = _torch_pad(_padding(a, x.shape[2:], kernel, strides))
    ceil = a.flag("ceil_mode")
    if a.op.type == "max_pool":
        pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[n - 1]
        return pool(functional.pad(x, pairs, value=-math.inf), kernel, strides, 0, 1, ceil)
    average = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[n - 1]
    pooled = average(functional.pad(x, pairs), kernel, strides, 0, ceil)
    if a.flag("exclude_padding_from_average") and any(pairs):
        return pooled / average(functional.pad(torch.ones(1, 1, *x.shape[2:]), pairs), kernel, strides, 0, ceil)
    return pooled


@operation(
    "reduce_mean",
    "reduce_sum",
    "reduce_max",
    "reduce_min",
    "reduce_prod",
    "reduce_l1_norm",
    "reduce_l2_norm",
    "reduce_sum_square",
)
def _reduce(a: Arguments) -> Tensor:
    axes, keep = a.integers("axes", range(a.x.dim())), a.flag("keep_dims")
    kind = a.op.type.removeprefix("reduce_")
    if kind in ("mean", "sum"):
        return a.x.mean(axes, keepdim=keep) if kind == "mean" else a.x.sum(axes, keepdim=keep)
    if kind in ("max", "min"):
        return a.x.amax(axes, keepdim=keep) if kind == "max" else a.x.amin(axes, keepdim=keep)
    if kind in ("sum_square", "l2_norm"):
        total = (a.x**2).sum(axes, keepdim=keep)
        return total if kind == "sum_square" else total.sqrt()
    if kind == "l1_norm":
        return a.x.abs().sum(axes, keepdim=keep)
    x = a.x
    for axis in sorted((d % a.x.dim() for d in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


@operation("reduce_argmax", "reduce_argmin")
def _arg(a: Arguments) -> Tensor:
    pick = torch.argmax if a.op.type.endswith("max") else torch.argmin
    return pick(a.x, a.integer("axis", -1), keepdim=a.flag("keep_dims"))


@operation("cumsum")
def _cumsum(a: Arguments) -> Tensor:
    if a.flag("exclusive") or a.flag("reverse"):
        raise NotImplementedError("cumsum that is exclusive or runs backwards")
    return a.x.cumsum(a.integer("axis"))


@operation("upsample_nearest_neighbor", "upsample_bilinear")
def _upsample(a: Arguments) -> Tensor:
    factors = a.number("scale_factor_height", 1), a.number("scale_factor_width", 1)
    size = [int(n * f + 1e-6) for n, f in zip(a.x.shape[-2:], factors, strict=True)]
    if a.op.type == "upsample_nearest_neighbor":
        return functional.interpolate(a.x, size, mode="nearest")
    return functional.interpolate(a.x, size, mode="bilinear", align_corners=a.flag("align_corners", True))


@operation("resize_bilinear")
def _resize_bilinear(a: Arguments) -> Tensor:
    mode = a.text("sampling_mode", "DEFAULT")
    if mode not in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "UNALIGN_CORNERS"):
        raise NotImplementedError(f"resize_bilinear with {mode}")
    size = [a.integer("target_size_height", 1), a.integer("target_size_width", 1)]
    return functional.interpolate(a.x, size, mode="bilinear", align_corners=mode != "UNALIGN_CORNERS")


@operation("resize_nearest_neighbor")
def _resize_nearest(a: Arguments) -> Tensor:
    return functional.interpolate(
        a.x, [a.integer("target_size_height"), a.integer("target_size_width")], mode="nearest"
    )
