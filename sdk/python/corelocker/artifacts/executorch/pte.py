"""ExecuTorch programs: `.pte`, and the `.ptd` files that hold weights beside them.

Weights are where the operators that read them say: the methods of the program are walked, and what they read as a layer's
weight becomes a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corelocker.artifacts.executorch.coreml_delegate import CoreMLDelegates
from corelocker.artifacts.executorch.method import MethodReader
from corelocker.artifacts.executorch.named_data import NamedData
from corelocker.artifacts.executorch.program import ProgramFile
from corelocker.artifacts.executorch.walk import Walk
from corelocker.artifacts.external_files import ExternalFiles
from corelocker.artifacts.flow import Tracer
from corelocker.artifacts.layers import Collector, Region
from corelocker.artifacts.weights import Artifact, Edge, WeightTensor
from corelocker.artifacts.work_budget import WorkBudget
from corelocker.errors import MalformedArtifactError, NothingToLockError, UnsupportedLayoutError
from corelocker.files import MappedFile


def open_pte(path: Path, data: Sequence[Path] = (), external: ExternalFiles | None = None) -> Artifact:
    """Read a program and its external weights.

    Args:
        path: the `.pte`.
        data: `.ptd` files; without any, one of the same stem beside the program is used.
        external: the `.ptd` files that other programs have opened.

    Raises FileAccessError (also for external weights that are in no `.ptd`), UnknownFormatError, MalformedArtifactError,
    UnsupportedLayoutError or NothingToLockError.
    """
    file = MappedFile(path, path.name)
    budget = WorkBudget()
    named = NamedData(file, budget, external or ExternalFiles())
    program = ProgramFile(file, budget, named)
    for place in data:
        named.open(place)
    collector, tracer = Collector(), Tracer(budget)
    coreml = CoreMLDelegates(file, named.find)
    for plan in program.plans:
        MethodReader(program, plan, named, coreml, Walk(plan.name, collector, tracer)).run()
    used = {region.file for region in named.used}
    for store in named.stores:
        if store not in used and data:
            raise MalformedArtifactError(f"{store.path}: holds no weights of {path.name}")
    beside = tuple(store for store in named.stores if store in used)
    stored = sum(s.size for s in program.segments if s not in program.graphs)
    stored += sum(region.size for region in named.used if region.file is not file)  # others may be another program's
    return _assemble((file, *beside), collector, tracer, named, coreml, program.graphs, stored)


def _assemble(
    files: tuple[MappedFile, ...],
    collector: Collector,
    tracer: Tracer,
    named: NamedData,
    coreml: CoreMLDelegates,
    graphs: set[Region],
    stored: int,
) -> Artifact:
    path = files[0].path
    tensors, skipped = collector.finish()
    tensors += coreml.tensors(len(tensors))
    skipped += coreml.skipped
    if not tensors:
        refused = [*collector.refused, *coreml.skipped]
        if refused or skipped:
            first = (refused or skipped)[0]
            raise UnsupportedLayoutError(f"{path}: {first.name} cannot be locked: {first.reason}")
        raise NothingToLockError(f"{path}: the program has no layer with weights")
    names = {tensor.name for tensor in tensors}
    edges, untraced = _checked_edges(tensors, tracer)
    edges.update(coreml.edges)
    untraced.update({name: reason for name, reason in coreml.untraced.items() if name in names})
    return Artifact(
        "executorch",
        path,
        files,
        tuple(tensors),
        tuple(skipped),
        (*named.identities(files), *coreml.identities(named)),
        edges,
        untraced,
        frozenset(tracer.inputs & names),
        frozenset(tracer.outputs & names),
        weight_storage=stored + _inside(tensors, graphs) + coreml.unread_bytes,
    )


def _inside(tensors: Sequence[WeightTensor], graphs: set[Region]) -> int:
    """Bytes of weights that lie in the data of delegates."""
    return sum(
        part.size
        for tensor in tensors
        for part in tensor.parts
        if any(g.file is part.file and g.offset <= part.offset < g.offset + g.size for g in graphs)
    )


def _checked_edges(tensors: list[WeightTensor], tracer: Tracer) -> tuple[dict[str, tuple[Edge, ...]], dict[str, str]]:
    """Edges between lockable tensors that agree with their shapes, and why others are missing."""
    by_name = {tensor.name: tensor for tensor in tensors}
    untraced = {name: reason for name, reason in tracer.untraced.items() if name in by_name}
    edges: dict[str, tuple[Edge, ...]] = {}
    for name, found in tracer.edges.items():
        producer = by_name.get(name)
        if producer is None:
            continue
        kept = []
        for edge in found:
            consumer = by_name.get(edge.consumer)
            if consumer is None:
                untraced.setdefault(name, f"{edge.consumer} reads it and cannot be locked")
            elif edge.first + edge.block * producer.channels > _places(consumer):
                untraced.setdefault(name, f"{edge.consumer} reads it with another shape")
            else:
                kept.append(edge)
        if kept or name not in untraced:
            edges[name] = tuple(kept)
    return edges, untraced


def _places(consumer: WeightTensor) -> int:
    """Input channels of a layer; a depthwise layer's are its own."""
    if consumer.role == "depthwise":
        return consumer.channels
    if consumer.inputs is not None:
        return consumer.inputs.channels
    return consumer.shape[1] if consumer.role == "linear" else 1 << 32
