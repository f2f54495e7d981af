"""The tables of authorization. Its documents have their own."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.authz.model import Labels
from app.authz.rules.kubernetes import MAX_LABEL_LENGTH, MAX_NAME_LENGTH
from app.db.base import Base
from app.db.macs import MAC_BYTES
from app.db.types import Converted

# 128 random bits, in hexadecimal.
ID_LENGTH = 32
SHA256_LENGTH = 32

LABELS: Converted[Labels] = Converted(
    JSON(), lambda value: [list(pair) for pair in value], lambda pairs: tuple((key, at) for key, at in pairs)
)


class ApiKeyRow(Base):
    """An API key, by the SHA-256 of its text. One that was revoked stays until replicas have read that."""

    __tablename__ = "authz_api_keys"

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True)
    subject: Mapped[str] = mapped_column(String(MAX_NAME_LENGTH))
    namespace: Mapped[str] = mapped_column(String(MAX_LABEL_LENGTH))
    labels: Mapped[Labels] = mapped_column(LABELS)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None] = mapped_column(index=True)
    revoked_at: Mapped[datetime | None] = mapped_column(index=True)
    revision: Mapped[int] = mapped_column(BigInteger, index=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary(SHA256_LENGTH), unique=True)
    mac: Mapped[bytes | None] = mapped_column(LargeBinary(MAC_BYTES))


class ApiKeyRevisionRow(Base):
    """The number of the last change of API keys; it is in one row, which every change locks."""

    __tablename__ = "authz_api_key_revisions"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(BigInteger)
