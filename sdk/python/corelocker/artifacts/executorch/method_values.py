"""What stands among the values of an ExecuTorch method, before anything ran."""

from __future__ import annotations

from dataclasses import dataclass

from corelocker.artifacts.elements import ElementType
from corelocker.artifacts.layers import Region

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorValue:
    """A tensor among a method's values.

    Attributes:
        shape: its largest shape.
        order: its axes, outermost first, or None for row-major.
        element: type, None where no adapter knows it.
        region: where a constant's bytes are; None for an activation.
        place: (memory, offset) that the memory plan gives it; views have no kernel and share it with what they view.
    """

    shape: Shape
    order: Shape | None
    element: ElementType | None
    region: Region | None
    place: tuple[int, int, int] | None


@dataclass(frozen=True)
class IntListValue:
    """A list of integers, as numbers of the values that hold them."""

    items: Shape


@dataclass(frozen=True)
class TensorListValue:
    """A list of tensors, as numbers of the values that they are."""

    items: Shape


MethodValue = TensorValue | IntListValue | TensorListValue | int | float | None
