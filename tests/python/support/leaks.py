"""Looks for secrets in what programs have logged, in any form in which bytes get printed."""

from __future__ import annotations

import base64
from collections.abc import Iterator


def forms(secret: bytes) -> Iterator[bytes]:
    """How a log may show these bytes, 12 at least: as they are, in hex, base64 with whatever stands before, or as numbers."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for before in range(3):
        # What depends on neighbours is left out.
        encoded = base64.b64encode(bytes(before) + secret)[4 if before else 0 : -4]
        yield encoded
        yield encoded.translate(bytes.maketrans(b"+/", b"-_"))
    for separator in (",", ", "):
        yield separator.join(map(str, secret)).encode()
        # Java's bytes have a sign.
        yield separator.join(str(byte - 256 if byte > 127 else byte) for byte in secret).encode()


def find(log: bytes, secrets: dict[str, bytes]) -> list[str]:
    """The names of the secrets that the log holds in some form."""
    return [name for name, secret in secrets.items() if any(form in log for form in forms(secret))]


def restored_pieces(locked: bytes, original: bytes, size: int = 16, count: int = 64) -> dict[str, bytes]:
    """Pieces of the original where the locked file differs from it, from all over the file; none says little."""
    places = [at for at in range(0, len(original) - size, size) if locked[at : at + size] != original[at : at + size]]
    telling = [at for at in places if len(set(original[at : at + size])) > size // 2]
    chosen = telling[:: max(1, len(telling) // count)][:count]
    return {f"restored bytes at {at}": original[at : at + size] for at in chosen}
