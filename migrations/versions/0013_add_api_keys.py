"""Add API keys."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "authz_api_keys",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=253), nullable=False),
        sa.Column("namespace", sa.String(length=63), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("mac", sa.LargeBinary(length=32), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_authz_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_authz_api_keys_digest")),
    )
    op.create_index(op.f("ix_authz_api_keys_expires_at"), "authz_api_keys", ["expires_at"], unique=False)
    op.create_index(op.f("ix_authz_api_keys_revoked_at"), "authz_api_keys", ["revoked_at"], unique=False)
    op.create_index(op.f("ix_authz_api_keys_revision"), "authz_api_keys", ["revision"], unique=False)
    op.create_table(
        "authz_api_key_revisions",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_authz_api_key_revisions")),
    )
