"""The tables of the service's database; `migrations` makes them, and a test holds both together."""

from __future__ import annotations

import sqlalchemy as sa

# The newest revision in migrations/versions.
REVISION = "0002"

metadata = sa.MetaData()

settings = sa.Table(
    "settings",
    metadata,
    sa.Column("name", sa.String(256), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
consumed_challenges = sa.Table(
    "consumed_challenges",
    metadata,
    sa.Column("id", sa.LargeBinary(32), primary_key=True),
    sa.Column("expires_at", sa.BigInteger, nullable=False, index=True),
)
entitlements = sa.Table(
    "entitlements",
    metadata,
    sa.Column("provider", sa.String(32), primary_key=True),
    sa.Column("app", sa.String(256), primary_key=True),
    sa.Column("purchase_id", sa.String(512), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    # Device keys that an operator has shut out, a JSON list of thumbprints.
    sa.Column("blocked", sa.Text, nullable=False),
    sa.Column("unacknowledged", sa.Boolean, nullable=False, index=True),
)
licenses = sa.Table(
    "licenses",
    metadata,
    sa.Column("jti", sa.String(64), primary_key=True),
    sa.Column("app", sa.String(256), nullable=False),
    sa.Column("bundle", sa.String(36), nullable=False),
    sa.Column("model_version", sa.BigInteger, nullable=False),
    sa.Column("tier", sa.String(256), nullable=False),
    sa.Column("device", sa.String(43), nullable=False, index=True),
    sa.Column("device_jwk", sa.Text, nullable=False),
    sa.Column("provider", sa.String(32), nullable=False),
    sa.Column("purchase_app", sa.String(256), nullable=False),
    sa.Column("purchase_id", sa.String(512), nullable=False),
    sa.Column("format", sa.String(32), nullable=False),
    # App Attest: the key that has to sign renewals. Android: serial numbers of the chain, JSON list of hex.
    sa.Column("attest_key", sa.LargeBinary(32)),
    sa.Column("chain_serials", sa.Text),
    sa.Column("issued_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
    sa.Column("replaced_by", sa.String(64)),
    sa.Index("ix_licenses_purchase", "provider", "purchase_app", "purchase_id"),
)
attest_keys = sa.Table(
    "attest_keys",
    metadata,
    sa.Column("key_id", sa.LargeBinary(32), primary_key=True),
    sa.Column("app", sa.String(256), nullable=False),
    sa.Column("public_key", sa.LargeBinary(65), nullable=False),
    sa.Column("counter", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("event", sa.String(32), nullable=False),
    # "ok", or the code of the error.
    sa.Column("outcome", sa.String(64), nullable=False),
    # Why: the attestation's reason and detail, the kind of a notice, the operator's words.
    sa.Column("detail", sa.String(512)),
    sa.Column("app", sa.String(256)),
    sa.Column("bundle", sa.String(256)),
    sa.Column("tier", sa.String(256)),
    sa.Column("device", sa.String(43)),
    sa.Column("license_id", sa.String(256)),
    sa.Column("provider", sa.String(32)),
    # `purchase_tag` of the purchase, not its identifier.
    sa.Column("purchase", sa.String(16)),
    # Of the request that was decided; None for what operators and the service itself do.
    sa.Column("request_id", sa.String(16)),
    sqlite_autoincrement=True,
)
rates = sa.Table(
    "rates",
    metadata,
    # `shared_limits` says whose.
    sa.Column("subject", sa.String(64), primary_key=True),
    # When its leaky bucket is empty again, Unix seconds.
    sa.Column("empty_at", sa.Float(53), nullable=False),
)
