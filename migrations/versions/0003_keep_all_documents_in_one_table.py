"""Keep the documents of every kind in one table."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "document_revisions",
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", name=op.f("pk_document_revisions")),
    )
    op.create_table(
        "documents",
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("namespace", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=512), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("kind", "namespace", "name", name=op.f("pk_documents")),
    )
    op.execute(
        "INSERT INTO documents (kind, namespace, name, document, version, updated_at) "
        "SELECT 'policy', namespace, name, document, version, updated_at FROM authz_policies"
    )
    op.execute(
        "INSERT INTO documents (kind, namespace, name, document, version, updated_at) "
        "SELECT 'quota', '', domain, document, revision, updated_at FROM quota_configs"
    )
    op.execute("INSERT INTO document_revisions (kind, revision) SELECT 'policy', revision FROM authz_revision")
    op.execute("INSERT INTO document_revisions (kind, revision) SELECT 'quota', revision FROM quota_revision")
    for table in ("authz_policies", "authz_revision", "quota_configs", "quota_revision"):
        op.drop_table(table)
