"""The column types: what is stored for a value, and what is read back."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy.dialects import postgresql, sqlite

from app.db.types import SPIFFE_ID, TEXTS, TRUST_DOMAIN, WHOLE_SECONDS, UtcDateTime
from app.spiffe.id import SpiffeId, TrustDomain

DIALECTS = [sqlite.dialect(), postgresql.dialect()]
NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
CART = "spiffe://example.org/ns/shop/sa/cart"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("column", "value", "stored"),
    [
        (SPIFFE_ID, SpiffeId.parse(CART), CART),
        (TRUST_DOMAIN, TrustDomain("example.org"), "example.org"),
        (WHOLE_SECONDS, timedelta(hours=1), 3600),
        (TEXTS, ("b", "a"), ["b", "a"]),
        (TEXTS, (), []),
    ],
)
def test_a_value_is_stored_as_a_plain_one_and_read_back(dialect, column, value, stored):
    assert column.process_bind_param(value, dialect) == stored
    assert column.process_result_value(stored, dialect) == value


@pytest.mark.parametrize("column", [SPIFFE_ID, TRUST_DOMAIN, WHOLE_SECONDS, TEXTS, UtcDateTime()])
def test_nothing_is_stored_as_null(column):
    assert column.process_bind_param(None, DIALECTS[0]) is None
    assert column.process_result_value(None, DIALECTS[0]) is None


def test_the_text_of_an_id_is_compared_with_ids():
    assert SPIFFE_ID.process_bind_param(CART, DIALECTS[0]) == CART


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_time_is_stored_and_read_in_utc(dialect):
    column = UtcDateTime()
    elsewhere = NOON.astimezone(timezone(timedelta(hours=-7)))
    stored = column.process_bind_param(elsewhere, dialect)
    assert stored.hour == 12
    assert column.process_result_value(stored, dialect) == NOON
    with pytest.raises(ValueError, match="aware"):
        column.process_bind_param(NOON.replace(tzinfo=None), dialect)


def test_the_text_of_a_time_on_sqlite_is_the_one_of_sqlalchemys_type():
    dialect = sqlite.dialect()
    own, theirs = UtcDateTime().bind_processor(dialect), sqlite.DATETIME().bind_processor(dialect)
    assert own
    assert theirs
    for time in (NOON, NOON.replace(microsecond=70), datetime(999, 2, 3, 4, 5, 6, tzinfo=UTC)):
        assert own(time.astimezone(timezone(timedelta(hours=-7)))) == theirs(time.replace(tzinfo=None))
    assert own(None) is None
    with pytest.raises(ValueError, match="aware"):
        own(NOON.replace(tzinfo=None))
