"""Documents become active whole or not at all, with an audit record in the same transaction."""

import asyncio
import threading
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from app.core.errors import (
    ConflictError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    ResourceExhaustedError,
    UnavailableError,
)
from app.core.offload import in_thread
from app.documents import store as store_module
from app.documents.model import Change, DocumentKey
from tests.fakes.documents import MemoryDocuments, note, note_store, texts
from tests.fakes.principals import OPERATOR

A, B, C = (DocumentKey("home", name) for name in "abc")


class Compiler:
    """Compiles a note to its text in upper case, and remembers which ones it compiled, and in which threads."""

    def __init__(self):
        self.names = []
        self.threads = set()

    def __call__(self, found):
        self.names.append(found.name)
        self.threads.add(threading.get_ident())
        return found.text.upper()


@pytest.fixture
def source():
    return MemoryDocuments()


@pytest.fixture
def compiler():
    return Compiler()


@pytest.fixture
def changes():
    return []


class Offloads:
    """Threads, which wait for `held` when their work is done; `reached` is set then. `away` makes them fail."""

    def __init__(self):
        self.held, self.reached, self.away = None, asyncio.Event(), False

    async def __call__(self, job, size=0):
        if self.away:
            raise UnavailableError("the process is away")
        held = self.held
        items = await in_thread(job, size)
        if held:
            self.reached.set()
            await held.wait()
        return items


@pytest.fixture
def offloads():
    return Offloads()


@pytest.fixture
def make(source, metrics, clock, compiler, changes, offloads):
    """Make a store; several are replicas over one source."""
    return lambda: note_store(
        source, clock=clock, compile_document=compiler, metrics=metrics, changes=changes, offload=offloads
    )


@pytest.fixture
async def store(make):
    store = make()
    await store.refresh()
    return store


class TestApply:
    async def test_a_change_is_active_when_it_returns(self, store):
        await store.apply(OPERATOR, [note("a"), note("b", "bye")])
        assert texts(store) == {"a": "HELLO", "b": "BYE"}
        await store.apply(OPERATOR, [note("a", "again")])
        assert texts(store) == {"a": "AGAIN", "b": "BYE"}
        await store.delete(OPERATOR, A)
        assert texts(store) == {"b": "BYE"}

    async def test_a_snapshot_that_was_taken_does_not_change(self, store):
        await store.apply(OPERATOR, [note("a")])
        taken = store.snapshot
        await store.apply(OPERATOR, [note("a", "bye")])
        await store.delete(OPERATOR, A)
        assert {key.name: text for key, text in taken.index.items()} == {"a": "HELLO"}

    async def test_the_snapshot_keeps_what_was_parsed_and_its_version(self, store):
        (applied,) = await store.apply(OPERATOR, [note("a")])
        document = store.snapshot.documents[A]
        assert (document.parsed.text, document.compiled, document.version) == ("hello", "HELLO", applied.stored.version)

    async def test_the_result_says_what_became_of_each(self, store, clock):
        first = await store.apply(OPERATOR, [note("a"), note("b")])
        assert [each.change for each in first] == [Change.CREATED, Change.CREATED]
        assert (first[0].stored.document, first[0].stored.updated_at) == (note("a"), clock.now())
        second = await store.apply(OPERATOR, [note("a"), note("b", "bye"), note("c")])
        assert [each.change for each in second] == [Change.UNCHANGED, Change.UPDATED, Change.CREATED]
        assert [each.stored.version for each in second] == [1, 2, 2]
        assert await store.get(B) == second[1].stored

    async def test_one_invalid_document_keeps_all_of_them_out(self, store, source, metrics):
        with pytest.raises(InvalidInputError) as caught:
            await store.apply(OPERATOR, [note("a"), {"namespace": "home", "name": "b", "txt": "hello"}])
        paths = [violation.path for violation in caught.value.violations]
        assert paths == ["documents[1].text", "documents[1].txt"]
        assert (source.documents, source.records, texts(store)) == ({}, [], {})
        assert metrics.config_loads.value("note", "error") == 1
        assert metrics.config_loads.value("note", "success") == 1

    async def test_one_key_twice_or_no_document_is_refused(self, store, source):
        with pytest.raises(InvalidInputError, match="note 'home/a' is in an earlier document, too"):
            await store.apply(OPERATOR, [note("a"), note("a", "bye")])
        with pytest.raises(InvalidInputError, match="there is no document: send at least one note"):
            await store.apply(OPERATOR, [])
        assert source.documents == {}

    async def test_number_and_size_are_bounded(self, store, source):
        with pytest.raises(ResourceExhaustedError, match="more than 5 notes"):
            await store.apply(OPERATOR, [note(name) for name in "abcdef"])
        with pytest.raises(InvalidInputError, match="note 'home/a' is longer than 200 bytes"):
            await store.apply(OPERATOR, [note("a", "x" * 200)])
        assert (source.documents, source.records, texts(store)) == ({}, [], {})

    async def test_validating_changes_nothing(self, store, source):
        (found,) = await store.validate([note("a")])
        assert found.text == "hello"
        assert (source.documents, source.revision) == ({}, 0)

    async def test_a_database_that_is_away_changes_nothing(self, store, source):
        await store.apply(OPERATOR, [note("a")])
        source.away = True
        for change in (store.apply(OPERATOR, [note("b")]), store.delete(OPERATOR, A), store.refresh(), store.get(A)):
            with pytest.raises(UnavailableError):
                await change
        assert texts(store) == {"a": "HELLO"}


class TestCompiling:
    async def test_a_change_reads_and_compiles_nothing_but_what_it_changes(self, store, source, compiler):
        before = source.reads
        await store.apply(OPERATOR, [note("a"), note("b")])
        await store.apply(OPERATOR, [note("a"), note("b", "bye")])
        await store.delete(OPERATOR, A)
        assert (source.reads - before, compiler.names) == (0, ["a", "b", "b"])

    async def test_a_refresh_compiles_what_another_replica_changed(self, make, store, compiler):
        await store.apply(OPERATOR, [note("a"), note("b")])
        other = make()
        await other.refresh()
        compiler.names.clear()
        await store.apply(OPERATOR, [note("b", "bye")])
        await other.refresh()
        assert compiler.names == ["b", "b"]
        assert texts(other) == {"a": "HELLO", "b": "BYE"}

    async def test_documents_are_compiled_where_decisions_do_not_wait(self, make, store, compiler):
        await store.apply(OPERATOR, [note("a")])
        await make().refresh()
        assert len(compiler.names) == 2
        assert threading.get_ident() not in compiler.threads


class TestVersions:
    async def test_replacing_expects_the_version_that_was_read(self, store, source):
        applied = await store.replace(OPERATOR, A, note("a"))
        version = applied.stored.version
        for change in (
            store.replace(OPERATOR, A, note("a", "bye"), version + 1),
            store.replace(OPERATOR, B, note("b"), 1),
            store.delete(OPERATOR, A, version + 1),
        ):
            with pytest.raises(ConflictError, match="was changed since it was read"):
                await change
        assert source.revision == 1
        replaced = await store.replace(OPERATOR, A, note("a", "bye"), version)
        assert (replaced.change, texts(store)) == (Change.UPDATED, {"a": "BYE"})

    async def test_replacing_refuses_a_document_with_another_key(self, store, source):
        with pytest.raises(InvalidInputError, match="the document is note 'home/a'") as caught:
            await store.replace(OPERATOR, B, note("a"))
        assert [violation.path for violation in caught.value.violations] == ["name"]
        assert source.documents == {}

    async def test_deleting_what_is_not_there_is_an_error(self, store):
        for request in (store.delete(OPERATOR, A), store.delete(OPERATOR, A, 1), store.get(A)):
            with pytest.raises(NotFoundError, match="there is no note 'home/a'"):
                await request

    async def test_a_document_created_again_has_no_version_twice(self, store):
        first = await store.replace(OPERATOR, A, note("a"))
        await store.delete(OPERATOR, A, first.stored.version)
        again = await store.replace(OPERATOR, A, note("a"))
        assert again.change is Change.CREATED
        assert again.stored.version > first.stored.version + 1


class TestAudit:
    async def test_every_change_has_a_record_in_its_transaction(self, store, source, clock):
        await store.apply(OPERATOR, [note("a")])
        await store.replace(OPERATOR, A, note("a", "bye"))
        await store.delete(OPERATOR, A)
        written = [(record.action, record.target, record.before, record.after) for record in source.records]
        assert written == [
            ("note.apply", "home/a", None, note("a")),
            ("note.apply", "home/a", note("a"), note("a", "bye")),
            ("note.delete", "home/a", note("a", "bye"), None),
        ]
        (first, *_) = source.records
        assert (first.principal, first.credential, first.at) == ("admin_token", "admin_token", clock.now())
        assert (first.address, first.request_id) == (OPERATOR.address, OPERATOR.request_id)

    async def test_a_document_that_does_not_change_has_none(self, store, source):
        await store.apply(OPERATOR, [note("a")])
        await store.apply(OPERATOR, [note("a"), note("b")])
        assert [record.target for record in source.records] == ["home/a", "home/b"]

    async def test_a_change_that_fails_has_none(self, store, source):
        await store.apply(OPERATOR, [note("a")])
        with pytest.raises(ConflictError):
            await store.delete(OPERATOR, A, 99)
        with pytest.raises(ResourceExhaustedError):
            await store.apply(OPERATOR, [note(name) for name in "bcdef"])
        assert [record.target for record in source.records] == ["home/a"]

    async def test_changes_are_logged_with_who_made_them(self, store):
        with capture_logs() as lines:
            await store.apply(OPERATOR, [note("a")])
            await store.apply(OPERATOR, [note("a")])
            await store.delete(OPERATOR, A)
        written = [(line["event"], line["action"], line["document"], line["principal"]) for line in lines]
        assert written == [
            ("document_changed", "note.apply", "home/a", "admin_token"),
            ("document_changed", "note.delete", "home/a", "admin_token"),
        ]


class TestReplicas:
    async def test_documents_are_read_at_the_start(self, make, store):
        await store.apply(OPERATOR, [note("a")])
        restarted = make()
        assert not restarted.loaded
        assert await restarted.refresh()
        assert restarted.loaded
        assert texts(restarted) == {"a": "HELLO"}

    async def test_a_refresh_takes_over_what_another_replica_changed(self, make, store):
        other = make()
        await other.refresh()
        await other.apply(OPERATOR, [note("a")])
        assert texts(store) == {}
        assert await store.refresh()
        assert texts(store) == {"a": "HELLO"}
        assert not await store.refresh()
        await other.delete(OPERATOR, A)
        assert await store.refresh()
        assert texts(store) == {}

    async def test_a_change_on_top_of_another_replicas_keeps_both(self, make, store):
        other = make()
        await other.refresh()
        await other.apply(OPERATOR, [note("a")])
        await store.apply(OPERATOR, [note("b")])
        assert texts(store) == {"a": "HELLO", "b": "HELLO"}
        await other.delete(OPERATOR, B)
        assert texts(other) == {"a": "HELLO"}
        assert not await other.refresh()

    async def test_an_invalid_stored_document_leaves_what_was_active(self, make, store, source, metrics):
        await store.apply(OPERATOR, [note("a")])
        source.documents[B] = replace(source.documents[A], name="b", document={"x": 1}, version=9)
        source.revision = 9
        for each in (make(), store):
            with pytest.raises(InternalError, match="the stored note 'home/b' is not valid: apply it again or delete"):
                await each.refresh()
        assert texts(store) == {"a": "HELLO"}
        assert metrics.config_loads.value("note", "error") == 2
        await store.apply(OPERATOR, [note("b")])
        assert texts(store) == {"a": "HELLO", "b": "HELLO"}

    async def test_an_invalid_stored_document_can_be_deleted(self, store, source):
        await store.apply(OPERATOR, [note("a")])
        source.documents[B] = replace(source.documents[A], name="b", document={"x": 1}, version=9)
        source.revision = 9
        await store.delete(OPERATOR, B)
        assert texts(store) == {"a": "HELLO"}

    async def test_each_snapshot_is_announced_and_counted_once_it_is_active(self, store, metrics, changes):
        await store.apply(OPERATOR, [note("a"), note("b")])
        await store.delete(OPERATOR, A)
        await store.refresh()
        assert [sorted(key.name for key in snapshot.documents) for snapshot in changes] == [[], ["a", "b"], ["b"]]
        assert changes[-1] is store.snapshot
        assert metrics.config_loads.value("note", "success") == 3


class TestReading:
    async def test_pages_follow_the_keys(self, store):
        keys = [("home", "b"), ("home", "a"), ("attic", "z"), ("yard", "a")]
        await store.apply(OPERATOR, [note(name, namespace=namespace) for namespace, name in keys])
        first = await store.page(None, 3)
        assert [stored.key for stored in first] == [("attic", "z"), ("home", "a"), ("home", "b")]
        assert [stored.key for stored in await store.page(first[-1].key, 3)] == [("yard", "a")]
        assert [stored.key.name for stored in await store.page(None, 3, "home")] == ["a", "b"]


class ReadOnly(MemoryDocuments):
    def change(self):
        raise PreconditionError("notes come from a shelf: change them there")


async def test_what_cannot_be_changed_here_is_refused(clock):
    store = note_store(ReadOnly(), clock=clock)
    for change in (
        store.apply(OPERATOR, [note("a")]),
        store.replace(OPERATOR, A, note("a")),
        store.delete(OPERATOR, A),
    ):
        with pytest.raises(PreconditionError, match="come from a shelf: change them there"):
            await change
    assert await store.validate([note("a")])


class TestReadingChanges:
    async def test_a_refresh_reads_the_documents_that_were_changed_and_no_others(self, make, store, source):
        other = make()
        await store.apply(OPERATOR, [note(name) for name in "abcd"])
        await other.refresh()
        source.rows = 0
        await store.apply(OPERATOR, [note("b", "bye")])
        await store.delete(OPERATOR, C)
        await other.refresh()
        assert source.rows == 1
        assert texts(other) == {"a": "HELLO", "b": "BYE", "d": "HELLO"}

    async def test_a_document_that_was_deleted_and_written_again_is_there(self, make, store):
        other = make()
        await store.apply(OPERATOR, [note("a"), note("b")])
        await other.refresh()
        await store.delete(OPERATOR, A)
        await store.apply(OPERATOR, [note("a", "again")])
        await store.delete(OPERATOR, B)
        await other.refresh()
        assert texts(other) == {"a": "AGAIN"}

    async def test_a_deletion_that_left_no_trace_is_seen(self, make, store, source):
        """As an older version makes one."""
        other = make()
        await store.apply(OPERATOR, [note("a"), note("b")])
        await other.refresh()
        await store.delete(OPERATOR, A)
        source.deletions.clear()
        await other.refresh()
        assert texts(other) == {"b": "HELLO"}

    async def test_who_has_not_looked_for_long_reads_everything(self, make, store, source, monkeypatch):
        monkeypatch.setattr(store_module, "REVISIONS_KEPT", 2)
        other = make()
        await store.apply(OPERATOR, [note("a"), note("b")])
        await other.refresh()
        await store.delete(OPERATOR, A)
        await store.apply(OPERATOR, [note("c")])
        await store.apply(OPERATOR, [note("d")])
        source.deletions.clear()  # they are kept no longer
        source.rows = 0
        await other.refresh()
        assert texts(other) == {"b": "HELLO", "c": "HELLO", "d": "HELLO"}
        assert source.rows == 3

    async def test_documents_that_change_while_they_are_read_are_read_again(self, make, store, source):
        other = make()
        await store.apply(OPERATOR, [note("a")])
        await other.refresh()
        await store.apply(OPERATOR, [note("b")])
        source.during_reads = [lambda: store.apply(OPERATOR, [note("c")])]
        await other.refresh()
        assert texts(other) == {"a": "HELLO", "b": "HELLO", "c": "HELLO"}
        assert other.snapshot.revision == 3


class TestKnownDocuments:
    async def test_fields_in_another_order_are_the_same_document(self, store, compiler):
        await store.apply(OPERATOR, [note("a")])
        (applied,) = await store.apply(OPERATOR, [dict(reversed(note("a").items()))])
        assert (applied.change, applied.stored.document) == (Change.UNCHANGED, note("a"))
        assert compiler.names == ["a"]

    async def test_a_document_that_was_changed_elsewhere_and_is_applied_again_is_active(self, make, store):
        other = make()
        await store.apply(OPERATOR, [note("a")])
        await other.refresh()
        await other.apply(OPERATOR, [note("a", "bye")])
        (applied,) = await store.apply(OPERATOR, [note("a")])
        assert applied.change is Change.UPDATED
        assert texts(store) == {"a": "HELLO"}
        await other.refresh()
        assert texts(other) == {"a": "HELLO"}

    async def test_a_document_that_is_known_and_replaced_while_it_is_read_is_compiled(self, make, store, offloads):
        """Two changes at once: what the second one took for known is not active any more once it is its turn."""
        await store.apply(OPERATOR, [note("a")])
        offloads.held = asyncio.Event()
        again = asyncio.create_task(store.apply(OPERATOR, [note("a")]))
        await offloads.reached.wait()
        held, offloads.held = offloads.held, None
        await store.apply(OPERATOR, [note("a", "bye")])
        held.set()
        (applied,) = await again
        assert applied.change is Change.UPDATED
        assert texts(store) == {"a": "HELLO"}


async def test_what_cannot_be_compiled_for_now_leaves_what_was_active(store, source, offloads, make):
    await store.apply(OPERATOR, [note("a")])
    offloads.away = True
    other = make()
    for change in (store.apply(OPERATOR, [note("b")]), other.refresh()):
        with pytest.raises(UnavailableError, match="the process is away"):
            await change
    assert (texts(store), other.loaded, list(source.documents)) == ({"a": "HELLO"}, False, [A])
    offloads.away = False
    await other.refresh()
    assert texts(other) == {"a": "HELLO"}


async def test_documents_are_kept_and_recorded_as_the_text_that_they_are(store, source):
    await store.apply(OPERATOR, [note("a", "é")])
    stored = source.documents[A].document
    assert stored.text == '{"namespace": "home", "name": "a", "text": "\\u00e9"}'
    assert source.records[0].after.text == stored.text
    await store.delete(OPERATOR, A)
    assert source.records[1].before.text == stored.text
