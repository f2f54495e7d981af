"""Documents that are kept in a file, and active until the database is back."""

import pytest

from app.core.errors import InternalError, NotFoundError, UnavailableError
from app.core.last_good import LastGoodFile
from app.documents.kept import KEPT_REVISION, KeptSource
from app.documents.model import DocumentKey
from tests.fakes.clock import ManualClock
from tests.fakes.documents import NOTES, MemoryDocuments, note, note_store, texts
from tests.fakes.principals import OPERATOR


@pytest.fixture
def database():
    return MemoryDocuments()


@pytest.fixture
def file(tmp_path):
    return LastGoodFile(tmp_path / "last-good/note", "note", "the database")


@pytest.fixture
def start(database, file):
    """Starts a store over the source, with the database or without it."""

    async def started(*, without_database=False):
        source = KeptSource(NOTES, database, file)
        store = note_store(source, clock=ManualClock())
        database.away = without_database
        if without_database:
            await source.restore()
        await store.refresh()
        return source, store

    return started


async def keep(start, *documents):
    source, store = await start()
    await store.apply(OPERATOR, documents)
    await source.save(store.snapshot.revision)


async def test_what_is_kept_is_active_without_the_database(start):
    await keep(start, note("a", "one"), note("b", "two"))
    _, store = await start(without_database=True)
    assert texts(store) == {"a": "one", "b": "two"}
    assert store.snapshot.revision == KEPT_REVISION
    assert not await store.refresh()


async def test_nothing_is_listed_or_changed_without_the_database(start):
    await keep(start, note("a"))
    _, store = await start(without_database=True)
    for refused in (
        store.get(DocumentKey("home", "a")),
        store.page(None, 10),
        store.apply(OPERATOR, [note("b")]),
        store.delete(OPERATOR, DocumentKey("home", "a")),
    ):
        with pytest.raises(UnavailableError):
            await refused
    assert texts(store) == {"a": "hello"}


async def test_once_the_database_is_back_all_that_it_has_is_active(start, database):
    """Also if it is another one, whose documents have the same versions."""
    await keep(start, note("a", "one"), note("b", "two"))
    source, store = await start(without_database=True)
    database.away = False
    (first, second) = database.documents.values()
    database.documents = {
        first.key: type(first)(*first.key, note("a", "changed"), first.version, first.updated_at),
    }
    source.use_database()
    assert await store.refresh()
    assert texts(store) == {"a": "changed"}
    assert second.key not in store.snapshot.documents


async def test_what_was_kept_before_is_replaced_by_each_change(start):
    await keep(start, note("a", "one"))
    await keep(start, note("a", "two"))
    _, store = await start(without_database=True)
    assert texts(store) == {"a": "two"}


async def test_only_what_is_active_is_kept(start, database, file):
    """What another replica wrote, which is not active here yet and may not be valid, is not."""
    source, store = await start()
    await store.apply(OPERATOR, [note("a")])
    database.revision += 1
    await source.save(store.snapshot.revision)
    with pytest.raises(NotFoundError):
        file.read(list)


async def test_nothing_is_read_if_it_is_kept_already(start, database):
    source, store = await start()
    await store.apply(OPERATOR, [note("a")])
    await source.save(store.snapshot.revision)
    database.away = True
    await source.save(store.snapshot.revision)


async def test_what_comes_from_the_file_is_not_kept_again(start):
    await keep(start, note("a"))
    source, store = await start(without_database=True)
    await source.save(store.snapshot.revision)


async def test_what_is_kept_and_not_valid_is_refused(start, file):
    file.write([["home", "a", "2026-01-01T12:00:00+00:00", '{"namespace": "home"}']])
    with pytest.raises(InternalError, match="is not valid"):
        await start(without_database=True)
