"""The write probe: what it reports, how often it writes, and that asking for the result writes nothing."""

import asyncio

import pytest

from app.core.errors import UnavailableError
from app.db.errors import AWAY, DISK_FULL, DatabaseAwayError
from app.main.write_probe import MAX_AGE_SECONDS, PROBE_BYTES, PROBE_SECONDS, RETRY_SECONDS, WriteProbe
from tests.fakes.clock import ManualClock
from tests.fakes.documents import MemoryDocuments
from tests.fakes.sleep import JumpingSleep


class FailingDocuments(MemoryDocuments):
    """Whose transactions fail with `problem` while there is one."""

    def __init__(self):
        super().__init__()
        self.problem = None

    def change(self):
        if self.problem is not None:
            raise self.problem
        return super().change()


@pytest.fixture
def documents():
    return FailingDocuments()


@pytest.fixture
def sleep():
    return JumpingSleep(ManualClock(), limit=3)


@pytest.fixture
def probe(documents, sleep):
    return WriteProbe(documents.change, "the database in x", sleep.clock, sleep)


async def reason_of(probe):
    with pytest.raises(UnavailableError) as caught:
        await probe.check()
    return caught.value.message


async def test_before_the_first_write_nothing_is_ready(probe):
    assert await reason_of(probe) == "no write to the database in x was tried yet"


async def test_a_write_replaces_one_document_that_cannot_be_stored_in_less(probe, documents):
    await probe.probe()
    await probe.check()
    (before,) = documents.documents.values()
    await probe.probe()
    (after,) = documents.documents.values()
    assert len(after.document["random"]) == PROBE_BYTES
    assert after.document != before.document


async def test_asking_writes_nothing(probe, documents):
    await probe.probe()
    for _ in range(100):
        await probe.check()
    assert documents.revision == 1


async def test_a_write_that_fails_is_named_with_the_place_until_one_succeeds(probe, documents):
    documents.problem = UnavailableError(DISK_FULL)
    await probe.probe()
    assert await reason_of(probe) == f"the database in x: {DISK_FULL}"
    documents.problem = None
    await probe.probe()
    await probe.check()


async def test_a_database_that_is_away_is_named_as_the_driver_does(probe, documents):
    documents.problem = UnavailableError(AWAY)
    documents.problem.__cause__ = DatabaseAwayError("cannot connect to the database in x: no such host")
    await probe.probe()
    assert await reason_of(probe) == "cannot connect to the database in x: no such host"


async def test_a_write_that_does_not_end_is_reported(probe, sleep):
    await probe.probe()
    sleep.clock.advance(MAX_AGE_SECONDS)
    await probe.check()
    sleep.clock.advance(1)
    assert await reason_of(probe) == "the database in x: no write has ended for 21 seconds"


async def test_writes_are_tried_now_and_then_and_sooner_after_one_that_failed(probe, documents, sleep):
    def fail():
        documents.problem = UnavailableError(DISK_FULL)

    sleep.hook = fail
    running = asyncio.create_task(probe.run())
    await sleep.exhausted.wait()
    running.cancel()
    assert sleep.sleeps == [PROBE_SECONDS, RETRY_SECONDS, RETRY_SECONDS]
    assert documents.revision == 1
