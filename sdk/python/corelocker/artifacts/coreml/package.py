"""Core ML ML Programs as weight tensors: `.mlpackage`, compiled `.mlmodelc`, and the package inside a `.pte`.

A package holds the program as protobuf and the weights in `weights/weight.bin`; a compiled model holds the program as MIL text
and the same `weight.bin`, byte for byte. Both give the same tensors, so a patch of one serves the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from corelocker.artifacts.coreml.mil_text import read_mil
from corelocker.artifacts.coreml.mlprogram import MilProgram, read_model
from corelocker.artifacts.coreml.weight_bin import WeightFile
from corelocker.artifacts.coreml.weight_reader import ProgramWeights, WeightFiles, WeightReader
from corelocker.artifacts.git_lfs import POINTER, refuse_pointer
from corelocker.artifacts.weights import Artifact
from corelocker.errors import (
    FileAccessError,
    MalformedArtifactError,
    NothingToLockError,
    UnknownFormatError,
    UnsupportedLayoutError,
)
from corelocker.files import MappedFile, open_regular

MAX_SPECIFICATION = 256 << 20
MAX_MANIFEST = 1 << 20
MODEL_PATH = "@model_path/"
LEAKS_NAMES = "executorch_debug_handle_mapping.json"  # written by coremltools for an exported program


def open_package(path: Path) -> Artifact:
    """Read an `.mlpackage`.

    Raises FileAccessError, UnknownFormatError (not an ML Program), MalformedArtifactError, UnsupportedLayoutError (it has
    weights, but none in a layout that can be locked) or NothingToLockError.
    """
    place = path / "Manifest.json"
    try:
        manifest = json.loads(_bytes(place, MAX_MANIFEST))
        root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise MalformedArtifactError(f"{place}: not JSON that names a root model") from None
    model = PurePosixPath("Data") / _inside(root, str(place))
    spec = _bytes(path / model, MAX_SPECIFICATION)
    return _artifact("coreml", path, model.parent, lambda: read_model(spec))


def open_compiled(path: Path) -> Artifact:
    """Read a compiled `.mlmodelc`. Raises as `open_package` does."""
    if path.is_dir() and not (path / "model.mil").exists():
        raise UnknownFormatError(f"{path}: holds no model.mil", hint="Only compiled ML Programs can be read")
    try:
        text = _bytes(path / "model.mil", MAX_SPECIFICATION).decode()
    except UnicodeDecodeError:
        raise MalformedArtifactError(f"{path / 'model.mil'}: not UTF-8 text") from None
    return _artifact("coreml-compiled", path, PurePosixPath(), lambda: read_mil(text))


def read_program(spec: memoryview, file: MappedFile, base: int, prefix: str, size: int | None = None) -> ProgramWeights:
    """The weights of a program whose weight file lies inside another file (a `.pte`).

    Args:
        spec: bytes of `model.mlmodel`.
        file: the file that holds the weight file.
        base: where in it the weight file begins; need not be aligned.
        prefix: put before every name.
        size: length of the weight file; by default it reaches to the end of `file`.

    Raises MalformedArtifactError or UnknownFormatError. Where nothing can be locked the result is empty.
    """
    return WeightReader(read_model(spec), WeightFiles(lambda name: WeightFile(file, base, size)), prefix).read()


def _artifact(form: str, path: Path, folder: PurePosixPath, program: Callable[[], MilProgram]) -> Artifact:
    """The artifact whose weight files lie below `folder` (the `@model_path` of the program) of `path`."""
    opened: dict[str, MappedFile] = {}

    def open_file(reference: str) -> WeightFile:
        name = str(folder / _inside(reference.removeprefix(MODEL_PATH), path.name))
        if name not in opened:
            opened[name] = MappedFile(path / name, name)
            refuse_pointer(path / name, opened[name].data[: len(POINTER)].tobytes())
        return WeightFile(opened[name])

    try:
        found = WeightReader(program(), WeightFiles(open_file), "").read()
    except (MalformedArtifactError, UnknownFormatError) as error:
        raise type(error)(f"{path}: {error}") from None
    if not any(t.role != "norm" for t in found.tensors):
        if found.refused:
            first = found.refused[0]
            raise UnsupportedLayoutError(f"{path}: {first.name} cannot be locked: {first.reason}")
        raise NothingToLockError(f"{path}: the model has no layer with weights in a weight file")
    return Artifact(
        format=form,
        path=path,
        files=tuple(opened[name] for name in sorted(opened)),
        tensors=found.tensors,
        skipped=found.skipped,
        edges=found.edges,
        untraced=found.untraced,
        inputs=found.inputs,
        outputs=found.outputs,
        strip=tuple(sorted(p.relative_to(path).as_posix() for p in path.rglob(LEAKS_NAMES))),
        weight_storage=sum(len(file) for file in opened.values()),
    )


def _bytes(path: Path, limit: int) -> bytes:
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None
    if len(data) > limit:
        raise MalformedArtifactError(f"{path}: larger than {limit} bytes")
    refuse_pointer(path, data)
    return data


def _inside(name: object, where: str) -> PurePosixPath:
    """A relative path that stays below its folder."""
    path = PurePosixPath(name) if isinstance(name, str) else PurePosixPath()
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in str(path) or "\\" in str(path):
        raise MalformedArtifactError(f"{where}: names a file outside the model")
    return path
