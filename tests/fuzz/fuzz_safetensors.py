"""Coverage-guided fuzzing of the safetensors reader: only typed errors, and what it accepts can be read.

.venv/bin/python tests/fuzz/fuzz_safetensors.py -max_total_time=60
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["corelocker"]):
    from corelocker.artifacts.safetensors import open_safetensors
    from corelocker.errors import CoreLockerError

FOLDER = Path(tempfile.mkdtemp(prefix="corelocker-fuzz-"))
SEED = {
    "a.conv1.weight": {"dtype": "F32", "shape": [4, 2, 1, 1], "data_offsets": [0, 32]},
    "a.bn1.weight": {"dtype": "F32", "shape": [4], "data_offsets": [32, 48]},
}


def one_input(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    if provider.ConsumeBool():
        raw = provider.ConsumeBytes(4096)
    else:  # keep the frame, so that the fuzzer reaches the entries
        text = (
            provider.ConsumeUnicodeNoSurrogates(600).encode() if provider.ConsumeBool() else json.dumps(SEED).encode()
        )
        raw = len(text).to_bytes(8, "little") + text + provider.ConsumeBytes(200)
    path = FOLDER / "m.safetensors"
    path.write_bytes(raw)
    try:
        artifact = open_safetensors(path)
    except CoreLockerError:
        return
    for tensor in artifact.tensors:
        tensor.values()
        tensor.runs(tensor.channels - 1)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
