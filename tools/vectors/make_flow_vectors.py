"""Makes the vectors of a device's talk with the unlock service, in tests/vectors/flow.json.

    python tools/vectors/make_flow_vectors.py [--out tests/vectors]

Keys are fixed, so two runs write the same bytes. Nothing here is the package's: licenses, HPKE and canonical JSON are put
together by the scripts beside this one, and what is expected stands here by hand.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from license_forge import (
    BUNDLE,
    CONTENT_KEY,
    ISSUED,
    OTHER_BUNDLE,
    OTHER_PHONE,
    PHONE,
    SERVICE,
    STRANGER,
    base64url,
    canonical,
    claims_of,
    info_of,
    jwk,
    seal,
    sha256,
    thumbprint,
    token_of,
)
from make_proof_vectors import INFO, proof_of

APP = "com.example.camera"
HELD_ID, NEW_ID = "0f8fad5b-d9cb-469f-a165-70867728950e", "7c9e6679-7425-40de-944b-e07fc1f90ae7"
GRANT = {"provider": "grant", "token": "header.claims.signature"}
PROBLEM = "urn:corelocker:problem:"

Step = dict[str, Any]


def license_of(license_id: str = NEW_ID, **changes: Any) -> str:
    return token_of(claims_of(jti=license_id, env="development", **changes))


HELD, NEW = license_of(HELD_ID), license_of()


def answer(status: int, body: dict[str, Any] | str, **headers: str) -> dict[str, Any]:
    text = body if isinstance(body, str) else json.dumps(body)
    return {
        "status": status,
        "headers": {name.replace("_", "-"): value for name, value in headers.items()},
        "body": text,
    }


def problem(status: int, code: str, headers: dict[str, str] | None = None, **members: Any) -> dict[str, Any]:
    body = {"type": PROBLEM + code, "title": "Title", "status": status, "detail": "One line."} | members
    return answer(status, body, **(headers or {}))


def challenge(number: int, given: dict[str, Any] | None = None, *, sealed: bool = False) -> Step:
    """The first request of an exchange; the answer is a challenge unless another one is given."""
    members: dict[str, Any] = {"challenge": f"challenge-{number}", "expires_at": ISSUED + 300}
    if sealed:
        members["sealed"] = base64url(seal(PHONE, INFO, secret(number)))
    body = {"device_key": jwk(PHONE)} if sealed else {}
    return {"path": "/v1/challenges", "body": body, "answer": given or answer(201, members)}


def secret(number: int) -> bytes:
    return sha256(f"secret {number}".encode())


def digest(number: int, purchase_token: str, tier: str) -> bytes:
    request = {
        "type": "corelocker-request-v1",
        "challenge": f"challenge-{number}",
        "app": APP,
        "bundle": BUNDLE,
        "tier": tier,
        "device_key": thumbprint(PHONE),
        "purchase": base64url(sha256(purchase_token.encode())),
    }
    return sha256(canonical(request))


def unlock(number: int, given: dict[str, Any] | None, tier: str = "full", purchase: dict[str, str] = GRANT) -> Step:
    """The second request of an unlock; without an answer the line breaks when the service has got it."""
    token = purchase.get("token") or purchase["transaction"]
    body = {
        "challenge": f"challenge-{number}",
        "app": APP,
        "bundle": BUNDLE,
        "tier": tier,
        "device_key": jwk(PHONE),
        "purchase": purchase,
    }
    return {"path": "/v1/licenses", "body": body, "digest": digest(number, token, tier).hex(), "answer": given}


def renew(number: int, given: dict[str, Any] | None, *, by_device_key: bool = False, tier: str = "full") -> Step:
    request = digest(number, f"renew:{HELD_ID}", tier)
    step = {
        "path": f"/v1/licenses/{HELD_ID}/renew",
        "body": {"challenge": f"challenge-{number}"},
        "digest": request.hex(),
        "answer": given,
    }
    if by_device_key:
        members = {
            "type": "corelocker-request-v1",
            "challenge": f"challenge-{number}",
            "app": APP,
            "bundle": BUNDLE,
            "tier": "full",
            "device_key": thumbprint(PHONE),
            "purchase": base64url(sha256(f"renew:{HELD_ID}".encode())),
        }
        step["proof"] = base64url(proof_of(secret(number), members))
    return step


def issued(token: object = NEW) -> dict[str, Any]:
    return answer(201, {"license": token, "license_id": NEW_ID, "expires_at": None, "renew_at": None})


def vector(
    name: str, comment: str, operation: str, steps: list[Step], expect: str = "ok", **parts: Any
) -> dict[str, Any]:
    renewing = operation != "unlock"
    made = {
        "name": name,
        "comment": comment,
        "operation": operation,
        "held": HELD if renewing else None,
        "tier": "full",
        "purchase": None if renewing else GRANT,
        "steps": steps,
        "waits": [],
        "expect": expect,
        "holds": NEW_ID if expect == "ok" else HELD_ID if renewing else None,
    }
    return made | parts


def good() -> list[dict[str, Any]]:
    shown = {"provider": "app-store", "transaction": "signed.transaction.here"}
    return [
        vector("unlock", "challenge, attestation, license", "unlock", [challenge(1), unlock(1, issued())]),
        vector(
            "unlock-again",
            "the newer license takes the place of the older",
            "unlock",
            [challenge(1), unlock(1, issued())],
            held=HELD,
        ),
        vector(
            "unlock-app-store",
            "the attestation covers the transaction as it is sent",
            "unlock",
            [challenge(1), unlock(1, issued(), purchase=shown)],
            purchase=shown,
        ),
        vector("renew", "the license's id takes the place of a purchase", "renew", [challenge(1), renew(1, issued())]),
        vector(
            "renew-by-device-key",
            "no attestation: the device key opens a secret",
            "renew-by-device-key",
            [challenge(1, sealed=True), renew(1, issued(), by_device_key=True)],
        ),
    ]


def new_truth() -> list[dict[str, Any]]:
    """What a renewal returns takes the place of what is held, whatever it grants."""

    def renewed(name: str, comment: str, expect: str = "ok", **claims: Any) -> dict[str, Any]:
        steps = [challenge(1), renew(1, issued(license_of(**claims)))]
        return vector(name, comment, "renew", steps, expect)

    return [
        renewed("renew-lower-tier", "the license held is for full, the next one for plus", tier="plus"),
        renewed("renew-earlier-end", "it ends in an hour, before the one that is held", exp=ISSUED + 3600),
        renewed("renew-lower-tier-earlier-end", "both", tier="plus", exp=ISSUED + 3600),
        renewed("renew-perpetual", "the next one does not end", exp=None),
        vector(
            "renew-higher-tier",
            "the license held is for plus, the next one for full",
            "renew",
            [challenge(1), renew(1, issued(), tier="plus")],
            held=license_of(HELD_ID, tier="plus"),
        ),
        vector(
            "renew-after-the-end",
            "a license that has ended is renewed too",
            "renew",
            [challenge(1), renew(1, issued())],
            held=license_of(HELD_ID, iat=ISSUED - 2 * 86400, nbf=ISSUED - 2 * 86400, exp=ISSUED - 86400),
        ),
        renewed("renew-unknown-tier", "a tier that the key bundle does not have", "license-tier", tier="gold"),
        renewed("renew-first-tier", "tier 0 needs no license", "license-tier", tier="free"),
        renewed("renew-ended", "what has ended is not stored", "license-expired", iat=1, nbf=1, exp=ISSUED),
    ]


def tried_again() -> list[dict[str, Any]]:
    """Whatever goes wrong, no challenge is sent twice."""
    again = [challenge(2), unlock(2, issued())]
    return [
        vector(
            "busy-once",
            "no Retry-After: half a second at most",
            "unlock",
            [challenge(1), unlock(1, problem(503, "overloaded")), *again],
            waits=[[0.25, 0.5]],
        ),
        vector(
            "busy-retry-after",
            "the service says when",
            "unlock",
            [challenge(1), unlock(1, problem(503, "storage-unavailable", {"Retry_After": "2"})), *again],
            waits=[[2, 2]],
        ),
        vector(
            "rate-limited-challenge",
            "the first request may be refused too; it is then the only one",
            "unlock",
            [challenge(1, problem(429, "rate-limited", {"Retry_After": "7"})), *again],
            waits=[[7, 7]],
        ),
        vector(
            "store-busy",
            "a store could not be asked",
            "unlock",
            [challenge(1), unlock(1, problem(503, "purchase-upstream", {"Retry_After": "5"})), *again],
            waits=[[5, 5]],
        ),
        vector(
            "lost-answer",
            "the license may have been issued: ask again",
            "unlock",
            [challenge(1), unlock(1, None), *again],
            waits=[[0.25, 0.5]],
        ),
        vector(
            "lost-answer-of-a-renewal",
            "the same for a renewal",
            "renew",
            [challenge(1), renew(1, None), challenge(2), renew(2, issued())],
            waits=[[0.25, 0.5]],
        ),
        vector(
            "challenge-used",
            "a proxy sent the request twice",
            "unlock",
            [challenge(1), unlock(1, problem(409, "challenge-used")), *again],
            waits=[[0.25, 0.5]],
        ),
    ]


def waits() -> list[dict[str, Any]]:
    """How long a device waits, and when it gives up."""
    again = [challenge(2), unlock(2, issued())]
    return [
        vector(
            "challenge-expired",
            "the device slept in between",
            "unlock",
            [challenge(1), unlock(1, problem(409, "challenge-expired")), *again],
            waits=[[0.25, 0.5]],
        ),
        vector(
            "proxy-busy",
            "something in front of the service answers 503 in its own words",
            "unlock",
            [challenge(1, answer(503, "<html>busy</html>")), *again],
            waits=[[0.25, 0.5]],
        ),
        vector(
            "waits-double",
            "three tries in vain",
            "unlock",
            [
                *[step for n in (1, 2, 3) for step in (challenge(n), unlock(n, problem(503, "overloaded")))],
                challenge(4),
                unlock(4, issued()),
            ],
            waits=[[0.25, 0.5], [0.5, 1], [1, 2]],
        ),
        vector(
            "gives-up",
            "after four tries",
            "unlock",
            [step for n in (1, 2, 3, 4) for step in (challenge(n), unlock(n, problem(503, "overloaded")))],
            "overloaded",
            waits=[[0.25, 0.5], [0.5, 1], [1, 2]],
        ),
        vector(
            "gives-up-on-a-proxy",
            "what is busy is not the service",
            "unlock",
            [challenge(n, answer(503, "")) for n in (1, 2, 3, 4)],
            "service-busy",
            waits=[[0.25, 0.5], [0.5, 1], [1, 2]],
        ),
        vector(
            "too-long-to-wait",
            "more than 30 seconds: the app decides",
            "unlock",
            [challenge(1), unlock(1, problem(503, "overloaded", {"Retry_After": "31"}))],
            "overloaded",
        ),
    ]


def refused() -> list[dict[str, Any]]:
    def at_unlock(name: str, status: int, code: str, expect: str | None = None, **members: Any) -> dict[str, Any]:
        steps = [challenge(1), unlock(1, problem(status, code, **members))]
        return vector(name, "refused, and not tried again", "unlock", steps, expect or code)

    def at_renewal(code: str, status: int, *, stays: bool) -> dict[str, Any]:
        comment = "what is held " + ("works until it ends" if stays else "is removed")
        steps = [challenge(1), renew(1, problem(status, code))]
        return vector(f"renew-{code}", comment, "renew", steps, code, holds=HELD_ID if stays else None)

    limit = at_unlock("device-limit", 409, "device-limit", retry_at=ISSUED + 86400)
    unknown = at_unlock("unknown-problem", 403, "of-a-later-release", "service")
    return [
        limit | {"retry_at": ISSUED + 86400},
        at_unlock("attestation-refused", 401, "attestation-refused"),
        at_unlock("purchase-product", 403, "purchase-product"),
        at_unlock("purchase-pending", 402, "purchase-pending"),
        at_unlock("bundle-retired", 403, "bundle-retired"),
        unknown,
        at_renewal("license-revoked", 403, stays=False),
        at_renewal("purchase-revoked", 402, stays=False),
        at_renewal("purchase-superseded", 402, stays=False),
        at_renewal("device-inactive", 403, stays=False),
        at_renewal("purchase-expired", 402, stays=True),
        at_renewal("bundle-unknown", 404, stays=True),
    ]


def not_believed() -> list[dict[str, Any]]:
    """Answers that are no license for this device, or no answers of the service: nothing is stored."""

    def license_(name: str, token: object, expect: str) -> dict[str, Any]:
        steps = [challenge(1), unlock(1, issued(token))]
        return vector(name, "what is held stays", "unlock", steps, expect, held=HELD, holds=HELD_ID)

    def strange(name: str, given: dict[str, Any]) -> dict[str, Any]:
        return vector(name, "no license request is sent", "unlock", [challenge(1, given)], "service-protocol")

    other = claims_of(jti=NEW_ID, env="development", cnf={"jkt": thumbprint(OTHER_PHONE)})
    other["wk"] = base64url(seal(OTHER_PHONE, info_of(other)))
    swapped = claims_of(jti=NEW_ID, env="development") | {"wk": claims_of(jti="other")["wk"]}
    stranger = token_of(claims_of(jti=NEW_ID, env="development"), signer=STRANGER)
    return [
        license_("license-of-another-device", token_of(other), "license-device"),
        license_("license-of-another-service", stranger, "license-signature"),
        license_("license-for-another-bundle", license_of(bundle=OTHER_BUNDLE), "license-bundle"),
        license_("license-for-another-model-version", license_of(model_version=2), "license-model-version"),
        license_("license-for-another-tier", license_of(tier="plus"), "license-tier"),
        license_("license-for-another-environment", token_of(claims_of(jti=NEW_ID)), "license-environment"),
        license_("license-that-does-not-open", token_of(swapped), "license-wrap"),
        license_("license-missing", None, "license-format"),
        strange("redirect", answer(302, "", Location="https://example.com/")),
        strange("captive-portal", answer(200, "<html>Welcome</html>")),
        strange("not-created", answer(200, {"challenge": "challenge-1", "expires_at": ISSUED})),
        strange("no-challenge", answer(201, {"expires_at": ISSUED})),
        strange("long-challenge", answer(201, {"challenge": "x" * 257, "expires_at": ISSUED})),
        strange("duplicate-name", answer(201, '{"challenge": "a", "challenge": "b"}')),
        strange("foreign-problem", answer(403, {"type": "about:blank", "title": "Forbidden"})),
        strange("too-large", answer(201, json.dumps({"challenge": "a", "padding": "x" * 70_000}))),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/vectors"))
    out: Path = parser.parse_args().out
    content = {
        "description": (
            "A device (`device_key`, app configuration `config`, with the test's server for its `service`) and an unlock service "
            "(docs/formats.md: Attested request, Proofs, What a device keeps, Unlock API). "
            "The device holds the license `held` (or none), does "
            "`operation` (unlock, renew, renew-by-device-key) for the key bundle `bundle`, and sends the requests of `steps` "
            "in this order and no others: POST to `path` with the JSON `body`, which in the second request of an exchange "
            "has the member `attestation` too. `digest` (hex) is what that attestation signs; `proof` is the whole of a "
            "device-key proof. The service gives `answer`; where that is null, the line breaks after it has got the request. "
            "Between tries the device waits; each wait lies within its pair of `waits` (seconds, of the doubling half "
            "second drawn from its upper half, or Retry-After), it tries four times, and waits 30 s at most. "
            "`expect` is ok or the code of the error, `retry_at` what that error says, `holds` the id of the license that "
            "the device holds afterwards. The wall clock stands at `now`. `content_key` (hex) is in every good license."
        ),
        "device_key": jwk(PHONE, secret=True),
        "config": {
            "format": "corelocker-app-config",
            "version": "1.0",
            "service": "https://unlock.example.com",
            "issuer": "https://unlock.example.com",
            "app": APP,
            "environment": "development",
            "license_keys": {"keys": [jwk(SERVICE)]},
            "publisher": thumbprint(STRANGER),
        },
        "bundle": {"id": BUNDLE, "model_version": 3, "tiers": ["free", "plus", "full"]},
        "now": ISSUED,
        "content_key": CONTENT_KEY.hex(),
        "vectors": [*good(), *new_truth(), *tried_again(), *waits(), *refused(), *not_believed()],
    }
    names = [made["name"] for made in content["vectors"]]
    assert len(set(names)) == len(names)
    out.mkdir(parents=True, exist_ok=True)
    (out / "flow.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
