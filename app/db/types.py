"""Column types for the values that records are made of: each is stored as one plain type of every database."""

from abc import abstractmethod
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import JSON, DateTime, Dialect, Integer, String
from sqlalchemy.types import TypeDecorator

from app.spiffe.id import MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SpiffeId, TrustDomain

Value = TypeVar("Value")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime on every database; SQLite, which has no time zones, stores it without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive datetimes and convert the others to UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime that is stored must be aware")
        return value.astimezone(UTC).replace(tzinfo=None) if dialect.name == "sqlite" else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the stored datetime, aware, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Converted(TypeDecorator[Value]):
    """A value that `_write` turns into the plain type `impl`, and `_read` back. NULL is None."""

    __abstract__ = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002
        """Return what is stored for a value."""
        return None if value is None else self._write(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Value | None:  # noqa: ARG002
        """Return the value that is stored."""
        return None if value is None else self._read(value)

    @abstractmethod
    def _write(self, value: Any) -> object: ...

    @abstractmethod
    def _read(self, stored: Any) -> Value: ...


class WholeSeconds(Converted[timedelta]):
    """A duration, as a whole number of seconds."""

    impl = Integer
    cache_ok = True

    def _write(self, value: timedelta) -> int:
        return int(value.total_seconds())

    def _read(self, stored: int) -> timedelta:
        return timedelta(seconds=stored)


class SpiffeIdText(Converted[SpiffeId]):
    """A SPIFFE ID, as its text; the text of one is accepted in comparisons."""

    impl = String(MAX_ID_BYTES)
    cache_ok = True

    def _write(self, value: SpiffeId | str) -> str:
        return str(value)

    def _read(self, stored: str) -> SpiffeId:
        return SpiffeId.parse(stored)


class TrustDomainText(Converted[TrustDomain]):
    """A trust domain, as its name."""

    impl = String(MAX_TRUST_DOMAIN_BYTES)
    cache_ok = True

    def _write(self, value: TrustDomain) -> str:
        return value.name

    def _read(self, stored: str) -> TrustDomain:
        return TrustDomain(stored)


class TextTuple(Converted[tuple[str, ...]]):
    """Several texts in their order, as a JSON array."""

    impl = JSON
    cache_ok = True

    def _write(self, value: tuple[str, ...]) -> list[str]:
        return list(value)

    def _read(self, stored: list[str]) -> tuple[str, ...]:
        return tuple(stored)
