"""From a path to the adapter that reads it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from corelocker.artifacts.external_files import ExternalFiles, check_shared_weights
from corelocker.artifacts.git_lfs import POINTER, refuse_pointer
from corelocker.artifacts.weights import Artifact
from corelocker.errors import FileAccessError, UnknownFormatError
from corelocker.files import open_regular, refuse_special_files


def open_artifacts(paths: Sequence[Path]) -> list[Artifact]:
    """Read several artifacts; `.ptd` files among them are the external weights of the `.pte` before them.

    A `.ptd` that several programs read is one file of all of them.

    Raises what `open_artifact` raises, UnknownFormatError for a `.ptd` without a `.pte`, and UnsupportedLayoutError for programs
    that read the same weights in different forms.
    """
    models: list[tuple[Path, list[Path]]] = []
    for path in paths:
        if path.suffix != ".ptd":
            models.append((path, []))
        elif models and models[-1][0].suffix == ".pte":
            models[-1][1].append(path)
        else:
            raise UnknownFormatError(
                f"{path}: external weights need their .pte before them", hint="For example: model.pte weights.ptd"
            )
    stores = ExternalFiles()
    artifacts = [open_artifact(path, data, stores) for path, data in models]
    check_shared_weights(artifacts)
    return artifacts


def open_artifact(path: Path, data: Sequence[Path] = (), stores: ExternalFiles | None = None) -> Artifact:
    """Read the artifact at `path`.

    Args:
        path: a `.pte` file, an `.mlpackage` or `.mlmodelc` folder, a `.safetensors` file or the index of a sharded checkpoint
            (`*.safetensors.index.json`).
        data: `.ptd` files with external weights of a `.pte`; a file of the same stem beside it is found by itself.
        stores: the `.ptd` files that other programs have opened.

    Raises FileAccessError, UnknownFormatError, MalformedArtifactError, UnsupportedLayoutError or NothingToLockError.
    """
    if not os.path.lexists(path):
        raise FileAccessError(f"{path}: no such file or folder")
    refuse_special_files(path)
    if path.is_file():
        refuse_pointer(path, _head(path))
    # Adapters are imported late: a `.safetensors` lock must not pay for the schema of `.pte`.
    if path.is_dir():
        from corelocker.artifacts.coreml.package import open_compiled, open_package

        if path.suffix == ".mlpackage" or (path / "Manifest.json").exists():
            return open_package(path)
        if path.suffix == ".mlmodelc" or (path / "model.mil").exists():
            return open_compiled(path)
        raise UnknownFormatError(f"{path}: the folder is neither an .mlpackage nor an .mlmodelc")
    if path.suffix == ".pte":
        from corelocker.artifacts.executorch.pte import open_pte

        return open_pte(path, data, stores)
    if path.name.endswith((".safetensors", ".safetensors.index.json")):
        from corelocker.artifacts.safetensors import open_safetensors

        return open_safetensors(path)
    if path.suffix == ".mlmodel":
        raise UnknownFormatError(
            f"{path}: a bare .mlmodel, the form before ML Programs, which holds its weights in the specification",
            hint="Convert the model with coremltools, convert_to='mlprogram', and save it as an .mlpackage",
        )
    raise UnknownFormatError(
        f"{path}: not a .pte, .mlpackage, .mlmodelc or .safetensors",
        hint="Export the model first, for example with `corelocker export`",
    )


def _head(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(len(POINTER))
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None
