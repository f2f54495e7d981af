"""The tables of versioned documents."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.types import JSON_TEXT
from app.documents.model import MAX_NAME_LENGTH, MAX_NAMESPACE_LENGTH

_KIND = String(32)
_NAMESPACE, _NAME = String(MAX_NAMESPACE_LENGTH), String(MAX_NAME_LENGTH)


class DocumentRow(Base):
    """A document as it was given; `version` is the revision of the change that wrote it."""

    __tablename__ = "documents"
    __table_args__ = (Index("ix_documents_version", "kind", "version", "namespace", "name"),)

    kind: Mapped[str] = mapped_column(_KIND, primary_key=True)
    namespace: Mapped[str] = mapped_column(_NAMESPACE, primary_key=True)
    name: Mapped[str] = mapped_column(_NAME, primary_key=True)
    document: Mapped[Mapping[str, object]] = mapped_column(JSON_TEXT)
    version: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[datetime]


class DocumentDeletionRow(Base):
    """A document that was deleted; `version` is the revision of the change that did."""

    __tablename__ = "document_deletions"

    kind: Mapped[str] = mapped_column(_KIND, primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    namespace: Mapped[str] = mapped_column(_NAMESPACE, primary_key=True)
    name: Mapped[str] = mapped_column(_NAME, primary_key=True)


class DocumentRevisionRow(Base):
    """The number of the last change to any document of a kind."""

    __tablename__ = "document_revisions"

    kind: Mapped[str] = mapped_column(_KIND, primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)
