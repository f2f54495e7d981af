"""Authorization's tables."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.authz.rules.kubernetes import MAX_LABEL_LENGTH, MAX_NAME_LENGTH
from app.db.base import Base, UtcDateTime


class PolicyRow(Base):
    """A policy's document as it was given; `version` is the revision of the change that wrote it."""

    __tablename__ = "authz_policies"

    namespace: Mapped[str] = mapped_column(String(MAX_LABEL_LENGTH), primary_key=True)
    name: Mapped[str] = mapped_column(String(MAX_NAME_LENGTH), primary_key=True)
    document: Mapped[dict[str, Any]] = mapped_column(JSON)
    version: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class PolicyRevisionRow(Base):
    """The number of the last change to any policy, in the one row there is (id 1)."""

    __tablename__ = "authz_revision"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(BigInteger)
