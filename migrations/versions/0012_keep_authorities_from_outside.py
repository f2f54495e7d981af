"""Keep authorities from outside: where a root is from, and what is between it and a signing authority."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("ca_roots", sa.Column("origin", sa.String(length=32), nullable=True))
    op.add_column("ca_signers", sa.Column("intermediates", sa.Text(), server_default="[]", nullable=False))
