"""Following channels, against arrays that carry the channel's number in every element."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from corelocker.artifacts import flow as flows
from corelocker.artifacts.flow import Flow, Tracer
from corelocker.artifacts.weights import Edge
from corelocker.artifacts.work_budget import WorkBudget
from hypothesis import given, settings
from hypothesis import strategies as st

Labels = npt.NDArray[np.int64]
OTHER = -1  # an element that belongs to no channel


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@st.composite
def walks(draw: st.DrawFn) -> tuple[Tracer, Flow, Labels]:
    """A layer's output after a few operators, and the same operators on an array of channel numbers."""
    tracer = Tracer(WorkBudget())
    rank = draw(st.integers(2, 4))
    shape = tuple(draw(st.sampled_from([1, 2, 3, 4])) for _ in range(rank))
    axis = draw(st.integers(0, rank - 1))
    channels = draw(st.sampled_from([2, 4, 6]))
    shape = (*shape[:axis], channels, *shape[axis + 1 :])
    flow = tracer.produce("layer", shape, axis)
    labels = np.broadcast_to(np.arange(channels).reshape(-1, *(1,) * (rank - 1 - axis)), shape).copy()
    for _ in range(draw(st.integers(0, 5))):
        flow, labels = draw(st.sampled_from([permuted, reshaped, sliced, padded, concatenated, broadcast]))(
            draw, flow, labels
        )
    assert flow.shape == labels.shape
    return tracer, flow, labels


def permuted(draw: st.DrawFn, flow: Flow, labels: Labels) -> tuple[Flow, Labels]:
    order = draw(st.permutations(range(labels.ndim)))
    return flow.permute(order), labels.transpose(order)


def reshaped(draw: st.DrawFn, flow: Flow, labels: Labels) -> tuple[Flow, Labels]:
    rest, shape = labels.size, []
    for _ in range(draw(st.integers(0, 3))):
        shape.append(draw(st.sampled_from(divisors(rest))))
        rest //= shape[-1]
    shape.append(rest)
    return flow.reshape(shape), labels.reshape(shape)


def sliced(draw: st.DrawFn, flow: Flow, labels: Labels) -> tuple[Flow, Labels]:
    axis = draw(st.integers(0, labels.ndim - 1))
    start = draw(st.integers(0, labels.shape[axis] - 1))
    stop = draw(st.integers(start + 1, labels.shape[axis]))
    step = draw(st.sampled_from([1, 1, 2]))
    labels = labels[(slice(None),) * axis + (slice(start, stop, step),)]
    return flow.slice(axis, start, step, labels.shape), labels


def padded(draw: st.DrawFn, flow: Flow, labels: Labels) -> tuple[Flow, Labels]:
    before = [draw(st.sampled_from([0, 0, 1])) for _ in labels.shape]
    after = [draw(st.sampled_from([0, 0, 2])) for _ in labels.shape]
    labels = np.pad(labels, list(zip(before, after, strict=True)), constant_values=OTHER)
    return flow.window(before, labels.shape), labels


def concatenated(draw: st.DrawFn, flow: Flow, labels: Labels) -> tuple[Flow, Labels]:
    axis = draw(st.integers(0, labels.ndim - 1))
    shape = list(labels.shape)
    shape[axis] = draw(st.integers(1, 3))
    parts, arrays = [flow, Flow(tuple(shape))], [labels, np.full(shape, OTHER)]
    if draw(st.booleans()):
        parts, arrays = parts[::-1], arrays[::-1]
    labels = np.concatenate(arrays, axis)
    return flows.concatenate(parts, axis, labels.shape), labels


def broadcast(draw: st.DrawFn, flow: Flow, labels: Labels) -> tuple[Flow, Labels]:
    shape = [draw(st.sampled_from([n, 2 if n == 1 else n])) for n in labels.shape]
    if draw(st.booleans()):
        shape.insert(0, 2)
    return flows.combine([flow, Flow(tuple(shape))], shape), np.broadcast_to(labels, shape)


@given(walks(), st.data())
@settings(max_examples=400, deadline=None)
def test_an_edge_says_where_every_channel_is(walk: tuple[Tracer, Flow, Labels], data: st.DataObject) -> None:
    tracer, flow, labels = walk
    if labels.ndim == 0 or labels.size == 0:
        return
    axis = data.draw(st.integers(0, labels.ndim - 1))
    tracer.consume(flow, axis, "reader")
    channels = int(tracer._channels["layer"])
    along = np.moveaxis(labels, axis, -1).reshape(-1, labels.shape[axis])
    for edge in tracer.edges["layer"]:
        # Where the reader's input i lies, one of the channel's elements stands, or padding of another axis.
        for channel in range(channels):
            places = np.arange(edge.first + channel * edge.block, edge.first + (channel + 1) * edge.block)
            assert set(np.unique(along[:, places])) <= {channel, OTHER}
            others = np.delete(along, places, axis=1)
            assert channel not in others
        return
    assert tracer.untraced["layer"]


@given(st.permutations(range(4)), st.integers(2, 5), st.integers(1, 3), st.integers(1, 3))
def test_a_flattened_map(order: list[int], channels: int, height: int, width: int) -> None:
    tracer = Tracer(WorkBudget())
    flow = tracer.produce("layer", (1, channels, height, width), 1).permute(order)
    flow = flow.reshape((math.prod(flow.shape),))
    tracer.consume(flow, 0, "reader")
    places = [i for i in order if i and (i == 1 or (height, width)[i - 2] > 1)]
    if places[0] == 1:
        assert list(tracer.edges["layer"]) == [Edge("reader", height * width)]
    else:
        assert "interleaved" in tracer.untraced["layer"]


def test_heads_that_come_together_again() -> None:
    tracer = Tracer(WorkBudget())
    value = tracer.produce("value", (1, 8, 64), -1)
    query = tracer.produce("query", (1, 8, 64), -1)
    heads = [f.reshape((1, 8, 4, 16)).permute((0, 2, 1, 3)) for f in (query, value)]
    scores = flows.multiply(heads[0], heads[0].permute((0, 1, 3, 2)), (1, 4, 8, 8))
    mixed = flows.multiply(scores, heads[1], (1, 4, 8, 16)).permute((0, 2, 1, 3)).reshape((1, 8, 64))
    tracer.consume(mixed, -1, "output")
    assert tracer.edges == {"value": {Edge("output"): None}, "query": {}}
    assert "summed" in tracer.untraced["query"]


def test_a_mask_is_not_the_data() -> None:
    tracer = Tracer(WorkBudget())
    scores = tracer.produce("query", (1, 4, 8, 8), -1)
    masked = flows.combine([scores, tracer.entry((1, 1, 8, 8))], (1, 4, 8, 8))
    tracer.consume(masked, -1, "reader")
    assert not tracer.inputs
    tracer.consume(tracer.entry((1, 3, 8, 8)), 1, "first")
    skip = flows.concatenate([scores, tracer.entry((1, 4, 8, 3))], 3, (1, 4, 8, 11))
    tracer.consume(skip, -1, "late")
    assert tracer.inputs == {"first", "late"}


def test_a_mean_over_the_channels_beside_the_channels() -> None:
    """A LayerNorm that is written out: the channels are still where they were."""
    tracer = Tracer(WorkBudget())
    flow = tracer.produce("layer", (2, 8), -1)
    centered = flows.combine([flow, flow.reduce([-1], (2, 1))], (2, 8))
    tracer.consume(centered, -1, "reader")
    assert list(tracer.edges["layer"]) == [Edge("reader")]
    assert not tracer.untraced
