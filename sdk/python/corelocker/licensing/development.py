"""Development attestation keys, for emulators, simulators, CI and the software device. They prove nothing about a device.

A publisher's development root certifies attestation keys. Such a key (in a debug build, in CI) signs the digest of the
attested request, and a service in the development environment accepts it: ECDSA P-256 with SHA-256, in DER, over the ASCII
bytes of `DOMAIN`, a zero byte and the digest (docs/formats.md, "Proofs").
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from corelocker.errors import ConfigError
from corelocker.licensing.evidence import DevelopmentEvidence

DOMAIN = b"corelocker development attestation v1"


def signed_bytes(request_digest: bytes) -> bytes:
    """What a development key signs."""
    return DOMAIN + b"\0" + request_digest


@dataclass(frozen=True, slots=True)
class DevelopmentRoot:
    """A development root: certifies attestation keys.

    Attributes:
        key: the P-256 private key.
        certificate: the self-signed certificate in PEM, which a development service is configured with.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: str

    @classmethod
    def create(cls, name: str, now: datetime, lifetime: timedelta = timedelta(days=3650)) -> Self:
        """Make a new root."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _issue(name, name, key.public_key(), key, now, lifetime, is_ca=True)
        return cls(key, certificate.public_bytes(Encoding.PEM).decode())

    def issue(self, name: str, now: datetime, lifetime: timedelta = timedelta(days=90)) -> DevelopmentKey:
        """Certify a new attestation key for a person, a build or a machine called `name`."""
        issuer = x509.load_pem_x509_certificate(self.certificate.encode()).subject
        issuer_name = str(issuer.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _issue(name, issuer_name, key.public_key(), self.key, now, lifetime, is_ca=False)
        return DevelopmentKey(key, certificate.public_bytes(Encoding.DER))

    def private_pem(self) -> str:
        """The root's key, unencrypted PKCS #8. It opens development services, so keep it out of apps."""
        return _private_pem(self.key)

    @classmethod
    def from_pem(cls, key: str, certificate: str) -> Self:
        """The inverse of `private_pem` and `certificate`. Raises ConfigError."""
        try:
            x509.load_pem_x509_certificate(certificate.encode())
        except ValueError:
            raise ConfigError("the development root's PEM holds no certificate") from None
        return cls(_load_key(key), certificate)


@dataclass(frozen=True, slots=True)
class DevelopmentKey:
    """A certified attestation key: what a debug build or the software device holds.

    Attributes:
        key: the P-256 private key.
        certificate: its certificate, DER.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: bytes

    def attest(self, request_digest: bytes) -> DevelopmentEvidence:
        """Vouch for the request with this digest (32 bytes)."""
        return DevelopmentEvidence(self.certificate, self.key.sign(signed_bytes(request_digest), ec.ECDSA(SHA256())))

    def to_pem(self) -> str:
        """The certificate and the key (unencrypted PKCS #8) in one PEM text."""
        certificate = x509.load_der_x509_certificate(self.certificate)
        return certificate.public_bytes(Encoding.PEM).decode() + _private_pem(self.key)

    @classmethod
    def from_pem(cls, pem: str) -> Self:
        """The inverse of `to_pem`. Raises ConfigError."""
        try:
            certificate = x509.load_pem_x509_certificate(pem.encode())
        except ValueError as error:
            raise ConfigError("the development key's PEM holds no certificate") from error
        return cls(_load_key(pem), certificate.public_bytes(Encoding.DER))


def _issue(
    name: str,
    issuer: str,
    public: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    now: datetime,
    lifetime: timedelta,
    *,
    is_ca: bool,
) -> x509.Certificate:
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
    )
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_ca, key_cert_sign=is_ca, encipher_only=False, decipher_only=False, **usage
            ),
            critical=True,
        )
        .sign(signer, SHA256())
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "CoreLocker development"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _load_key(pem: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem[max(pem.find("-----BEGIN PRIVATE KEY"), 0) :].encode(), None)
    except (ValueError, TypeError) as error:
        raise ConfigError("the development key is not an unencrypted PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError("the development key is not on the curve P-256")
    return key
