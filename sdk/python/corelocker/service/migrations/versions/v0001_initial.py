"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_SQLITE_TRIGGERS = (
    "CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit "
    "BEGIN SELECT RAISE(ABORT, 'the audit log can only be added to'); END",
    "CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit WHEN OLD.id >= "
    "coalesce((SELECT CAST(value AS INTEGER) FROM settings WHERE name = 'audit-kept-from'), 0) "
    "BEGIN SELECT RAISE(ABORT, 'the audit log can only be added to'); END",
)
_POSTGRESQL_TRIGGERS = (
    "CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS "
    "$$BEGIN IF TG_OP = 'DELETE' THEN "
    "IF OLD.id < coalesce((SELECT value::bigint FROM settings WHERE name = 'audit-kept-from'), 0) THEN "
    "RETURN OLD; END IF; END IF; "
    "RAISE EXCEPTION 'the audit log can only be added to'; END$$",
    "CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_refuse()",
    "CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()",
)


def upgrade() -> None:
    """Make the tables. One function, because a migration is one list of statements in the order in which they run."""
    op.create_table(
        "settings",
        sa.Column("name", sa.String(256), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "consumed_challenges",
        sa.Column("id", sa.LargeBinary(32), primary_key=True),
        sa.Column("expires_at", sa.BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "entitlements",
        sa.Column("provider", sa.String(32), primary_key=True),
        sa.Column("app", sa.String(256), primary_key=True),
        sa.Column("purchase_id", sa.String(512), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("blocked", sa.Text, nullable=False),
        sa.Column("unacknowledged", sa.Boolean, nullable=False, index=True),
    )
    op.create_table(
        "licenses",
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
        sa.Column("attest_key", sa.LargeBinary(32)),
        sa.Column("chain_serials", sa.Text),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("replaced_by", sa.String(64)),
        sa.Index("ix_licenses_purchase", "provider", "purchase_app", "purchase_id"),
    )
    op.create_table(
        "attest_keys",
        sa.Column("key_id", sa.LargeBinary(32), primary_key=True),
        sa.Column("app", sa.String(256), nullable=False),
        sa.Column("public_key", sa.LargeBinary(65), nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("outcome", sa.String(64), nullable=False),
        sa.Column("detail", sa.String(512)),
        sa.Column("app", sa.String(256)),
        sa.Column("bundle", sa.String(256)),
        sa.Column("tier", sa.String(256)),
        sa.Column("device", sa.String(43)),
        sa.Column("license_id", sa.String(256)),
        sa.Column("provider", sa.String(32)),
        sa.Column("purchase", sa.String(16)),
        sqlite_autoincrement=True,
    )
    triggers = _SQLITE_TRIGGERS if op.get_bind().dialect.name == "sqlite" else _POSTGRESQL_TRIGGERS
    for statement in triggers:
        op.execute(statement)
