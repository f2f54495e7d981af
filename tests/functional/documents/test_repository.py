"""The contract of DocumentRepository, on SQLite and PostgreSQL."""

import asyncio
from datetime import UTC, datetime

import pytest

from app.core.errors import InvalidInputError
from app.documents.model import MAX_NAME_LENGTH, MAX_NAMESPACE_LENGTH, DocumentKey, StoredDocument

NOW = datetime(2026, 3, 4, 5, 6, 7, 890000, tzinfo=UTC)
A = DocumentKey("shop", "a")


def stored(key=A, version=1, document=None):
    return StoredDocument(key.namespace, key.name, document or {"spec": {}}, version, NOW)


async def test_a_document_comes_back_as_it_was_put(transactions):
    document = {"metadata": {"name": "a"}, "spec": {"x": [1, 2.5, None, True, "ä\u0001 ключ 💶"]}}
    async with transactions() as repository:
        await repository.put(stored(A, 7, document))
    async with transactions() as repository:
        assert await repository.get(A) == stored(A, 7, document)
        assert await repository.get(DocumentKey("shop", "A")) is None
        assert await repository.get(DocumentKey("", "a")) is None
        assert await repository.all() == [stored(A, 7, document)]


async def test_putting_replaces_and_deleting_removes_one(transactions):
    other = DocumentKey("web", "a")
    async with transactions() as repository:
        await repository.put(stored(A, 1))
        before = await repository.get(A)
        await repository.put(stored(A, 2, {"spec": {"new": True}}))
        assert (before.version, (await repository.get(A)).version) == (1, 2)
        await repository.put(stored(other, 3))
        assert await repository.count() == 2
    async with transactions() as repository:
        assert await repository.get(A) == stored(A, 2, {"spec": {"new": True}})
        await repository.delete(A)
        await repository.delete(DocumentKey("shop", "never"))
        assert await repository.all() == [stored(other, 3)]
    async with transactions() as repository:
        assert await repository.get(A) is None
        assert await repository.all() == [stored(other, 3)]


async def test_kinds_are_kept_apart(of_kind):
    notes, letters = of_kind("note"), of_kind("letter")
    async with notes() as repository:
        assert await repository.next_revision() == 1
        await repository.put(stored(A))
    async with letters() as repository:
        assert await repository.revision() == 0
        assert (await repository.get(A), await repository.all(), await repository.count()) == (None, [], 0)
        assert await repository.page(None, 9, None) == []
        await repository.put(stored(A, 5))
        await repository.delete(A)
    async with notes() as repository:
        assert await repository.get(A) == stored(A)


async def test_the_longest_key_fits(transactions):
    key = DocumentKey("n" * MAX_NAMESPACE_LENGTH, "€" * MAX_NAME_LENGTH)
    async with transactions() as repository:
        await repository.put(stored(key))
    async with transactions() as repository:
        assert await repository.get(key) == stored(key)


async def test_revisions_count_changes_that_were_committed(transactions):
    async with transactions() as repository:
        assert await repository.revision() == 0
        assert await repository.next_revision() == 1
        assert await repository.revision() == 1

    async def change_and_fail():
        async with transactions() as repository:
            assert await repository.next_revision() == 2
            await repository.put(stored())
            raise InvalidInputError("no")

    with pytest.raises(InvalidInputError):
        await change_and_fail()
    async with transactions() as repository:
        assert await repository.revision() == 1
        assert await repository.all() == []


async def test_the_revision_orders_writers_that_write_at_once(transactions):
    async def write(number):
        async with transactions() as repository:
            revision = await repository.next_revision()
            await repository.put(stored(DocumentKey("shop", str(number)), revision))
            return revision, await repository.count()

    written = await asyncio.wait_for(asyncio.gather(*(write(number) for number in range(8))), timeout=30)
    # Each sees what every earlier revision wrote.
    assert sorted(written) == [(number, number) for number in range(1, 9)]


async def test_pages_follow_the_key_and_skip_nothing(transactions):
    keys = [DocumentKey(*key) for key in (("", "a/b"), ("a", "x"), ("a", "y"), ("b", "a"), ("b", "z"), ("c", "a"))]
    async with transactions() as repository:
        for key in reversed(keys):
            await repository.put(stored(key))
    async with transactions() as repository:
        found = []
        while page := await repository.page(found[-1] if found else None, 2, None):
            assert len(page) <= 2
            found += [each.key for each in page]
        assert found == keys
        assert [each.key.name for each in await repository.page(None, 9, "b")] == ["a", "z"]
        assert [each.key.name for each in await repository.page(DocumentKey("b", "a"), 9, "b")] == ["z"]
