"""nginx, Caddy and HAProxy with the configurations of deploy/, on ports of their own: for tests behind a proxy."""

from __future__ import annotations

import datetime
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from support.unlock_world import free_port

DEPLOY = Path(__file__).parents[3] / "deploy"
HOST = "unlock.example.com"
PROXIES = ("nginx", "caddy", "haproxy")


@dataclass(frozen=True)
class Proxy:
    """A proxy that runs.

    Attributes:
        port: where it listens with TLS.
        ca_file: the certificate that its clients trust.
    """

    port: int
    ca_file: Path

    def connect(self, seconds: float = 10) -> ssl.SSLSocket:
        """A connection to it, HTTP/1.1 within TLS."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        context.set_alpn_protocols(["http/1.1"])
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=seconds)
        return context.wrap_socket(raw, server_hostname=HOST)


def make_certificate(folder: Path) -> Path:
    """A key and a certificate of its own for HOST: fullchain.pem, privkey.pem, and both.pem; returns the first."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )  # fmt: skip
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for file, data in {"fullchain.pem": certificate, "privkey.pem": private, "both.pem": certificate + private}.items():
        (folder / file).write_bytes(data)
    return folder / "fullchain.pem"


@contextmanager
def proxy(kind: str, folder: Path, service_port: int) -> Iterator[Proxy]:
    """The proxy in front of a service of this machine; what it writes is in `folder`."""
    program = shutil.which(kind, path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip(f"no {kind} here: apt-get install {kind}")
    port = free_port()
    certificate = make_certificate(folder / "tls")
    log = (folder / "proxy.log").open("ab")
    environment = os.environ | {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    process = subprocess.Popen(
        [program, *arguments(kind, folder, port, service_port)],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                raise RuntimeError((folder / "proxy.log").read_text())
            time.sleep(0.05)
        yield Proxy(port, certificate)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def arguments(kind: str, folder: Path, port: int, service_port: int) -> list[str]:
    """The arguments of the program; its configuration is the one of deploy/ with other ports and places."""
    name = {"nginx": "nginx.conf", "caddy": "Caddyfile", "haproxy": "haproxy.cfg"}[kind]
    text = (DEPLOY / name).read_text()
    changes = {"/etc/corelocker/tls": str(folder / "tls"), "127.0.0.1:8440": f"127.0.0.1:{service_port}"}
    changes |= {
        "nginx": {"listen 443": f"listen 127.0.0.1:{port}"},
        "caddy": {"\n{\n": f"\n{{\n\tadmin off\n\tauto_https off\n\tdefault_bind 127.0.0.1\n\thttps_port {port}\n"},
        "haproxy": {"bind :443": f"bind 127.0.0.1:{port}"},
    }[kind]
    for old, new in changes.items():
        # Caddy has the service's address in a variable's default.
        assert old in text, (name, old)
        text = text.replace(old, new)
    file = folder / name
    if kind == "nginx":
        temporary = "".join(
            f"{part}_temp_path {folder}/{part};" for part in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = f"daemon off; pid {folder}/pid; user root; events {{}}\nhttp {{ access_log off; {temporary}\n{text}}}\n"
    file.write_text(text)
    return {
        "nginx": ["-p", str(folder), "-e", str(folder / "error.log"), "-c", str(file)],
        "caddy": ["run", "--config", str(file), "--adapter", "caddyfile"],
        "haproxy": ["-db", "-f", str(file)],
    }[kind]
