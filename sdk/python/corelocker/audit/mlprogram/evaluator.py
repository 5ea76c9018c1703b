"""Running an ML Program: its blocks in order, its constants computed once, every result rounded as the program says."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
from corelocker.artifacts.coreml.weight_uses import all_operations
from corelocker.audit.mlprogram.arguments import OPERATIONS, Arguments
from corelocker.audit.mlprogram.packing import PACKED, unpacked

MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")
NUMPY = {
    "fp16": np.float16, "fp32": np.float32, "int8": np.int8, "uint8": np.uint8, "int16": np.int16, "uint16": np.uint16,
    "int32": np.int32, "uint32": np.uint32, "bool": np.bool_,
}  # fmt: skip

STATEFUL = {"read_state": "input", "write_state": "input", "coreml_update_state": "state"}  # where each names its state


def states_of(function: Function) -> set[str]:
    """Names of a function's inputs that are states."""
    found: set[str] = set()
    for op in all_operations(function.block):
        found.update(value for value in op.arguments.get(STATEFUL.get(op.type, ""), ()) if isinstance(value, str))
    return found


class MlProgramEvaluator:
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

    def with_weights(self, weights: bytes | memoryview) -> MlProgramEvaluator:
        """The same program with other bytes as its weight file."""
        other = object.__new__(MlProgramEvaluator)
        other._prepare(self._program, memoryview(weights), self._function.name)
        return other

    def _prepare(self, program: MilProgram, weights: memoryview, function: str) -> None:
        self._program = program
        self._weights = weights
        self._function: Function = next(f for f in program.functions if f.name == function)
        self._constants: dict[str, Any] = {}
        self._states: dict[str, Tensor] = {}
        self._fold(self._function.block)

    @property
    def inputs(self) -> dict[str, TensorType | None]:
        """Name and type of each input that a caller gives: states are none of them."""
        return {name: kind for name, kind in self._function.inputs if name not in self.states}

    @property
    def states(self) -> set[str]:
        """Names of the inputs that the program keeps from one call to the next."""
        return states_of(self._function)

    def constant(self, name: str) -> Tensor:
        """A constant of the program by name, expanded to float32 (or integers)."""
        return self._constants[name]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One call with inputs of the program's own shapes; returns float32 or integer tensors by name.

        States begin as zeros and go from one call to the next.
        """
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
        if op.type in STATEFUL:
            return self._through_state(op, values)
        compute = OPERATIONS.get(op.type)
        if compute is None:
            raise NotImplementedError(f"operation {op.type}")
        return compute(Arguments({name: self._argument(op, name, values) for name in op.arguments}, op))

    def _through_state(self, op: Operation, values: dict[str, Any]) -> Tensor:
        """Read a state, or set it; one that was never set is zeros."""
        place = STATEFUL[op.type]
        state = next(value for value in op.arguments[place] if isinstance(value, str))
        if op.type != "read_state":
            kind = dict(self._function.inputs).get(state)
            given: Tensor = self._argument(op, "value" if place == "state" else "data", values)
            half = kind is not None and kind.dtype == "fp16" and given.is_floating_point()
            self._states[state] = given.half().float() if half else given
        elif state not in self._states:
            kind = dict(self._function.inputs)[state]
            shape = [n or 1 for n in kind.shape] if kind is not None else []
            self._states[state] = torch.zeros(shape)
        return self._states[state]

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


def _plain(value: Tensor) -> Tensor:
    """float32 for any float, int64 for small integers: torch's kernels know these best."""
    if value.is_floating_point():
        return value.float()
    return value if value.dtype == torch.bool else value.long()
