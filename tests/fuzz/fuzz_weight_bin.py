"""Coverage-guided fuzzing of the Core ML readers: weight files, protobuf programs and MIL text.

    .venv/bin/python tests/fuzz/fuzz_weight_bin.py [CORPUS] -max_total_time=600

The first byte says which of the three the rest replaces; the others come from the published pair in tests/data. Whatever the
bytes are, the result is tensors that can be read or an ArtifactError.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "sdk" / "python"))

with atheris.instrument_imports(include=["corelocker"]):
    from corelocker.artifacts.coreml.mil_text import read_mil
    from corelocker.artifacts.coreml.package import read_program
    from corelocker.artifacts.coreml.weight_reader import ProgramWeights
    from corelocker.errors import ArtifactError
    from corelocker.files import MappedFile

DATA = Path(__file__).resolve().parents[1] / "data" / "coreml"
PACKAGE = DATA / "unified_palette_4bit.mlpackage" / "Data" / "com.apple.CoreML"
SPEC = (PACKAGE / "model.mlmodel").read_bytes()
WEIGHTS = (PACKAGE / "weights" / "weight.bin").read_bytes()
TEXT = (DATA / "unified_palette_4bit.mlmodelc" / "model.mil").read_bytes()
HEAD = 1 << 16  # bytes of a seed; the fuzzer puts the rest of the file behind them


def read_weights(spec: bytes, weights: bytes, scratch: Path) -> ProgramWeights:
    scratch.write_bytes(weights)
    found = read_program(memoryview(spec), MappedFile(scratch, "weight.bin"), 0, "")
    names = {tensor.name for tensor in found.tensors}
    assert names >= found.inputs | found.outputs | set(found.edges) | set(found.untraced)
    assert len(names) == len(found.tensors)
    for tensor in found.tensors:
        assert {edge.consumer for edge in found.edges.get(tensor.name, ())} <= names
        tensor.read([0])
        tensor.runs(tensor.channels - 1)
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "weight.bin"
        corpus = Path(folder) / "seeds"
        corpus.mkdir()
        for kind, seed in enumerate((WEIGHTS, SPEC, TEXT)):
            (corpus / str(kind)).write_bytes(bytes([kind]) + seed[:HEAD])

        def one(data: bytes) -> None:
            kind, body = data[0] % 3 if data else 0, data[1:]
            try:
                if kind == 0:
                    read_weights(SPEC, (body or b"\0") + WEIGHTS[len(body) :], scratch)
                elif kind == 1:
                    read_weights(body, WEIGHTS, scratch)
                else:
                    read_mil(body.decode("utf-8", "replace"))
            except ArtifactError:
                pass

        atheris.Setup([*sys.argv, str(corpus), f"-max_len={HEAD + 1}"], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
