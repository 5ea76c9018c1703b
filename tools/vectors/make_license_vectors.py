"""Makes the vectors of licenses and of the wrapped content key in tests/vectors.

    python tools/vectors/make_license_vectors.py [--out tests/vectors]

Keys, ephemeral keys and signatures are fixed, so two runs write the same bytes; the keys are for tests only. What is
expected of a vector stands by hand in the modules beside this one and is not asked of the implementation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from license_forge import (
    NEXT_SERVICE,
    PHONE,
    SERVICE,
    claims_of,
    info_of,
    jwk,
    key,
    thumbprint,
)
from license_refusal_vectors import (
    claim_vectors,
    form_vectors,
    header_vectors,
    json_vectors,
    place_vectors,
    signature_vectors,
)
from license_seal_vectors import sealing_vectors, spoiled_seal_vectors, wrap_vectors
from license_time_vectors import good_vectors, mark_vectors, rollback_vectors, state_vectors, time_vectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/vectors"))
    out: Path = parser.parse_args().out
    licenses = {
        "description": (
            "Licenses (docs/formats.md, License) shown to a device that holds `device_key` and pins `service_keys`. "
            "Check the token against `expected`, with the clocks and the mark of `clock`, and open it; `expect` is ok "
            "or the code of the first error. An accepted license gives `state` (valid, renew, grace) and "
            "`content_key` (hex). Where `mark_after` is given, it is the mark that is kept afterwards, also when the "
            "license is refused."
        ),
        "service_keys": [jwk(SERVICE), jwk(NEXT_SERVICE)],
        "device_key": jwk(PHONE, secret=True),
        "device": thumbprint(PHONE),
        "vectors": [
            *good_vectors(),
            *state_vectors(),
            *mark_vectors(),
            *time_vectors(),
            *rollback_vectors(),
            *place_vectors(),
            *form_vectors(),
            *header_vectors(),
            *signature_vectors(),
            *json_vectors(),
            *claim_vectors(),
            *wrap_vectors(),
        ],
    }
    sealed = sealing_vectors()
    sealing = {
        "description": (
            "The wrapped content key of a license (docs/formats.md, Canonical JSON and Opening wk). "
            "From `claims` (JSON text; `wk` is left out) follow `canonical` "
            'and `info` (hex): "corelocker license v1" and the SHA-256 of `canonical`. `wk` (base64url) is '
            "enc || ciphertext of HPKE base mode, DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, without AAD; "
            "`device_key` opens it with `info` to `content_key` (hex), or `expect` is the code of the error. "
            "`ephemeral_key_of_plain` sealed the vector `plain`."
        ),
        "device_key": jwk(PHONE, secret=True),
        "ephemeral_key_of_plain": jwk(key("ephemeral " + info_of(claims_of(wk="AA")).hex()), secret=True),
        "vectors": [*sealed, *spoiled_seal_vectors(sealed[0])],
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, content in (("license.json", licenses), ("hpke_wrap.json", sealing)):
        names = [made["name"] for made in content["vectors"]]
        assert len(set(names)) == len(names), name
        (out / name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
