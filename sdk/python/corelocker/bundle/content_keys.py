"""Content keys: the 32-byte secrets that open the patches of a tier.

The publisher draws one, for the top tier; each lower one follows from the one above it, so that a license carries 32
bytes whatever its tier (docs/formats.md, "Content keys").
"""

from __future__ import annotations

import os
import struct
from uuid import UUID

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_SIZE = 32
MAX_TIERS = 64


def new_content_key() -> bytes:
    """32 random bytes for the top tier of a new bundle."""
    return os.urandom(KEY_SIZE)


def tier_keys(top: bytes, bundle_id: UUID, tiers: int) -> tuple[bytes, ...]:
    """The content keys of all tiers up to the one that `top` opens.

    Args:
        top: 32 bytes, the content key of tier `tiers - 1`.
        bundle_id: of the bundle that they are for.
        tiers: how many there are, 1 to 64, tier 0 (what ships, which needs no key) included.

    Returns the keys with the tier as index; the key of tier i is HKDF-SHA256 (RFC 5869) of the key of tier i + 1, with
    the 16 bytes of the bundle id as salt and "corelocker tier v1" || u32 i as info. Raises ValueError for a key of
    another size or another number of tiers.
    """
    if len(top) != KEY_SIZE:
        raise ValueError(f"a content key has {KEY_SIZE} bytes, not {len(top)}")
    if not 1 <= tiers <= MAX_TIERS:
        raise ValueError(f"a bundle has 1 to {MAX_TIERS} tiers, not {tiers}")
    keys = [bytes(top)]
    for tier in reversed(range(tiers - 1)):
        info = b"corelocker tier v1" + struct.pack("<I", tier)
        keys.append(HKDF(hashes.SHA256(), KEY_SIZE, salt=bundle_id.bytes, info=info).derive(keys[-1]))
    return tuple(reversed(keys))
