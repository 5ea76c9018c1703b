"""The OpenAPI 3.1 document of the unlock API.

It is written by hand because it is a promise to client authors: 400 means that a request breaks these schemas, and
nothing else does. What no schema can say (an unknown app, a point off the curve) has another status.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from corelocker import __version__
from corelocker.licensing.evidence import MAX_INTEGRITY_TOKEN
from corelocker.service.problems import PREFIX, PROBLEM_TYPE, PROBLEMS

ROUTES = ("challenges", "licenses", "renew", "app-store", "google-play", "healthz", "readyz", "openapi", "other")
_Json = dict[str, Any]

_EVERYWHERE = ("rate-limited", "internal-error")
_BODY = ("request-malformed", "request-timeout", "payload-too-large", "unsupported-media-type")
_DECISION = ("overloaded", "timeout", "storage-unavailable", "not-ready")
_CHALLENGE = ("challenge-malformed", "challenge-expired", "challenge-used")
_PROOF = ("attestation-refused", "attestation-evidence", "canonical-json", "format-not-allowed", "bundle-retired")
_PURCHASE = tuple(code for code in PROBLEMS if code.startswith("purchase") and code != "purchase-notice")
_RENEWAL = tuple(code for code in PROBLEMS if code.startswith("license"))
_NOTICE = tuple(code for code in PROBLEMS if code.startswith("purchase"))

# The last character of base64url holds 2 or 4 bits that have to be zero.
_TAIL = {0: "", 1: "[A-Za-z0-9_-][AQgw]", 2: "[A-Za-z0-9_-]{2}[AEIMQUYcgkosw048]"}


def document(max_body: int) -> _Json:
    """The document of a service that accepts bodies of at most `max_body` bytes."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "CoreLocker unlock service",
            "version": __version__,
            "description": (
                "Verifies a device's proof and a user's purchase and issues licenses. A device fetches a challenge, makes "
                "a proof that names it, and asks for a license. All bodies are JSON of at most "
                f"{max_body} bytes, without duplicate names; errors are problem details (RFC 9457) whose `type` is stable. "
                f"Every answer has the header X-Request-Id."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/v1/challenges": {
                "post": _operation(
                    "makeChallenge",
                    "A nonce for one request",
                    "With `device_key`, the answer holds a secret sealed to it, which a `device-key` proof needs.",
                    body="ChallengeRequest",
                    answer=(201, "The challenge", "Challenge"),
                    problems=(*_BODY, "device-key"),
                )
            },
            "/v1/licenses": {
                "post": _operation(
                    "unlock",
                    "A license for a device and a purchase",
                    "A device whose answer was lost asks again with a new challenge; it keeps its place.",
                    body="UnlockRequest",
                    answer=(201, "The license", "Issued"),
                    problems=(
                        *_BODY, *_DECISION, *_CHALLENGE, *_PROOF, *_PURCHASE, "device-key", "device-limit", "app-unknown",
                        "bundle-unknown", "tier-unknown", "provider-not-allowed", "license",
                    ),
                )
            },
            "/v1/licenses/{jti}/renew": {
                "post": _operation(
                    "renew",
                    "The next license for one that was issued",
                    "The proof is made over the purchase text `renew:` and the license's id.",
                    body="RenewRequest",
                    answer=(201, "The license", "Issued"),
                    problems=(
                        *_BODY, *_DECISION, *_CHALLENGE, *_PROOF, *_PURCHASE, *_RENEWAL, "device-limit",
                        "device-inactive", "app-unknown", "bundle-unknown", "tier-unknown", "not-found",
                    ),
                    parameters=[_path("jti", "The id of the license, its claim `jti`.")],
                )
            },
            "/v1/notifications/app-store/{app}": {
                "post": _operation(
                    "appStoreNotification",
                    "App Store Server Notifications, version 2",
                    "Sent by Apple; the payload is signed.",
                    body="AppStoreNotification",
                    answer=(204, "Taken in", None),
                    problems=(*_BODY, *_DECISION, *_NOTICE, "app-unknown", "provider-not-allowed", "not-found"),
                    parameters=[_path("app", "The app, as in unlock requests.")],
                )
            },
            "/v1/notifications/google-play/{app}": {
                "post": _operation(
                    "googlePlayNotification",
                    "Real-time developer notifications",
                    "Pushed by Google Pub/Sub with a signed token in the header Authorization.",
                    body="GooglePlayNotification",
                    answer=(204, "Taken in", None),
                    problems=(*_BODY, *_DECISION, *_NOTICE, "app-unknown", "provider-not-allowed", "not-found"),
                    parameters=[_path("app", "The app, as in unlock requests.")],
                )
            },
            "/healthz": {
                "get": _operation(
                    "health", "Whether the process lives", "", answer=(200, "It does", "Status"),
                    problems=("internal-error",),
                )
            },
            "/readyz": {
                "get": _operation(
                    "ready", "Whether requests can be decided", "", answer=(200, "They can", "Status"),
                    problems=("internal-error", *_DECISION),
                )
            },
            "/openapi.json": {
                "get": _operation(
                    "openapi", "This document", "", answer=(200, "The document", "Document"), problems=()
                )
            },
        },
        "components": {"schemas": _schemas(), "headers": _HEADERS},
    }  # fmt: skip


# --- operations ----------------------------------------------------------------------------------

_HEADERS: _Json = {
    "RequestId": {"description": "Names the request in the service's log.", "schema": {"type": "string"}},
    "RetryAfter": {
        "description": "Seconds to wait before another try.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,5}$"},
    },
}


def _operation(
    name: str,
    summary: str,
    description: str,
    *,
    answer: tuple[int, str, str | None],
    problems: Iterable[str],
    body: str | None = None,
    parameters: list[_Json] | None = None,
) -> _Json:
    status, said, schema = answer
    success: _Json = {"description": said, "headers": {"X-Request-Id": _ref("headers", "RequestId")}}
    if schema is not None:
        success["content"] = {"application/json": {"schema": _ref("schemas", schema)}}
    operation: _Json = {"operationId": name, "summary": summary, "responses": {str(status): success}}
    if description:
        operation["description"] = description
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _ref("schemas", body)}},
        }
    by_status: dict[int, list[str]] = {}
    for code in sorted({*problems, *_EVERYWHERE}):
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    for status, codes in sorted(by_status.items()):
        operation["responses"][str(status)] = _problem_response(status, codes)
    return operation


def _problem_response(status: int, codes: list[str]) -> _Json:
    headers = {"X-Request-Id": _ref("headers", "RequestId")}
    if any(PROBLEMS[code].retry_after is not None for code in codes):
        headers["Retry-After"] = _ref("headers", "RetryAfter")
    return {
        "description": "; ".join(dict.fromkeys(PROBLEMS[code].title for code in codes)),
        "headers": headers,
        "content": {
            PROBLEM_TYPE: {
                "schema": {
                    "allOf": [
                        _ref("schemas", "Problem"),
                        {
                            "properties": {
                                "type": {"enum": [PREFIX + code for code in codes]},
                                "status": {"const": status},
                            }
                        },
                    ]
                }
            }
        },
    }


def _path(name: str, description: str) -> _Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[A-Za-z0-9._-]*[A-Za-z0-9_-]$"},
    }


def _ref(kind: str, name: str) -> _Json:
    return {"$ref": f"#/components/{kind}/{name}"}


# --- schemas -------------------------------------------------------------------------------------


def _object(required: _Json, optional: _Json | None = None, *, others: bool = False, description: str = "") -> _Json:
    schema: _Json = {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}
    # Numbers in the service's JSON are whole and below 2^53: `others` may be anything that holds none.
    schema["additionalProperties"] = {"type": ["string", "boolean", "null"]} if others else False
    if description:
        schema["description"] = description
    return schema


def _exactly(size: int, description: str) -> _Json:
    """`size` bytes in base64url."""
    whole, rest = divmod(size, 3)
    return {
        "type": "string",
        "pattern": f"^[A-Za-z0-9_-]{{{whole * 4}}}{_TAIL[rest]}$",
        "description": f"{description}, {size} bytes in unpadded base64url",
    }


def _bytes(longest: int, description: str) -> _Json:
    return {
        "type": "string",
        "maxLength": longest,
        "pattern": f"^(?:[A-Za-z0-9_-]{{4}})*(?:{_TAIL[1]}|{_TAIL[2]})?$",
        "description": f"{description}, in unpadded base64url",
    }


def _text(description: str, longest: int = 256) -> _Json:
    return {
        "type": "string",
        "minLength": 1,
        "maxLength": longest,
        "pattern": "^[\\x20-\\x7e]+$",
        "description": description,
    }


def _schemas() -> _Json:
    seconds = {"type": "integer", "minimum": 0, "maximum": 2**53 - 1, "description": "Unix seconds"}
    perpetual = {**seconds, "type": ["integer", "null"], "description": "Unix seconds; null for a perpetual license"}
    challenge = _exactly(40, "The challenge as the service made it")
    return {
        "Challenge": _object(
            {"challenge": challenge, "expires_at": seconds},
            {"sealed": _bytes(256, "HPKE's enc and ciphertext of a secret, sealed to the device key")},
        ),
        "ChallengeRequest": _object({}, {"device_key": _ref("schemas", "DeviceKey")}),
        "DeviceKey": {
            **_object(
                {
                    "kty": {"const": "EC"},
                    "crv": {"const": "P-256"},
                    "x": _exactly(32, "The point's coordinate"),
                    "y": _exactly(32, "The point's coordinate"),
                },
                others=True,
                description="The device's public P-256 key as a JWK (RFC 7517), without `d`.",
            ),
            "not": {"required": ["d"]},
        },
        "UnlockRequest": _object(
            {
                "challenge": challenge,
                "app": _text("The app's identifier"),
                "bundle": _text("The key bundle's id, a UUID in lower case"),
                "tier": _text("The tier's name"),
                "device_key": _ref("schemas", "DeviceKey"),
                "attestation": _ref("schemas", "Attestation"),
                "purchase": _ref("schemas", "Purchase"),
            }
        ),
        "RenewRequest": _object({"challenge": challenge, "attestation": _ref("schemas", "Attestation")}),
        "Attestation": {
            "oneOf": [_ref("schemas", name) for name in _ATTESTATIONS],
            "description": "The proof of the device, over the canonical request.",
        },
        **_ATTESTATIONS,
        "Purchase": {"oneOf": [_ref("schemas", name) for name in _PURCHASES]},
        **_PURCHASES,
        "Issued": _object(
            {
                "license": {"type": "string", "pattern": "^[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+$"},
                "license_id": {"type": "string", "format": "uuid"},
                "expires_at": perpetual,
                "renew_at": perpetual,
            },
            description="A license (JWS compact, ES256) and what a device needs to know beside it.",
        ),
        "AppStoreNotification": _object(
            {"signedPayload": {"type": "string", "description": "Apple's JWS"}}, others=True
        ),
        "GooglePlayNotification": _object(
            {
                "message": _object(
                    {"data": {"type": "string", "description": "The notification, in base64"}},
                    others=True,
                )
            },
            {"subscription": {"type": "string"}},
            others=True,
        ),
        "Status": _object({"status": {"enum": ["ok", "ready"]}}),
        "Document": {"type": "object", "properties": {"openapi": {"const": "3.1.0"}}, "required": ["openapi"]},
        "Problem": _object(
            {
                "type": {"type": "string", "pattern": f"^{PREFIX}[a-z-]+$"},
                "title": {"type": "string"},
                "status": {"type": "integer", "minimum": 400, "maximum": 599},
                "detail": {"type": "string"},
            },
            {
                "retry_after": {"type": "integer", "minimum": 1, "description": "Seconds; also the header Retry-After"},
                "retry_at": {**seconds, "description": "Unix seconds from which the request may succeed"},
            },
            description="Problem details, RFC 9457.",
        ),
    }


# Together with the longest purchase these stay below the service's limit for a whole body.
_ATTESTATIONS: _Json = {
    "AndroidKey": _object(
        {
            "format": {"const": "android-key"},
            "chain": {
                "type": "array",
                "maxItems": 6,
                "items": _bytes(6000, "A certificate, DER"),
                "description": "`KeyStore.getCertificateChain()`, the device key's certificate first",
            },
        },
        {
            "integrity_token": _text(
                "Play Integrity's token, where the service asks for one; its `requestHash` or `nonce` is the base64url "
                "of the key's attestation challenge",
                MAX_INTEGRITY_TOKEN,
            )
        },
    ),
    "AppAttestation": _object(
        {
            "format": {"const": "apple-app-attest"},
            "key_id": _exactly(32, "The key identifier"),
            "attestation": _bytes(24576, "What `attestKey` returned"),
        },
        description="The first unlock of an install.",
    ),
    "AppAssertion": _object(
        {
            "format": {"const": "apple-app-attest"},
            "key_id": _exactly(32, "The key identifier"),
            "assertion": _bytes(8192, "What `generateAssertion` returned"),
        },
        description="Every later unlock, and renewals.",
    ),
    "Development": _object(
        {
            "format": {"const": "development"},
            "certificate": _bytes(6000, "The development key's certificate, DER"),
            "signature": _bytes(170, "Its signature"),
        },
        description="Never in production.",
    ),
    "DeviceKeyProof": _object(
        {"format": {"const": "device-key"}, "proof": _exactly(32, "The proof")},
        description="Renewals only: shows that the device key could open the challenge's `sealed`.",
    ),
}

_PURCHASES: _Json = {
    "GrantPurchase": _object({"provider": {"const": "grant"}, "token": _text("The backend's grant", 16384)}),
    "AppStorePurchase": _object(
        {"provider": {"const": "app-store"}, "transaction": _text("StoreKit 2's signed transaction", 16384)}
    ),
    "GooglePlayPurchase": _object(
        {
            "provider": {"const": "google-play"},
            "kind": {"enum": ["product", "subscription"]},
            "product": _text("The product's id"),
            "token": _text("The purchase token", 4096),
        }
    ),
}
