"""What an operation of an ML Program computes with, and the register of those that are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from corelocker.artifacts.coreml.mlprogram import Operation


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
