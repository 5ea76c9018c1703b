"""Purchases as StoreKit's test environment in Xcode signs them: with a key that nobody knows."""

from __future__ import annotations

import json
import time
from typing import Any

from corelocker.bundle import jose
from cryptography.hazmat.primitives.asymmetric import ec


def transaction(app: str, product: str, **changes: Any) -> str:
    """The JWS of a transaction for the app with this bundle identifier; `changes` are claims."""
    now = int(time.time() * 1000)
    claims = {"bundleId": app, "environment": "Xcode", "inAppOwnershipType": "PURCHASED", "originalTransactionId": product,
              "productId": product, "purchaseDate": now, "signedDate": now, "transactionId": product,
              "type": "Non-Consumable"}  # fmt: skip
    if product.endswith(".monthly"):
        claims |= {"type": "Auto-Renewable Subscription", "expiresDate": now + 30 * 86_400_000}
    head, body = (json.dumps(part).encode() for part in ({"alg": "ES256", "kid": "Apple_Xcode_Key"}, claims | changes))
    signed = f"{jose.encode_base64url(head)}.{jose.encode_base64url(body)}"
    signature = jose.sign(ec.generate_private_key(ec.SECP256R1()), signed.encode())
    return f"{signed}.{jose.encode_base64url(signature)}"
