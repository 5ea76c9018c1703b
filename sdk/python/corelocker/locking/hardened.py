"""Which channels to lock so that what is left is worth little to an attacker who trains.

A key that makes the model collapse can be tiny and is then tuned back in minutes: almost everything the network has learned is
still in the file. What an attacker can use is a layer together with the layer that reads it. So the layers that are locked cover
the network: of two that follow each other, at least one, and of all such choices the one with the fewest bytes. Layers that work
beside each other (the branches of a block, a shortcut) do not follow each other; queries and keys only weigh what values pass on,
and the output layer is learned anew by whoever has labels. Where the file has a graph, it tells who follows whom, through residuals
and concatenations too; where it has none, the layers' names do.
The input layer is always among them: it is small, and everything builds on it. Small layers, most of them early, are locked
whole but for one channel; large ones up to the same number of bytes each, such that the budget is met. Measured against other
choices in docs/audit.md.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

from corelocker.artifacts import Artifact
from corelocker.locking.groups import group_layers
from corelocker.locking.plan import LayerSize

HARDENED_SHARE = 0.25  # of the weights' bytes
LATER = 0.02  # of the mean layer's bytes: what a layer costs more in a cover for each layer before it
MOST_CHOICES = 4096  # kept while a cover is sought; blocks with residuals or concatenations need about ten
# Names of modules, or of parameters, that work beside their siblings of the same kind.
BESIDE: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(f"(?:{words})$", re.IGNORECASE))
    for kind, words in (
        ("branch", r"rbr_\w+|branch_?\d+"),
        ("attention", r"[qkv](_?proj)?|query|key|value|to_[qkv]|w[qkv]"),
        ("gate", r"(gate|up)_proj|w[13]"),
        ("expand", r"expand\d+x\d+"),
        ("recurrent", r"weight_(ih|hh)_l\d+(_reverse)?"),
    )
)
VALUES = re.compile(
    r"(?:v(_?proj)?|value|to_v|wv)$", re.IGNORECASE
)  # what queries and keys weigh; they themselves pass nothing on
SHORTCUT = re.compile(r"(?:down_?sample|(conv_)?short_?cut|skip)$", re.IGNORECASE)  # beside all before it in its block


Segment = tuple[list[int], list[int], set[tuple[int, int]]]
"""Of a part of the network, by place: the layers that it begins with, those that it ends with, and which follow which."""


def readers(artifacts: Sequence[Artifact]) -> dict[str, set[str]]:
    """Layer -> the layers that read its channels, for those that the artifacts' graphs tell of.

    Layers with the same weights are one, by the name of the first.
    """
    leaders = {
        (m.artifact, m.tensor.name): group[0].tensor.name for group in group_layers(list(artifacts)) for m in group
    }
    found: dict[str, set[str]] = {}
    for index, artifact in enumerate(artifacts):
        for name, edges in artifact.edges.items():
            if (index, name) in leaders and (edges or name not in artifact.untraced):
                found.setdefault(leaders[index, name], set()).update(
                    leaders[index, edge.consumer] for edge in edges if (index, edge.consumer) in leaders
                )
    return found


def vertex_cover(
    layers: Sequence[LayerSize],
    readers: Mapping[str, Collection[str]] = MappingProxyType({}),
    inputs: Collection[str] = (),
) -> list[LayerSize]:
    """The layers of the cheapest choice that holds the input layers and at least one of every two that follow each other, but for
    the last layer.

    Of choices that cost about the same it is the one with the earlier layers. What makes features is learned anew with more
    effort than what reads them.

    Args:
        layers: in the order of execution.
        readers: layer -> the layers that follow it. Behind those that it does not name comes what their names tell.
        inputs: names of the input layers.
    """
    first, later = _first(layers, inputs), _later(layers, readers)
    costs = prices(layers)
    # A choice for the layers so far leaves some later ones no choice. Of those that leave the same, the cheapest goes on.
    choices: dict[frozenset[int], tuple[float, tuple[int, ...]]] = {frozenset(): (0, ())}
    for place in range(len(layers)):
        found: dict[frozenset[int], tuple[float, tuple[int, ...]]] = {}
        for forced, (cost, taken) in choices.items():
            after = [(forced - {place}, (cost + costs[place], (*taken, place)))]
            if place not in forced and place not in first:
                after.append((forced | later[place], (cost, taken)))
            for key, choice in after:
                if key not in found or choice[0] < found[key][0]:
                    found[key] = choice
        choices = dict(sorted(found.items(), key=lambda item: item[1][0])[:MOST_CHOICES])
    return [layers[place] for place in min(choices.values(), key=lambda choice: choice[0])[1]]


def prices(layers: Sequence[LayerSize]) -> list[float]:
    """What a cover pays for each layer: its bytes, and LATER of the mean layer's for every layer before it."""
    mean = sum(layer.size for layer in layers) / max(1, len(layers))
    return [layer.size + LATER * mean * place for place, layer in enumerate(layers)]


def input_layers(artifacts: Sequence[Artifact]) -> frozenset[str]:
    """The layers that read the models' inputs, by the names that `readers` gives."""
    groups = group_layers(list(artifacts))
    return frozenset(g[0].tensor.name for g in groups if any(m.tensor.name in artifacts[m.artifact].inputs for m in g))


def _first(layers: Sequence[LayerSize], inputs: Collection[str]) -> frozenset[int]:
    """The places of the input layers and of what works beside them, but for the last layer."""
    found = {place for place, layer in enumerate(layers) if layer.name in inputs}
    beside, _, _ = _by_names([(layer.name.split("."), place) for place, layer in enumerate(layers)])
    return frozenset((found | set(beside) if found & set(beside) else found) - {len(layers) - 1})


def _later(layers: Sequence[LayerSize], readers: Mapping[str, Collection[str]]) -> list[frozenset[int]]:
    """For each layer the places, behind its own, of those that it follows or that follow it."""
    if not layers:
        return []
    _, _, pairs = _by_names([(layer.name.split("."), place) for place, layer in enumerate(layers)])
    pairs = {(a, b) for a, b in pairs if layers[a].name not in readers}
    places = {layer.name: place for place, layer in enumerate(layers)}
    for name, consumers in readers.items():
        pairs |= {(places[name], places[c]) for c in consumers if name in places and c in places}
    later: list[set[int]] = [set() for _ in layers]
    for a, b in pairs:
        # Whoever has labels learns the output layer anew at once; what it reads needs no cover.
        if a != b and max(a, b) != len(layers) - 1:
            later[min(a, b)].add(max(a, b))
    return [frozenset(found) for found in later]


def _by_names(layers: Sequence[tuple[Sequence[str], int]]) -> Segment:
    """For the layers of one module, each with its path from there and its place, in the order of execution."""
    done: Segment = ([], [], set())
    for kind, group in itertools.groupby(layers, key=lambda layer: _kind(layer[0])):
        parts = []
        members = list(group)
        if kind == "attention" and any(VALUES.match(path[0]) for path, _ in members):
            members = [member for member in members if VALUES.match(member[0][0])]
        for _, part in itertools.groupby(members, key=lambda layer: layer[0][:1]):
            inner = [(path[1:], place) for path, place in part]
            places = [place for _, place in inner]
            if any(path for path, _ in inner):
                parts.append(_by_names(inner))
            else:
                parts.append((places[:1], places[-1:], set(itertools.pairwise(places))))
        if kind == "":
            for one in parts:
                done = _after(done, one)
        elif kind == "shortcut":
            done = _beside([done, *parts])
        else:
            done = _after(done, _beside(parts))
    return done


def _kind(path: Sequence[str]) -> str:
    """What the module or parameter at the beginning of `path` works beside of; "" where it follows what stands before it."""
    if not path:  # a parameter with the name of a module beside it
        return ""
    if SHORTCUT.match(path[0]):
        return "shortcut"
    kind = next((kind for kind, words in BESIDE if words.match(path[0])), "")
    return kind + path[0].partition("_l")[2].partition("_")[0] if kind == "recurrent" else kind


def _after(first: Segment, second: Segment) -> Segment:
    return first[0] or second[0], second[1], first[2] | second[2] | set(itertools.product(first[1], second[0]))


def _beside(parts: Sequence[Segment]) -> Segment:
    return (
        [p for part in parts for p in part[0]],
        [p for part in parts for p in part[1]],
        set().union(*(p[2] for p in parts)),
    )


def hardened(share: float, artifacts: Sequence[Artifact]) -> Callable[[Sequence[LayerSize]], Mapping[str, int]]:
    """`hardened_channels` of these artifacts, for `make_plan(counts=...)`; `share` of the weights' bytes, 0 to 1."""
    return lambda layers: hardened_channels(layers, share, readers(artifacts), input_layers(artifacts))


def with_embeddings(share: float, artifacts: Sequence[Artifact]) -> Callable[[Sequence[LayerSize]], Mapping[str, int]]:
    """As `hardened`, for some of the layers: where their cover costs less than `share` of their bytes, the rest is spread over the
    others. Of embeddings `share` of their rows."""
    tables = {t.name for artifact in artifacts for t in artifact.tensors if t.role == "embedding"}

    def counts(layers: Sequence[LayerSize]) -> Mapping[str, int]:
        inner = [layer for layer in layers if layer.name not in tables]
        covered = hardened(share, artifacts)(inner)
        open_layers = [layer for layer in inner if not covered[layer.name]]
        spent = sum(covered[layer.name] * layer.size / layer.channels for layer in inner)
        return (
            dict(covered)
            | _level(open_layers, share * sum(layer.size for layer in inner) - spent)
            | {layer.name: math.ceil(share * layer.channels) for layer in layers if layer.name in tables}
        )

    return counts


def hardened_channels(
    layers: Sequence[LayerSize],
    share: float = HARDENED_SHARE,
    readers: Mapping[str, Collection[str]] = MappingProxyType({}),
    inputs: Collection[str] = (),
) -> Mapping[str, int]:
    """How many channels of each layer to lock, for an access key of `share` of all bytes or just below.

    Of the cover's layers all but one channel, where `share` reaches for that.

    Args:
        layers: all layers that may be locked, in the order of execution.
        share: 0 to 1.
        readers, inputs: as for `cover`.
    """
    budget = share * sum(layer.size for layer in layers)
    return {layer.name: 0 for layer in layers} | _level(vertex_cover(layers, readers, inputs), budget)


def _level(layers: Sequence[LayerSize], budget: float) -> dict[str, int]:
    """Channels to lock so that every layer gives the same number of bytes, or all it has but one channel."""

    def at(level: float) -> dict[str, int]:
        return {
            layer.name: min(math.floor(level * layer.channels / max(1, layer.size) + 1e-9), layer.channels - 1)
            for layer in layers
        }

    def cost(level: float) -> float:
        counts = at(level)
        return sum(counts[layer.name] * layer.size / layer.channels for layer in layers)

    low, high = 0.0, float(max((layer.size for layer in layers), default=0))
    if cost(high) <= budget:
        return at(high)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle)
    return at(low)
