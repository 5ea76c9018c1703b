"""The software device by itself: against a server that answers what a test wants, and offline."""

from __future__ import annotations

import contextlib
import gzip
import ipaddress
import json
import os
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from corelocker.attestation.certificates import TrustAnchors
from corelocker.attestation.development import verify_development
from corelocker.attestation.device_key import proof_secret, seal_secret, verify_device_key
from corelocker.bundle import jose
from corelocker.bundle.clkey import KeyBundle
from corelocker.device.software import (
    DeviceConfig,
    NotUnlockedError,
    Patience,
    ServiceBusyError,
    ServiceError,
    ServiceProtocolError,
    ServiceUnreachableError,
    SoftwareDevice,
    error_of_problem,
)
from corelocker.errors import BundlePublisherError, ConfigError, CoreLockerError, FileAccessError, OutputExistsError
from corelocker.licensing.attested_request import AttestedRequest
from corelocker.licensing.development import DevelopmentRoot
from corelocker.licensing.device_clock import Reading
from corelocker.licensing.errors import (
    AttestationError,
    DeviceInactiveError,
    DeviceLimitError,
    LicenseBundleError,
    LicenseClockError,
    LicenseDeviceError,
    LicenseError,
    LicenseExpiredError,
    LicenseFormatError,
    LicenseRevokedError,
    LicenseSignatureError,
    LicenseTierError,
    LicenseWrapError,
    LicensingError,
    PurchaseExpiredError,
    PurchaseProductError,
    PurchaseRevokedError,
    PurchaseUpstreamError,
)
from corelocker.licensing.evidence import DevelopmentEvidence, DeviceKeyEvidence, Format, evidence_from_json
from corelocker.licensing.license import issue_license
from corelocker.licensing.tokens import SoftwareSigner
from corelocker.service.problems import PROBLEMS, of_code
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
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
    return status or found.status, kind | headers, json.dumps(found.members()).encode()


class Clock:
    """The device's clocks, as a test sets them."""

    def __init__(self) -> None:
        self.wall, self.ticks, self.boot = NOW, 1000, "first"

    def __call__(self) -> Reading:
        return Reading(self.wall, self.ticks, self.boot)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    return World(folder, f"sqlite:///{folder / 'unlock.sqlite'}")


@pytest.fixture
def server(world: World) -> Iterator[Server]:
    server = Server(world)
    yield server
    server.close()


@pytest.fixture
def bundle(world: World) -> Iterator[KeyBundle]:
    with world.bundle() as opened:
        yield opened


class Sleeps(list[float]):
    """Records how long a device would have waited."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def sleeps() -> Sleeps:
    return Sleeps()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def device(world: World, server: Server, sleeps: Sleeps, clock: Clock) -> SoftwareDevice:
    patience = Patience(attempts=4, sleep=sleeps)
    return world.device(f"device-{uuid.uuid4()}", port=server.port, patience=patience, read_clocks=clock)


GRANT = {"provider": "grant", "token": "a.b.c"}


def stored(device: SoftwareDevice) -> list[Path]:
    return sorted((device.folder / "licenses").iterdir())


# --- what it sends -------------------------------------------------------------------------------


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


def test_unlock(world: World, server: Server, device: SoftwareDevice, bundle: KeyBundle) -> None:
    verified = device.unlock(bundle, "full", GRANT)
    assert verified.state == "valid"
    ((path, body),) = server.requests
    assert path == "/v1/licenses"
    assert sorted(body) == ["app", "attestation", "bundle", "challenge", "device_key", "purchase", "tier"]
    assert (body["app"], body["bundle"], body["tier"], body["purchase"]) == (APP, world.bundle_id, "full", GRANT)
    assert body["challenge"] == server.challenges[0]
    key = jose.key_of_jwk(body["device_key"])
    assert jose.thumbprint(key) == device.thumbprint == verified.license.device
    assert accepted(world, body, GRANT["token"], key)
    assert not accepted(world, body, "another.grant", key)
    with device.restore(world.locked_path, bundle, check="always") as restored:
        assert bytes(restored) == world.original


def test_renewal(world: World, server: Server, device: SoftwareDevice, bundle: KeyBundle) -> None:
    first = device.unlock(bundle, "full", GRANT).license
    second = device.renew(bundle).license
    assert second.license_id != first.license_id
    path, body = server.requests[-1]
    assert path == f"/v1/licenses/{first.license_id}/renew"
    assert sorted(body) == ["attestation", "challenge"]
    key = server.device_key
    assert accepted(world, body, f"renew:{first.license_id}", key)
    assert not accepted(world, body, GRANT["token"], key), "a proof for an unlock is none for a renewal"
    assert device.current(bundle).license == second
    assert len(stored(device)) == 1


def test_renewal_by_the_device_key(world: World, server: Server, device: SoftwareDevice, bundle: KeyBundle) -> None:
    first = device.unlock(bundle, "full", GRANT).license
    challenge, service_secret = "a challenge", os.urandom(32)
    secret = proof_secret(service_secret, challenge, device.thumbprint)
    sealed = jose.encode_base64url(seal_secret(secret, server.device_key))
    server.challenge_answers.append(created({"challenge": challenge, "expires_at": NOW, "sealed": sealed}))
    second = device.renew(bundle, by_device_key=True).license
    assert second.license_id != first.license_id
    assert server.challenge_requests[-1] == {"device_key": jose.public_jwk(server.device_key)}
    body = server.requests[-1][1]
    evidence = evidence_from_json(body["attestation"])
    assert isinstance(evidence, DeviceKeyEvidence)
    request = AttestedRequest(challenge, APP, world.bundle_id, "full", server.device_key, f"renew:{first.license_id}")
    digest = request.digest(Format.DEVICE_KEY)
    assert verify_device_key(evidence, request_digest=digest, device_key=server.device_key, secret=secret).accepted


@pytest.mark.parametrize("sealed", [None, 5, "", "x" * 151, "!" * 151])
def test_bad_sealed_secrets(server: Server, device: SoftwareDevice, bundle: KeyBundle, sealed: object) -> None:
    device.unlock(bundle, "full", GRANT)
    server.challenge_answers.append(created({"challenge": "a", "expires_at": NOW, "sealed": sealed}))
    with pytest.raises((ServiceProtocolError, LicenseWrapError)):
        device.renew(bundle, by_device_key=True)
    assert len(server.requests) == 1


def test_license_id_with_a_slash_stays_in_its_place(server: Server, device: SoftwareDevice, bundle: KeyBundle) -> None:
    server.answers.append(lambda body: server.issue(body, license_id="../a?b"))
    device.unlock(bundle, "full", GRANT)
    device.renew(bundle)
    assert server.requests[-1][0] == "/v1/licenses/..%2Fa%3Fb/renew"


@pytest.mark.parametrize("tier", ["plus", "full"])
def test_lower_tiers(world: World, server: Server, device: SoftwareDevice, bundle: KeyBundle, tier: str) -> None:
    from corelocker.bundle.content_keys import tier_keys

    keys = tier_keys(world.content_key, bundle.id, 3)
    key = keys[bundle.tier(tier)]
    server.answers.append(lambda body: server.issue(body, tier=tier, content_key=key))
    device.unlock(bundle, tier, GRANT)
    with device.restore(world.locked_path, bundle) as restored:
        assert (bytes(restored) == world.original) == (tier == "full")
        assert bytes(restored) != world.locked_path.read_bytes()
    with device.restore(world.locked_path, bundle, "plus") as restored:
        assert bytes(restored) != world.original
    if tier == "plus":
        with pytest.raises(CoreLockerError) as refused:
            device.restore(world.locked_path, bundle, "full")
        assert refused.value.code == "bundle-content-key"


def test_purchases_of_stores(world: World, server: Server, device: SoftwareDevice, bundle: KeyBundle) -> None:
    """What the attestation covers is the token, whatever the provider calls it."""
    for purchase, token in (
        ({"provider": "app-store", "transaction": "t.t.t"}, "t.t.t"),
        ({"provider": "google-play", "kind": "product", "product": "full", "token": "play"}, "play"),
    ):
        device.unlock(bundle, "full", purchase)
        assert server.requests[-1][1]["purchase"] == purchase
        assert accepted(world, server.requests[-1][1], token, server.device_key)
    for purchase in ({"provider": "grant"}, {"token": "x"}, {"provider": "other", "token": "x"}):
        with pytest.raises(ConfigError):
            device.unlock(bundle, "full", purchase)


# --- what it bears -------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["overloaded", "rate-limited", "storage-unavailable", "timeout", "purchase-upstream"])
def test_busy_service(server: Server, device: SoftwareDevice, bundle: KeyBundle, sleeps: Sleeps, code: str) -> None:
    """Tried again later, and never with the same challenge."""
    server.answers += [problem(code), problem(code)]
    assert device.unlock(bundle, "full", GRANT).state == "valid"
    sent = [body["challenge"] for _, body in server.requests]
    assert len(sent) == 3
    assert sent == server.challenges
    assert len(set(sent)) == 3
    assert 0.25 <= sleeps[0] <= 0.5
    assert 0.5 <= sleeps[1] <= 1


@pytest.mark.parametrize("code", ["challenge-used", "challenge-expired"])
def test_spent_challenge(server: Server, device: SoftwareDevice, bundle: KeyBundle, code: str) -> None:
    server.answers.append(problem(code))
    assert device.unlock(bundle, "full", GRANT).state == "valid"
    assert len(server.challenges) == 2


def test_busy_with_challenges(server: Server, device: SoftwareDevice, bundle: KeyBundle) -> None:
    server.challenge_answers += [problem("rate-limited", **{"Retry-After": "1"}), (503, {}, b"<html>busy</html>")]
    assert device.unlock(bundle, "full", GRANT).state == "valid"


def test_retry_after(server: Server, device: SoftwareDevice, bundle: KeyBundle, sleeps: Sleeps) -> None:
    server.answers += [problem("overloaded", **{"Retry-After": "7"}), problem("rate-limited", **{"Retry-After": "30"})]
    device.unlock(bundle, "full", GRANT)
    assert sleeps == [7, 30]


@pytest.mark.parametrize(
    "value", ["31", "99999999999999999999", "-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "\u0661"]
)
def test_strange_retry_after(
    server: Server, device: SoftwareDevice, bundle: KeyBundle, sleeps: Sleeps, value: str
) -> None:
    """More than the device is ready to wait: it gives up and says so. What is no number of seconds does not count."""
    server.answers.append(problem("overloaded", **{"Retry-After": value.encode().decode("latin-1")}))
    if value == "31":
        with pytest.raises(LicensingError) as refused:
            device.unlock(bundle, "full", GRANT)
        assert refused.value.code == "overloaded"
        assert refused.value.retryable
        assert sleeps == []
    else:
        device.unlock(bundle, "full", GRANT)
        assert len(sleeps) == 1
        assert sleeps[0] <= 0.5


def test_it_gives_up(server: Server, device: SoftwareDevice, bundle: KeyBundle, sleeps: Sleeps) -> None:
    server.answers += [problem("purchase-upstream")] * 9
    with pytest.raises(PurchaseUpstreamError):
        device.unlock(bundle, "full", GRANT)
    assert len(server.requests) == 4
    assert len(sleeps) == 3
    server.answers = [(503, {}, b"<html>")] * 4
    with pytest.raises(ServiceBusyError, match="503"):
        device.unlock(bundle, "full", GRANT)


def test_refusals_are_not_repeated(server: Server, device: SoftwareDevice, bundle: KeyBundle, sleeps: Sleeps) -> None:
    server.answers.append(problem("purchase-product"))
    with pytest.raises(PurchaseProductError):
        device.unlock(bundle, "full", GRANT)
    assert len(server.requests) == 1
    assert sleeps == []


def test_no_server(world: World, server: Server, bundle: KeyBundle, sleeps: Sleeps) -> None:
    server.close()
    patience = Patience(attempts=3, sleep=sleeps)
    device = world.device(f"device-{uuid.uuid4()}", port=server.port, patience=patience)
    with pytest.raises(ServiceUnreachableError) as refused:
        device.unlock(bundle, "full", GRANT)
    assert refused.value.retryable
    assert len(sleeps) == 2


@pytest.fixture
def raw_server() -> Iterator[Callable[[Callable[[socket.socket], None]], int]]:
    """Serves every connection with a function of the socket; gives the port."""
    listeners: list[socket.socket] = []

    def serve(talk: Callable[[socket.socket], None]) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def loop() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        connection.recv(65536)
                        talk(connection)
                    except OSError:
                        pass

        threading.Thread(target=loop, daemon=True).start()
        return int(listener.getsockname()[1])

    yield serve
    for listener in listeners:
        listener.close()


def hang(connection: socket.socket) -> None:
    time.sleep(5)
    connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\n ")


def drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        connection.sendall(b" ")
        time.sleep(0.05)


def cut(connection: socket.socket) -> None:
    connection.sendall(b'HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n{"challenge"')


def cut_chunk(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{")


def no_http(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


@pytest.mark.parametrize("talk", [hang, drip, cut, cut_chunk, no_http], ids=lambda talk: talk.__name__)
def test_broken_lines(world: World, bundle: KeyBundle, raw_server: Any, talk: Callable[[socket.socket], None]) -> None:
    patience = Patience(attempts=2, answer=0.3, connect=0.3, sleep=lambda seconds: None)
    device = world.device(f"device-{uuid.uuid4()}", port=raw_server(talk), patience=patience)
    with pytest.raises(ServiceError) as refused:
        device.unlock(bundle, "full", GRANT)
    # Who waits for what comes late finds that it is no JSON, which is "service-protocol".
    assert refused.value.code == "service-unreachable"


ENDLESS = (201, {"Transfer-Encoding": "identity", "Content-Length": str(100 << 20)}, b"[" * (200 << 10))


@pytest.mark.parametrize(
    "answer",
    [
        (201, {}, b""), (201, {}, b"null"), (201, {}, b"[]"), (201, {}, b"{}"), (201, {}, b'{"challenge": 5}'),
        (201, {}, b'{"challenge": ""}'), (201, {}, json.dumps({"challenge": "x" * 257}).encode()),
        (201, {}, b'{"challenge": "a", "challenge": "b"}'), (201, {}, b"[" * 60000), (201, {}, b"\xff"), ENDLESS,
        (200, {}, b'{"challenge": "a"}'), (302, {"Location": "https://example.com/"}, b""), (404, {}, b"<html>"),
        (401, {}, b"{}"), (500, {}, b'{"type": "about:blank", "title": "x"}'),
        (201, {"Content-Encoding": "gzip"}, b"not gzip"),
        (400, {}, b'{"type": "urn:corelocker:problem:app-unknown", "title": 5}'),
        (400, {}, b'{"type": "urn:corelocker:problem:app-unknown", "title": "a\\u0000b"}'),
    ],
)  # fmt: skip
def test_other_programs(server: Server, device: SoftwareDevice, bundle: KeyBundle, answer: Answer) -> None:
    """A captive portal, a proxy, something hostile: typed, bounded, no license request is sent."""
    server.challenge_answers.append(answer)
    with pytest.raises(ServiceProtocolError):
        device.unlock(bundle, "full", GRANT)
    assert server.requests == []
    assert stored(device) == []


def test_compressed_answers_are_not_unpacked(server: Server, device: SoftwareDevice, bundle: KeyBundle) -> None:
    """Nobody asked for them, and they could grow without end."""
    packed = gzip.compress(b'{"challenge": "a"}')
    server.challenge_answers.append((201, {"Content-Encoding": "gzip"}, packed))
    with pytest.raises(ServiceProtocolError):
        device.unlock(bundle, "full", GRANT)


def test_https(world: World, server: Server, bundle: KeyBundle, clock: Clock, sleeps: Sleeps) -> None:
    """Only a certificate of the pinned authority, for this very address, is talked to; nothing is tried again."""
    root = DevelopmentRoot.create("authority", datetime.now(UTC))
    folder = world.folder / f"https-{uuid.uuid4()}"
    folder.mkdir()
    (folder / "ca.pem").write_text(root.certificate)
    key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.load_pem_x509_certificate(root.certificate.encode())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "service")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(root.key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.pem").write_bytes(private + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)

    def device(host: str, ca_file: Path | None) -> SoftwareDevice:
        return world.device(
            f"device-{uuid.uuid4()}",
            service=f"https://{host}:{server.port}",
            ca_file=None if ca_file is None else str(ca_file),
            read_clocks=clock,
            patience=Patience(sleep=sleeps),
        )

    assert device("127.0.0.1", folder / "ca.pem").unlock(bundle, "full", GRANT).state == "valid"
    for host, ca_file in (("127.0.0.1", None), ("localhost", folder / "ca.pem")):
        with pytest.raises(ServiceUnreachableError, match="certificate"):
            device(host, ca_file).unlock(bundle, "full", GRANT)
    assert sleeps == []


# --- what it believes ----------------------------------------------------------------------------


def signer() -> SoftwareSigner:
    return SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))


def other_key() -> ec.EllipticCurvePublicKey:
    return ec.generate_private_key(ec.SECP256R1()).public_key()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"signer": signer()}, LicenseSignatureError),
        ({"device_key": other_key()}, LicenseDeviceError),
        ({"bundle": str(uuid.uuid4())}, LicenseBundleError),
        ({"tier": "plus"}, LicenseTierError),
        ({"issuer": "https://other.example.com"}, LicenseError),
        ({"app": "com.example.other"}, LicenseError),
        ({"environment": "production"}, LicenseError),
        ({"model_version": 2}, LicenseError),
        ({"issued_at": NOW - 100, "expires_at": NOW - 1}, LicenseExpiredError),
        ({"not_before": NOW + 10**6}, LicenseError),
    ],
)
def test_wrong_licenses_are_not_stored(
    server: Server, device: SoftwareDevice, bundle: KeyBundle, changes: dict[str, Any], error: type[LicenseError]
) -> None:
    good = device.unlock(bundle, "full", GRANT).license
    server.answers.append(lambda body: server.issue(body, **changes))
    with pytest.raises(error):
        device.unlock(bundle, "full", GRANT)
    assert device.current(bundle).license == good


@pytest.mark.parametrize("value", [None, 5, "", "a.b.c", "x" * 20000, {"a": 1}])
def test_what_is_no_license(server: Server, device: SoftwareDevice, bundle: KeyBundle, value: object) -> None:
    server.answers.append(created({"license": value}))
    with pytest.raises(LicenseFormatError):
        device.unlock(bundle, "full", GRANT)
    assert stored(device) == []


def test_wrapped_to_another_info(server: Server, device: SoftwareDevice, bundle: KeyBundle, world: World) -> None:
    """Signed, but the content key does not open: it is found out before the license is stored."""

    def swapped(body: dict[str, Any]) -> Answer:
        from corelocker.bundle.strict_json import parse_object
        from corelocker.licensing.tokens import write_token

        claims = [
            parse_object(jose.decode_base64url(json.loads(server.issue(body)[2])["license"].split(".")[1]))
            for _ in range(2)
        ]
        token = claims[0] | {"wk": claims[1]["wk"]}
        signing = SoftwareSigner(world.keystore.signing_key)
        return created({"license": write_token(token, "corelocker-license+jwt", signing)})

    server.answers.append(swapped)
    with pytest.raises(LicenseError) as refused:
        device.unlock(bundle, "full", GRANT)
    assert refused.value.code == "license-wrap"
    assert stored(device) == []


def test_every_problem_has_a_typed_error() -> None:
    """A device knows each code that a service can send; those of HTTP itself are ServiceErrors that name it."""
    for code in PROBLEMS:
        error = error_of_problem(json.dumps(of_code(code).members()).encode())
        if type(error) is ServiceError:
            assert PROBLEMS[code].status in (404, 405, 408, 413, 415, 429, 431, 500, 503), code
            assert code in str(error)
        elif code == "attestation-refused":
            assert type(error) is AttestationError
        else:
            assert error.code == code
    unknown = {"type": "urn:corelocker:problem:brand-new", "title": "New", "detail": "It is new."}
    error = error_of_problem(json.dumps(unknown).encode())
    assert type(error) is ServiceError
    assert "brand-new" in str(error)


CODES = st.sampled_from(["device-limit", "attestation-refused", "license-revoked", "purchase-upstream", "x", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=4,
)  # fmt: skip
PROBLEM_JSON = st.fixed_dictionaries(
    {"type": CODES.map("urn:corelocker:problem:".__add__) | VALUES},
    optional=dict.fromkeys(("title", "status", "detail", "retry_at", "retry_after"), VALUES),
).map(lambda members: json.dumps(members).encode())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | PROBLEM_JSON)
def test_whatever_comes_as_a_problem(data: bytes) -> None:
    try:
        found = error_of_problem(data)
    except ServiceProtocolError as error:
        found = error
    assert isinstance(found, LicensingError)
    assert len(str(found)) < 700


def test_device_limit_says_when(server: Server, device: SoftwareDevice, bundle: KeyBundle) -> None:
    members = of_code("device-limit").members() | {"retry_at": NOW + 5 * DAY}
    server.answers.append((409, {}, json.dumps(members).encode()))
    with pytest.raises(DeviceLimitError) as refused:
        device.unlock(bundle, "full", GRANT)
    assert refused.value.retry_at == NOW + 5 * DAY


@pytest.mark.parametrize(
    ("code", "error", "stays"),
    [
        ("license-revoked", LicenseRevokedError, False),
        ("purchase-revoked", PurchaseRevokedError, False),
        ("device-inactive", DeviceInactiveError, False),
        ("purchase-expired", PurchaseExpiredError, True),
        ("attestation-refused", AttestationError, True),
        ("internal-error", ServiceError, True),
    ],
)
def test_refused_renewals(
    server: Server, device: SoftwareDevice, bundle: KeyBundle, code: str, error: type[LicensingError], stays: bool
) -> None:
    device.unlock(bundle, "full", GRANT)
    server.answers.append(problem(code))
    with pytest.raises(error):
        device.renew(bundle)
    if stays:
        assert device.current(bundle).state == "valid"
    else:
        with pytest.raises(NotUnlockedError):
            device.current(bundle)


# --- offline -------------------------------------------------------------------------------------


def test_without_a_license(world: World, device: SoftwareDevice, bundle: KeyBundle) -> None:
    for action in (lambda: device.current(bundle), lambda: device.renew(bundle),
                   lambda: device.restore(world.locked_path, bundle)):  # fmt: skip
        with pytest.raises(NotUnlockedError):
            action()
    device.forget(bundle)
    assert device.licenses() == []


def test_time_passes(world: World, server: Server, device: SoftwareDevice, bundle: KeyBundle, clock: Clock) -> None:
    device.unlock(bundle, "full", GRANT)
    clock.wall += 20 * DAY
    assert device.current(bundle).state == "renew"
    clock.wall = NOW + 30 * DAY
    with pytest.raises(LicenseExpiredError):
        device.restore(world.locked_path, bundle)
    # Turned back by its owner: the mark on disk remembers, also after a restart of the program.
    clock.wall, clock.boot = NOW, "second"
    again = SoftwareDevice.open(device.folder, read_clocks=clock)
    with pytest.raises(LicenseClockError):
        again.current(bundle)
    clock.wall = NOW + 31 * DAY
    server.answers.append(lambda body: server.issue(body, issued_at=NOW + 31 * DAY, expires_at=NOW + 61 * DAY))
    assert device.renew(bundle).state == "valid"


def test_a_damaged_record_of_the_time(server: Server, device: SoftwareDevice, bundle: KeyBundle, clock: Clock) -> None:
    """Offline it makes the license useless, whatever the clock says; only a new unlock mends it."""
    device.unlock(bundle, "full", GRANT)
    (device.folder / "clock.json").write_bytes(b"{")
    clock.wall = NOW - 400 * DAY
    with pytest.raises(LicenseClockError):
        device.current(bundle)
    server.answers.append(problem("purchase-product"))
    with pytest.raises(PurchaseProductError):
        device.unlock(bundle, "full", GRANT)
    with pytest.raises(LicenseClockError):
        device.current(bundle)
    clock.wall = NOW
    device.unlock(bundle, "full", GRANT)
    assert device.current(bundle).state == "valid"
    clock.wall = NOW - 400 * DAY
    with pytest.raises(LicenseClockError):
        device.current(bundle)


def test_offline_grace(world: World, server: Server, bundle: KeyBundle, clock: Clock) -> None:
    name = f"device-{uuid.uuid4()}"
    device = world.device(name, port=server.port, read_clocks=clock, offline_grace=2 * DAY)
    device.unlock(bundle, "full", GRANT)
    clock.wall = NOW + 31 * DAY
    assert device.current(bundle).state == "grace"
    clock.wall = NOW + 32 * DAY
    with pytest.raises(LicenseExpiredError):
        device.current(bundle)


def test_a_license_of_another_device_is_of_no_use(
    world: World, server: Server, device: SoftwareDevice, bundle: KeyBundle, clock: Clock
) -> None:
    other = world.device(f"device-{uuid.uuid4()}", port=server.port, read_clocks=clock)
    device.unlock(bundle, "full", GRANT)
    (path,) = stored(device)
    (other.folder / "licenses" / path.name).write_bytes(path.read_bytes())
    (other.folder / "licenses" / path.name).chmod(0o600)
    with pytest.raises(LicenseDeviceError):
        other.current(bundle)


def test_a_damaged_license(server: Server, device: SoftwareDevice, bundle: KeyBundle) -> None:
    device.unlock(bundle, "full", GRANT)
    (path,) = stored(device)
    good = path.read_bytes()
    for damaged in (b"", b"x", good[:-1], good[:100], bytes([good[0] ^ 1]) + good[1:], b"\xff\xfe", b"a" * 20000):
        path.write_bytes(damaged)
        with pytest.raises((LicenseError, FileAccessError)):
            device.current(bundle)
    for place in range(0, len(good), 7):
        path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        with pytest.raises(LicenseError):
            device.current(bundle)


def test_a_bundle_of_another_publisher(device: SoftwareDevice, tmp_path: Path) -> None:
    stranger = World(tmp_path, "sqlite:///x.sqlite")
    with pytest.raises(BundlePublisherError):
        device.open_bundle(stranger.bundle_path)
    with stranger.bundle() as opened, pytest.raises(BundlePublisherError):
        device.unlock(opened, "full", GRANT)


# --- its folder ----------------------------------------------------------------------------------


def test_folder(server: Server, device: SoftwareDevice, bundle: KeyBundle, clock: Clock) -> None:
    device.unlock(bundle, "full", GRANT)
    files = sorted(path.relative_to(device.folder).as_posix() for path in device.folder.rglob("*") if path.is_file())
    assert files == [
        "attestation.pem", "clock.json", "device-key.pem", "device.json", f"licenses/{bundle.id}.jws",
    ]  # fmt: skip
    assert all((device.folder / name).stat().st_mode & 0o777 == 0o600 for name in files)
    assert device.folder.stat().st_mode & 0o777 == 0o700
    again = SoftwareDevice.open(device.folder, read_clocks=clock)
    assert (again.thumbprint, again.config) == (device.thumbprint, device.config)
    assert again.current(bundle) == device.current(bundle)
    assert [entry.bundle for entry in again.licenses()] == [str(bundle.id)]
    with pytest.raises(OutputExistsError):
        SoftwareDevice.create(device.folder, device.config, device._attestation_key)


@pytest.mark.parametrize("name", ["device.json", "device-key.pem", "attestation.pem"])
def test_damaged_folders(device: SoftwareDevice, name: str) -> None:
    path = device.folder / name
    good = path.read_bytes()
    for damaged in (b"", b"{}", good[: len(good) // 2], b"\xff" * 100, b"[" * 10000, good.replace(b"A", b"B")):
        path.write_bytes(damaged)
        with contextlib.suppress(ConfigError):
            SoftwareDevice.open(device.folder)
    path.write_bytes(b"x" * (1 << 20))
    with pytest.raises(FileAccessError):
        SoftwareDevice.open(device.folder)
    path.unlink()
    with pytest.raises(FileAccessError):
        SoftwareDevice.open(device.folder)


@pytest.mark.parametrize("name", ["device.json", "device-key.pem", "attestation.pem"])
def test_files_that_others_can_read(device: SoftwareDevice, name: str) -> None:
    (device.folder / name).chmod(0o640)
    with pytest.raises(FileAccessError, match="chmod 600"):
        SoftwareDevice.open(device.folder)


def test_keys_of_another_curve(device: SoftwareDevice) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    (device.folder / "device-key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConfigError):
        SoftwareDevice.open(device.folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"service": "http://unlock.example.com"}, {"service": "ftp://127.0.0.1"}, {"service": "unlock.example.com"},
        {"service": "http://127.0.0.1.example.com"}, {"service": "http://localhost@example.com"}, {"app": ""},
        {"publisher": "short"}, {"offline_grace": -1}, {"service_keys": ()}, {"service_keys": ({"kty": "RSA"},)},
        {"issuer": ""}, {"service": "http://["}, {"service": "https://[::1"},
    ],
)  # fmt: skip
def test_configurations_that_are_refused(world: World, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        world.device_config(**changes)


def test_configuration_round_trip(world: World) -> None:
    config = world.device_config(offline_grace=7, ca_file="/etc/ca.pem")
    assert DeviceConfig.from_json(config.to_json()) == config
    assert DeviceConfig.from_json(replace(config, ca_file=None).to_json()) == replace(config, ca_file=None)


def test_nothing_secret_is_shown(server: Server, device: SoftwareDevice, bundle: KeyBundle, world: World) -> None:
    """Not the grant in an error, not the license in a repr."""
    verified = device.unlock(bundle, "full", GRANT | {"token": "secret.grant.token"})
    assert jose.encode_base64url(verified.license.wrapped_key) not in repr(verified)
    assert "wrapped_key" not in repr(verified)
    server.answers.append(problem("internal-error"))
    with pytest.raises(ServiceError) as refused:
        device.unlock(bundle, "full", GRANT | {"token": "secret.grant.token"})
    assert "secret.grant" not in repr(refused.value) + str(refused.value.__cause__) + str(refused.value.__context__)


def test_proxies_of_the_environment_do_not_see_a_local_service(
    server: Server, device: SoftwareDevice, bundle: KeyBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "http_proxy", "http://127.0.0.1:9")
    monkeypatch.setitem(os.environ, "HTTP_PROXY", "http://127.0.0.1:9")
    assert device.unlock(bundle, "full", GRANT).state == "valid"
