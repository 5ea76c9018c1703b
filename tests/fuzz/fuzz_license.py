"""Coverage-guided fuzzing of everything that reads licenses, grants, store data and store notifications.

    .venv/bin/python tests/fuzz/fuzz_license.py [CORPUS] -max_total_time=600

The seeds are the committed vectors. What is not accepted must end in a typed error; what is accepted must have been signed.
Some readers get bytes that the harness signs first, so that the fuzzer reaches what lies behind the signature.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["corelocker", "appstoreserverlibrary", "joserfc", "rfc8785"]):
    from corelocker.bundle import jose
    from corelocker.bundle.strict_json import parse_object
    from corelocker.device.errors import error_of_problem
    from corelocker.errors import CoreLockerError
    from corelocker.licensing.app_config import AppConfig
    from corelocker.licensing.canonical import canonical_json
    from corelocker.licensing.device_clock import DeviceClock, FileMarkStore, Mark, Reading
    from corelocker.licensing.device_key import SoftwareDeviceKey
    from corelocker.licensing.http_client import Answer
    from corelocker.licensing.license import LICENSE_TYPE, Expected, license_info, read_license, verify_license
    from corelocker.licensing.tokens import SoftwareSigner, TrustedKeys
    from corelocker.purchases.app_store import AppStore, AppStoreConfig
    from corelocker.purchases.google_api import GoogleApi
    from corelocker.purchases.google_play import GooglePlay, GooglePlayConfig
    from corelocker.purchases.grant import GRANT_TYPE, GrantConfig, verify_grant
    from corelocker.purchases.play_notices import PlayNotices

import google.oauth2.credentials
from appstoreserverlibrary.models.Environment import Environment as Store
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc import jws
from joserfc.jwk import KeySet, RSAKey

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
LICENSES = json.loads((VECTORS / "license.json").read_text("utf-8"))
SEALED = json.loads((VECTORS / "hpke_wrap.json").read_text("utf-8"))
APP_CONFIGS = json.loads((VECTORS / "app_config.json").read_text("utf-8"))
NOW = 1_800_000_000
KEYS = TrustedKeys.of_jwks(LICENSES["service_keys"])
SIGNED = {vector["token"].rpartition(".")[0] for vector in LICENSES["vectors"]}
SIGNER = SoftwareSigner(ec.derive_private_key(3, ec.SECP256R1()))
OUR_KEYS = TrustedKeys([SIGNER.public_key])
DEVICE = SoftwareDeviceKey(
    ec.derive_private_key(int.from_bytes(jose.decode_base64url(LICENSES["device_key"]["d"])), ec.SECP256R1())
)
WRAPPED = {vector["wk"] for vector in SEALED["vectors"] if vector["expect"] == "ok"}
APPLE_ROOT = (VECTORS / "purchases/apple/certs/testCA.der").read_bytes()
SANDBOX = AppStore(AppStoreConfig("development", "com.example", 1234, roots=(APPLE_ROOT,)))
# Checks no signature, so whatever the fuzzer writes becomes a model of Apple's library.
UNSIGNED = AppStore(AppStoreConfig("development", "com.example", 1234, Store.LOCAL_TESTING, (APPLE_ROOT,)))
PLAY = GooglePlay(GooglePlayConfig("development", "com.example.camera"), google.oauth2.credentials.Credentials("token"))  # type: ignore[no-untyped-call]
GRANTS = GrantConfig("production", "com.example.camera", "shop", OUR_KEYS)
PUSH_KEY = RSAKey.import_key(rsa.generate_private_key(65537, 2048))
PUSH_CLAIMS = {
    "iss": "https://accounts.google.com",
    "aud": "us",
    "email": "push",
    "email_verified": True,
    "iat": NOW,
    "exp": NOW + 60,
}
PUSH_TOKEN = "Bearer " + jws.serialize_compact({"alg": "RS256"}, json.dumps(PUSH_CLAIMS), PUSH_KEY, ["RS256"])
NOTICES = PlayNotices("com.example.camera", "us", "push", lambda _: KeySet([PUSH_KEY]))
SCRATCH = Path(tempfile.mkdtemp(prefix="corelocker-fuzz-")) / "mark.json"


class Forgetful:
    """A mark store that keeps nothing."""

    def load(self) -> Mark | None:
        return None

    def save(self, mark: Mark) -> None:
        pass


CLOCK = DeviceClock(Forgetful(), lambda: Reading(NOW, 0, "boot"))


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def token_of(payload: bytes, typ: str) -> str:
    head = jose.encode_base64url(json.dumps({"alg": "ES256", "typ": typ}).encode())
    signing_input = f"{head}.{jose.encode_base64url(payload)}"
    return f"{signing_input}.{jose.encode_base64url(SIGNER.sign(signing_input.encode()))}"


def license_token(data: bytes) -> None:
    token = text_of(data)
    read_license(token, KEYS)
    assert token.rpartition(".")[0] in SIGNED


def license_claims(data: bytes) -> None:
    token = token_of(data, LICENSE_TYPE)
    got = read_license(token, OUR_KEYS)
    expected = Expected(got.issuer, got.app, got.environment, got.bundle, got.model_version, got.device, (got.tier,))
    verify_license(token, OUR_KEYS, expected, CLOCK).license.open(DEVICE)


def canonical(data: bytes) -> None:
    try:
        claims = parse_object(data)
    except ValueError:
        return
    license_info(claims)
    assert parse_object(canonical_json(claims)) == claims


def app_config(data: bytes) -> None:
    config = AppConfig.from_json(data)
    assert AppConfig.from_json(config.to_json()) == config


def problem(data: bytes) -> None:
    assert len(str(error_of_problem(data))) < 700


def wrapped_key(data: bytes) -> None:
    DEVICE.open(data[1:], bytes.fromhex(SEALED["vectors"][data[0] % 6]["info"]) if data else b"")
    assert jose.encode_base64url(data[1:]) in WRAPPED


def mark_file(data: bytes) -> None:
    SCRATCH.write_bytes(data)
    FileMarkStore(SCRATCH).load()


def grant_token(data: bytes) -> None:
    verify_grant(text_of(data), GRANTS, now=NOW)
    raise AssertionError("nobody has signed this grant")


def grant_claims(data: bytes) -> None:
    verify_grant(token_of(data, GRANT_TYPE), GRANTS, now=NOW)


def apple_transaction(data: bytes) -> None:
    SANDBOX.verify(text_of(data), now_ms=NOW * 1000)
    raise AssertionError("nobody has signed this transaction")


def apple_notice(data: bytes) -> None:
    SANDBOX.notice(text_of(data), now_ms=NOW * 1000)
    raise AssertionError("nobody has signed this notification")


def apple_models(data: bytes) -> None:
    signed = f"{jose.encode_base64url(b'{}')}.{jose.encode_base64url(data)}.AAAA"
    for read in (UNSIGNED.verify, UNSIGNED.notice):
        try:
            read(signed, now_ms=NOW * 1000)
        except CoreLockerError:
            continue


def play_answer(data: bytes) -> None:
    GoogleApi.ask = lambda *_: Answer(200, {}, data)  # type: ignore[method-assign]
    for kind in ("product", "subscription"):
        try:
            PLAY.verify(kind, "pro", "purchase-token", now_ms=NOW * 1000)  # type: ignore[arg-type]
        except CoreLockerError:
            continue
    for _ in PLAY.voided(since_ms=0):
        break


def play_notice(data: bytes) -> None:
    NOTICES.read(PUSH_TOKEN, data, now=NOW)


def play_authorization(data: bytes) -> None:
    NOTICES.read("Bearer " + text_of(data), b"{}", now=NOW)


TARGETS = (
    license_token,
    license_claims,
    canonical,
    app_config,
    problem,
    wrapped_key,
    mark_file,
    grant_token,
    grant_claims,
    apple_transaction,
    apple_notice,
    apple_models,
    play_answer,
    play_notice,
    play_authorization,
)


def one_input(data: bytes) -> None:
    """The first byte chooses the reader."""
    if not data:
        return
    try:
        TARGETS[data[0] % len(TARGETS)](data[1:])
    except CoreLockerError:
        return


def write_seeds(folder: Path) -> None:
    """The committed vectors as inputs for each reader."""
    seeds: list[tuple[Any, bytes]] = []
    for vector in LICENSES["vectors"]:
        token = vector["token"].encode()
        if len(token) < 4000:
            seeds.append((license_token, token))
            if token.count(b".") == 2:
                seeds.append((license_claims, base64.urlsafe_b64decode(token.split(b".")[1] + b"==")))
    for at, vector in enumerate(SEALED["vectors"]):
        seeds.append((wrapped_key, bytes([at % 6]) + jose.decode_base64url(vector["wk"])))
        seeds.append((canonical, vector.get("claims", "{}").encode()))
    claims = {"iss": "shop", "aud": "com.example.camera", "env": "production", "product": "pro", "iat": NOW}
    claims |= {"exp": NOW + 60, "jti": "1", "sub": "2", "until": NOW + 90, "account": "a"}
    seeds += [(grant_claims, json.dumps(claims).encode()), (grant_token, token_of(b"{}", GRANT_TYPE).encode())]
    seeds += [(app_config, base64.b64decode(vector["file"])) for vector in APP_CONFIGS["vectors"]]
    limit = {"type": "urn:corelocker:problem:device-limit", "title": "Limit", "status": 409, "retry_at": NOW}
    seeds.append((problem, json.dumps(limit).encode()))
    seeds.append((mark_file, b'{"time": 1, "ticks": 2, "boot": "x"}'))
    for path in (VECTORS / "purchases/apple/mock_signed_data").iterdir():
        seeds += [(apple_transaction, path.read_bytes()), (apple_notice, path.read_bytes())]
    for path in (VECTORS / "purchases/apple/models").iterdir():
        seeds.append((apple_models, path.read_bytes()))
    product = {
        "productLineItem": [{"productId": "pro", "productOfferDetails": {"refundableQuantity": 1}}],
        "purchaseStateContext": {"purchaseState": "PURCHASED"},
        "testPurchaseContext": {"fopType": "TEST"},
        "obfuscatedExternalAccountId": "a",
    }
    subscription = {
        "lineItems": [{"productId": "pro", "expiryTime": "2027-02-15T08:00:00.5Z"}],
        "subscriptionState": "SUBSCRIPTION_STATE_CANCELED",
        "canceledStateContext": {"replacementCancellation": {}},
        "externalAccountIdentifiers": {"obfuscatedExternalAccountId": "a"},
        "linkedPurchaseToken": "x",
        "testPurchase": {},
    }
    voided = {
        "voidedPurchases": [{"purchaseToken": "x", "voidedTimeMillis": "5"}],
        "tokenPagination": {"nextPageToken": "x"},
    }
    seeds += [(play_answer, json.dumps(answer).encode()) for answer in (product, subscription, voided)]
    for kind in ("subscriptionNotification", "oneTimeProductNotification", "voidedPurchaseNotification"):
        notice = {"packageName": "com.example.camera", "eventTimeMillis": "5"}
        content = json.dumps(notice | {kind: {"purchaseToken": "purchase-token", "productType": 2}}).encode()
        message = {"messageId": "1", "data": base64.b64encode(content).decode()}
        seeds.append((play_notice, json.dumps({"message": message}).encode()))
    seeds.append((play_authorization, PUSH_TOKEN.removeprefix("Bearer ").encode()))
    for at, (target, data) in enumerate(seeds):
        (folder / f"{at:04}").write_bytes(bytes([TARGETS.index(target)]) + data)


if __name__ == "__main__":
    seeds = Path(tempfile.mkdtemp(prefix="corelocker-fuzz-"))
    write_seeds(seeds)
    # The first folder receives what the fuzzer finds, so the seeds come last.
    atheris.Setup([*sys.argv, str(seeds)], one_input)
    atheris.Fuzz()
