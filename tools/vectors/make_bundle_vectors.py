"""Makes the vectors of patch, sample, key bundle, content keys, JWK thumbprint and keystore in tests/vectors.

    python tools/vectors/make_bundle_vectors.py [--out tests/vectors]

Keys and nonces are fixed, so two runs write the same bytes; the keys are for tests only. What is expected of a vector
stands in the modules beside this one by hand; nothing of the package is used.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from clkey_header_vectors import broken_bundles, good_bundles, header_vectors, version_vectors
from clkey_section_vectors import restore_vectors, section_vectors
from flip_vectors import flip_vectors
from key_vectors import thumbprint_vectors, tier_key_vectors
from keystore_vectors import keystore_vectors
from naive_patch import Vector
from patch_vectors import patch_vectors
from sample_vectors import sample_vectors


def document(description: str, vectors: list[Vector]) -> str:
    names = [vector["name"] for vector in vectors]
    assert len(set(names)) == len(names), "names of vectors repeat"
    return json.dumps({"description": description, "vectors": vectors}, indent=1) + "\n"


def documents() -> dict[str, str]:
    """File name in tests/vectors -> its text."""
    return {
        "patch.json": document(
            "Patches (docs/formats.md, Patch and Sample). Read `patch` (base64) for a file of `file_size` bytes; `expect` is "
            "ok or the code of the error. Where a `file` (base64) is given and ok expected: it has the `sample` (hex) with the "
            "runs of the patch, applying the patch gives `restored`, and that has `restored_sample`. Where a `file` is given "
            "and an error expected, it must not change.",
            [*patch_vectors(), *flip_vectors()],
        ),
        "sample.json": document(
            "Samples (docs/formats.md, Sample). The `file` (base64) has the `sample` (hex) with the runs of the `patch` "
            "(base64).",
            sample_vectors(),
        ),
        "bundle.json": document(
            "Key bundles (docs/formats.md, Key bundle). Open `bundle` (base64), where given for the `publisher` with that JWK "
            "thumbprint; `expect` is ok or the code of the error. Then open each of `sections` with its `content_key` "
            "(hex, of the section's tier): `expect` again, and with ok the members `sample` and `file` (hex) and the "
            "`patch` (base64). Then each of `restores`: bring the file with the bytes `locked` (base64), which is file "
            "`file` of artifact `artifact`, to `tier` with that tier's `content_key`, with the full check where `check` is "
            "`always` and without it where it is `off`; with ok the result is `restored`.",
            [
                *good_bundles(),
                *broken_bundles(),
                *version_vectors(),
                *header_vectors(),
                *section_vectors(),
                *restore_vectors(),
            ],
        ),
        "tier_keys.json": document(
            "Content keys (docs/formats.md, Content keys). From `content_key` (hex), the key of tier `tiers` - 1 of the "
            "bundle with the id `bundle`, follow the `keys` of tiers 0, 1, ... `tiers` - 1.",
            tier_key_vectors(),
        ),
        "jwk_thumbprint.json": document(
            "Public P-256 keys as JWK (RFC 7517, RFC 7518 section 6.2.1) and their `thumbprint` (RFC 7638, SHA-256, "
            "base64url without padding). `expect` is ok, or invalid where a reader must refuse the key.",
            thumbprint_vectors(),
        ),
        "keystore.json": document(
            "Keystore files (docs/formats.md, Keystore). Open the text `file` with the `passphrase`, or with a file `kek.bin` "
            "of the bytes `kek` (hex) beside it; `expect` is ok or the code of the error. With ok: `publisher` is the "
            "thumbprint of the active signing key, `publisher_keys` those of all, and `content_keys` are what is kept.",
            keystore_vectors(),
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "tests" / "vectors")
    folder: Path = parser.parse_args().out
    for name, text in documents().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
