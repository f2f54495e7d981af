"""A document store over each real database: restarts, replicas, and the audit log in the same transaction."""

import asyncio

import pytest

from app.audit.ports import AuditFilter
from app.audit.repository import SqlAuditRepository
from app.authz.model import AuthzOptions
from app.authz.rules.evaluate import NativeEngine
from app.authz.service import PolicyService
from app.core.clock import SystemClock
from app.core.errors import ConflictError, InvalidInputError, ResourceExhaustedError
from app.core.offload import ChildProcess
from app.db.rows import Rows
from app.db.transactions import Transactions
from app.documents.model import Applied, Change, DocumentKey, StoredDocument
from app.documents.sources import DatabaseSource
from app.spiffe.bans import NoBans
from app.telemetry.decisions import DecisionLog
from app.telemetry.metrics import Metrics
from tests.fakes.authz import policy, request
from tests.fakes.documents import note, note_store, texts
from tests.fakes.gates import NothingDemanded
from tests.fakes.principals import OPERATOR


@pytest.fixture
def replica(transactions):
    async def start():
        store = note_store(DatabaseSource(transactions), clock=SystemClock())
        await store.refresh()
        return store

    return start


async def test_documents_survive_a_restart(replica):
    (applied,) = await (await replica()).apply(OPERATOR, [note("a")])
    after = await replica()
    assert texts(after) == {"a": "hello"}
    assert await after.get(DocumentKey("home", "a")) == applied.stored


async def test_changes_of_one_replica_reach_the_other(replica):
    one, other = await replica(), await replica()
    await one.apply(OPERATOR, [note("a")])
    assert texts(other) == {}
    assert await other.refresh()
    assert texts(other) == {"a": "hello"}
    assert not await other.refresh()


async def test_replicas_that_change_at_once_lose_nothing(replica):
    replicas = [await replica(), await replica()]
    changes = (replicas[index % 2].apply(OPERATOR, [note(name)]) for index, name in enumerate("abcde"))
    await asyncio.wait_for(asyncio.gather(*changes), timeout=30)
    for each in replicas:
        await each.refresh()
        assert texts(each) == dict.fromkeys("abcde", "hello")


async def test_of_two_changes_to_what_was_read_one_is_made(replica):
    one, other = await replica(), await replica()
    (applied,) = await one.apply(OPERATOR, [note("a")])
    key, version = applied.stored.key, applied.stored.version
    results = await asyncio.wait_for(
        asyncio.gather(
            one.replace(OPERATOR, key, note("a", "one"), version),
            other.replace(OPERATOR, key, note("a", "other"), version),
            return_exceptions=True,
        ),
        timeout=30,
    )
    assert sum(isinstance(result, ConflictError) for result in results) == 1
    assert sum(isinstance(result, Applied) for result in results) == 1


async def test_the_audit_log_has_what_was_committed_and_no_more(replica, engine):
    store = await replica()
    await store.apply(OPERATOR, [note("a"), note("b")])
    with pytest.raises(ResourceExhaustedError):
        await store.apply(OPERATOR, [note(name) for name in "cdefg"])
    await store.delete(OPERATOR, DocumentKey("home", "a"))
    async with Transactions(engine, SqlAuditRepository)() as repository:
        records = await repository.records(None, 10, AuditFilter())
    assert [(record.action, record.target, record.before, record.after) for record in reversed(records)] == [
        ("note.apply", "home/a", None, note("a")),
        ("note.apply", "home/b", None, note("b")),
        ("note.delete", "home/a", note("a"), None),
    ]


async def test_a_refresh_reads_the_rows_that_were_changed(replica, monkeypatch):
    read = []
    take = Rows.all

    async def counted(self, session, statement):
        found = await take(self, session, statement)
        read.extend(each for each in found if isinstance(each, StoredDocument))
        return found

    one, other = await replica(), await replica()
    await one.apply(OPERATOR, [note(name) for name in "abcd"])
    await other.refresh()
    await one.apply(OPERATOR, [note("b", "bye")])
    await one.delete(OPERATOR, DocumentKey("home", "c"))
    monkeypatch.setattr(Rows, "all", counted)
    assert await other.refresh()
    assert [each.key.name for each in read] == ["b"]
    assert texts(other) == {"a": "hello", "b": "bye", "d": "hello"}


async def test_large_documents_are_read_in_another_process(transactions):
    """From the text of a request to a decision, and from the database at another replica."""

    def replica():
        offload = ChildProcess(max_thread_bytes=1000)
        log = DecisionLog("off", float)
        return PolicyService(
            DatabaseSource(transactions),
            SystemClock(),
            Metrics(),
            AuthzOptions(),
            log,
            NativeEngine.of,
            offload=offload,
            bans=NoBans(),
            senders=NothingDemanded(),
            peers=NothingDemanded(),
        )

    one, other = replica(), replica()
    await one.documents.refresh()
    text = "".join(policy(f"{{rules: [{{to: [{{operation: {{paths: [/{n}/*]}}}}]}}]}}", f"p{n}") for n in range(20))
    applied = await one.documents.apply(OPERATOR, text.encode())
    assert [each.change for each in applied] == [Change.CREATED] * 20
    await other.documents.refresh()
    for each in (one, other):
        assert each.check(request("/19/x")).allowed
        assert not each.check(request("/20/x")).allowed
    with pytest.raises(InvalidInputError, match=r"documents\[1\].spec.action"):
        await one.documents.apply(OPERATOR, (text[: text.index("---", 3)] + policy("{action: BLOCK}") + text).encode())
