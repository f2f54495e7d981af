"""Column types for the values that records are made of: each is stored as one plain type of every database."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import JSON, DateTime, Dialect, Integer, String, Text
from sqlalchemy.types import TypeDecorator, TypeEngine

from app.core.json_text import JsonText
from app.spiffe.id import MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SpiffeId, TrustDomain

Value = TypeVar("Value")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime on every database; SQLite, which has no time zones, stores it without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[datetime | None], Any] | None:
        """Return what converts the values that are stored."""
        return _sqlite_text if dialect.name == "sqlite" else super().bind_processor(dialect)

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


def _sqlite_text(value: datetime | None) -> str | None:
    """Return the text that SQLAlchemy's type has for a datetime on SQLite, in half the time."""
    if value is None:
        return None
    if value.tzinfo is None:
        raise ValueError("a datetime that is stored must be aware")
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


class Converted(TypeDecorator[Value]):
    """A value that is stored as the plain type `impl`: `write` converts it, `read` converts it back. NULL is None."""

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = TypeEngine
    cache_ok = True

    def __init__(self, impl: TypeEngine[Any], write: Callable[[Value], object], read: Callable[[Any], Value]) -> None:
        super().__init__()
        self.impl, self.write, self.read = impl, write, read

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002
        """Return what is stored for a value."""
        return None if value is None else self.write(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Value | None:  # noqa: ARG002
        """Return the value that is stored."""
        return None if value is None else self.read(value)


SPIFFE_ID = Converted(String(MAX_ID_BYTES), str, SpiffeId.parse)
TRUST_DOMAIN = Converted(String(MAX_TRUST_DOMAIN_BYTES), str, TrustDomain)
WHOLE_SECONDS = Converted(Integer(), lambda duration: int(duration.total_seconds()), lambda s: timedelta(seconds=s))
TEXTS: Converted[tuple[str, ...]] = Converted(JSON(), list, tuple)
JSON_TEXT: Converted[Mapping[str, object]] = Converted(Text(), lambda value: JsonText.of(value).text, JsonText)
"""A JSON object, which stays the text that it is until somebody looks into it."""
