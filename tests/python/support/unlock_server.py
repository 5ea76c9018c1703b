"""A service that answers what a test wants, and what the tests of the software device share around it."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from corelocker.attestation.chain import TrustAnchors
from corelocker.attestation.development import verify_development
from corelocker.bundle import jose
from corelocker.device.software import SoftwareDevice
from corelocker.licensing.attested_request import AttestedRequest
from corelocker.licensing.device_clock import Reading
from corelocker.licensing.evidence import DevelopmentEvidence, Format, evidence_from_json
from corelocker.licensing.license import issue_license
from corelocker.licensing.tokens import SoftwareSigner
from corelocker.service.problems import of_code
from cryptography.hazmat.primitives.asymmetric import ec

from support.unlock_world import APP, ISSUER, NOW, World

DAY = 86400
Answer = tuple[int, dict[str, str], bytes]


class Server:
    """Answers challenges by itself, and each other request by the next of `answers`, or by a good license."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.answers: list[Answer | Callable[[dict[str, Any]], Answer]] = []
        self.challenge_answers: list[Answer] = []
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.challenge_requests: list[dict[str, Any]] = []
        self.challenges: list[str] = []
        self.device = ""
        self.terms: dict[str, Any] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.headers["Content-Type"] == "application/json"
                status, headers, data = outer.answer(self.path, body)
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(data))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        class Http(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """The device hangs up on what is too long."""

        self.http = Http(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> Answer:
        if path == "/v1/challenges":
            self.challenge_requests.append(body)
            if self.challenge_answers:
                return self.challenge_answers.pop(0)
            self.challenges.append(f"challenge-{len(self.challenges)}-{uuid.uuid4()}")
            return created({"challenge": self.challenges[-1], "expires_at": NOW})
        self.requests.append((path, body))
        if self.answers:
            answer = self.answers.pop(0)
            return answer(body) if callable(answer) else answer
        return self.issue(body)

    def issue(self, body: dict[str, Any], **changes: Any) -> Answer:
        """A license for the device key that was last shown."""
        if "device_key" in body:
            self.device_key = jose.key_of_jwk(body["device_key"])
        terms: dict[str, Any] = {
            "device_key": self.device_key,
            "content_key": self.world.content_key,
            "issuer": ISSUER,
            "app": APP,
            "environment": "development",
            "bundle": self.world.bundle_id,
            "model_version": 1,
            "tier": "full",
            "issued_at": NOW,
            "expires_at": NOW + 30 * DAY,
        } | changes
        signer = terms.pop("signer", SoftwareSigner(self.world.keystore.signing_key))
        device_key, content_key = terms.pop("device_key"), terms.pop("content_key")
        return created({"license": issue_license(signer, device_key, content_key, **terms)})


def created(members: dict[str, Any]) -> Answer:
    return 201, {"Content-Type": "application/json"}, json.dumps(members).encode()


def problem(code: str, status: int | None = None, **headers: str) -> Answer:
    found = of_code(code)
    kind = {"Content-Type": "application/problem+json"}
    return status or found.status, kind | headers, json.dumps(found.members("a-request")).encode()


class Clock:
    """The device's clocks, as a test sets them."""

    def __init__(self) -> None:
        self.wall, self.ticks, self.boot = NOW, 1000, "first"

    def __call__(self) -> Reading:
        return Reading(self.wall, self.ticks, self.boot)


class Sleeps(list[float]):
    """Records how long a device would have waited."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def stored(device: SoftwareDevice) -> list[Path]:
    return sorted((device.folder.path / "licenses").iterdir())


def accepted(world: World, body: dict[str, Any], purchase_token: str, key: ec.EllipticCurvePublicKey) -> bool:
    """Whether the development verifier accepts the attestation in a request."""
    evidence = evidence_from_json(body["attestation"])
    assert isinstance(evidence, DevelopmentEvidence)
    request = AttestedRequest(body["challenge"], APP, world.bundle_id, "full", key, purchase_token)
    verdict = verify_development(
        evidence,
        request_digest=request.digest(Format.DEVELOPMENT),
        environment="development",
        anchors=TrustAnchors.from_pem(world.root.certificate),
        now=datetime.now(UTC),
    )
    return verdict.accepted


def signer() -> SoftwareSigner:
    return SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))


def other_key() -> ec.EllipticCurvePublicKey:
    return ec.generate_private_key(ec.SECP256R1()).public_key()


GRANT = {"provider": "grant", "token": "a.b.c"}
