"""Keep documents as the text that they are, and what was deleted for those who read changes."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "document_deletions",
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("namespace", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=512), nullable=False),
        sa.PrimaryKeyConstraint("kind", "version", "namespace", "name", name=op.f("pk_document_deletions")),
    )
    with op.batch_alter_table("documents") as batch_op:
        batch_op.alter_column(
            "document",
            existing_type=sa.JSON(),
            type_=sa.Text(),
            existing_nullable=False,
            postgresql_using="document::text",
        )
        batch_op.create_index("ix_documents_version", ["kind", "version", "namespace", "name"])
    with op.batch_alter_table("audit_records") as batch_op:
        for column in ("before", "after"):
            batch_op.alter_column(
                column,
                existing_type=sa.JSON(none_as_null=True),
                type_=sa.Text(),
                existing_nullable=True,
                postgresql_using=f"{column}::text",
            )
