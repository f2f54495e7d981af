"""Whatever replicas change, a snapshot is what compiling everything stored gives, and the audit log has each step."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import MeshwardError
from app.documents.model import DocumentKey
from tests.fakes.clock import ManualClock
from tests.fakes.documents import MemoryDocuments, note, note_store
from tests.fakes.principals import OPERATOR

NAMES = st.sampled_from("abcdefg")
TEXTS = st.sampled_from(["one", "two", ""])  # an empty text is refused
REPLICA = st.integers(0, 1)
VERSION = st.none() | st.integers(0, 6)
APPLY = st.tuples(st.just("apply"), REPLICA, st.lists(st.tuples(NAMES, TEXTS), max_size=3))
REPLACE = st.tuples(st.just("replace"), REPLICA, NAMES, TEXTS, VERSION)
DELETE = st.tuples(st.just("delete"), REPLICA, NAMES, VERSION)
REFRESH = st.tuples(st.just("refresh"), REPLICA)


async def run(store, step):
    match step:
        case ("apply", _, notes):
            await store.apply(OPERATOR, [note(*each) for each in notes])
        case ("replace", _, name, text, version):
            await store.replace(OPERATOR, DocumentKey("home", name), note(name, text), version)
        case ("delete", _, name, version):
            await store.delete(OPERATOR, DocumentKey("home", name), version)
        case ("refresh", _):
            await store.refresh()


def replayed(records):
    """The documents that the records of the audit log lead to; each has to start where the one before it ended."""
    documents = {}
    for record in records:
        assert record.before == documents.get(record.target)
        assert record.before != record.after
        documents[record.target] = record.after
    return {target: document for target, document in documents.items() if document is not None}


@settings(max_examples=150)
@given(st.lists(APPLY | REPLACE | DELETE | REFRESH, max_size=12))
def test_a_snapshot_is_what_compiling_everything_stored_gives(steps):
    async def check():
        source, clock = MemoryDocuments(), ManualClock()
        stores = [note_store(source, clock=clock, compile_document=lambda found: found.text.upper()) for _ in range(2)]
        for step in steps:
            store = stores[step[1]]
            before = source.documents, source.revision, store.snapshot
            try:
                await run(store, step)
            except MeshwardError:
                assert (source.documents, source.revision, store.snapshot) == before
                continue
            assert store.snapshot.revision == source.revision
            assert store.snapshot.index == {
                key: str(each.document["text"]).upper() for key, each in source.documents.items()
            }
            versions = {key: document.version for key, document in store.snapshot.documents.items()}
            assert versions == {key: each.version for key, each in source.documents.items()}
            assert replayed(source.records) == {str(key): each.document for key, each in source.documents.items()}

    asyncio.run(check())
