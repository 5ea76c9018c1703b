"""A torch model in every tier, locked by the product's own path.

The state dict goes through a temporary safetensors file, is planned, filled and laid out as `corelocker lock` does it, and comes
back as one state dict a tier. What the audit measures is therefore what the product ships.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Artifact, Edge, WeightTensor
from corelocker.artifacts.safetensors_header import read_header
from corelocker.artifacts.torch_module import ModuleGraph, open_state, plain_state
from corelocker.audit import need
from corelocker.audit.tier_bytes import Coverage, TierBytes, layer_maps, states_of_plan
from corelocker.errors import CriterionError, LockingError
from corelocker.locking.criteria import Scores, check_criterion, score
from corelocker.locking.groups import group_layers
from corelocker.locking.options import Fill, Scope
from corelocker.locking.plan import Plan, TierMap
from corelocker.locking.planning import make_plan
from corelocker.locking.signs.reading import read_signs
from corelocker.locking.tiers import Tier, Unit, check_tiers, parse_tiers

if TYPE_CHECKING:
    from torch import Tensor, nn

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TierState:
    """The model at one tier.

    Attributes:
        name: of the tier.
        removed: fraction of channels that stays locked, as it was asked for.
        state: the state dict, with the names, dtypes and shapes of the original.
        channels: layer name (its weight's, as in the state dict) -> bool (channels,): locked as output channels.
        elements: tensor name -> bool of its shape: elements that are locked; tensors with none are left out. Has what
            `channels` has not: biases, BatchNorm numbers, consumers' columns.
        signs: whether the elements are without their signs alone; their magnitudes are in `state`.
        locked_bytes: bytes that are locked in this state, the size of the access key that leads from here to the original.
        locked_fraction: of the bytes of all lockable layers.
        patch_bytes: bytes that this tier's own patch puts back; 0 for the first.
    """

    name: str
    removed: float
    state: dict[str, Tensor] = field(repr=False)
    channels: dict[str, Mask] = field(repr=False)
    elements: dict[str, Mask] = field(repr=False)
    signs: bool
    locked_bytes: int
    locked_fraction: float
    patch_bytes: int


@dataclass(frozen=True)
class TieredModel:
    """A model and its tiers; the first ships, the last is the original.

    Attributes:
        original: the state dict that was locked, detached copies on the CPU.
        tiers: in order.
        weight_bytes: bytes of all lockable layers.
        layers: names of all lockable layers in order, with those that the plan left alone.
        left_alone: layer -> why it is not locked.
        not_followed: layer -> why its consumers stay, where consumers were asked for.
        fill, criterion, scope, consumers: how it was locked.
        plan: for `Plan.save`; it is secret.
    """

    original: dict[str, Tensor] = field(repr=False)
    tiers: tuple[TierState, ...]
    weight_bytes: int
    layers: tuple[str, ...]
    left_alone: dict[str, str]
    not_followed: dict[str, str]
    fill: Fill
    criterion: str
    scope: str
    consumers: bool
    plan: Plan = field(repr=False)

    @property
    def shipped(self) -> TierState:
        """The tier that everyone has."""
        return self.tiers[0]

    def tier(self, name: str) -> TierState:
        """The tier of that name. Raises LockingError."""
        for tier in self.tiers:
            if tier.name == name:
                return tier
        raise LockingError(f"no tier {name!r}", hint=f"There are {', '.join(t.name for t in self.tiers)}")


def lock_model(
    model: nn.Module | Mapping[str, Tensor],
    *,
    tiers: str | Sequence[Tier] = "free=0.05,full=0",
    criterion: str = "l1",
    scope: Scope = "layer",
    fill: Fill = "decoy",
    seed: bytes | str = b"audit",
    consumers: bool = False,
    graph: ModuleGraph | None = None,
    include_io: bool = False,
    scores: Mapping[str, Scores] | None = None,
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    tier_of: Mapping[str, TierMap] | None = None,
    unit: Unit = "value",
) -> TieredModel:
    """Lock a model in memory.

    Args:
        model: a module or a state dict; it stays as it is.
        tiers: as for `corelocker lock`.
        criterion: "l1", "bn-scale" or "random"; with `scores` any name, for the record.
        scope, fill, include_io: as for `corelocker lock`.
        seed: makes choice and decoys repeatable.
        consumers: also lock what reads a locked channel; needs `graph`.
        graph: from `trace_graph`; a state dict alone has none.
        scores: layer name -> float64 (channels,), higher is locked first, in place of a built-in criterion. Layers without
            scores are left alone.
        layers: lock only these layers (names of their weights).
        exclude: patterns of layers to leave alone.
        tier_of: layer name -> uint8 (channels,), the tier whose patch restores each channel (0: not locked), in place of any
            ranking; then `criterion`, `scope`, `scores`, `layers`, `exclude` and `include_io` do not matter.
        unit: what is taken of a locked channel.

    Raises LockingError and its kin, as locking a file would.
    """
    chosen = parse_tiers(tiers, unit) if isinstance(tiers, str) else check_tiers(tiers, unit)
    secret = seed.encode() if isinstance(seed, str) else seed
    state = plain_state(model)
    if consumers and graph is None:
        raise LockingError("locking consumers needs the model's graph", hint="Pass graph=trace_graph(module, inputs)")
    with tempfile.TemporaryDirectory(prefix="corelocker-audit-") as folder:
        artifact = open_state(state, Path(folder) / "model.safetensors", graph)
        if tier_of is not None:
            plan = _fixed_plan(artifact, chosen, tier_of, criterion, scope, fill, secret, consumers)
        else:
            plan = _ranked_plan(
                artifact, chosen, criterion, scope, fill, secret, consumers, include_io, scores, layers, exclude, unit
            )
        if unit == "sign":
            plan = replace(plan, unit=unit, signs=read_signs([artifact]))
        return _locked_model(state, artifact, plan)


def _locked_model(state: dict[str, Tensor], artifact: Artifact, plan: Plan) -> TieredModel:
    tier_bytes, coverage, locked = states_of_plan(artifact, plan)
    tiers = zip(tier_states(artifact, tier_bytes, coverage, plan.unit), plan.tiers, strict=True)
    return TieredModel(
        state,
        tuple(replace(found, removed=tier.removed) for found, tier in tiers),
        locked.weight_bytes,
        tuple(t.name for t in artifact.tensors),
        dict(plan.left_alone[0]),
        dict(locked.not_followed),
        plan.fill,
        plan.criterion,
        plan.scope,
        plan.consumers,
        plan,
    )


def tier_states(
    artifact: Artifact, tiers: Sequence[TierBytes], coverage: Coverage, unit: Unit = "value"
) -> list[TierState]:
    """State dicts and masks of a checkpoint's tiers from their bytes; `artifact` is the original, `coverage` as it was locked."""
    load = need("safetensors.torch").load
    layers = layer_maps(artifact, coverage)
    found = []
    for index, tier in enumerate(tiers):
        state: dict[str, Tensor] = {}
        elements: dict[str, Mask] = {}
        for file in artifact.files:
            state |= load(tier.files[file.name].tobytes())
            held = coverage[file.name] > index
            for entry in read_header(file):
                value = state[entry.name]
                bytes_ = held[entry.offset : entry.offset + value.nbytes]
                if bytes_.any():
                    mask = bytes_.reshape(-1, value.element_size()).any(axis=1)
                    elements[entry.name] = mask.reshape(tuple(value.shape))
        channels = {layer.name: layer.tier_of > index for layer in layers}
        found.append(
            TierState(
                tier.name,
                tier.removed,
                state,
                channels,
                elements,
                unit == "sign",
                tier.locked_bytes,
                tier.locked_fraction,
                tier.patch_bytes,
            )
        )
    return found


def trace_graph(model: nn.Module, inputs: tuple[Any, ...]) -> ModuleGraph:
    """Follow the module's layers to their readers, as `corelocker lock --consumers` does in an exported program.

    The module is lowered to ExecuTorch's portable operators and the adapter for `.pte` follows it; its layers are recognized by
    their weights, so two layers that hold the same weights share their readers. `inputs` are example inputs. Takes seconds to
    minutes. Raises MissingExtraError without ExecuTorch, ExportError when the module cannot be exported.
    """
    from corelocker.artifacts.detect import open_artifacts
    from corelocker.exporting import export_executorch
    from corelocker.exporting.source import capture

    with tempfile.TemporaryDirectory(prefix="corelocker-audit-") as folder:
        program = Path(folder) / "model.pte"
        training = model.training
        try:
            export_executorch(capture("model", (model, inputs)), program, backend="portable")
        finally:
            model.train(training)
        checkpoint = open_state(plain_state(model), Path(folder) / "model.safetensors")
        (exported,) = open_artifacts([program])
        known: dict[str, str] = {}
        for group in group_layers([checkpoint, exported]):
            own = [m.tensor.name for m in group if m.artifact == 0]
            for member in group:
                if own and member.artifact == 1:
                    known[member.tensor.name] = own[0]
        edges: dict[str, tuple[Edge, ...]] = {}
        untraced: dict[str, str] = {}
        for name, own_name in known.items():
            readers = [
                replace(e, consumer=known[e.consumer]) for e in exported.edges.get(name, ()) if e.consumer in known
            ]
            if name in exported.edges and readers:
                edges[own_name] = tuple(readers)
            elif own_name not in edges:
                untraced[own_name] = exported.untraced.get(name, "its readers hold no weights of their own")
        return ModuleGraph(edges, untraced)


def _ranked_plan(
    artifact: Artifact,
    tiers: tuple[Tier, ...],
    criterion: str,
    scope: Scope,
    fill: Fill,
    seed: bytes,
    consumers: bool,
    include_io: bool,
    scores: Mapping[str, Scores] | None,
    layers: Sequence[str] | None,
    exclude: Sequence[str],
    unit: Unit,
) -> Plan:
    if scores is not None:

        def given(tensor: WeightTensor) -> Scores:
            if tensor.name not in scores:
                raise CriterionError(f"{tensor.name}: no scores were given")
            found = np.asarray(scores[tensor.name], np.float64)
            if found.shape != (tensor.channels,):
                raise LockingError(f"{tensor.name}: scores of shape {found.shape} for {tensor.channels} channels")
            return found

        rank: Callable[[WeightTensor], Scores] = given
    else:
        check_criterion(criterion, [artifact], None)  # type: ignore[arg-type]
        rank = score(criterion, seed, None)  # type: ignore[arg-type]
    left_out = set() if layers is None else {t.name for t in artifact.tensors} - set(layers)
    if layers is not None and (unknown := set(layers) - {t.name for t in artifact.tensors}):
        raise LockingError(f"no lockable layer {min(unknown)!r}")
    plan = make_plan(
        [replace(artifact, tensors=tuple(t for t in artifact.tensors if t.name not in left_out))],
        tiers,
        rank,
        criterion=criterion,  # type: ignore[arg-type]
        scope=scope,
        fill=fill,
        seed=seed,
        consumers=consumers,
        include_io=include_io,
        exclude=exclude,
        unit=unit,
    )
    for name in left_out:
        plan.left_alone[0][name] = "not asked for"
    plan.groups = []  # of the reduced artifact
    return plan


def _fixed_plan(
    artifact: Artifact,
    tiers: tuple[Tier, ...],
    tier_of: Mapping[str, TierMap],
    criterion: str,
    scope: Scope,
    fill: Fill,
    seed: bytes,
    consumers: bool,
) -> Plan:
    channels = {t.name: t.channels for t in artifact.tensors}
    maps: dict[str, TierMap] = {}
    for name, map_ in tier_of.items():
        maps[name] = np.asarray(map_, np.uint8)
        if channels.get(name) != maps[name].size or maps[name].ndim != 1:
            raise LockingError(f"{name}: {maps[name].shape} tiers for a layer of {channels.get(name, 'no')} channels")
        if maps[name].size and maps[name].max() >= len(tiers):
            raise LockingError(f"{name}: a channel of tier {maps[name].max()}, there are {len(tiers)}")
    return Plan(tiers, fill, seed, consumers, criterion, scope, [maps], [artifact.path.name], [{}])
