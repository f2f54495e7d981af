"""Make the first tables."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "authz_policies",
        sa.Column("namespace", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=253), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "name", name=op.f("pk_authz_policies")),
    )
    op.create_table(
        "authz_revision",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_authz_revision")),
    )
    op.create_table(
        "ca_entries",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("spiffe_id", sa.String(length=2048), nullable=False),
        sa.Column("x509_svid_ttl_seconds", sa.Integer(), nullable=True),
        sa.Column("dns_names", sa.JSON(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ca_entries")),
        sa.UniqueConstraint("spiffe_id", name=op.f("uq_ca_entries_spiffe_id")),
    )
    op.create_table(
        "ca_join_tokens",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("spiffe_id", sa.String(length=2048), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("redeemed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ca_join_tokens")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_ca_join_tokens_secret_hash")),
    )
    with op.batch_alter_table("ca_join_tokens", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_ca_join_tokens_expires_at"), ["expires_at"], unique=False)

    op.create_table(
        "ca_roots",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("trust_domain", sa.String(length=255), nullable=False),
        sa.Column("certificate", sa.Text(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_after", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ca_roots")),
        sa.UniqueConstraint("generation", name=op.f("uq_ca_roots_generation")),
    )
    op.create_table(
        "quota_configs",
        sa.Column("domain", sa.String(length=512), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("domain", name=op.f("pk_quota_configs")),
    )
    op.create_table(
        "quota_revision",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quota_revision")),
    )
    op.create_table(
        "ca_signers",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("root_id", sa.String(length=40), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("certificate", sa.Text(), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_after", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["root_id"], ["ca_roots.id"], name=op.f("fk_ca_signers_root_id_ca_roots")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ca_signers")),
    )
    with op.batch_alter_table("ca_signers", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_ca_signers_root_id"), ["root_id"], unique=False)

    op.create_table(
        "ca_svids",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("serial", sa.String(length=32), nullable=False),
        sa.Column("spiffe_id", sa.String(length=2048), nullable=False),
        sa.Column("signer_id", sa.String(length=40), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_after", sa.DateTime(timezone=True), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("surface", sa.String(length=32), nullable=False),
        sa.Column("token_id", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(["signer_id"], ["ca_signers.id"], name=op.f("fk_ca_svids_signer_id_ca_signers")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_ca_svids")),
        sa.UniqueConstraint("serial", name=op.f("uq_ca_svids_serial")),
    )
    with op.batch_alter_table("ca_svids", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_ca_svids_not_after"), ["not_after"], unique=False)
        batch_op.create_index(batch_op.f("ix_ca_svids_spiffe_id"), ["spiffe_id"], unique=False)
