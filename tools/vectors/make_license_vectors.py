"""Makes the vectors of licenses and of the wrapped content key in tests/vectors.

    python tools/vectors/make_license_vectors.py [--out tests/vectors]

Keys, ephemeral keys and signatures are fixed, so two runs write the same bytes; the keys are for tests only. What is
expected of a vector stands here by hand and is not asked of the implementation. Tokens and canonical JSON are put
together here, HPKE is sealed by pyhpke: none of it is the package's.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey, KEMKeyPair

Vector = dict[str, Any]

DAY = 86400
ISSUED = 1_800_000_000
END = ISSUED + 30 * DAY
BUNDLE = "4b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e5f"
OTHER_BUNDLE = "5b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e5f"
TYPE = "corelocker-license+jwt"
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def key(name: str) -> ec.EllipticCurvePrivateKey:
    scalar = int.from_bytes(sha256(b"corelocker vector key " + name.encode()), "big") % (ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1())


def jwk(private: ec.EllipticCurvePrivateKey, *, secret: bool = False) -> dict[str, str]:
    numbers = private.private_numbers()
    public = numbers.public_numbers
    form = {"kty": "EC", "crv": "P-256"}
    form |= {"x": base64url(public.x.to_bytes(32, "big")), "y": base64url(public.y.to_bytes(32, "big"))}
    return form | ({"d": base64url(numbers.private_value.to_bytes(32, "big"))} if secret else {})


def thumbprint(private: ec.EllipticCurvePrivateKey) -> str:
    return base64url(sha256(canonical(jwk(private))))


SERVICE, NEXT_SERVICE, STRANGER = key("service"), key("next service"), key("stranger")
PHONE, OTHER_PHONE = key("phone"), key("other phone")
CONTENT_KEY = sha256(b"corelocker vector content key")


def canonical(value: Any) -> bytes:
    """RFC 8785 for everything but fractions, which licenses do not hold."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
        return b"{" + b",".join(canonical(name) + b":" + canonical(value[name]) for name in names) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(canonical(item) for item in value) + b"]"
    return json.dumps(value, ensure_ascii=False).encode()


def info_of(claims: dict[str, Any]) -> bytes:
    others = {name: value for name, value in claims.items() if name != "wk"}
    return b"corelocker license v1" + sha256(canonical(others))


def seal(recipient: ec.EllipticCurvePrivateKey, info: bytes, content_key: bytes = CONTENT_KEY) -> bytes:
    """HPKE's enc || ciphertext with an ephemeral key that follows from the info."""
    suite = CipherSuite.new(KEMId.DHKEM_P256_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)
    ephemeral = key("ephemeral " + info.hex())
    pair = KEMKeyPair(
        KEMKey.from_pyca_cryptography_key(ephemeral), KEMKey.from_pyca_cryptography_key(ephemeral.public_key())
    )
    enc, context = suite.create_sender_context(
        KEMKey.from_pyca_cryptography_key(recipient.public_key()), info, eks=pair
    )
    return enc + context.seal(content_key)


def claims_of(**changes: Any) -> dict[str, Any]:
    """The claims of a good license with changes; a claim that is None is left out, `wk` is made last unless given."""
    claims: dict[str, Any] = {
        "iss": "https://unlock.example.com",
        "iat": ISSUED,
        "nbf": ISSUED,
        "exp": END,
        "jti": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "aud": "com.example.camera",
        "env": "production",
        "bundle": BUNDLE,
        "model_version": 3,
        "tier": "full",
        "cnf": {"jkt": thumbprint(PHONE)},
    }
    claims |= changes
    claims = {name: value for name, value in claims.items() if value is not None}
    if "wk" not in changes:
        claims["wk"] = base64url(seal(PHONE, info_of(claims)))
    return claims


def signature(private: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    der = private.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    r, s = decode_dss_signature(der)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def token_of(
    claims: dict[str, Any] | bytes,
    *,
    header: dict[str, Any] | bytes | None = None,
    signer: ec.EllipticCurvePrivateKey = SERVICE,
    sealed: bytes | None = None,
) -> str:
    """A compact JWS; `header` and `claims` may be raw bytes, `sealed` a signature to use instead of the true one."""
    if header is None:
        header = {"alg": "ES256", "kid": thumbprint(signer), "typ": TYPE}
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    signing_input = ".".join(base64url(part) for part in parts)
    return f"{signing_input}.{base64url(signature(signer, signing_input.encode()) if sealed is None else sealed)}"


GOOD = token_of(claims_of())


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def vector(name: str, comment: str, token: str, expect: str = "ok", **parts: Any) -> Vector:
    """A license shown to a device; `parts` are changes of expected and clock, the state, and the mark afterwards."""
    expected = {
        "issuer": "https://unlock.example.com",
        "app": "com.example.camera",
        "environment": "production",
        "bundle": BUNDLE,
        "model_version": 3,
        "tiers": ["plus", "full"],
        "offline_grace": 0,
    }
    clock = {"wall": ISSUED + DAY, "ticks": 5000, "boot": "boot-1", "mark": None}
    made: Vector = {
        "name": name,
        "comment": comment,
        "token": token,
        "expected": expected | parts.get("expected", {}),
        "clock": clock | parts.get("clock", {}),
        "expect": expect,
    }
    if expect == "ok":
        made |= {"state": parts.get("state", "valid"), "content_key": CONTENT_KEY.hex()}
    if "mark" in parts:
        made["mark_after"] = parts["mark"]
    return made


def mark(time: int, ticks: int = 5000, boot: str = "boot-1") -> dict[str, Any]:
    return {"time": time, "ticks": ticks, "boot": boot}


def good_vectors() -> list[Vector]:
    first_light = {"wall": ISSUED}
    return [
        vector("valid", "one day old, ends in 29 days", GOOD, mark=mark(ISSUED + DAY)),
        vector("perpetual", "no exp", token_of(claims_of(exp=None)), mark=mark(ISSUED)),
        vector("no-kid", "the header may leave out kid", token_of(claims_of(), header={"alg": "ES256", "typ": TYPE})),
        vector("next-key", "signed with the second pinned key", token_of(claims_of(), signer=NEXT_SERVICE)),
        vector(
            "no-kid-next-key",
            "no kid: every pinned key is tried",
            token_of(claims_of(), signer=NEXT_SERVICE, header={"alg": "ES256", "typ": TYPE}),
        ),
        vector(
            "unknown-claims",
            "claims of a later version are ignored, but belong to the HPKE info",
            token_of(claims_of(zone="eu", seats=-9007199254740991, extra={"b": "ß", "a": -1, "": {}})),
        ),
        vector(
            "minus-zero",
            "-0 is 0, also in the canonical JSON",
            token_of(json.dumps(claims_of(seats=0)).replace('"seats": 0', '"seats": -0').encode()),
        ),
        vector("deepest", "objects that nest 32 deep", token_of(claims_of(extra=nested(31)))),
        vector(
            "spaces-in-json",
            "white space in header and claims is the issuer's choice",
            token_of(
                json.dumps(claims_of(), indent=1).encode(), header=json.dumps({"typ": TYPE, "alg": "ES256"}).encode()
            ),
        ),
        vector("longest-text", "a text of 256 characters", token_of(claims_of(jti="j" * 256))),
        vector("longest-text-astral", "256 code points, 512 UTF-16 units", token_of(claims_of(jti="\U0001f511" * 256))),
        vector("longest-text-marks", "256 code points, fewer graphemes", token_of(claims_of(jti="a\u0308" * 128))),
        vector(
            "smallest-numbers",
            "iat, nbf and model_version are 0",
            token_of(claims_of(iat=0, nbf=0, model_version=0)),
            expected={"model_version": 0},
            state="renew",
        ),
        vector(
            "largest-numbers",
            "exp and model_version are 2^53 - 1",
            token_of(claims_of(exp=2**53 - 1, model_version=2**53 - 1)),
            expected={"model_version": 2**53 - 1},
        ),
        vector("exact-tier", "the app asks for exactly this tier", GOOD, expected={"tiers": ["full"]}),
        vector("first-second", "now = iat = nbf", GOOD, clock=first_light, mark=mark(ISSUED)),
        vector("before-renewal", "a second before two thirds of the time", GOOD, clock={"wall": ISSUED + 20 * DAY - 1}),
        vector(
            "renewal-due", "two thirds of the time are over", GOOD, clock={"wall": ISSUED + 20 * DAY}, state="renew"
        ),
        vector("last-second", "now = exp - 1", GOOD, clock={"wall": END - 1}, state="renew", mark=mark(END - 1)),
        vector(
            "grace-begins",
            "now = exp, the app grants a day",
            GOOD,
            expected={"offline_grace": DAY},
            clock={"wall": END},
            state="grace",
        ),
        vector(
            "grace-last-second",
            "now = exp + grace - 1",
            GOOD,
            expected={"offline_grace": DAY},
            clock={"wall": END + DAY - 1},
            state="grace",
            mark=mark(END + DAY - 1),
        ),
        vector(
            "slow-clock",
            "the clock is an hour behind the issue: the time is that of the issue",
            GOOD,
            clock={"wall": ISSUED - 3600},
            mark=mark(ISSUED),
        ),
        vector(
            "clock-tolerance",
            "exactly a day behind the mark: accepted, the mark is the time",
            GOOD,
            clock={"wall": ISSUED + 4 * DAY, "boot": "boot-2", "mark": mark(ISSUED + 5 * DAY)},
            mark=mark(ISSUED + 5 * DAY, 5000, "boot-2"),
        ),
        vector(
            "perpetual-dead-clock",
            "a perpetual license needs no clock",
            token_of(claims_of(exp=None)),
            clock={"wall": 0, "mark": mark(ISSUED + 9 * DAY)},
            mark=mark(ISSUED + 9 * DAY),
        ),
        vector(
            "perpetual-keeps-ticks",
            "a perpetual license moves the mark by the time since start-up too",
            token_of(claims_of(exp=None)),
            clock={"wall": ISSUED, "ticks": 7000, "mark": mark(ISSUED + 9 * DAY)},
            mark=mark(ISSUED + 9 * DAY + 2000, 7000),
        ),
        vector(
            "ticks-of-another-boot",
            "ticks count only within one start-up",
            GOOD,
            clock={"wall": ISSUED + DAY, "ticks": 9_000_000, "boot": "boot-2", "mark": mark(ISSUED + DAY, 0)},
            mark=mark(ISSUED + DAY, 9_000_000, "boot-2"),
        ),
        vector(
            "ticks-backwards",
            "ticks that ran backwards count as none",
            GOOD,
            clock={"wall": ISSUED + DAY, "ticks": 10, "mark": mark(ISSUED + DAY, 5000)},
            mark=mark(ISSUED + DAY, 10),
        ),
    ]


def time_vectors() -> list[Vector]:
    later = token_of(claims_of(nbf=ISSUED + 2 * DAY))
    return [
        vector("ends-now", "now = exp", GOOD, "license-expired", clock={"wall": END}, mark=mark(END)),
        vector(
            "grace-over",
            "now = exp + grace",
            GOOD,
            "license-expired",
            expected={"offline_grace": DAY},
            clock={"wall": END + DAY},
            mark=mark(END + DAY),
        ),
        vector(
            "clock-years-ahead",
            "ended; the mark goes no further than the end, so the next license works",
            GOOD,
            "license-expired",
            clock={"wall": END + 3650 * DAY},
            mark=mark(END),
        ),
        vector("not-before", "now = nbf - 1", later, "license-not-yet-valid", clock={"wall": ISSUED + 2 * DAY - 1}),
        vector("not-before-reached", "now = nbf", later, clock={"wall": ISSUED + 2 * DAY}),
        vector(
            "not-before-by-mark",
            "the mark counts as the time",
            later,
            clock={"wall": ISSUED + 2 * DAY - 1, "mark": mark(ISSUED + 2 * DAY)},
        ),
        vector(
            "rollback-after-end",
            "set back an hour after the end: the mark remembers",
            GOOD,
            "license-expired",
            clock={"wall": END - 3600, "mark": mark(END)},
            mark=mark(END),
        ),
        vector(
            "rollback",
            "a day and a second behind the mark",
            GOOD,
            "license-clock",
            clock={"wall": ISSUED + 4 * DAY - 1, "boot": "boot-2", "mark": mark(ISSUED + 5 * DAY)},
            mark=mark(ISSUED + 5 * DAY, 5000, "boot-2"),
        ),
        vector(
            "rollback-to-1970",
            "an empty battery, or an owner who tries",
            GOOD,
            "license-clock",
            clock={"wall": 0, "boot": "boot-2", "mark": mark(ISSUED + 5 * DAY)},
        ),
        vector(
            "clock-before-issue",
            "more than a day before the signed time of issue, on the first start",
            GOOD,
            "license-clock",
            clock={"wall": ISSUED - DAY - 1},
            mark=mark(ISSUED),
        ),
        vector(
            "clock-before-issue-with-older-mark",
            "the same with a mark from before the issue",
            GOOD,
            "license-clock",
            clock={"wall": ISSUED - DAY - 1, "mark": mark(ISSUED - 20 * DAY)},
            mark=mark(ISSUED),
        ),
        vector(
            "frozen-clock",
            "the clock was set back each time, but the device was up until after the end",
            GOOD,
            "license-expired",
            clock={"wall": END - DAY // 4, "ticks": 5000 + 2 * DAY, "mark": mark(END - DAY - DAY // 2, 5000)},
            mark=mark(END + DAY // 2, 5000 + 2 * DAY),
        ),
        vector(
            "frozen-clock-far",
            "the same, more than a day back",
            GOOD,
            "license-clock",
            clock={"wall": ISSUED, "ticks": 5000 + 2 * DAY, "mark": mark(ISSUED, 5000)},
            mark=mark(ISSUED + 2 * DAY, 5000 + 2 * DAY),
        ),
    ]


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
    ]


def token_vectors() -> list[Vector]:
    claims = claims_of()
    header = {"alg": "ES256", "kid": thumbprint(SERVICE), "typ": TYPE}
    first, second, third = GOOD.split(".")
    raw = base64.urlsafe_b64decode(third + "==")
    der = SERVICE.sign(f"{first}.{second}".encode(), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    public = SERVICE.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    hs256 = ".".join(base64url(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": TYPE}, claims))
    text = json.dumps(claims)
    left_over = "".join(chr(ord(char) + 1) if at == len(third) - 1 else char for at, char in enumerate(third))

    def headed(name: str, comment: str, code: str, head: dict[str, Any] | bytes) -> Vector:
        return vector(name, comment, token_of(claims, header=head), code)

    def said(name: str, comment: str, claims_text: str) -> Vector:
        return vector(name, comment, token_of(claims_text.encode()), "license-format")

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


def wrap_vectors() -> list[Vector]:
    good = claims_of()
    wrapped = base64.urlsafe_b64decode(good["wk"] + "=")
    compressed = PHONE.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    def carrying(name: str, comment: str, wk: bytes, **changes: Any) -> Vector:
        return vector(name, comment, token_of(claims_of(wk=base64url(wk), **changes)), "license-wrap")

    return [
        carrying("wk-of-another-license", "wk of the license with another jti", wrapped, jti="another"),
        carrying("wk-with-longer-exp", "the same wk, exp moved", wrapped, exp=END + 1),
        carrying("wk-with-higher-tier", "the same wk, another tier", wrapped, tier="plus"),
        carrying("wk-with-extra-claim", "the same wk, a claim more", wrapped, extra="x"),
        carrying("wk-for-another-phone", "sealed to another phone's key", seal(OTHER_PHONE, info_of(good))),
        carrying("wk-enc-changed", "one bit of enc: not on the curve", bytes([4, wrapped[1] ^ 1]) + wrapped[2:]),
        carrying("wk-enc-infinity", "enc is zero", bytes(65) + wrapped[65:]),
        carrying("wk-enc-compressed", "enc begins with a compressed point", compressed + wrapped[33:]),
        carrying(
            "wk-ciphertext-changed", "one bit of the ciphertext", wrapped[:65] + bytes([wrapped[65] ^ 1]) + wrapped[66:]
        ),
        carrying("wk-tag-changed", "one bit of the tag", wrapped[:-1] + bytes([wrapped[-1] ^ 0x80])),
    ]


def sealing_vectors() -> list[Vector]:
    """Claims, their canonical JSON and info, and the sealed key, step by step for other implementations."""

    def sealing(name: str, comment: str, claims: dict[str, Any]) -> Vector:
        info = info_of(claims)
        return {
            "name": name,
            "comment": comment,
            "claims": json.dumps(claims, ensure_ascii=True),
            "canonical": canonical({name: value for name, value in claims.items() if name != "wk"}).decode(),
            "info": info.hex(),
            "wk": base64url(seal(PHONE, info)),
            "content_key": CONTENT_KEY.hex(),
            "expect": "ok",
        }

    plain = claims_of(wk="AA")
    good = sealing("plain", "wk is not part of the info", plain)
    made = [
        good,
        sealing("perpetual", "no exp", claims_of(wk=None, exp=None)),
        sealing(
            "escapes",
            "texts that JSON writes in several ways",
            plain | {"tier": '\u20ac$\u000f\u000aA\'B"\\\\"/\u007f\u2028'},
        ),
        sealing(
            "unicode",
            "beyond the basic plane, and not normalized",
            plain | {"aud": "\U0001f600 Gro\u0308\u00dfe", "iss": "\ufb33"},
        ),
        sealing(
            "order",
            "names are sorted by their bytes: 'a' before 'aa' and after 'Z'",
            plain | {"aa": 3, "a": 4, "Z": 5, "": 6, "1": 8, "10": 9, "\r": 10, "~": 11, "a b": 12, '"': 13},
        ),
        sealing(
            "values",
            "integers and objects",
            plain
            | {"x": {"low": -9007199254740991, "high": 9007199254740991, "zero": 0, "b": {}, "a": {"d": {}, "c": ""}}},
        ),
    ]
    wrapped = base64.urlsafe_b64decode(good["wk"] + "=")
    info = bytes.fromhex(good["info"])
    spoiled = {
        "info-changed": (info[:-1] + bytes([info[-1] ^ 1]), wrapped),
        "info-empty": (b"", wrapped),
        "other-recipient": (info, seal(OTHER_PHONE, info)),
        "enc-off-curve": (info, bytes([4, wrapped[1] ^ 1]) + wrapped[2:]),
        "enc-hybrid-form": (info, bytes([6 + wrapped[64] % 2]) + wrapped[1:]),
        "tag-changed": (info, wrapped[:-1] + bytes([wrapped[-1] ^ 1])),
        "truncated": (info, wrapped[:-1]),
        "no-ciphertext": (info, wrapped[:65]),
        "nothing": (info, b""),
        "extended": (info, wrapped + b"\0"),
    }
    made += [
        {
            "name": name,
            "comment": "does not open",
            "info": its_info.hex(),
            "wk": base64url(wk),
            "expect": "license-wrap",
        }
        for name, (its_info, wk) in spoiled.items()
    ]
    return made


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
            *time_vectors(),
            *place_vectors(),
            *token_vectors(),
            *claim_vectors(),
            *wrap_vectors(),
        ],
    }
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
        "vectors": sealing_vectors(),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, content in (("license.json", licenses), ("hpke_wrap.json", sealing)):
        names = [made["name"] for made in content["vectors"]]
        assert len(set(names)) == len(names), name
        (out / name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
