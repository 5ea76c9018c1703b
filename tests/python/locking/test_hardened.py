"""The rule behind the `hardened` preset."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import pytest
from corelocker.artifacts import Artifact
from corelocker.artifacts.detect import open_artifacts
from corelocker.locking.hardened import HARDENED_SHARE, hardened_channels, input_layers, prices, readers, vertex_cover
from corelocker.locking.options import PresetName
from corelocker.locking.plan import LayerSize
from corelocker.locking.presets import caveat
from hypothesis import given
from hypothesis import strategies as st
from support.models import coreml_models
from support.models.exports import exported

LAYERS = st.lists(st.tuples(st.integers(2, 64), st.integers(1, 500)), min_size=1, max_size=9).map(
    lambda found: [LayerSize(f"layer{i}", c, c * e) for i, (c, e) in enumerate(found)]
)


def price(chosen: Sequence[LayerSize], layers: Sequence[LayerSize]) -> float:
    return sum(cost for layer, cost in zip(layers, prices(layers), strict=True) if layer in chosen)


@given(LAYERS)
def test_the_cover_is_the_cheapest(layers: list[LayerSize]) -> None:
    def covers(taken: tuple[bool, ...]) -> bool:
        return all(a or b for a, b in itertools.pairwise(taken[:-1]))

    best = min(
        price([layer for layer, t in zip(layers, taken, strict=True) if t], layers)
        for taken in itertools.product((False, True), repeat=len(layers))
        if covers(taken)
    )
    chosen = vertex_cover(layers)
    assert price(chosen, layers) == pytest.approx(best)
    assert covers(tuple(layer in chosen for layer in layers))


@st.composite
def networks(
    draw: st.DrawFn, prefix: str = "", depth: int = 2
) -> tuple[list[str], list[str], list[str], set[tuple[str, str]]]:
    """Layers in order, those that read the input of the module, those that give its output, and who reads whom."""
    names: list[str] = []
    edges: set[tuple[str, str]] = set()
    first: list[str] = []
    last: list[str] = []
    for index in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["plain", "branches", "module", "shortcut"] if depth else ["plain"]))
        if kind == "branches":
            parts = [draw(networks(f"{prefix}{index}.branch{b}.", depth - 1)) for b in range(draw(st.integers(2, 3)))]
        elif kind == "module":
            parts = [draw(networks(f"{prefix}{index}.", depth - 1))]
        elif kind == "shortcut":
            parts = [draw(networks(f"{prefix}{index}.{name}.", depth - 1)) for name in ("main", "downsample")]
        else:
            parts = [([f"{prefix}{index}.weight"],) * 3 + (set(),)]
        begin, end = [n for part in parts for n in part[1]], [n for part in parts for n in part[2]]
        edges |= {(a, b) for a in last for b in begin}.union(*(part[3] for part in parts))
        names += [n for part in parts for n in part[0]]
        first, last = first or begin, end
    return names, first, last, edges


@given(networks(), st.lists(st.integers(1, 60), min_size=60, max_size=60))
def test_the_cover_of_branches_is_the_cheapest(
    network: tuple[list[str], list[str], list[str], set[tuple[str, str]]], sizes: list[int]
) -> None:
    names, _, _, edges = network
    if len(names) > 12:
        names = names[:12]
        edges = {(a, b) for a, b in edges if a in names and b in names}
    edges = {(a, b) for a, b in edges if names[-1] not in (a, b)}
    layers = [LayerSize(name, 4, 4 * size) for name, size in zip(names, sizes, strict=False)]

    def covers(taken: Collection[str]) -> bool:
        return all(a in taken or b in taken for a, b in edges)

    costs = dict(zip((layer.name for layer in layers), prices(layers), strict=True))
    best = min(
        sum(costs[name] for name in chosen)
        for count in range(len(names) + 1)
        for chosen in itertools.combinations(names, count)
        if covers(chosen)
    )
    found = vertex_cover(layers)
    assert covers({layer.name for layer in found})
    assert price(found, layers) == pytest.approx(best)


def test_layers_beside_each_other_do_not_cover_each_other() -> None:
    def taken(sizes: dict[str, int]) -> list[str]:
        layers = [LayerSize(f"{n}.weight", 8, 8 * s) for n, s in (sizes | {"head": 1}).items()]
        return [layer.name for layer in vertex_cover(layers)]

    # Taking only the small one of two branches would leave every large one with the next.
    blocks = {f"stage.{i}.{b}.conv": s for i in range(4) for b, s in (("rbr_1x1", 1), ("rbr_dense", 9))}
    found = taken(blocks)
    assert sum("rbr_dense" in name for name in found) == 2
    attention = {"attn.q_proj": 4, "attn.k_proj": 4, "attn.v_proj": 4, "attn.o_proj": 5}
    assert taken(attention | {"mlp.gate_proj": 9, "mlp.up_proj": 9, "mlp.down_proj": 10}) == [
        "attn.o_proj.weight",
        "mlp.down_proj.weight",
    ]
    # Queries and keys only weigh what values pass on. Of two choices that cost about the same, the earlier layers are taken.
    sizes = {"q_proj": 40, "k_proj": 40, "v_proj": 40, "o_proj": 40, "up": 161, "down": 160}
    blocks = {f"{i}.{name}": size for i in range(3) for name, size in sizes.items()}
    assert taken(blocks) == [f"{i}.{name}.weight" for i in range(3) for name in ("v_proj", "up")]
    # The shortcut's readers are those of the block's last layer, which they are beside of.
    shortcut = {"0.conv1": 3, "0.conv2": 9, "0.downsample.0": 1, "1.conv1": 9, "1.conv2": 3}
    assert taken(shortcut) == ["0.conv1.weight", "1.conv1.weight"]


def test_a_layer_may_have_the_name_of_a_module() -> None:
    layers = [
        LayerSize(name, 8, 8 * size) for name, size in (("a", 3), ("a.b", 1), ("a.b.c", 1), ("d", 9), ("head", 1))
    ]
    assert [layer.name for layer in vertex_cover(layers)] == ["a.b", "a.b.c"]


@given(LAYERS, st.floats(0, 1))
def test_the_key_is_at_most_the_share_and_one_channel_stays(layers: list[LayerSize], share: float) -> None:
    counts = hardened_channels(layers, share)
    assert set(counts) == {layer.name for layer in layers}
    assert all(0 <= counts[layer.name] <= layer.channels - 1 for layer in layers)
    total = sum(layer.size for layer in layers)
    assert sum(counts[layer.name] * layer.size / layer.channels for layer in layers) <= share * total * (1 + 1e-9)


@given(LAYERS, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_locks_no_channel_less(layers: list[LayerSize], a: float, b: float) -> None:
    low, high = hardened_channels(layers, min(a, b)), hardened_channels(layers, max(a, b))
    assert all(low[name] <= high[name] for name in low)


def test_small_layers_go_whole_and_large_ones_equally() -> None:
    sizes = [(8, 80), (8, 90), (16, 1600), (16, 3200), (32, 6400), (32, 9999), (10, 100)]
    layers = [LayerSize(str(i), c, s) for i, (c, s) in enumerate(sizes)]
    assert [layer.name for layer in vertex_cover(layers)] == ["0", "2", "4"]
    counts = hardened_channels(layers, 0.15)
    assert counts["2"] == 15
    assert counts["4"] * 6400 / 32 == pytest.approx(1600, abs=200)
    assert counts["3"] == counts["5"] == 0
    whole = {layer.name: layer.channels - 1 if layer.name in ("0", "2", "4") else 0 for layer in layers}
    assert hardened_channels(layers, 1) == whole
    assert not any(hardened_channels(layers, 0).values())


@given(LAYERS, st.sets(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=20))
def test_the_cover_of_a_graph_is_the_cheapest(layers: list[LayerSize], drawn: set[tuple[int, int]]) -> None:
    reads = {layer.name: {f"layer{b}" for a, b in drawn if f"layer{a}" == layer.name} for layer in layers}
    chosen = vertex_cover(layers, reads)
    assert covered({layer.name for layer in chosen}, reads, layers)
    assert price(chosen, layers) == pytest.approx(cheapest(layers, reads))


def covered(taken: set[str], reads: Mapping[str, Collection[str]], layers: Sequence[LayerSize]) -> bool:
    names = {layer.name for layer in layers[:-1]}
    return all(a in taken or b in taken for a in names for b in reads.get(a, ()) if b in names and a != b)


def cheapest(layers: Sequence[LayerSize], reads: Mapping[str, Collection[str]]) -> float:
    return min(
        price(chosen, layers)
        for count in range(len(layers) + 1)
        for chosen in itertools.combinations(layers, count)
        if covered({layer.name for layer in chosen}, reads, layers)
    )


def sizes(artifact: Artifact) -> list[LayerSize]:
    return [LayerSize(t.name, t.channels, sum(part.size for part in t.parts)) for t in artifact.tensors]


@pytest.mark.parametrize("name", ["resnet", "branches", "unet"])
def test_a_program_is_covered_along_its_graph(name: str) -> None:
    (artifact,) = open_artifacts([exported(name, "portable")])
    layers, reads = sizes(artifact), readers([artifact])
    assert reads == {layer: {e.consumer for e in edges} for layer, edges in artifact.edges.items()}
    chosen = vertex_cover(layers, reads)
    assert covered({layer.name for layer in chosen}, reads, layers)
    assert price(chosen, layers) == pytest.approx(cheapest(layers, reads))
    # As a chain, which is all that the names of a program tell, branches stay open.
    assert covered({layer.name for layer in vertex_cover(layers)}, reads, layers) == (name != "branches")


def test_layers_that_the_graph_lost_are_followed_by_their_names() -> None:
    (artifact,) = open_artifacts([coreml_models.built("graph")])
    reads = readers([artifact])
    assert "otherwise" in artifact.untraced
    assert "otherwise" not in reads
    chosen = {layer.name for layer in vertex_cover(sizes(artifact), reads)}
    assert covered(chosen, reads, sizes(artifact))
    assert {"left", "right"} <= chosen or {"stem", "inner"} <= chosen  # both branches read the stem
    assert chosen & {"otherwise", "shared_w"}


def test_a_graph_of_one_artifact_counts_for_its_copies() -> None:
    (program,) = open_artifacts([exported("resnet", "portable")])
    bare = replace(program, edges={})
    assert readers([bare]) == {}
    assert readers([bare, program]) == readers([program, bare]) == readers([program])


def test_the_preset_locks_along_the_graph() -> None:
    from corelocker.locking.choose import choose_channels
    from corelocker.locking.options import LockOptions

    (artifact,) = open_artifacts([exported("resnet", "portable")])
    plan = choose_channels([artifact], LockOptions(preset="cover"), b"seed", lambda stage, done, total: None)
    layers = sizes(artifact)
    found = {name: int((map_ > 0).sum()) for name, map_ in plan.tier_of[0].items()}
    inputs = input_layers([artifact])
    assert len(inputs) == 1
    assert all(found[name] == size.channels - 1 for size in layers for name in inputs if size.name == name)
    assert found == hardened_channels(layers, HARDENED_SHARE, readers([artifact]), inputs)
    assert found != hardened_channels(layers, HARDENED_SHARE, inputs=inputs)


def test_the_cover_holds_the_input_layers_and_what_works_beside_them() -> None:
    names = ("stem.rbr_dense", "stem.rbr_1x1", "b.rbr_dense", "b.rbr_1x1", "c", "head")
    layers = [LayerSize(name, 8, 80) for name in names]

    def chosen(inputs: Collection[str]) -> list[str]:
        return [layer.name for layer in vertex_cover(layers, inputs=inputs)]

    assert chosen(()) == ["b.rbr_dense", "b.rbr_1x1"]
    assert chosen({"stem.rbr_dense"}) == ["stem.rbr_dense", "stem.rbr_1x1", "c"]
    assert "c" in chosen({"c"})
    assert chosen({"head", "unknown"}) == chosen(())


@pytest.mark.parametrize(
    ("name", "preset", "warned"),
    [
        ("transformer", "cover", "on two small language models only"),
        ("transformer", "balanced", None),
        ("resnet", "cover", None),
        ("resnet", "hardened", None),
        ("mobilenet", "hardened", None),
    ],
)
def test_what_was_not_shown_is_said_when_locking(
    name: str, preset: PresetName, warned: str | None, recwarn: pytest.WarningsRecorder
) -> None:
    from corelocker.locking.choose import choose_channels
    from corelocker.locking.options import LockOptions, LockWarning

    artifacts = open_artifacts([exported(name, "portable")])
    recwarn.clear()
    options = LockOptions(preset=preset, criterion="l1")
    for attempt in range(2):  # drawn again, it is not said again
        choose_channels(artifacts, options, b"seed", lambda stage, done, total: None, attempt=attempt)
    shown = [str(found.message) for found in recwarn if found.category is LockWarning]
    assert [warned is not None and warned in message for message in shown] == [True] * (warned is not None)
    assert (caveat(preset, artifacts) is not None) == (warned is not None)
