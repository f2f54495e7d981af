"""Add bans of identities and certificates."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "ca_bans",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=2048), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("mac", sa.LargeBinary(length=32), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ca_bans")),
        sa.UniqueConstraint("subject", name=op.f("uq_ca_bans_subject")),
    )
    op.create_index(op.f("ix_ca_bans_expires_at"), "ca_bans", ["expires_at"], unique=False)
    op.create_table(
        "ca_ban_revisions",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ca_ban_revisions")),
    )
    # A transaction that issues locks the row against the first ban as well.
    op.execute("INSERT INTO ca_ban_revisions (id, revision) VALUES (1, 0)")
