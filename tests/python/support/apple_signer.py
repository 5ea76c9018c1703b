"""Signs data as the App Store does, under a root of its own: three certificates with Apple's marks, ES256."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Mapping
from typing import Any

from corelocker.bundle import jose
from corelocker.purchases.app_store import AppStore, AppStoreConfig
from corelocker.purchases.entitlements import Purchase
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

LEAF_MARK = "1.2.840.113635.100.6.11.1"
INTERMEDIATE_MARK = "1.2.840.113635.100.6.2.1"
BEGIN = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
END = datetime.datetime(2034, 1, 1, tzinfo=datetime.UTC)


class AppleSigner:
    """A root, an intermediate and a leaf; each mark can be left out, and the leaf's validity chosen."""

    def __init__(
        self,
        *,
        leaf_mark: bool = True,
        intermediate_mark: bool = True,
        leaf_end: datetime.datetime = END,
        root: AppleSigner | None = None,
    ) -> None:
        if root is None:
            self._root_key: ec.EllipticCurvePrivateKey = ec.generate_private_key(ec.SECP384R1())
            self._root = self._certificate("root", self._root_key, None, None, ca=True)
        else:
            self._root_key, self._root = root._root_key, root._root
        intermediate_key = ec.generate_private_key(ec.SECP384R1())
        intermediate = self._certificate(
            "intermediate",
            intermediate_key,
            self._root,
            self._root_key,
            ca=True,
            mark=INTERMEDIATE_MARK if intermediate_mark else None,
        )
        self.leaf_key = ec.generate_private_key(ec.SECP256R1())
        leaf = self._certificate(
            "leaf",
            self.leaf_key,
            intermediate,
            intermediate_key,
            ca=False,
            mark=LEAF_MARK if leaf_mark else None,
            end=leaf_end,
        )
        self.root = self._root.public_bytes(Encoding.DER)
        self.chain = [leaf.public_bytes(Encoding.DER), intermediate.public_bytes(Encoding.DER), self.root]

    def sign(self, payload: Mapping[str, Any] | bytes, **header: Any) -> str:
        head = {"alg": "ES256", "x5c": [base64.b64encode(part).decode() for part in self.chain]} | header
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        signing_input = f"{jose.encode_base64url(json.dumps(head).encode())}.{jose.encode_base64url(body)}"
        return f"{signing_input}.{jose.encode_base64url(jose.sign(self.leaf_key, signing_input.encode()))}"

    def _certificate(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: x509.Certificate | None,
        issuer_key: ec.EllipticCurvePrivateKey | None,
        *,
        ca: bool,
        mark: str | None = None,
        end: datetime.datetime = END,
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Test {name}")])
        usage = dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        issuer_public = (issuer_key or key).public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(BEGIN)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **usage), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public), critical=False)
        )
        if mark is not None:
            null = x509.UnrecognizedExtension(ObjectIdentifier(mark), b"\x05\x00")
            builder = builder.add_extension(null, critical=False)
        return builder.sign(issuer_key or key, hashes.SHA384())


NOW = 1_800_000_000_000
DAY = 86_400_000
APPLE = AppleSigner()
CONFIG = AppStoreConfig("development", "com.example.camera", 1234, roots=(APPLE.root,))
STORE = AppStore(CONFIG)
ACCOUNT = "7e3fb20b-4cdb-47cc-936d-99d65f608138"


def transaction(**changes: Any) -> dict[str, Any]:
    payload = {
        "transactionId": "2000",
        "originalTransactionId": "1000",
        "bundleId": "com.example.camera",
        "productId": "pro",
        "purchaseDate": NOW - DAY,
        "originalPurchaseDate": NOW - DAY,
        "quantity": 1,
        "type": "Non-Consumable",
        "appAccountToken": ACCOUNT,
        "inAppOwnershipType": "PURCHASED",
        "signedDate": NOW - 1000,
        "environment": "Sandbox",
        "transactionReason": "PURCHASE",
    } | changes
    return {name: value for name, value in payload.items() if value is not None}


SUBSCRIPTION = {"type": "Auto-Renewable Subscription", "expiresDate": NOW + 30 * DAY}


def shown(
    config: AppStoreConfig = CONFIG, account: str | None = None, renewal: str | None = None, **changes: Any
) -> Purchase:
    signed = APPLE.sign(transaction(**changes))
    return AppStore(config).verify(signed, now_ms=NOW, account=account, renewal=renewal)


def renewal_info(**changes: Any) -> str:
    payload = {
        "originalTransactionId": "1000",
        "productId": "pro",
        "autoRenewStatus": 1,
        "environment": "Sandbox",
        "signedDate": NOW - 1000,
    }
    return APPLE.sign(payload | changes)
