"""The base of every table, so that migrations and models can be compared."""

from datetime import datetime, timedelta
from enum import Enum

import sqlalchemy
from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

from app.db.types import SPIFFE_ID, TEXTS, TRUST_DOMAIN, WHOLE_SECONDS, UtcDateTime
from app.spiffe.id import SpiffeId, TrustDomain

# Names for constraints, so that a migration can refer to them on every database.
NAMING_CONVENTION = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
# The values of enumerations are short words.
ENUM_LENGTH = 32


def _values(members: type[Enum]) -> list[str]:
    return [member.value for member in members]


class Base(DeclarativeBase):
    """The base of every table. A column whose type is not given has the one that belongs to its annotation."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's form
        datetime: UtcDateTime,
        timedelta: WHOLE_SECONDS,
        SpiffeId: SPIFFE_ID,
        TrustDomain: TRUST_DOMAIN,
        tuple[str, ...]: TEXTS,
        # As text without a constraint, so that another member needs no migration.
        Enum: sqlalchemy.Enum(Enum, native_enum=False, length=ENUM_LENGTH, values_callable=_values),
    }
