"""Fuzzes the reader of key bundles and what stands behind it with atheris.

    PYTHONPATH=sdk/python python tests/fuzz/fuzz_bundle.py [corpus folder] [-max_total_time=60 and other libFuzzer options]

The first byte says what the others are: a bundle; a header, which gets a good signature; a section's plaintext, which gets
encrypted, opened, and used to restore a file; a patch that fits its samples; a keystore. Without a corpus it starts from the
vectors.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["corelocker"]):
    from corelocker.bundle import jose
    from corelocker.bundle.clkey import KeyBundle
    from corelocker.bundle.keystore import Keystore, protection
    from corelocker.bundle.patch import Patch
    from corelocker.bundle.sample import sample
    from corelocker.errors import CoreLockerError
    from corelocker.runtime.restored import RestoredFile

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VECTORS = Path(__file__).parents[1] / "vectors" / "bundle.json"
KEY = ec.derive_private_key(0xC0FFEE_0001_7E57_0001, ec.SECP256R1())  # the publisher of the vectors
CONTENT_KEY = bytes(range(32))
LOCKED = bytes(100)


def signed(header: bytes) -> bytes:
    start = struct.pack("<8sI", b"CLKEYB02", len(header)) + header
    return start + jose.sign(KEY, start)


def fuzz_bundle(data: bytes) -> None:
    bundle = KeyBundle.open(data)
    for section in bundle.sections:
        bundle.decrypt(section, CONTENT_KEY)


def fuzz_header(data: bytes) -> None:
    """Sections of the lengths that the header says follow, so that a good one opens."""
    blob = signed(data)
    try:
        lengths = [section["length"] for section in json.loads(data)["sections"]]
        blob += bytes(min(sum(lengths), 1 << 16))
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        pass
    fuzz_bundle(blob)


def section(plaintext: bytes, locked_sample: str) -> KeyBundle:
    """A bundle for a file of 100 bytes with one section that opens."""
    fields = {
        "format": "corelocker-key-bundle",
        "version": "2.0",
        "bundle": "6f1d0c3e-9b52-4c7a-8a31-1f6f54a0c2d9",
        "model": "m",
        "model_version": 1,
        "publisher": jose.thumbprint(KEY.public_key()),
        "publisher_key": jose.public_jwk(KEY.public_key()),
        "tiers": ["free", "full"],
        "artifacts": [{"name": "A", "format": "x", "files": [{"path": "A", "size": 100, "sha256": "0" * 64}]}],
        "sections": [
            {"artifact": 0, "file": 0, "tier": 1, "offset": 0, "length": len(plaintext) + 16}
            | {"nonce": "A" * 16, "sample": locked_sample}
        ],
    }
    header = json.dumps(fields).encode()
    associated = hashlib.sha256(header).digest() + struct.pack("<I", 0)
    return KeyBundle.open(signed(header) + AESGCM(CONTENT_KEY).encrypt(bytes(12), plaintext, associated))


def fuzz_section(data: bytes, path: Path) -> None:
    bundle = section(data, "0" * 64)
    RestoredFile.open(path, [bundle.decrypt(bundle.sections[0], CONTENT_KEY)]).close()


def fuzz_patch(data: bytes, path: Path) -> None:
    """A patch with the samples that belong to it, so that a good one is applied."""
    patch = Patch.parse(data, len(LOCKED))
    expected = np.frombuffer(LOCKED, np.uint8).copy()
    locked_sample = sample(expected, patch.table)
    patch.apply(expected)
    after = {"sample": sample(expected, patch.table).hex(), "file": hashlib.sha256(expected).hexdigest()}
    text = json.dumps(after).encode()
    bundle = section(struct.pack("<I", len(text)) + text + data, locked_sample.hex())
    with RestoredFile.open(path, [bundle.decrypt(bundle.sections[0], CONTENT_KEY)], check="always") as restored:
        assert restored[:] == expected.tobytes()


def fuzz_keystore(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    path.chmod(0o600)
    Keystore.open(path, b"passphrase")


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        locked, store, seeds = Path(scratch) / "locked", Path(scratch) / "store", Path(scratch) / "seeds"
        locked.write_bytes(LOCKED)
        seeds.mkdir()
        # scrypt would take all the time.
        protection._SCRYPT_N, protection._LEAST_N, protection._MOST_MEMORY = 2, 2, 1 << 16
        Keystore.create(store, b"passphrase")
        (seeds / "keystore").write_bytes(b"\3" + store.read_bytes())
        for vector in json.loads(VECTORS.read_text())["vectors"]:
            blob = base64.b64decode(vector["bundle"])
            (seeds / vector["name"]).write_bytes(b"\0" + blob)
            if len(blob) > 12:
                (seeds / f"{vector['name']}-header").write_bytes(
                    b"\1" + blob[12:][: struct.unpack_from("<I", blob, 8)[0]]
                )
        after = json.dumps({"sample": "0" * 64, "file": "0" * 64}).encode()
        patch = struct.pack("<8sIIQQIIIxxxx", b"CLPATCH2", 1, 0, 2, 7, 2, 2, 1) + b"ab"
        flip = struct.pack("<8sIIQQIIIBBBx", b"CLPATCH2", 1, 0, 1, 7, 8, 8, 1, 1, 32, 0) + b"\3"
        (seeds / "flip").write_bytes(b"\4" + flip)
        (seeds / "patch").write_bytes(b"\4" + patch)
        (seeds / "section").write_bytes(b"\2" + struct.pack("<I", len(after)) + after + patch)

        def one_input(data: bytes) -> None:
            try:
                match data[:1]:
                    case b"\1":
                        fuzz_header(data[1:])
                    case b"\2":
                        fuzz_section(data[1:], locked)
                    case b"\4":
                        fuzz_patch(data[1:], locked)
                    case b"\3":
                        fuzz_keystore(data[1:], store)
                    case _:
                        fuzz_bundle(data[1:])
            except CoreLockerError:
                pass

        given = any(not argument.startswith("-") for argument in sys.argv[1:])
        atheris.Setup(sys.argv if given else [*sys.argv, str(seeds)], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
