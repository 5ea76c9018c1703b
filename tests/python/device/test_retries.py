"""What the software device bears: busy services, broken lines, other programs."""

from __future__ import annotations

import gzip
import ipaddress
import json
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from corelocker.bundle.clkey import KeyBundle
from corelocker.device.errors import (
    ServiceBusyError,
    ServiceError,
    ServiceProtocolError,
    ServiceUnreachableError,
)
from corelocker.device.software import SoftwareDevice
from corelocker.device.unlock_client import LIMITS
from corelocker.licensing.development import DevelopmentRoot
from corelocker.licensing.errors import (
    LicensingError,
    PurchaseProductError,
    PurchaseUpstreamError,
)
from corelocker.licensing.http_client import RetryPolicy
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from support.unlock_server import GRANT, Answer, Clock, Server, Sleeps, problem, stored
from support.unlock_world import World


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
    retry = RetryPolicy(attempts=3, sleep=sleeps)
    device = world.device(f"device-{uuid.uuid4()}", port=server.port, retry=retry)
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
    retry = RetryPolicy(attempts=2, sleep=lambda seconds: None)
    limits = replace(LIMITS, connect=0.3, answer=0.3)
    device = world.device(f"device-{uuid.uuid4()}", port=raw_server(talk), retry=retry, limits=limits)
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
            ca_file=ca_file,
            read_clocks=clock,
            retry=RetryPolicy(sleep=sleeps),
        )

    assert device("127.0.0.1", folder / "ca.pem").unlock(bundle, "full", GRANT).state == "valid"
    for host, ca_file in (("127.0.0.1", None), ("localhost", folder / "ca.pem")):
        with pytest.raises(ServiceUnreachableError, match="certificate"):
            device(host, ca_file).unlock(bundle, "full", GRANT)
    assert sleeps == []
