"""`corelocker inspect`: what is in an artifact or a key bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corelocker.cli.app import Json, emit, human, wide_console

if TYPE_CHECKING:
    from corelocker.bundle.clkey import KeyBundle


def inspect(
    path: Annotated[
        Path, typer.Argument(help="A model (.pte, .mlpackage, .mlmodelc, .safetensors) or a key bundle (.clkey).")
    ],
    data: Annotated[list[Path] | None, typer.Option(help="External weights (.ptd) of a .pte; repeatable.")] = None,
    json: Json = False,
) -> None:
    """Show the lockable layers of a model, or what a key bundle is for. Needs no key.

    Example: corelocker inspect dist/scanner.clkey --json
    """
    if path.suffix == ".clkey":
        from corelocker.bundle.clkey import KeyBundle

        _show_bundle(KeyBundle.open(path), json)
    else:
        _show_artifact(path, data or [], json)


def _show_bundle(bundle: KeyBundle, as_json: bool) -> None:
    document = {
        "bundle": str(bundle.id),
        "model": bundle.model,
        "model_version": bundle.model_version,
        "publisher": bundle.publisher,
        "tiers": list(bundle.tiers),
        "artifacts": [
            {
                "name": artifact.name,
                "format": artifact.format,
                "files": [{"path": f.path, "size": f.size, "sha256": f.sha256.hex()} for f in artifact.files],
                "section_bytes": {
                    name: sum(s.length for s in bundle.sections if s.artifact == number and s.tier == tier)
                    for tier, name in enumerate(bundle.tiers)
                    if tier
                },
            }
            for number, artifact in enumerate(bundle.artifacts)
        ],
    }

    def text() -> None:
        from rich.table import Table

        console = wide_console()
        console.print(f"model {bundle.model}, version {bundle.model_version}, bundle {bundle.id}", highlight=False)
        console.print(f"signed by {bundle.publisher}; tiers {' > '.join(bundle.tiers)}", highlight=False)
        table = Table("artifact", "file", "size", *(f"to {name}" for name in bundle.tiers[1:]))
        for number, artifact in enumerate(bundle.artifacts):
            for index, file in enumerate(artifact.files):
                lengths = {s.tier: s.length for s in bundle.sections if (s.artifact, s.file) == (number, index)}
                table.add_row(
                    artifact.name,
                    file.path,
                    human(file.size),
                    *(human(lengths.get(t, 0)) for t in range(1, len(bundle.tiers))),
                )
        console.print(table)

    emit(as_json, document, text)


def _show_artifact(path: Path, data: list[Path], as_json: bool) -> None:
    from corelocker.artifacts import open_artifact

    artifact = open_artifact(path, data)
    tensors: list[dict[str, Any]] = [
        {
            "name": t.name,
            "role": t.role,
            "shape": list(t.shape),
            "dtype": t.dtype,
            "parts": [p.kind for p in t.parts],
            "bytes": sum(p.size for p in t.parts),
            "place": "input" if t.name in artifact.inputs else "output" if t.name in artifact.outputs else "inner",
            "read_by": [edge.consumer for edge in artifact.edges.get(t.name, ())],
        }
        for t in artifact.tensors
    ]
    document = {
        "path": str(path),
        "format": artifact.format,
        "files": [{"path": f.name, "size": len(f)} for f in artifact.files],
        "tensors": tensors,
        "skipped": {s.name: s.reason for s in artifact.skipped},
        "consumers_not_followed": artifact.untraced,
        "left_out_of_locked_copy": list(artifact.strip),
    }

    def text() -> None:
        from rich.table import Table

        console = wide_console()
        sizes = ", ".join(f"{f.name} ({human(len(f))})" for f in artifact.files)
        console.print(f"{path}: {artifact.format}, {sizes}", highlight=False)
        table = Table("layer", "role", "shape", "type", "bytes", "place", "with")
        for t in tensors:
            shape = " x ".join(map(str, t["shape"]))
            table.add_row(
                t["name"], t["role"], shape, t["dtype"], human(t["bytes"]), t["place"], ", ".join(t["parts"][1:])
            )
        console.print(table)
        for skipped in artifact.skipped:
            console.print(f"left alone: {skipped.name}: {skipped.reason}", highlight=False)

    emit(as_json, document, text)
