"""The tables of versioned documents."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.documents.model import MAX_NAME_LENGTH, MAX_NAMESPACE_LENGTH

_KIND = String(32)


class DocumentRow(Base):
    """A document as it was given; `version` is the revision of the change that wrote it."""

    __tablename__ = "documents"

    kind: Mapped[str] = mapped_column(_KIND, primary_key=True)
    namespace: Mapped[str] = mapped_column(String(MAX_NAMESPACE_LENGTH), primary_key=True)
    name: Mapped[str] = mapped_column(String(MAX_NAME_LENGTH), primary_key=True)
    document: Mapped[dict[str, Any]] = mapped_column(JSON)
    version: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[datetime]


class DocumentRevisionRow(Base):
    """The number of the last change to any document of a kind."""

    __tablename__ = "document_revisions"

    kind: Mapped[str] = mapped_column(_KIND, primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)
