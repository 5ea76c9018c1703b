"""Where a layer's channels go: following them through the operators between layers.

Every activation carries traces, one for each layer (or model input) that it depends on. A trace says which places of the
activation hold which channel, as long as that is known: each axis is a sequence of atoms, outermost first, and some atoms
count channels. Views and transpositions move and split atoms, concatenations shift them, contractions lose them. A layer that
reads an activation closes its traces: they become edges, or reasons why there is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from corelocker.artifacts.weights import Edge
from corelocker.artifacts.work_budget import WorkBudget

MIXED = "its channels are summed or mixed before the next layer"
RESHAPED = "a reshape between the layers cannot be followed"
PARTIAL = "only some of its channels reach the next layer (a slice)"
INTERLEAVED = "its channels are interleaved with other values where the next layer reads them"
BROADCAST = "its channels are spread over an axis that the next layer reads"
SINGLE = "it has one channel"
SIDE = "not the data but a mask, an index or a scale"


class Atom(NamedTuple):
    """A factor of an axis. Place p counts `(p - first) // block * step` channels; step 0 counts none."""

    size: int
    step: int = 0
    block: int = 1
    first: int = 0


Axis = tuple[Atom, ...]


class Trace(NamedTuple):
    """How one source reaches an activation.

    Attributes:
        source: the layer, or None for an input of the model.
        axes: where its channels are; None when that is lost.
        reason: why it is lost, or why a model input is not the data.
    """

    source: str | None
    axes: tuple[Axis, ...] | None
    reason: str = ""


def _plain(size: int) -> Axis:
    return (Atom(size),) if size != 1 else ()


def _size(axis: Axis) -> int:
    return math.prod(atom.size for atom in axis)


def _joined(atoms: Iterable[Atom]) -> Axis:
    """Neighbors that count on from each other become one atom."""
    axis: list[Atom] = []
    for atom in atoms:
        if atom.size == 1 and not atom.step:
            continue
        if axis and _simple(axis[-1]) and _simple(atom) and axis[-1].step == atom.step * atom.size:
            axis[-1] = Atom(axis[-1].size * atom.size, atom.step)
        else:
            axis.append(atom)
    return tuple(axis)


def _simple(atom: Atom) -> bool:
    return atom.block == 1 and atom.first == 0


def _collapsed(axis: Axis) -> Atom | None:
    """The whole axis as one atom, if its channels are its outermost factor and nothing else of it counts channels."""
    if not any(atom.step for atom in axis):
        return Atom(_size(axis))
    head, tail = axis[0], axis[1:]
    inner = _size(tail)
    if head.step != 1 or any(atom.step for atom in tail):
        return None
    return Atom(head.size * inner, 1, head.block * inner, head.first * inner)


def _reshaped(axes: tuple[Axis, ...], shape: Sequence[int]) -> tuple[Axis, ...] | None:
    atoms = [atom for axis in axes for atom in axis][::-1]
    if 0 in shape or any(atom.size == 0 for atom in atoms):
        return None
    result = []
    for size in shape:
        taken: list[Atom] = []
        while size > 1 and atoms:
            atom = atoms.pop()
            if size % atom.size == 0:
                taken.append(atom)
                size //= atom.size
            elif atom.size % size == 0 and (_simple(atom) or not atom.step):
                inner = atom.size // size
                taken.append(Atom(size, atom.step * inner))
                atoms.append(Atom(inner, atom.step))
                size = 1
            else:
                return None
        if size != 1:
            return None
        result.append(_joined(taken))
    return None if atoms else tuple(result)


@dataclass(frozen=True)
class Flow:
    """An activation.

    Attributes:
        shape: its (largest) shape, in the order in which its operators see it.
        traces: what it depends on.
        untouched: the layer whose output this is, number for number.
    """

    shape: tuple[int, ...]
    traces: tuple[Trace, ...] = ()
    untouched: str | None = None

    def same(self, shape: Sequence[int] | None = None) -> Flow:
        """After an operator that works element by element, or in place on some axes that hold no channels."""
        if shape is None or tuple(shape) == self.shape:
            return Flow(self.shape, self.traces)
        return self.resized(shape)

    def resized(self, shape: Sequence[int]) -> Flow:
        """After pooling, padding or resampling: axes of another size hold other places, and no channel by itself."""
        shape = tuple(shape)
        if len(shape) != len(self.shape):
            return self.lost(RESHAPED).shaped(shape)
        traces = []
        for trace in self.traces:
            if trace.axes is not None:
                axes = list(trace.axes)
                for index, size in enumerate(shape):
                    if size != self.shape[index]:
                        if any(atom.step for atom in axes[index]):
                            trace = Trace(trace.source, None, MIXED)
                            break
                        axes[index] = _plain(size)
                else:
                    trace = Trace(trace.source, tuple(axes), trace.reason)
            traces.append(trace)
        return Flow(shape, _unique(traces))

    def shaped(self, shape: Sequence[int]) -> Flow:
        """The same traces for another shape; only for activations whose traces are all lost."""
        return Flow(tuple(shape), self.traces)

    def reshape(self, shape: Sequence[int]) -> Flow:
        """Row-major view."""
        shape = tuple(shape)
        if shape == self.shape:
            return self
        traces = []
        for trace in self.traces:
            if trace.axes is not None:
                axes = _reshaped(trace.axes, shape)
                trace = (
                    Trace(trace.source, axes, trace.reason)
                    if axes
                    else Trace(trace.source, None, trace.reason or RESHAPED)
                )
            traces.append(trace)
        return Flow(shape, _unique(traces), self.untouched)

    def permute(self, order: Sequence[int]) -> Flow:
        """Axis i of the result is axis order[i]."""
        if sorted(order) != list(range(len(self.shape))):
            return self.lost(RESHAPED)
        traces = tuple(
            t if t.axes is None else Trace(t.source, tuple(t.axes[i] for i in order), t.reason) for t in self.traces
        )
        return Flow(tuple(self.shape[i] for i in order), traces, self.untouched)

    def window(self, shifts: Sequence[int], shape: Sequence[int]) -> Flow:
        """Places move by `shifts`: a slice moves them towards 0, padding away from it; `shape` is the result's."""
        shape = tuple(shape)
        if not len(shifts) == len(shape) == len(self.shape):
            return self.lost(RESHAPED).shaped(shape)
        flow = self
        for axis, (shift, size) in enumerate(zip(shifts, shape, strict=True)):
            if shift or size != flow.shape[axis]:
                flow = flow._windowed(axis, shift, (*flow.shape[:axis], size, *flow.shape[axis + 1 :]))
        return Flow(shape, flow.traces)

    def slice(self, axis: int, start: int, step: int, shape: Sequence[int]) -> Flow:
        """The places from `start` on of one axis, every `step`th; `shape` is the result's."""
        return self._windowed(axis, -start, shape, step)

    def _windowed(self, axis: int, shift: int, shape: Sequence[int], step: int = 1) -> Flow:
        shape = tuple(shape)
        if len(shape) != len(self.shape) or not 0 <= axis < len(shape):
            return self.lost(RESHAPED).shaped(shape)
        traces = []
        for trace in self.traces:
            if trace.axes is not None:
                whole = _collapsed(trace.axes[axis])
                if shape[axis] == self.shape[axis] and not shift:
                    window: Axis | None = trace.axes[axis]
                elif whole is None or (whole.step and step != 1):
                    window = None
                elif whole.step:
                    window = (Atom(shape[axis], 1, whole.block, whole.first + shift),)
                else:
                    window = _plain(shape[axis])
                axes = None if window is None else (*trace.axes[:axis], window, *trace.axes[axis + 1 :])
                trace = Trace(trace.source, axes, trace.reason or ("" if axes else PARTIAL))
            traces.append(trace)
        return Flow(shape, _unique(traces))

    def reduce(self, over: Iterable[int], shape: Sequence[int]) -> Flow:
        """A sum, mean or maximum over some axes; `shape` is the result's, with or without them."""
        shape, gone = tuple(shape), {a % len(self.shape) for a in over} if self.shape else set()
        kept = [i for i in range(len(self.shape)) if i not in gone]
        traces = []
        for trace in self.traces:
            axes = trace.axes
            if axes is not None:
                if any(atom.step for i in gone for atom in axes[i]):
                    trace = Trace(trace.source, None, trace.reason or MIXED)
                elif len(shape) == len(self.shape):
                    trace = trace._replace(axes=tuple(() if i in gone else a for i, a in enumerate(axes)))
                elif len(shape) == len(kept):
                    trace = trace._replace(axes=tuple(axes[i] for i in kept))
                else:
                    trace = Trace(trace.source, None, trace.reason or RESHAPED)
            traces.append(trace)
        return Flow(shape, _unique(traces))

    def lost(self, reason: str) -> Flow:
        """After an operator that is not followed."""
        return Flow(self.shape, _unique(Trace(t.source, None, t.reason or reason) for t in self.traces))


def _unique(traces: Iterable[Trace]) -> tuple[Trace, ...]:
    return tuple(dict.fromkeys(traces))


def _produced(flows: Iterable[Flow]) -> bool:
    return any(trace.source is not None for flow in flows for trace in flow.traces)


def combine(flows: Sequence[Flow], shape: Sequence[int]) -> Flow:
    """An operator that works element by element on several activations, with broadcasting to `shape`."""
    shape = tuple(shape)
    produced = _produced(flows)
    traces: list[Trace] = []
    for flow in flows:
        if flow.shape == shape:
            traces += flow.traces
            continue
        added = len(shape) - len(flow.shape)
        fits = added >= 0 and all(n in (1, m) for n, m in zip(flow.shape, shape[added:], strict=True))
        for trace in flow.traces:
            if trace.source is None and produced:
                trace = Trace(None, None, SIDE)
            elif trace.axes is not None:
                if fits:
                    spread = [
                        axis if n == m else _plain(m)
                        for axis, n, m in zip(trace.axes, flow.shape, shape[added:], strict=True)
                    ]
                    trace = trace._replace(axes=(*map(_plain, shape[:added]), *spread))
                else:
                    trace = Trace(trace.source, None, trace.reason or RESHAPED)
            traces.append(trace)
    return Flow(shape, _unique(traces))


def concatenate(flows: Sequence[Flow], axis: int, shape: Sequence[int]) -> Flow:
    """Activations side by side along `axis`; `shape` is the result's."""
    shape = tuple(shape)
    traces: list[Trace] = []
    place = 0
    for flow in flows:
        if not 0 <= axis < len(flow.shape) == len(shape):
            traces += flow.lost(RESHAPED).traces
            continue
        traces += flow._windowed(axis, place, shape).traces
        place += flow.shape[axis]
    return Flow(shape, _unique(traces))


def multiply(a: Flow, b: Flow, shape: Sequence[int]) -> Flow:
    """The matrix product of two activations (..., m, k) and (..., k, n): what lies along k is summed."""
    shape = tuple(shape)
    produced = _produced((a, b))
    traces: list[Trace] = []
    for flow, summed in ((a, -1), (b, -2)):
        added = len(shape) - len(flow.shape)
        fits = added >= 0 and len(flow.shape) > 1
        for trace in flow.traces:
            axes = trace.axes
            if trace.source is None and produced:
                trace = Trace(None, None, SIDE)
            elif axes is not None:
                if fits and not any(atom.step for atom in axes[summed]):
                    sizes = (*[0] * added, *flow.shape)
                    kept = [*[()] * added, *axes]
                    kept[summed] = ()
                    spread = [
                        axis if n == m and axis else _plain(m) for axis, n, m in zip(kept, sizes, shape, strict=True)
                    ]
                    trace = trace._replace(axes=tuple(spread))
                else:
                    trace = Trace(trace.source, None, trace.reason or MIXED)
            traces.append(trace)
    return Flow(shape, _unique(traces))


class Tracer:
    """Collects the edges of a model while its operators are walked in order.

    Attributes:
        edges: layer -> who reads its channels.
        untraced: layer -> why some of its readers are unknown.
        inputs: layers that read an input of the model.
        outputs: layers whose result reaches an output of the model.
    """

    def __init__(self, budget: WorkBudget) -> None:
        self.edges: dict[str, dict[Edge, None]] = {}
        self.untraced: dict[str, str] = {}
        self.inputs: set[str] = set()
        self.outputs: set[str] = set()
        self._channels: dict[str, int] = {}
        self.budget = budget

    def spend(self, flow: Flow) -> Flow:
        """Count the work that an activation stands for."""
        self.budget.spend(1 + len(flow.traces))
        return flow

    def entry(self, shape: Sequence[int]) -> Flow:
        """An input of the model."""
        shape = tuple(shape)
        return Flow(shape, (Trace(None, tuple(map(_plain, shape))),))

    def produce(self, layer: str, shape: Sequence[int], axis: int) -> Flow:
        """The output of a layer, whose channels lie along `axis`."""
        shape = tuple(shape)
        axis %= max(1, len(shape))
        channels = shape[axis] if shape else 0
        self._channels.setdefault(layer, channels)
        self.edges.setdefault(layer, {})
        if channels < 2 or channels != self._channels[layer]:
            return Flow(shape, (Trace(layer, None, SINGLE if channels < 2 else RESHAPED),))
        axes = tuple((Atom(n, 1),) if i == axis else _plain(n) for i, n in enumerate(shape))
        return Flow(shape, (Trace(layer, axes),), layer)

    def opaque(self, layers: Iterable[str], shape: Sequence[int], reason: str) -> Flow:
        """An activation that depends on `layers` in ways that are not known."""
        for layer in layers:
            self.edges.setdefault(layer, {})
        return Flow(tuple(shape), tuple(Trace(layer, None, reason) for layer in layers))

    def consume(self, flow: Flow, axis: int, layer: str, multiplier: int = 1) -> None:
        """`layer` reads the activation; its inputs lie along `axis`. A depthwise layer has `multiplier` channels an input."""
        lost: dict[str, str] = {}
        found: set[str] = set()
        for trace in flow.traces:
            if trace.source is None:
                continue
            place, reason = self._place(trace, axis % max(1, len(flow.shape)))
            if place is None:
                lost.setdefault(trace.source, reason)
            else:
                found.add(trace.source)
                edge = Edge(layer, place[0] * multiplier, place[1] * multiplier)
                self.edges[trace.source][edge] = None
        for source in lost.keys() - found:
            self.untraced.setdefault(source, lost[source])
        entries = [trace for trace in flow.traces if trace.source is None]
        if entries and (len(entries) == len(flow.traces) or not all(trace.reason for trace in entries)):
            self.inputs.add(layer)

    def lies_along(self, flow: Flow, axis: int) -> bool:
        """Whether place p of `axis` is channel p of the layer whose output this is."""
        return len(flow.traces) == 1 and self._place(flow.traces[0], axis)[0] == (1, 0)

    def abandon(self, flow: Flow, reason: str) -> None:
        """The activation goes where it cannot be followed."""
        for trace in flow.traces:
            if trace.source is not None:
                self.untraced.setdefault(trace.source, trace.reason or reason)

    def leave(self, flow: Flow) -> None:
        """The activation is an output of the model."""
        self.outputs |= {trace.source for trace in flow.traces if trace.source is not None}

    def _place(self, trace: Trace, axis: int) -> tuple[tuple[int, int] | None, str]:
        """((block, first), "") of the channels along `axis`, or (None, why not)."""
        if trace.axes is None:
            return None, trace.reason or MIXED
        if trace.source is None:
            return None, SIDE
        counting = [i for i, atoms in enumerate(trace.axes) if any(atom.step for atom in atoms)]
        if counting != [axis]:
            return None, BROADCAST if axis not in counting else INTERLEAVED
        whole = _collapsed(trace.axes[axis])
        if whole is None:
            return None, INTERLEAVED
        if whole.first < 0 or whole.first + self._channels[trace.source] * whole.block > whole.size:
            return None, PARTIAL
        return (whole.block, whole.first), ""
