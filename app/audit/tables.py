"""The table of the audit log."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import BigInteger, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.types import JSON_TEXT
from app.spiffe.id import MAX_ID_BYTES


class AuditRow(Base):
    """One change."""

    __tablename__ = "audit_records"

    number: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    at: Mapped[datetime] = mapped_column(index=True)
    principal: Mapped[str] = mapped_column(String(MAX_ID_BYTES))
    credential: Mapped[str] = mapped_column(String(32))
    address: Mapped[str] = mapped_column(String(255))
    request_id: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(Text)
    before: Mapped[Mapping[str, object] | None] = mapped_column(JSON_TEXT)
    after: Mapped[Mapping[str, object] | None] = mapped_column(JSON_TEXT)
