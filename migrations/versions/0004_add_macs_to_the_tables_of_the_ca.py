"""Add MACs to the tables of the CA."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    # Rows that exist stay without one: the replica that makes the secret decides about them at its start.
    for table in ("ca_roots", "ca_signers", "ca_join_tokens", "ca_entries"):
        op.add_column(table, sa.Column("mac", sa.LargeBinary(length=32), nullable=True))
