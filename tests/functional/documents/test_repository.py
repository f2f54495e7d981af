"""The contract of DocumentRepository, on SQLite and PostgreSQL."""

import asyncio
from datetime import UTC, datetime

import pytest

from app.core.errors import InvalidInputError
from app.core.json_text import JsonText
from app.documents import repository as repository_module
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


async def test_what_was_written_and_deleted_since_a_revision_is_found(transactions):
    keys = [DocumentKey("shop", name) for name in "abc"]
    async with transactions() as repository:
        await repository.next_revision()
        await repository.put(*(stored(key, 1) for key in keys))
    async with transactions() as repository:
        assert await repository.next_revision() == 2
        await repository.put(stored(keys[1], 2))
    async with transactions() as repository:
        assert await repository.next_revision() == 3
        await repository.delete(keys[0])
    async with transactions() as repository:
        assert [each.key for each in await repository.changed(1)] == [keys[1]]
        assert await repository.changed(2) == []
        assert (await repository.deleted(0), await repository.deleted(2), await repository.deleted(3)) == (
            [keys[0]],
            [keys[0]],
            [],
        )
        assert set(await repository.several(keys)) == set(keys[1:])


async def test_changes_are_read_in_pieces_without_a_gap(transactions, monkeypatch):
    monkeypatch.setattr(repository_module, "ROWS_AT_ONCE", 2)
    keys = [DocumentKey(namespace, name) for namespace in "xy" for name in "abc"]
    async with transactions() as repository:
        await repository.put(*(stored(key, number % 3 + 1) for number, key in enumerate(keys)))
    async with transactions() as repository:
        assert sorted(each.key for each in await repository.all()) == keys
        assert sorted(each.key for each in await repository.changed(2)) == [keys[2], keys[5]]


async def test_deletions_are_remembered_for_so_many_revisions(transactions, monkeypatch):
    monkeypatch.setattr(repository_module, "REVISIONS_KEPT", 2)
    for name in "abcd":
        async with transactions() as repository:
            await repository.next_revision()
            await repository.delete(DocumentKey("shop", name))
    async with transactions() as repository:
        assert [key.name for key in await repository.deleted(0)] == ["c", "d"]


async def test_the_text_of_a_document_is_stored_as_it_is(transactions):
    text = '{"spec":  {"b": 1.50, "a": "\\u00e9"}}'
    async with transactions() as repository:
        await repository.put(stored(A, 1, JsonText(text)))
    async with transactions() as repository:
        assert (await repository.get(A)).document.text == text
