"""Running a file in any state: a `.pte` in ExecuTorch, an `.mlpackage` in the evaluator, a checkpoint in its torch module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from corelocker.artifacts import Artifact
from corelocker.audit.evaluators import Evaluator, load_state
from corelocker.audit.tier_bytes import State
from corelocker.errors import ConfigError, CoreLockerError
from corelocker.exporting._steps import quiet
from corelocker.factories import call_factory
from corelocker.runtime.executorch import RestoredModule

FEW, CHUNK = 8, 64  # inputs from which on they are run at once, and how many
MOST_ELEMENTS = 1 << 20  # of an output of one call
DYNAMIC = 32  # stands for a dimension that the file leaves open


class CannotRunError(Exception):
    """The file does not run here; the message says why."""


@dataclass(frozen=True)
class Input:
    """An input of a method: its name, shape with all axes, and torch type; `fixed` is what it always gets."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    fixed: Any = None


@dataclass(frozen=True)
class Method:
    """A method, or function, of a file."""

    name: str
    inputs: tuple[Input, ...]

    @property
    def batch(self) -> int:
        """Inputs in one call, where the first axis of the first input counts them."""
        first = next((i for i in self.inputs if i.fixed is None and len(i.shape) > 1), None)
        return first.shape[0] if first is not None else 1


class Call:
    """An artifact in one state, ready to run.

    Args:
        one: runs (method, inputs).
        many: runs (method, columns of samples) at once where that gives what one after the other would; None where it does not.
    """

    def __init__(
        self,
        one: Callable[[str, Sequence[Any]], list[Tensor]],
        many: Callable[[str, Sequence[Any]], list[Tensor] | None] = lambda method, columns: None,
    ) -> None:
        self.one, self.many = one, many


class Runner(Protocol):
    """Runs one artifact."""

    methods: tuple[Method, ...]

    def load(self, state: State) -> Call:
        """A function of (method, inputs) that runs the artifact in that state, which starts afresh where it keeps any."""


def use_one_thread() -> None:
    """One input at a time is too little work to share: on a busy machine threads wait for each other."""
    from executorch.extension.pybindings import portable_lib

    torch.set_num_threads(1)
    with quiet():
        portable_lib._unsafe_reset_threadpool(1)


def runner_of(artifact: Artifact, factory: str | None) -> Runner:
    """The runner of an artifact. Raises CannotRunError."""
    try:
        if artifact.format == "executorch":
            return ProgramRunner(artifact)
        if artifact.format == "coreml":
            return PackageRunner(artifact)
        if artifact.format == "safetensors":
            if factory is None:
                raise CannotRunError("a checkpoint is weights without a model; --model names it")
            return ModuleRunner(artifact, factory)
    except (CoreLockerError, RuntimeError, NotImplementedError, ValueError) as error:
        raise CannotRunError(_line(error)) from error
    raise CannotRunError("a compiled Core ML model does not run here; lock the .mlpackage that it came from beside it")


class ProgramRunner:
    """A `.pte` in ExecuTorch."""

    def __init__(self, artifact: Artifact) -> None:
        loaded = self._module({file.name: file.data for file in artifact.files})
        methods = []
        for name in loaded.method_names():
            meta = loaded._module.method_meta(name)
            methods.append(Method(name, tuple(_program_input(meta, i) for i in range(meta.num_inputs()))))
        self.methods = tuple(sorted(methods, key=lambda method: method.name != "forward"))

    def load(self, state: State) -> Call:
        with quiet():
            module = self._module(state)
        return Call(lambda method, inputs: _tensors(module.run_method(method, inputs)))

    @staticmethod
    def _module(state: State) -> RestoredModule:
        program = next(data for name, data in state.items() if name.endswith(".pte"))
        external = [data for name, data in state.items() if not name.endswith(".pte")]
        if len(external) > 1:
            raise CannotRunError("ExecuTorch's Python runtime takes one .ptd only")
        with quiet():
            return RestoredModule(program.data, external[0].data if external else None)


def _program_input(meta: Any, index: int) -> Input:
    """An input of a program by the runtime's description; one that is no tensor gets 1."""
    try:
        tensor = meta.input_tensor_meta(index)
    except RuntimeError:
        return Input(str(index), (), torch.int64, fixed=1)
    scalar_types = {
        0: torch.uint8, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.int64, 5: torch.float16, 6: torch.float32,
        7: torch.float64, 11: torch.bool, 15: torch.bfloat16,
    }  # fmt: skip
    dtype = scalar_types.get(int(tensor.dtype()))
    if dtype is None:
        raise CannotRunError(f"input {index} has a type that is not known here")
    return Input(str(index), tuple(tensor.sizes()), dtype)


class PackageRunner:
    """An `.mlpackage` in the evaluator."""

    def __init__(self, artifact: Artifact) -> None:
        from corelocker.artifacts.coreml.mlprogram import read_model
        from corelocker.audit.mlprogram import MODEL
        from corelocker.audit.mlprogram.evaluator import states_of

        self._path = artifact.path
        program = read_model((artifact.path / MODEL).read_bytes())
        self.methods = tuple(
            Method(f.name, tuple(self._input(name, kind) for name, kind in f.inputs if name not in states_of(f)))
            for f in program.functions
        )

    @staticmethod
    def _input(name: str, kind: Any) -> Input:
        if kind is None:
            raise CannotRunError(f"its input {name} is no tensor, which the evaluator does not know")
        types = {"fp16": torch.float32, "fp32": torch.float32, "bool": torch.bool, "uint8": torch.uint8}
        return Input(name, tuple(DYNAMIC if n is None else n for n in kind.shape), types.get(kind.dtype, torch.int64))

    def load(self, state: State) -> Call:
        from corelocker.audit.mlprogram import MlProgramEvaluator

        weights = next(iter(state.values())).data
        programs = {m.name: MlProgramEvaluator(self._path, weights, m.name) for m in self.methods}

        def call(method: str, inputs: Sequence[Any]) -> list[Tensor]:
            names = list(programs[method].inputs)
            with torch.inference_mode():
                return list(programs[method].run(dict(zip(names, inputs, strict=True))).values())

        def many(method: str, columns: Sequence[Any]) -> list[Tensor] | None:
            names = list(programs[method].inputs)
            if not _single(columns) or programs[method].states:  # a state goes from one input to the next
                return None
            with torch.inference_mode():
                found = programs[method].batch({n: c.squeeze(1) for n, c in zip(names, columns, strict=True)})
            return [value.unsqueeze(1) for value in found.values()]

        return Call(call, many)


class ModuleRunner:
    """A checkpoint in its torch module."""

    def __init__(self, artifact: Artifact, factory: str) -> None:
        with quiet():
            made = call_factory(factory)
        if not isinstance(made, tuple) or len(made) < 2 or not isinstance(made[1], tuple):
            raise ConfigError(f"{factory}: must return (module, example_inputs)")
        self._module, example = made[0].eval(), made[1]
        self.methods: tuple[Method, ...] = (
            Method(
                "forward",
                tuple(
                    Input(str(i), tuple(v.shape), v.dtype, None if v.ndim else v)
                    if torch.is_tensor(v)
                    else Input(str(i), (), torch.int64, v)
                    for i, v in enumerate(example)
                ),
            ),
        )
        self.load({file.name: file.data for file in artifact.files})

    def load(self, state: State) -> Call:
        import copy

        module = load_state(copy.deepcopy(self._module), Evaluator.state_dict(state))

        def call(method: str, inputs: Sequence[Any]) -> list[Tensor]:
            with torch.inference_mode():
                return _tensors(module(*inputs))

        def many(method: str, columns: Sequence[Any]) -> list[Tensor] | None:
            if not _single(columns):
                return None
            parts = [
                call(method, [c[start : start + CHUNK].squeeze(1) for c in columns])
                for start in range(0, len(columns[0]), CHUNK)
            ]
            return [torch.cat(column).unsqueeze(1) for column in zip(*parts, strict=True)]

        return Call(call, many)


def _tensors(found: Any) -> list[Tensor]:
    """All tensors among what a model returns, in order."""
    if torch.is_tensor(found):
        return [found]
    if isinstance(found, dict):
        return [t for value in found.values() for t in _tensors(value)]
    if hasattr(found, "to_tuple"):
        return _tensors(found.to_tuple())
    if isinstance(found, (tuple, list)):
        return [t for value in found for t in _tensors(value)]
    return []


def _single(columns: Sequence[Any]) -> bool:
    """Whether every input is a batch of one."""
    return all(torch.is_tensor(c) and c.ndim > 2 and c.shape[1] == 1 for c in columns)


def run_all(call: Call, method: Method, columns: Sequence[Any], count: int) -> list[Tensor]:
    """Each output (count, ...) of a method on `count` inputs; `columns` holds the samples (count, *shape) or one value.

    Raises CannotRunError.
    """
    rows: list[list[Tensor]] = []
    if count >= FEW and (found := _at_once(call, method, columns, count)) is not None:
        return found
    try:
        with quiet():
            for i in range(count):
                given = [c[i].contiguous() if torch.is_tensor(c) and c.ndim > 0 else c for c in columns]
                rows.append([_thinned(value) for value in call.one(method.name, given)])
    except (RuntimeError, NotImplementedError, ValueError, IndexError, TypeError, KeyError, CoreLockerError) as error:
        raise CannotRunError(f"{method.name}: {_line(error)}") from error
    if not rows or not rows[0]:
        raise CannotRunError(f"{method.name}: it returns no tensor")
    outputs = []
    for column in zip(*rows, strict=True):
        if any(value.shape != column[0].shape for value in column):
            raise CannotRunError(f"{method.name}: the shape of an output depends on the input")
        outputs.append(torch.stack(column))
    return outputs


def _at_once(call: Call, method: Method, columns: Sequence[Any], count: int) -> list[Tensor] | None:
    """The outputs of all inputs at once, where the first ones come out as they do one by one; None where they do not."""
    try:
        with quiet():
            found = call.many(method.name, [c[:count] if torch.is_tensor(c) and c.ndim else c for c in columns])
            if found is None:
                return None
            for i in range(2):
                alone = call.one(method.name, [c[i] for c in columns])
                if not all(
                    f.shape[1:] == a.shape and torch.allclose(f[i].float(), a.float(), 1e-3, 1e-3, equal_nan=True)
                    for f, a in zip(found, alone, strict=True)
                ):
                    return None
    except (RuntimeError, NotImplementedError, ValueError, IndexError, TypeError, KeyError):
        return None
    return [torch.stack([_thinned(row) for row in value]) for value in found]


def _thinned(value: Tensor) -> Tensor:
    """A copy; of the positions of a long sequence or a large map every second one, again and again, where it is very large."""
    while value.numel() > MOST_ELEMENTS and value.ndim > 2 and max(value.shape[1:-1]) > 1:
        axis = 1 + max(range(value.ndim - 2), key=lambda a: value.shape[1 + a])
        value = value.index_select(axis, torch.arange(0, value.shape[axis], 2))
    return value.clone()


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
