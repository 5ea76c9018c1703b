"""Restore (open the bundle, check its signature, decrypt, map, sample, apply) beside decrypting the whole file with AES-256-GCM.

    .venv/bin/python tools/bench/restore_python/bench.py [--megabytes 100] [--runs 50] [--json]

Four keys of a float32 checkpoint of that size: 0.2 %, 5 % and 30 % of its channels by value, and the sign of every weight. Both
sides run in turn in one process, with the file in the page cache; the check of the whole file is off, and timed apart.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import numpy as np
from corelocker.artifacts import open_artifact
from corelocker.bundle.clkey import KeyBundle
from corelocker.bundle.clkey_header import BundledArtifact, BundledFile
from corelocker.bundle.clkey_write import BundleContents, SectionContents, write_bundle
from corelocker.bundle.content_keys import new_content_key, tier_keys
from corelocker.bundle.flips import Flip, pack_mask
from corelocker.bundle.patch import Patch
from corelocker.bundle.patch_runs import Kind
from corelocker.bundle.sample import sample
from corelocker.locking.criteria import score
from corelocker.locking.planning import make_plan
from corelocker.locking.publish import publish
from corelocker.locking.tiers import parse_tiers
from corelocker.runs import single
from corelocker.runtime.restored import restore
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SIGNING = ec.generate_private_key(ec.SECP256R1())
TOP = new_content_key()
ROWS, COLUMNS = 1000, 1024
Case = tuple[str, Path, bytes, int]  # name, locked file, bundle, bytes of the key
# Shares of whole-file decryption. Python is held to the first; the others are the C++ loader's (tools/bench/restore).
GOALS = {"0.2 %": 0.02, "5 %": 0.12, "30 %": 0.5}


def private_dirty_kb() -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_Dirty"))


def checkpoint(path: Path, megabytes: int) -> Path:
    """Matrices of 1000 rows of 4 kB, float32."""
    count = max(1, megabytes * 1000 // 4096)
    header, generator = {}, np.random.default_rng(0)
    size = ROWS * COLUMNS * 4
    for i in range(count):
        places = [i * size, (i + 1) * size]
        header[f"layer{i}.weight"] = {"dtype": "F32", "shape": [ROWS, COLUMNS], "data_offsets": places}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(count):
            file.write(generator.standard_normal((ROWS, COLUMNS), np.float32).data)
    return path


def by_value(original: Path, folder: Path, share: float) -> Case:
    """Locked as `corelocker lock --tiers free=SHARE,full=0` does it."""
    artifacts = [open_artifact(original)]
    plan = make_plan(artifacts, parse_tiers(f"free={share},full=0"), score("l1", b"bench", None), criterion="l1", scope="layer",
                     fill="decoy", seed=b"bench", include_io=True)  # fmt: skip
    made = publish(artifacts, plan, folder, model="m", model_version=1, bundle_id=uuid4(), signing_key=SIGNING,
                   content_key=TOP)  # fmt: skip
    return f"{share * 100:g} %", folder / original.name, made.bundle.read_bytes(), sum(made.key_bytes[0])


def by_sign(original: Path, folder: Path) -> Case:
    """The signs of all weights under a random mask, one run for each tensor."""
    data = np.fromfile(original, np.uint8)
    state, generator = data.copy(), np.random.default_rng(1)
    begin = 8 + int.from_bytes(data[:8].tobytes(), "little")
    flips = [
        Flip(single(at, ROWS * COLUMNS * 4), Kind.XOR_TOP, 32, pack_mask(generator.integers(0, 2, ROWS * COLUMNS) == 1))
        for at in range(begin, data.size, ROWS * COLUMNS * 4)
    ]
    patch = Patch.build([], data, flips)
    patch.apply(state)
    folder.mkdir()
    locked = folder / original.name
    state.tofile(locked)
    section = SectionContents(
        0, 0, 1, patch.encode(), sample(state, patch.table), sample(data, patch.table), hashlib.sha256(data).digest()
    )
    entry = BundledArtifact(
        original.name, "safetensors", (BundledFile(original.name, data.size, hashlib.sha256(state).digest()),)
    )
    contents = BundleContents(uuid4(), "m", 1, ("free", "full"), (entry,), (section,))
    return (
        "signs of all",
        locked,
        write_bundle(contents, SIGNING, tier_keys(TOP, contents.bundle, 2)),
        len(patch.payload),
    )


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(case: Case, original: Path, sealed: bytes, runs: int) -> dict[str, object]:
    """One key: the medians of restoring and of decrypting the whole file, in turn."""
    name, locked, blob, key_bytes = case
    publisher = SIGNING.public_key()
    restores, decryptions, dirty = [], [], []
    for turn in range(runs):
        before = private_dirty_kb() if turn < 3 else 0
        start = time.perf_counter()
        mapping = restore(locked, KeyBundle.open(blob, publisher), TOP, check="off")
        restores.append(time.perf_counter() - start)
        if turn < 3:
            dirty.append(private_dirty_kb() - before)
        mapping.close()
        if turn % 3 == 0:
            decryptions.append(timed(lambda: AESGCM(TOP).decrypt(bytes(12), sealed, None)))
    with restore(locked, KeyBundle.open(blob, publisher), TOP, check="off") as mapping:
        checking = timed(mapping.verify)
        exact = bytes(mapping) == original.read_bytes()
    restoring, decrypting = statistics.median(restores), statistics.median(decryptions)
    return {
        "key": name,
        "key_bytes": key_bytes,
        "restore_ms": round(restoring * 1e3, 3),
        "aes_256_gcm_ms": round(decrypting * 1e3, 2),
        "ratio": round(restoring / decrypting, 3),
        "goal": GOALS.get(name),
        "full_check_ms": round(checking * 1e3, 1),
        "private_dirty_MB": round(max(dirty) / 1e3, 1),
        "bit_exact": exact,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        original = checkpoint(folder / "model.safetensors", options.megabytes)
        sealed = AESGCM(TOP).encrypt(bytes(12), original.read_bytes(), None)
        cases = [by_value(original, folder / str(share), share) for share in (0.002, 0.05, 0.3)]
        cases.append(by_sign(original, folder / "signs"))
        rows = [measure(case, original, sealed, options.runs) for case in cases]
        megabytes = round(original.stat().st_size / 1e6, 1)
    if options.json:
        print(json.dumps({"megabytes": megabytes, "cores": os.cpu_count(), "restore": rows}, indent=1))
        return
    print(f"{megabytes} MB; ratio: restoring to AES-256-GCM of the whole file, without the full check")
    for row in rows:
        of = "" if row["key"] == "0.2 %" else " of the C++ loader"
        goal = f" (goal {row['goal']}{of})" if row["goal"] else ""
        print(
            f"{row['key']:>12}  key {row['key_bytes']:>9} B  restore {row['restore_ms']:>8} ms  AES {row['aes_256_gcm_ms']} ms  "
            f"ratio {row['ratio']}{goal}  full check {row['full_check_ms']} ms  private {row['private_dirty_MB']} MB  "
            f"bit-exact {'yes' if row['bit_exact'] else 'NO'}"
        )


if __name__ == "__main__":
    main()
