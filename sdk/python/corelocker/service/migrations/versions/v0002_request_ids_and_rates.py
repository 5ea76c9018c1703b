"""Rows of the audit log name their request; hosts on one database share their rate limits."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add a column that old rows leave empty, and a table that starts empty."""
    op.add_column("audit", sa.Column("request_id", sa.String(16)))
    op.create_table(
        "rates",
        sa.Column("subject", sa.String(64), primary_key=True),
        sa.Column("empty_at", sa.Float(53), nullable=False),
    )
