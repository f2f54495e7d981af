"""The tables of the CA."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, ForeignKey, Integer, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, UtcDateTime
from app.spiffe.id import MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES

# A key identifier of 160 bits, in hexadecimal.
AUTHORITY_ID_LENGTH = 40
# 128 random bits, in hexadecimal: serial numbers, tokens, entries.
RANDOM_ID_LENGTH = 32
SHA256_HEX_LENGTH = 64


class RootRow(Base):
    """A root. That a generation is taken once is what makes replicas agree on one."""

    __tablename__ = "ca_roots"

    id: Mapped[str] = mapped_column(String(AUTHORITY_ID_LENGTH), primary_key=True)
    generation: Mapped[int] = mapped_column(Integer, unique=True)
    trust_domain: Mapped[str] = mapped_column(String(MAX_TRUST_DOMAIN_BYTES))
    certificate: Mapped[str] = mapped_column(Text)
    not_before: Mapped[datetime] = mapped_column(UtcDateTime)
    not_after: Mapped[datetime] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class SignerRow(Base):
    """A signing authority: a request until the holder of the root's key has put the certificate in."""

    __tablename__ = "ca_signers"

    id: Mapped[str] = mapped_column(String(AUTHORITY_ID_LENGTH), primary_key=True)
    root_id: Mapped[str] = mapped_column(ForeignKey("ca_roots.id"), index=True)
    request: Mapped[str] = mapped_column(Text)
    certificate: Mapped[str | None] = mapped_column(Text)
    not_before: Mapped[datetime | None] = mapped_column(UtcDateTime)
    not_after: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class SvidRow(Base):
    """An issued SVID."""

    __tablename__ = "ca_svids"

    number: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    serial: Mapped[str] = mapped_column(String(RANDOM_ID_LENGTH), unique=True)
    spiffe_id: Mapped[str] = mapped_column(String(MAX_ID_BYTES), index=True)
    signer_id: Mapped[str] = mapped_column(ForeignKey("ca_signers.id"))
    fingerprint: Mapped[str] = mapped_column(String(SHA256_HEX_LENGTH))
    not_before: Mapped[datetime] = mapped_column(UtcDateTime)
    not_after: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    issued_at: Mapped[datetime] = mapped_column(UtcDateTime)
    surface: Mapped[str] = mapped_column(String(32))
    # No foreign key: the record outlives the token.
    token_id: Mapped[str | None] = mapped_column(String(RANDOM_ID_LENGTH))


class JoinTokenRow(Base):
    """A join token, by the SHA-256 of its secret."""

    __tablename__ = "ca_join_tokens"

    id: Mapped[str] = mapped_column(String(RANDOM_ID_LENGTH), primary_key=True)
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    spiffe_id: Mapped[str] = mapped_column(String(MAX_ID_BYTES))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    redeemed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class EntryRow(Base):
    """An entry."""

    __tablename__ = "ca_entries"

    id: Mapped[str] = mapped_column(String(RANDOM_ID_LENGTH), primary_key=True)
    spiffe_id: Mapped[str] = mapped_column(String(MAX_ID_BYTES), unique=True)
    x509_svid_ttl_seconds: Mapped[int | None] = mapped_column(Integer)
    dns_names: Mapped[list[str]] = mapped_column(JSON)
    hint: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
