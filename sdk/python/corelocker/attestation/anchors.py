"""The vendors' root keys, and the software roots that prove nothing.

Sources: Google's `roots.json` (android/keyattestation, 2026-07), all of whose RSA certificates hold one key; Apple's
"App Attestation Root CA" (apple.com/certificateauthority); AOSP's `system/keymaster` software attestation keys.
"""

from __future__ import annotations

from corelocker.attestation.certificates import fingerprint
from corelocker.attestation.chain import TrustAnchors
from corelocker.errors import ConfigError

# RSA 4096, certificates since 2016; and EC P-384 "Key Attestation CA1", 2025-07-17 to 2035-07-15.
GOOGLE_ROOTS = TrustAnchors.from_pem(
    """\
-----BEGIN PUBLIC KEY-----
MIICIjANBgkqhkiG9w0BAQEFAAOCAg8AMIICCgKCAgEAr7bHgiuxpwHsK7Qui8xU
FmOr75gvMsd/dTEDDJdSSxtf6An7xyqpRR90PL2abxM1dEqlXnf2tqw1Ne4Xwl5j
lRfdnJLmN0pTy/4lj4/7tv0Sk3iiKkypnEUtR6WfMgH0QZfKHM1+di+y9TFRtv6y
//0rb+T+W8a9nsNL/ggjnar86461qO0rOs2cXjp3kOG1FEJ5MVmFmBGtnrKpa73X
pXyTqRxB/M0n1n/W9nGqC4FSYa04T6N5RIZGBN2z2MT5IKGbFlbC8UrW0DxW7AYI
mQQcHtGl/m00QLVWutHQoVJYnFPlXTcHYvASLu+RhhsbDmxMgJJ0mcDpvsC4PjvB
+TxywElgS70vE0XmLD+OJtvsBslHZvPBKCOdT0MS+tgSOIfga+z1Z1g7+DVagf7q
uvmag8jfPioyKvxnK/EgsTUVi2ghzq8wm27ud/mIM7AY2qEORR8Go3TVB4HzWQgp
Zrt3i5MIlCaY504LzSRiigHCzAPlHws+W0rB5N+er5/2pJKnfBSDiCiFAVtCLOZ7
gLiMm0jhO2B6tUXHI/+MRPjy02i59lINMRRev56GKtcd9qO/0kUJWdZTdA2XoS82
ixPvZtXQpUpuL12ab+9EaDK8Z4RHJYYfCT3Q5vNAXaiWQ+8PTWm2QgBR/bkwSWc+
NpUFgNPN9PvQi8WEg5UmAGMCAwEAAQ==
-----END PUBLIC KEY-----
""",
    """\
-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEI9ojcU7fPlsFCjxy6IRqzgeOoK0b+YsV
9FPQywiyw8EQRTkJ9u3qwfnI4DGoSLlBqClTXJfgfCcZvs60FikNMHnu4fkRzObf
gDkU2KNXezT9/RQ+XvNslxPHrHCowhGr
-----END PUBLIC KEY-----
""",
)

# EC P-384, 2020-03-18 to 2045-03-15.
APPLE_ROOTS = TrustAnchors.from_pem(
    """\
-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAERTHhmLW07ATaFQIEVwTtT4dyctdhNbJh
Fs/Ii2FdCgAHGbpphY3+d8qjuDngIN3WVhQUBHAoMeQ/cLiP1sOUtgjqK9auYen1
mMEvRq9Sk3Jm5X8U62H+xTD3FE9TgS41
-----END PUBLIC KEY-----
"""
)

# SHA-256 of the keys whose private halves are public; every emulator has them. EC P-256, and RSA 1024.
SOFTWARE_ROOTS = frozenset(
    {
        "d5100c7942ef2e8310dc30ef82729680cf48d690735c3f68179a33c7c370f286",
        "f2c4746f545946c100e72297f8f946344d7052f03a2f694221f9c893b0e6f711",
    }
)


def require_vendor_roots(anchors: TrustAnchors, vendor: TrustAnchors) -> None:
    """What a production service checks before it starts: that it trusts the vendor's keys and no other.

    Raises ConfigError for a test root, a software root, or no root at all.
    """
    others = [fingerprint(key)[:16] for key in anchors.keys if key not in vendor.keys]
    if others or not anchors.keys:
        raise ConfigError(
            f"roots that are not the vendor's cannot be trusted in production: {', '.join(others) or 'none'}"
        )
