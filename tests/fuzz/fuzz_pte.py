"""Coverage-guided fuzzing of the ExecuTorch reader: only typed errors, and what it accepts can be read.

    .venv/bin/python tests/fuzz/fuzz_pte.py [CORPUS] -max_total_time=600

The seeds are small programs of every kind, exported on the first run (tests/python/support/models/lowering.py). An input is a
seed's number and edits to its structure, so that most inputs get past the first checks.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[1] / "python"), str(Path(__file__).parents[2] / "sdk" / "python")]

with atheris.instrument_imports(include=["corelocker"]):
    from corelocker.artifacts.executorch.pte import open_pte
    from corelocker.errors import ArtifactError, FileAccessError

from support.models.exports import exported  # noqa: E402

KINDS = [
    ("vgg", "portable"), ("vgg", "xnnpack"), ("mobilenet", "int8"), ("gated", "int4"), ("vgg", "external"),
    ("vgg", "xnnpack-external"), ("shared", "methods-xnnpack"), ("shared", "methods-coreml"), ("transformer", "xnnpack"),
]  # fmt: skip
FOLDER = Path(tempfile.mkdtemp(prefix="corelocker-fuzz-"))


def structure_of(data: bytes) -> int:
    """Where the FlatBuffer of a program ends."""
    return int.from_bytes(data[16:24], "little") if data[8:12] == b"eh00" else len(data)


SEEDS = []
for name, variant in KINDS:
    program = exported(name, variant)
    store = program.with_suffix(".ptd")
    SEEDS.append((program.read_bytes(), store.read_bytes() if store.exists() else b""))


def edited(data: bytes, limit: int, provider: atheris.FuzzedDataProvider) -> bytes:
    """Up to eight bytes, words or pieces replaced; sometimes cut."""
    changed = bytearray(data)
    for _ in range(provider.ConsumeIntInRange(0, 8)):
        at = provider.ConsumeIntInRange(0, max(0, limit - 8))
        kind = provider.ConsumeIntInRange(0, 2)
        if kind == 0:
            changed[at] = provider.ConsumeIntInRange(0, 255)
        elif kind == 1:
            changed[at & ~3 : (at & ~3) + 4] = provider.ConsumeIntInRange(0, 2**32 - 1).to_bytes(4, "little")
        else:
            piece = provider.ConsumeBytes(provider.ConsumeIntInRange(1, 8))
            changed[at : at + len(piece)] = piece
    if provider.ConsumeIntInRange(0, 15) == 0:
        del changed[provider.ConsumeIntInRange(0, len(changed)) :]
    return bytes(changed)


def one_input(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    original, external = SEEDS[provider.ConsumeIntInRange(0, len(SEEDS) - 1)]
    whole = provider.ConsumeIntInRange(0, 3) == 0  # delegates' graphs lie behind the program's
    path = FOLDER / "m.pte"
    path.write_bytes(edited(original, len(original) if whole else structure_of(original), provider))
    store = FOLDER / "m.ptd"
    store.unlink(missing_ok=True)
    if external:
        store.write_bytes(edited(external, min(len(external), 2048), provider))
    try:
        artifact = open_pte(path)
    except (ArtifactError, FileAccessError):
        return
    names = {tensor.name for tensor in artifact.tensors}
    assert names >= artifact.inputs | artifact.outputs | set(artifact.edges) | set(artifact.untraced)
    for tensor in artifact.tensors:
        tensor.runs(tensor.channels - 1)
        tensor.weight.read([0])
        assert {edge.consumer for edge in artifact.edges.get(tensor.name, ())} <= names
    for identity in artifact.identities:
        assert len({bytes(identity.file.read(o, identity.length)) for o in identity.copies}) == 1


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
