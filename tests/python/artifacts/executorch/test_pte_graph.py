"""Who reads whose channels in ExecuTorch programs."""

from __future__ import annotations

import pytest
from support.models.programs import CODED, FLOAT, opened

Table = dict[int, set[tuple[int, int, int]]]
CHAINS: dict[str, Table] = {
    # layer -> {(who reads it, block, first)}
    "resnet": {
        0: {(1, 1, 0), (3, 1, 0), (5, 1, 0)}, 1: {(2, 1, 0)}, 2: {(3, 1, 0), (5, 1, 0)}, 3: {(4, 1, 0)}, 4: {(6, 1, 0)},
        5: {(6, 1, 0)}, 6: set(),
    },
    "mobilenet": {
        0: {(1, 1, 0), (4, 1, 0)}, 1: {(2, 1, 0)}, 2: {(3, 1, 0)}, 3: {(4, 1, 0)}, 4: {(5, 1, 0)}, 5: {(6, 1, 0)},
        6: {(7, 1, 0)}, 7: {(8, 1, 0)}, 8: set(),
    },
    "vgg": {0: {(1, 1, 0)}, 1: {(2, 16, 0)}, 2: {(3, 1, 0)}, 3: set()},
    "transformer": {
        3: {(4, 1, 0)}, 4: {(5, 1, 0), (7, 1, 0)}, 5: {(6, 1, 0)}, 6: {(7, 1, 0)}, 7: set(),
    },
    "gated": {0: {(1, 1, 0), (2, 1, 0), (4, 1, 0)}, 1: {(3, 1, 0)}, 2: {(3, 1, 0)}, 3: {(4, 1, 0)}, 4: set()},
    "branches": {
        0: {(1, 1, 0), (2, 1, 0)}, 1: {(3, 1, 0)}, 2: {(3, 1, 6)}, 3: {(4, 2, 0)}, 4: {(5, 1, 0), (7, 1, 0)},
        5: {(6, 1, 0)}, 6: {(7, 1, 0)}, 7: set(),
    },
    "unet": {0: {(1, 1, 0), (3, 1, 6)}, 1: {(2, 1, 0)}, 2: {(3, 1, 0)}, 3: set()},
    "audio": {0: {(1, 1, 0)}, 1: {(2, 1, 0)}, 2: {(3, 1, 0)}, 3: set()},
    "stack": {0: {(1, 1, 0)}, 1: {(2, 64, 0)}, 2: set()},
    "shared": {0: {(1, 1, 0)}, 1: {(2, 1, 0)}, 2: set()},
    "shared methods": {0: {(1, 1, 0)}, 1: {(2, 1, 0), (3, 1, 0)}, 2: set(), 3: set()},
    "lastaxis": {0: {(1, 1, 0)}, 2: set()},
}  # fmt: skip
ENDS: dict[str, tuple[set[int], set[int]]] = {
    "resnet": ({0}, {6}), "mobilenet": ({0}, {8}), "vgg": ({0}, {3}), "transformer": ({0}, {7}), "gated": ({0}, {4}),
    "branches": ({0}, {7}), "unet": ({0}, {3}), "audio": ({0}, {3}), "shared": ({0}, {2}), "stack": ({0}, {2}),
    "shared methods": ({0}, {2, 3}), "lastaxis": ({0}, {2}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "variant"), [n for n in FLOAT + CODED if n[1] != "coreml"] + [("lastaxis", "xnnpack")], ids=lambda p: p
)
def test_graph(name: str, variant: str) -> None:
    artifact = opened(name, variant)
    number = {tensor.name: tensor.order for tensor in artifact.tensors}
    found = {
        number[producer]: {(number[e.consumer], e.block, e.first) for e in edges}
        for producer, edges in artifact.edges.items()
    }
    net = f"{name} methods" if "methods" in variant else name
    assert found == CHAINS[net]
    assert ({number[n] for n in artifact.inputs}, {number[n] for n in artifact.outputs}) == ENDS[net]
    assert {number[n] for n in artifact.untraced} == set(number.values()) - set(CHAINS[net])


def test_what_is_not_followed_has_a_reason() -> None:
    transformer = opened("transformer", "xnnpack")
    reasons = [transformer.untraced[transformer.tensors[i].name] for i in (0, 1, 2)]
    assert "entries" in reasons[0]
    assert "summed" in reasons[1]
    assert "summed" in reasons[2]
    last = opened("lastaxis", "xnnpack")
    assert "interleaved" in last.untraced[last.tensors[1].name]
    assert last.tensors[1].name not in last.edges


def test_unknown_constants_are_listed() -> None:
    artifact = opened("transformer", "xnnpack")
    reasons = " ".join(skipped.reason for skipped in artifact.skipped)
    assert "normalization" in reasons
    assert "(1, 8, 64)" in reasons  # the positions
    assert len({skipped.name for skipped in artifact.skipped}) == len(artifact.skipped)
