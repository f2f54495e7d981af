"""The stored audit log, on both databases."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.audit.model import record_of
from app.audit.ports import AuditFilter
from app.audit.repository import SqlAuditRepository
from app.db.base import Base
from app.db.transactions import Transactions
from tests.fakes.principals import OPERATOR

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
EVERYTHING = AuditFilter()


@pytest.fixture
async def audit(engine):
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    return Transactions(engine, SqlAuditRepository)


def record(number, action="entry.create", target="a"):
    return record_of(OPERATOR, NOW + timedelta(seconds=number), action, target, after={"number": number})


async def fill(audit, *records):
    async with audit() as repository:
        for each in records:
            await repository.record(each)


async def test_a_record_is_read_back_as_it_was_stored_with_its_number(audit):
    stored = record_of(OPERATOR, NOW, "entry.replace", "a", before={"hint": "é"}, after={"hint": None})
    await fill(audit, stored)
    async with audit() as repository:
        (found,) = await repository.records(None, 10, EVERYTHING)
    assert found == replace(stored, number=found.number)


async def test_records_come_newest_first_in_pages(audit):
    await fill(audit, *(record(number) for number in range(1, 6)))
    async with audit() as repository:
        first = await repository.records(None, 2, EVERYTHING)
        rest = await repository.records(first[-1].number, 10, EVERYTHING)
    assert [each.after["number"] for each in (*first, *rest)] == [5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (AuditFilter(action="entry.delete"), [2]),
        (AuditFilter(target="b"), [3, 2]),
        (AuditFilter(target="b", action="entry.create"), [3]),
        (AuditFilter(principal="admin_token"), [3, 2, 1]),
        (AuditFilter(principal="admin"), []),
    ],
)
async def test_records_are_listed_by_the_fields_that_are_given(audit, wanted, numbers):
    await fill(audit, record(1), record(2, "entry.delete", "b"), record(3, "entry.create", "b"))
    async with audit() as repository:
        assert [each.after["number"] for each in await repository.records(None, 10, wanted)] == numbers


async def test_no_more_than_the_limit_of_old_records_is_removed(audit):
    await fill(audit, *(record(number) for number in range(1, 6)))
    async with audit() as repository:
        assert await repository.remove_records(NOW + timedelta(seconds=4), 2) == 2
        assert await repository.remove_records(NOW + timedelta(seconds=4), 2) == 1
        assert len(await repository.records(None, 10, EVERYTHING)) == 2
