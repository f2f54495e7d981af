"""Keep the revocation list that sidecars get beside the one that is served for a day."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("ca_crls", sa.Column("lasting", sa.LargeBinary(), nullable=True))
