"""The cases: each takes a valid proof, bends one thing and names the reason that the verifier must give.

`tools/vectors/make_attestation_vectors.py` writes them to `tests/vectors/attestation`; the tests run them from here and
from there.
"""

from __future__ import annotations

from support import android_chain_cases, android_key_cases, apple_cases
from support.development_cases import development_cases

ANDROID_CASES = [
    *android_key_cases.accepted(),
    *android_key_cases.malformed(),
    *android_key_cases.unsupported(),
    *android_chain_cases.chain(),
    *android_chain_cases.not_ca(),
    *android_chain_cases.chain_validity(),
    *android_chain_cases.revocation(),
    *android_key_cases.device(),
    *android_key_cases.app_and_key(),
]
APPLE_CASES = [*apple_cases.attestations(), *apple_cases.attested_data(), *apple_cases.assertions()]
DEVELOPMENT_CASES = development_cases()
