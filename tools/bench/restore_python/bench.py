"""Restore (open the bundle, check its signature, decrypt, map, check, apply) beside decrypting the whole file with AES-256-GCM.

    .venv/bin/python tools/bench/restore_python/bench.py [--megabytes 100] [--runs 200] [--json]

Both sides run in turn in one process. The file is a locked checkpoint of that size whose key is about 0.2 % of it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import numpy as np
from corelocker.artifacts import open_artifact
from corelocker.bundle.clkey import KeyBundle
from corelocker.bundle.content_keys import new_content_key
from corelocker.locking.criteria import score
from corelocker.locking.plan import make_plan
from corelocker.locking.publish import publish
from corelocker.locking.tiers import parse_tiers
from corelocker.runtime.restored import restore
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def private_dirty_kb() -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_Dirty"))


def checkpoint(path: Path, megabytes: int) -> Path:
    """Matrices of 1000 rows of 4 kB, float32."""
    count = max(1, megabytes * 1000 // 4096)
    header, generator = {}, np.random.default_rng(0)
    size = 1000 * 1024 * 4
    for i in range(count):
        header[f"layer{i}.weight"] = {"dtype": "F32", "shape": [1000, 1024], "data_offsets": [i * size, (i + 1) * size]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(count):
            file.write(generator.standard_normal((1000, 1024), np.float32).data)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        original = checkpoint(folder / "model.safetensors", options.megabytes)
        artifacts = [open_artifact(original)]
        plan = make_plan(artifacts, parse_tiers("free=0.002,full=0"), score("l1", b"bench", None), criterion="l1", scope="layer",
                         fill="decoy", seed=b"bench", include_io=True)  # fmt: skip
        signing, top = ec.generate_private_key(ec.SECP256R1()), new_content_key()
        made = publish(
            artifacts,
            plan,
            folder / "out",
            model="m",
            model_version=1,
            bundle_id=uuid4(),
            signing_key=lambda: signing,
            content_key=top,
        )
        locked, publisher = folder / "out" / original.name, signing.public_key()
        size = original.stat().st_size
        sealed = AESGCM(top).encrypt(bytes(12), original.read_bytes(), None)
        restores, decryptions, dirty = [], [], []
        for turn in range(options.runs):
            before = private_dirty_kb() if turn < 3 else 0
            start = time.perf_counter()
            mapping = restore(locked, KeyBundle.open(made.bundle, publisher), top)
            restores.append(time.perf_counter() - start)
            if turn < 3:
                dirty.append(private_dirty_kb() - before)
            mapping.close()
            if turn % 10 == 0:
                start = time.perf_counter()
                AESGCM(top).decrypt(bytes(12), sealed, None)
                decryptions.append(time.perf_counter() - start)
        with restore(locked, KeyBundle.open(made.bundle, publisher), top, check="always") as mapping:
            exact = bytes(mapping) == original.read_bytes()
    restoring, decrypting = statistics.median(restores), statistics.median(decryptions)
    result = {
        "megabytes": round(size / 1e6, 1),
        "key_bytes": sum(made.key_bytes[0]),
        "channels": made.artifacts[0].locked_channels,
        "restore_ms": round(restoring * 1e3, 3),
        "aes_256_gcm_ms": round(decrypting * 1e3, 2),
        "ratio": round(decrypting / restoring, 1),
        "goal": 50,
        "private_dirty_kB": max(dirty),
        "private_dirty_percent": round(max(dirty) * 1024 / size * 100, 3),
        "bit_exact": exact,
        "cores": os.cpu_count(),
    }
    if options.json:
        print(json.dumps(result, indent=1))
        return
    key = f"key {result['key_bytes']} bytes in {result['channels']} channels"
    print(f"{result['megabytes']} MB, {key}, bit-exact: {'yes' if exact else 'NO'}")
    whole = f"AES-256-GCM of the whole file {result['aes_256_gcm_ms']} ms"
    print(f"restore {result['restore_ms']} ms, {whole}: 1/{result['ratio']} (goal 1/50)")
    print(f"private dirty {result['private_dirty_kB']} kB, {result['private_dirty_percent']} % of the file")


if __name__ == "__main__":
    main()
