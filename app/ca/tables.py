"""The tables of the CA."""

import json
from datetime import datetime, timedelta
from typing import Annotated

from sqlalchemy import JSON, BigInteger, ForeignKey, Integer, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.ca.model import SUBJECT_LENGTH, Behind, Origin, Stage, Surface
from app.db.base import Base
from app.db.macs import MAC_BYTES
from app.db.types import Converted
from app.spiffe.id import MAX_ID_BYTES, SpiffeId, TrustDomain

# A key identifier of 160 bits, in hexadecimal.
AUTHORITY_ID_LENGTH = 40
# 128 random bits, in hexadecimal: serial numbers, tokens, entries.
RANDOM_ID_LENGTH = 32
SHA256_HEX_LENGTH = 64
SHA256_LENGTH = 32

BEHIND: Converted[tuple[Behind, ...]] = Converted(
    JSON(), lambda value: [list(each) for each in value], lambda rows: tuple(Behind(*row) for row in rows)
)
# As text, whose default PostgreSQL can compare.
CHAIN: Converted[tuple[str, ...]] = Converted(Text(), json.dumps, lambda text: tuple(json.loads(text)))
# The MAC of what a row says. NULL in rows of versions that had none.
Mac = Annotated[bytes | None, mapped_column(LargeBinary(MAC_BYTES))]


class RootRow(Base):
    """A root. The unique generation makes concurrent replicas agree on one."""

    __tablename__ = "ca_roots"

    id: Mapped[str] = mapped_column(String(AUTHORITY_ID_LENGTH), primary_key=True)
    generation: Mapped[int] = mapped_column(Integer, unique=True)
    trust_domain: Mapped[TrustDomain]
    certificate: Mapped[str] = mapped_column(Text)
    not_before: Mapped[datetime]
    not_after: Mapped[datetime]
    created_at: Mapped[datetime]
    origin: Mapped[Origin | None]
    mac: Mapped[Mac]


class SignerRow(Base):
    """A signing authority: a request until the holder of the root's key has stored the certificate.

    The MAC is the request's; the certificate has the root's signature. One from outside was not requested.
    """

    __tablename__ = "ca_signers"

    id: Mapped[str] = mapped_column(String(AUTHORITY_ID_LENGTH), primary_key=True)
    root_id: Mapped[str] = mapped_column(ForeignKey("ca_roots.id"), index=True)
    request: Mapped[str] = mapped_column(Text, default="")
    certificate: Mapped[str | None] = mapped_column(Text)
    intermediates: Mapped[tuple[str, ...]] = mapped_column(CHAIN, default=(), server_default="[]")
    not_before: Mapped[datetime | None]
    not_after: Mapped[datetime | None]
    created_at: Mapped[datetime]
    mac: Mapped[Mac]


class AuthorityStageRow(Base):
    """The stage of a root, or of a signing authority that is tainted."""

    __tablename__ = "ca_authority_stages"

    # No foreign key: it is of one of two tables.
    id: Mapped[str] = mapped_column(String(AUTHORITY_ID_LENGTH), primary_key=True)
    stage: Mapped[Stage]
    number: Mapped[int] = mapped_column(BigInteger)
    since: Mapped[datetime]
    mac: Mapped[Mac]


class ReplicaRow(Base):
    """What a replica reports of its streams and signing authorities."""

    __tablename__ = "ca_replicas"

    id: Mapped[str] = mapped_column(String(RANDOM_ID_LENGTH), primary_key=True)
    beat: Mapped[int] = mapped_column(BigInteger)
    bundle: Mapped[str] = mapped_column(String(SHA256_HEX_LENGTH))
    streams: Mapped[int] = mapped_column(Integer)
    behind_count: Mapped[int] = mapped_column(Integer)
    behind: Mapped[tuple[Behind, ...]] = mapped_column(BEHIND)
    up_to_date: Mapped[bytes] = mapped_column(LargeBinary)
    signers: Mapped[tuple[str, ...]]
    mac: Mapped[Mac]


class SvidRow(Base):
    """An issued SVID."""

    __tablename__ = "ca_svids"

    number: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    serial: Mapped[str] = mapped_column(String(RANDOM_ID_LENGTH), unique=True)
    spiffe_id: Mapped[SpiffeId] = mapped_column(index=True)
    signer_id: Mapped[str] = mapped_column(ForeignKey("ca_signers.id"))
    fingerprint: Mapped[str] = mapped_column(String(SHA256_HEX_LENGTH))
    not_before: Mapped[datetime]
    not_after: Mapped[datetime] = mapped_column(index=True)
    issued_at: Mapped[datetime]
    surface: Mapped[Surface]
    # No foreign key: the record outlives the token.
    token_id: Mapped[str | None] = mapped_column(String(RANDOM_ID_LENGTH))


class JoinTokenRow(Base):
    """A join token, by the SHA-256 of its secret."""

    __tablename__ = "ca_join_tokens"

    id: Mapped[str] = mapped_column(String(RANDOM_ID_LENGTH), primary_key=True)
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    spiffe_id: Mapped[SpiffeId]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    redeemed_at: Mapped[datetime | None]
    mac: Mapped[Mac]


class BanRow(Base):
    """A ban of an identity, of those below a path, or of a certificate by its serial number."""

    __tablename__ = "ca_bans"

    id: Mapped[str] = mapped_column(String(RANDOM_ID_LENGTH), primary_key=True)
    subject: Mapped[str] = mapped_column(String(MAX_ID_BYTES), unique=True)
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None] = mapped_column(index=True)
    mac: Mapped[Mac]


class BanRevisionRow(Base):
    """The number of the last change of bans; it is in one row, which every change locks."""

    __tablename__ = "ca_ban_revisions"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(BigInteger)


class CrlRow(Base):
    """The newest revocation list of a signing authority, with its signature: for a day, and for sidecars `lasting`."""

    __tablename__ = "ca_crls"

    id: Mapped[str] = mapped_column(ForeignKey("ca_signers.id"), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    this_update: Mapped[datetime]
    der: Mapped[bytes] = mapped_column(LargeBinary)
    lasting: Mapped[bytes | None] = mapped_column(LargeBinary)


class EntryRow(Base):
    """An entry: the lifetime and DNS names of an identity's SVIDs."""

    __tablename__ = "ca_entries"

    id: Mapped[str] = mapped_column(String(RANDOM_ID_LENGTH), primary_key=True)
    spiffe_id: Mapped[SpiffeId] = mapped_column(unique=True)
    x509_svid_ttl: Mapped[timedelta | None] = mapped_column("x509_svid_ttl_seconds", key="x509_svid_ttl")
    dns_names: Mapped[tuple[str, ...]]
    hint: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    mac: Mapped[Mac]


class LogRow(Base):
    """A leaf of the transparency log. Its number is given by the transaction that appends it, without gaps."""

    __tablename__ = "ca_log"

    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    subject: Mapped[str] = mapped_column(String(SUBJECT_LENGTH), index=True)
    text: Mapped[str] = mapped_column(Text)
    hash: Mapped[bytes] = mapped_column(LargeBinary(SHA256_LENGTH))


class LogNodeRow(Base):
    """A complete subtree of the log, of a level that is stored beside the leaves'."""

    __tablename__ = "ca_log_nodes"

    level: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary(SHA256_LENGTH))


class LogStateRow(Base):
    """The one row with the state of the log, which the transaction that appends locks."""

    __tablename__ = "ca_log_state"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    size: Mapped[int] = mapped_column(BigInteger)
    # The roots of the complete subtrees, largest first, one after the other.
    peaks: Mapped[bytes] = mapped_column(LargeBinary)


class LogHeadRow(Base):
    """A signed tree head."""

    __tablename__ = "ca_log_heads"

    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    trust_domain: Mapped[TrustDomain]
    root_hash: Mapped[bytes] = mapped_column(LargeBinary(SHA256_LENGTH))
    signed_at: Mapped[datetime]
    certificate: Mapped[str] = mapped_column(Text)
    signature: Mapped[bytes] = mapped_column(LargeBinary)
