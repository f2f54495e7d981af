"""Quota's tables."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, UtcDateTime
from app.quota.model import MAX_DOMAIN_LENGTH


class QuotaConfigRow(Base):
    """A domain's configuration; `revision` is that of the change that wrote it."""

    __tablename__ = "quota_configs"

    domain: Mapped[str] = mapped_column(String(MAX_DOMAIN_LENGTH), primary_key=True)
    document: Mapped[dict[str, Any]] = mapped_column(JSON)
    revision: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class QuotaRevisionRow(Base):
    """The number of the last change to any configuration, in the one row there is (id 1)."""

    __tablename__ = "quota_revision"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(BigInteger)
