"""The vectors of licenses that are refused whatever the time, in license.json."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from license_forge import (
    BUNDLE,
    END,
    GOOD,
    ISSUED,
    NEXT_SERVICE,
    OTHER_BUNDLE,
    OTHER_PHONE,
    PHONE,
    SERVICE,
    STRANGER,
    TYPE,
    Vector,
    base64url,
    claims_of,
    jwk,
    nested,
    thumbprint,
    token_of,
    vector,
)


def place_vectors() -> list[Vector]:
    def changed(name: str, comment: str, code: str, **changes: Any) -> Vector:
        return vector(name, comment, token_of(claims_of(**changes)), code)

    return [
        changed("other-issuer", "another service", "license-issuer", iss="https://unlock.example.org"),
        changed("other-app", "another app", "license-audience", aud="com.example.camera2"),
        changed("other-environment", "a development license in production", "license-environment", env="development"),
        vector(
            "production-in-development",
            "a production license in a development app",
            GOOD,
            "license-environment",
            expected={"environment": "development"},
        ),
        changed("other-bundle", "a license for another bundle", "license-bundle", bundle=OTHER_BUNDLE),
        changed("older-model", "an old model's license with the new model", "license-model-version", model_version=2),
        changed("newer-model", "a new model's license with the old model", "license-model-version", model_version=4),
        vector("other-tier", "another tier than the app asks for", GOOD, "license-tier", expected={"tiers": ["plus"]}),
        changed("unknown-tier", "a tier that the key bundle does not have", "license-tier", tier="gold"),
        changed("first-tier", "tier 0 needs no license", "license-tier", tier="free"),
        vector(
            "other-device",
            "issued to another phone",
            token_of(claims_of(cnf={"jkt": thumbprint(OTHER_PHONE)})),
            "license-device",
        ),
        changed("jkt-not-base64", "43 characters of no thumbprint", "license-device", cnf={"jkt": "." * 43}),
    ]


def headed(name: str, comment: str, code: str, head: dict[str, Any] | bytes) -> Vector:
    return vector(name, comment, token_of(claims_of(), header=head), code)


def form_vectors() -> list[Vector]:
    first, second, third = GOOD.split(".")
    left_over = "".join(chr(ord(char) + 1) if at == len(third) - 1 else char for at, char in enumerate(third))
    return [
        vector("empty", "no text at all", "", "license-format"),
        vector("two-parts", "the signature is missing", f"{first}.{second}", "license-format"),
        vector("four-parts", "something follows the signature", f"{GOOD}.{third}", "license-format"),
        vector("padding", "base64 padding", f"{first}.{second}.{third}==", "license-format"),
        vector(
            "left-over-bits",
            "the last character has bits that no byte takes",
            f"{first}.{second}.{left_over}",
            "license-format",
        ),
        vector("white-space", "a line feed at the end", GOOD + "\n", "license-format"),
        vector("not-ascii", "a character beyond ASCII", GOOD[:-1] + "é", "license-format"),
        vector("too-long", "more than 16 KiB", token_of(claims_of(note="x" * 12288)), "license-format"),
    ]


def header_vectors() -> list[Vector]:
    claims = claims_of()
    header = {"alg": "ES256", "kid": thumbprint(SERVICE), "typ": TYPE}
    public = SERVICE.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    hs256 = ".".join(base64url(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": TYPE}, claims))
    return [
        headed("algorithm-none", "alg none", "license-type", {"alg": "none", "typ": TYPE}),
        vector(
            "unsigned",
            "alg none and an empty signature",
            token_of(claims, header={"alg": "none", "typ": TYPE}, sealed=b""),
            "license-type",
        ),
        vector(
            "hmac-with-public-key",
            "HS256 with the service's public key as the secret",
            f"{hs256}.{base64url(hmac.digest(public, hs256.encode(), 'sha256'))}",
            "license-type",
        ),
        headed("algorithm-es384", "another algorithm", "license-type", header | {"alg": "ES384"}),
        headed("algorithm-missing", "no alg", "license-type", {"typ": TYPE}),
        headed("type-missing", "no typ", "license-type", {"alg": "ES256"}),
        headed("type-jwt", "a token of another kind", "license-type", header | {"typ": "JWT"}),
        headed("type-grant", "a grant", "license-type", header | {"typ": "corelocker-grant+jwt"}),
        headed("critical-header", "crit", "license-format", header | {"crit": ["exp"]}),
        headed("key-in-header", "jwk", "license-format", header | {"jwk": jwk(SERVICE)}),
        headed("unencoded-payload", "b64 (RFC 7797)", "license-format", header | {"b64": False}),
        headed("kid-number", "kid is no text", "license-format", header | {"kid": 1}),
        headed("kid-null", "kid is null, which is not the same as absent", "license-format", header | {"kid": None}),
        headed("kid-empty", "kid names no key", "license-signature", header | {"kid": ""}),
        headed("header-list", "the header is no object", "license-format", b"[]"),
        headed(
            "header-duplicate",
            "alg twice",
            "license-format",
            b'{"alg":"none","alg":"ES256","typ":"%s"}' % TYPE.encode(),
        ),
    ]


def signature_vectors() -> list[Vector]:
    claims = claims_of()
    header = {"alg": "ES256", "kid": thumbprint(SERVICE), "typ": TYPE}
    first, second, third = GOOD.split(".")
    raw = base64.urlsafe_b64decode(third + "==")
    der = SERVICE.sign(f"{first}.{second}".encode(), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return [
        vector(
            "signature-changed",
            "one bit of the signature",
            f"{first}.{second}.{base64url(raw[:-1] + bytes([raw[-1] ^ 1]))}",
            "license-signature",
        ),
        vector("signature-zero", "r = s = 0", token_of(claims, sealed=bytes(64)), "license-signature"),
        vector("signature-empty", "no signature", token_of(claims, sealed=b""), "license-signature"),
        vector("signature-der", "DER in place of r || s", token_of(claims, sealed=der), "license-signature"),
        vector("signature-short", "63 bytes", token_of(claims, sealed=raw[:-1]), "license-signature"),
        vector(
            "signature-of-another",
            "the signature of another license",
            token_of(claims_of(tier="plus"), sealed=raw),
            "license-signature",
        ),
        vector(
            "stranger", "signed by a key that is not pinned", token_of(claims, signer=STRANGER), "license-signature"
        ),
        vector(
            "stranger-without-kid",
            "the same without kid",
            token_of(claims, signer=STRANGER, header={"alg": "ES256", "typ": TYPE}),
            "license-signature",
        ),
        vector(
            "stranger-with-our-kid",
            "the same under the pinned key's name",
            token_of(claims, signer=STRANGER, header=header),
            "license-signature",
        ),
        vector(
            "kid-of-the-other-key",
            "kid names one pinned key, the other one signed",
            token_of(claims, signer=NEXT_SERVICE, header=header),
            "license-signature",
        ),
    ]


def json_vectors() -> list[Vector]:
    text = json.dumps(claims_of())

    def said(name: str, comment: str, claims_text: str) -> Vector:
        return vector(name, comment, token_of(claims_text.encode()), "license-format")

    return [
        vector("claims-list", "the claims are no object", token_of(b"[]"), "license-format"),
        vector("claims-empty", "no claims", token_of({}), "license-format"),
        vector(
            "claims-not-utf8",
            "bytes that are not UTF-8",
            token_of(text.encode()[:-1] + b',"x":"\xff"}'),
            "license-format",
        ),
        said("claims-duplicate", "aud twice", text[:-1] + ',"aud":"com.example.camera"}'),
        said("claims-duplicate-deep", "jkt twice", text.replace('{"jkt": ', '{"jkt": "x", "jkt": ')),
        said("claims-fraction", "a number with a fraction", text[:-1] + ',"x":1.5}'),
        said("claims-exponent", "a number with an exponent", text[:-1] + ',"x":1e3}'),
        said("claims-nan", "NaN", text[:-1] + ',"x":NaN}'),
        said("claims-large-integer", "2^53", text[:-1] + ',"x":9007199254740992}'),
        said("claims-surrogate", "half a surrogate pair", text[:-1] + ',"x":"\\ud800"}'),
        said("claims-low-surrogate", "the other half alone", text[:-1] + ',"x":"\\udc00"}'),
        said("claims-form-feed", "white space that is none in JSON", text[:-1] + "\f}"),
        said("claims-trailing", "something follows the object", text + "{}"),
        said("claims-byte-order-mark", "a byte order mark", "\ufeff" + text),
        said("claims-control", "a line feed within a text", text[:-1] + ',"x":"a\nb"}'),
        said("claims-leading-zero", "a number that begins with 0", text[:-1] + ',"x":01}'),
        said("claims-comma", "a comma after the last member", text[:-1] + ",}"),
        said("claims-list-member", "a list has no canonical JSON", text[:-1] + ',"x":[]}'),
        said("claims-true", "true has none", text[:-1] + ',"x":true}'),
        said("claims-null", "null has none", text[:-1] + ',"x":null}'),
        said("claims-name-not-ascii", "a name beyond ASCII has none", text[:-1] + ',"größe":1}'),
        said("claims-name-deep", "the same in an object", text[:-1] + ',"x":{"größe":1}}'),
        said("claims-duplicate-escaped", "a name twice, once as an escape", text[:-1] + ',"x":1,"\\u0078":1}'),
        vector("claims-too-deep", "objects that nest 33 deep", token_of(claims_of(extra=nested(32))), "license-format"),
        said("claims-deep", "JSON that nests 5,000 deep", text[:-1] + ',"x":' + "[" * 5000 + "]" * 5000 + "}"),
    ]


def claim_vectors() -> list[Vector]:
    wrapped = base64.urlsafe_b64decode(claims_of()["wk"] + "=")

    def changed(name: str, comment: str, **changes: Any) -> Vector:
        return vector(name, comment, token_of(claims_of(**changes)), "license-format")

    required = ("iss", "iat", "nbf", "jti", "aud", "env", "bundle", "model_version", "tier", "cnf")
    made = [changed(f"no-{name}", f"{name} is missing", **{name: None}) for name in required]
    made += [
        changed("no-wk", "wk is missing", wk=None),
        changed("iat-text", "iat is a text", iat=str(ISSUED)),
        changed("iat-true", "iat is true", iat=True),
        changed("iat-negative", "iat is negative", iat=-1),
        changed("exp-text", "exp is a text", exp=str(END)),
        vector(
            "exp-null",
            "exp is null, which is not the same as absent",
            token_of(claims_of() | {"exp": None}),
            "license-format",
        ),
        changed("ends-at-begin", "exp = nbf", exp=ISSUED),
        changed("ends-at-issue", "exp = iat, nbf before", nbf=ISSUED - 5, exp=ISSUED),
        changed("ends-before-nbf", "exp after iat, but before nbf", nbf=END + 1),
        changed("aud-list", "aud is a list", aud=["com.example.camera"]),
        changed("aud-empty", "aud is empty", aud=""),
        changed("tier-too-long", "a text of 257 characters", tier="t" * 257),
        changed("tier-too-long-astral", "257 code points", tier="\U0001f511" * 257),
        changed("env-staging", "an environment that does not exist", env="staging"),
        changed("bundle-uppercase", "the UUID is not in lowercase", bundle=BUNDLE.upper()),
        changed("bundle-no-uuid", "bundle is no UUID", bundle="camera"),
        changed("version-text", "model_version is a text", model_version="3"),
        changed("cnf-text", "cnf is no object", cnf=thumbprint(PHONE)),
        changed("jkt-short", "the thumbprint is too short", cnf={"jkt": thumbprint(PHONE)[:-1]}),
        changed("wk-short", "wk of 112 bytes", wk=base64url(wrapped[:-1])),
        changed("wk-long", "wk of 114 bytes", wk=base64url(wrapped + b"\0")),
        changed("wk-padded", "wk with padding", wk=base64url(wrapped) + "="),
        changed("wk-standard-base64", "wk in the other alphabet", wk="+" + base64url(wrapped)[1:]),
    ]
    return made
