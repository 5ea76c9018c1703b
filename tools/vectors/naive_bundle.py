"""Key bundles as docs/formats.md says them: what the vectors are made with. Nothing of the package is used."""

from __future__ import annotations

import base64
import hmac
import json
import struct
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from naive_patch import REPLACE, AnyRun, Run, Vector, base64_of, filler, patch_to, places, sample_of, sha256, with_flips

# Private scalars and content keys for these vectors and nothing else.
PUBLISHER = ec.derive_private_key(0xC0FFEE_0001_7E57_0001, ec.SECP256R1())
STRANGER = ec.derive_private_key(0xC0FFEE_0002_7E57_0002, ec.SECP256R1())
BUNDLE_ID = UUID("6f1d0c3e-9b52-4c7a-8a31-1f6f54a0c2d9")
TOP_KEY = sha256(b"content key of the test vectors")
TIERS = ["free", "plus", "full"]


def base64url_of(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def jwk_of(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    numbers = key.public_key().public_numbers()
    x, y = (base64url_of(value.to_bytes(32, "big")) for value in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y}


def thumbprint_of(jwk: dict[str, str]) -> str:
    """RFC 7638 section 3: the required members in lexicographic order, no whitespace."""
    return base64url_of(sha256('{{"crv":"{crv}","kty":"{kty}","x":"{x}","y":"{y}"}}'.format(**jwk).encode()))


def derived_keys(top: bytes, bundle: UUID, tiers: int) -> list[bytes]:
    """HKDF-SHA256 for 32 bytes (RFC 5869): extract with the bundle id, expand once."""
    keys = [top]
    for tier in reversed(range(tiers - 1)):
        pseudorandom = hmac.digest(bundle.bytes, keys[-1], "sha256")
        info = b"corelocker tier v1" + struct.pack("<I", tier)
        keys.append(hmac.digest(pseudorandom, info + b"\x01", "sha256"))
    return keys[::-1]


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


class Model:
    """The states of a small file, one for each tier, and the patches between them; `runs[i]` are those of tier i + 1."""

    def __init__(self, size: int, seed: int, runs: Sequence[Sequence[AnyRun]]) -> None:
        self.runs = runs
        self.states = [filler(size, seed)]
        for tier in reversed(range(len(runs))):
            state = bytearray(with_flips(self.states[0], runs[tier]))
            for place in places(run for run in runs[tier] if Run(*run).kind == REPLACE):
                state[place] = (place * 31 + 7 * tier) % 256
            self.states.insert(0, bytes(state))

    def patch(self, tier: int) -> bytes:
        return patch_to(self.runs[tier - 1], self.states[tier])

    def sample(self, state: int, tier: int) -> str:
        """Of the file in a state with the runs of a tier's patch."""
        return sample_of(self.states[state], self.runs[tier - 1]).hex()

    def after(self, tier: int) -> dict[str, str]:
        """What a section holds beside the patch."""
        return {"sample": self.sample(tier, tier), "file": sha256(self.states[tier]).hex()}


PTE = Model(96, 3, [[(8, 4, 16, 5), (90, 4, 4, 1)], [(12, 2, 16, 5), (88, 6, 6, 1)]])
WEIGHTS = Model(120, 4, [[(64, 8, 8, 1)], [(0, 8, 8, 1), (80, 16, 16, 1)]])
SMALL = (
    ("A.pte", "executorch", "A.pte", PTE),
    ("B.mlpackage", "coreml", "Data/com.apple.CoreML/weights/weight.bin", WEIGHTS),
)


class Draft:
    """A bundle whose every part can be spoiled before it is put together.

    Attributes:
        fields: the header.
        plain: of each section the plaintext and its tier.
        header: bytes that stand in for the encoded fields.
        magic: the first eight bytes.
    """

    def __init__(self, models: Sequence[tuple[str, str, str, Model]] = SMALL) -> None:
        self.magic = b"CLKEYB02"
        self.key = PUBLISHER
        self.content_keys = derived_keys(TOP_KEY, BUNDLE_ID, len(TIERS))
        self.header: bytes | None = None
        self.plain: list[tuple[int, bytes]] = []
        sections: list[dict[str, Any]] = []
        for number, (_, _, _, model) in enumerate(models):
            for tier in (1, 2):
                self.plain.append((tier, self.sealed(model.after(tier), model.patch(tier))))
                sections.append({"artifact": number, "file": 0, "tier": tier, "sample": model.sample(0, tier)})
        self.fields: dict[str, Any] = {
            "format": "corelocker-key-bundle",
            "version": "2.0",
            "bundle": str(BUNDLE_ID),
            "model": "vectors/small",
            "model_version": 3,
            "publisher": thumbprint_of(jwk_of(self.key)),
            "publisher_key": jwk_of(self.key),
            "tiers": list(TIERS),
            "artifacts": [
                {
                    "name": name,
                    "format": kind,
                    "files": [{"path": path, "size": len(m.states[0]), "sha256": sha256(m.states[0]).hex()}],
                }
                for name, kind, path, m in models
            ],
            "sections": sections,
        }
        self.place()

    @staticmethod
    def sealed(after: Any, patch: bytes) -> bytes:
        text = after if isinstance(after, bytes) else compact(after)
        return struct.pack("<I", len(text)) + text + patch

    def place(self) -> None:
        """Write offset, length and nonce of the sections into the header."""
        offset = 0
        for index, (section, (_, plain)) in enumerate(zip(self.fields["sections"], self.plain, strict=True)):
            nonce = base64url_of(sha256(b"nonce %d" % index)[:12])
            section.update(offset=offset, length=len(plain) + 16, nonce=nonce)
            offset += len(plain) + 16

    def encode(self) -> bytes:
        header = compact(self.fields) if self.header is None else self.header
        signed = struct.pack("<8sI", self.magic, len(header)) + header
        der = self.key.sign(signed, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        r, s = decode_dss_signature(der)
        ciphertexts = []
        for index, (tier, plain) in enumerate(self.plain):
            nonce = sha256(b"nonce %d" % index)[:12]
            associated = sha256(header) + struct.pack("<I", index)
            ciphertexts.append(AESGCM(self.content_keys[tier]).encrypt(nonce, plain, associated))
        return signed + r.to_bytes(32, "big") + s.to_bytes(32, "big") + b"".join(ciphertexts)


def opened(draft: Draft) -> list[Vector]:
    """What the sections of a good draft hold."""
    found = []
    for index, (tier, plain) in enumerate(draft.plain):
        (length,) = struct.unpack_from("<I", plain)
        after = json.loads(plain[4 : 4 + length])
        section = {"index": index, "content_key": draft.content_keys[tier].hex(), "expect": "ok"}
        found.append({**section, **after, "patch": base64_of(plain[4 + length :])})
    return found


def bundle_vector(name: str, comment: str, bundle: bytes, expect: str = "ok", **more: Any) -> Vector:
    return {"name": name, "comment": comment, "bundle": base64_of(bundle), "expect": expect, **more}


def spoiled(name: str, change: Callable[[Draft], Any], expect: str = "bundle-header", comment: str = "") -> Vector:
    """A bundle with a good signature over a header that has been changed."""
    draft = Draft()
    change(draft)
    return bundle_vector(name, comment, draft.encode(), expect)


def setting(*path: str | int, value: Any) -> Callable[[Draft], None]:
    """Sets (or with ... removes) one field of the header."""

    def change(draft: Draft) -> None:
        at: Any = draft.fields
        for step in path[:-1]:
            at = at[step]
        if value is ...:
            del at[path[-1]]
        else:
            at[path[-1]] = value

    return change


def raw_header(edit: Callable[[bytes], bytes]) -> Callable[[Draft], None]:
    def change(draft: Draft) -> None:
        draft.header = edit(compact(draft.fields))

    return change


def flipped(data: bytes, place: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)
