"""The Core ML delegate of a `.pte`: a whole package inside the program's bytes.

The blob is ExecuTorch's in-memory file system (backends/apple/coreml/runtime/inmemoryfs): the files one after the other, as
they are, and behind them a JSON table of contents, written backwards. Programs of several methods keep one blob as named data
and put `CMJR` and a JSON reference in its place. The runtime caches the compiled model under the `identifier` in
`metadata.json`, whatever the weights are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from corelocker.artifacts.flow import Flow, Tracer
from corelocker.artifacts.layers import Region
from corelocker.artifacts.weights import Edge, Identity, Skipped, WeightTensor
from corelocker.errors import MalformedArtifactError
from corelocker.files import MappedFile

REFERENCE = b"CMJR"
MAX_CONTENTS = 1 << 20  # bytes of the table of contents; a package has a dozen files
MAX_METADATA = 1 << 24
MAX_DEPTH = 8
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


class KeyLocations(Protocol):
    """Where a key of named data stands in the program."""

    def places(self, key: str) -> Iterable[int]: ...


@dataclass
class _Package:
    """A delegate's package, read once however many methods use it."""

    prefix: str
    outputs: int
    names: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    identifier: str = ""
    copies: set[int] = field(default_factory=set)
    weights: list[Region] = field(default_factory=list)
    key: str = ""


class CoreMLDelegates:
    """The Core ML delegates of one program."""

    def __init__(self, file: MappedFile, find: Callable[[str], Region]) -> None:
        self._file = file
        self._find = find
        self._packages: dict[Region, _Package] = {}
        self._tensors: list[WeightTensor] = []
        self.skipped: list[Skipped] = []
        self.edges: dict[str, tuple[Edge, ...]] = {}
        self.untraced: dict[str, str] = {}

    def package(self, region: Region, prefix: str) -> _Package:
        """The package that a delegate's data is, or refers to."""
        blob = region.file.read(region.offset, region.size)
        key, mention = "", None
        if bytes(blob[:4]) == REFERENCE:
            reference = _json(bytes(blob[4 : 4 + MAX_CONTENTS]).rstrip(b"\0"), "a reference to a Core ML package")
            key = str(reference.get("key", ""))
            mention = region.offset + bytes(blob[: 4 + MAX_CONTENTS]).find(key.encode())
            region = self._find(key)
        package = self._packages.get(region)
        if package is None:
            suffix = str(len(self._packages)) if self._packages else ""
            package = self._packages[region] = self._read(region, prefix + suffix)
            package.key = key
        if mention is not None and package.identifier and key.endswith(package.identifier):
            package.copies.add(mention + len(key.encode()) - len(package.identifier))
        return package

    def layers(self, package: _Package, data: Sequence[Flow], tracer: Tracer) -> list[str]:
        """A call of the delegate with these activations. Returns the layers that its results come from."""
        if any(trace.source is None for flow in data for trace in flow.traces):
            tracer.inputs.update(package.inputs)
        return package.names

    def tensors(self, order: int) -> list[WeightTensor]:
        """All layers, counted from `order` on."""
        return [replace(tensor, order=order + i) for i, tensor in enumerate(self._tensors)]

    def identities(self, named: KeyLocations) -> Iterable[Identity]:
        """What the runtime's cache of compiled models knows each package by."""
        for package in self._packages.values():
            if not package.identifier:
                continue
            copies = set(package.copies)
            if package.key.endswith(package.identifier):
                shift = len(package.key.encode()) - len(package.identifier)
                copies |= {place + shift for place in named.places(package.key)}
            covers = tuple((w.file, w.offset, w.size) for w in package.weights)
            yield Identity(self._file, tuple(sorted(copies)), len(package.identifier), covers)

    @property
    def unread_bytes(self) -> int:
        """Bytes of the packages' weight files that belong to no layer."""
        stored = sum(w.size for package in self._packages.values() for w in package.weights)
        return max(0, stored - sum(part.size for tensor in self._tensors for part in tensor.parts))

    def _read(self, region: Region, prefix: str) -> _Package:
        blob = region.file.read(region.offset, region.size)
        files = _files(blob, prefix)
        metadata_at, metadata_size = files.get("metadata.json", (0, 0))
        if metadata_size > MAX_METADATA:
            raise MalformedArtifactError(f"{prefix}: metadata.json has {metadata_size} bytes")
        raw = bytes(blob[metadata_at : metadata_at + metadata_size])
        metadata = _json(raw.rstrip(b"\0"), f"{prefix}: metadata.json") if raw else {}
        package = _Package(prefix, _outputs(metadata))
        identifier = metadata.get("identifier")
        if isinstance(identifier, str) and identifier.isascii() and raw.count(identifier.encode()) == 1:
            # The prefix stays: only the random part of the name has to change.
            unique = UUID.search(identifier)
            package.identifier = unique.group() if unique else identifier
            package.copies.add(region.offset + metadata_at + raw.find(package.identifier.encode()))
        self._program(region, blob, files, package)
        return package

    def _program(self, region: Region, blob: memoryview, files: dict[str, tuple[int, int]], package: _Package) -> None:
        from corelocker.artifacts.coreml.package import read_program  # late: most programs have no Core ML delegate

        specs = [name for name in files if name.endswith(".mlmodel") and "/model.mlpackage/" in f"/{name}"]
        if len(specs) != 1:
            self.skipped.append(Skipped(package.prefix, "a Core ML model that is no .mlpackage of one program"))
            return
        at, size = files[specs[0]]
        weights = f"{specs[0].rpartition('/')[0]}/weights/weight.bin"
        base, length = files.get(weights, (0, 0))
        region_of_weights = Region(region.file, region.offset + base, length)
        found = read_program(blob[at : at + size], region.file, region_of_weights.offset, f"{package.prefix}.", length)
        if length:
            package.weights.append(region_of_weights)
        self._tensors += found.tensors
        self.skipped += found.skipped
        self.edges.update(found.edges)
        self.untraced.update(found.untraced)
        package.names = sorted(found.outputs)
        package.inputs = sorted(found.inputs)


def _outputs(metadata: dict[str, Any]) -> int:
    """How many results a call has; the methods of one package may differ, then the first speaks for all."""
    methods = metadata.get("methods")
    if isinstance(methods, dict) and methods:
        metadata = next(iter(methods.values()))
    names = metadata.get("outputNames") if isinstance(metadata, dict) else None
    return len(names) if isinstance(names, list) else 1


def _json(raw: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise MalformedArtifactError(f"{what} is not JSON") from None
    if not isinstance(value, dict):
        raise MalformedArtifactError(f"{what} is not a JSON object")
    return value


def _files(blob: memoryview, what: str) -> dict[str, tuple[int, int]]:
    """path -> (offset, size) of every file, without the name of the outermost folder."""
    tail = bytes(blob[-MAX_CONTENTS:]).rstrip(b"\0")[::-1]
    try:
        contents, _ = json.JSONDecoder().raw_decode(tail.decode("latin-1"))
        nodes = [
            (n["kind"], n["dataRegion"]["offset"], n["dataRegion"]["size"], n["children"]) for n in contents["nodes"]
        ]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise MalformedArtifactError(f"{what}: the delegate's table of contents is damaged") from None
    files: dict[str, tuple[int, int]] = {}
    stack: list[tuple[str, int, int]] = [("", len(nodes) - 1, 0)]
    while stack:
        path, index, depth = stack.pop()
        kind, offset, size, children = nodes[index]
        if kind == 0:
            if type(offset) is not int or type(size) is not int or min(offset, size) < 0 or offset + size > len(blob):
                raise MalformedArtifactError(f"{what}: a file of the delegate lies outside of it")
            files[path] = (offset, size)
        elif isinstance(children, dict) and depth < MAX_DEPTH and len(files) + len(stack) <= len(nodes):
            for name, child in children.items():
                # A folder stands behind what is in it, so that there are no loops.
                if type(child) is not int or not 0 <= child < index:
                    raise MalformedArtifactError(f"{what}: the delegate's table of contents is damaged")
                stack.append((f"{path}/{name}" if path else name, child, depth + 1))
        else:
            raise MalformedArtifactError(f"{what}: the delegate's table of contents is damaged")
    return files
