"""Keys by their places: fetched once, kept, tried again ever more rarely."""

import asyncio

import pytest

from app.core.errors import PreconditionError, UnavailableError
from app.core.last_good import LastGoodFile
from app.issuers.key_sets import MAX_NAMED, PACE, KeySets
from app.telemetry.metrics import Metrics
from tests.assets.jwts import EC_KEY, jwks
from tests.fakes.clock import ManualClock
from tests.fakes.key_set_source import FakeKeySetSource

AWAY = UnavailableError("the server is away")


@pytest.fixture
def sources():
    return {name: FakeKeySetSource() for name in ("a", "b")}


@pytest.fixture
def make(sources, clock, tmp_path):
    file = LastGoodFile(tmp_path / "last-good" / "jwks", "jwks", "sqlite")
    return lambda: KeySets(sources.__getitem__, clock, Metrics(), file)


async def settled(key_sets):
    """Let what was begun come to its end."""
    for _ in range(5):
        await asyncio.sleep(0)
    return key_sets


async def test_a_place_is_fetched_once_however_many_documents_name_it(make, sources):
    key_sets = make()
    key_sets.use(["a", "a", "b"])
    assert key_sets.is_awaited("a")
    await settled(key_sets)
    assert (sources["a"].fetched, sources["b"].fetched) == (1, 1)
    assert key_sets.known("a") == key_sets.known("b")
    key_sets.use(["a"])
    assert key_sets.known("b") is None
    assert not key_sets.is_awaited("b")
    assert sources["a"].fetched == 1


async def test_a_failure_is_tried_again_after_a_minute_and_then_ever_more_rarely_up_to_an_hour(make, sources, clock):
    sources["a"].failure = AWAY
    key_sets = make()
    key_sets.use(["a"])
    waits = []
    for _ in range(8):
        await settled(key_sets)
        fetched, waited = sources["a"].fetched, 0
        while sources["a"].fetched == fetched:
            clock.advance(60)
            waited += 1
            with pytest.raises(UnavailableError, match="the keys of a: the server is away"):
                await key_sets.maintain()
            await settled(key_sets)
        waits.append(waited)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    sources["a"].failure = None
    clock.advance(PACE.max_retry)
    with pytest.raises(UnavailableError):
        await key_sets.maintain()
    await settled(key_sets)
    assert key_sets.known("a") is not None
    await key_sets.maintain()


async def test_keys_are_refreshed_every_twenty_minutes_and_the_same_keys_stay_the_same(make, sources, clock):
    key_sets = make()
    key_sets.use(["a"])
    before = (await settled(key_sets)).known("a")
    clock.advance(PACE.refresh)
    await key_sets.maintain()
    assert (await settled(key_sets)).known("a") is before
    sources["a"].content = jwks({"ec": EC_KEY})
    clock.advance(PACE.refresh)
    await key_sets.maintain()
    assert (await settled(key_sets)).known("a") is not before
    assert sources["a"].fetched == 3


async def test_a_server_that_hangs_keeps_no_other_from_being_asked(make, sources):
    sources["a"].let_go.clear()
    key_sets = make()
    key_sets.use(["a", "b"])
    await settled(key_sets)
    assert (key_sets.known("a"), key_sets.is_awaited("a")) == (None, True)
    assert key_sets.known("b") is not None
    key_sets.close()
    await settled(key_sets)


async def test_a_message_names_a_few_places(tmp_path):
    file = LastGoodFile(tmp_path / "jwks", "jwks", "sqlite")
    key_sets: KeySets[str] = KeySets(lambda _: FakeKeySetSource(b"{"), ManualClock(), Metrics(), file)
    key_sets.use([f"place-{number}" for number in range(MAX_NAMED + 2)])
    await settled(key_sets)
    with pytest.raises(UnavailableError, match=r"; and 2 more$"):
        await key_sets.maintain()


async def test_what_was_fetched_is_there_after_a_start_while_its_server_is_away(make, sources, clock):
    key_sets = make()
    key_sets.use(["a"])
    await (await settled(key_sets)).save()
    sources["a"].failure = AWAY
    restarted = make()
    await restarted.load()
    restarted.use(["a", "b"])
    assert restarted.known("a") == key_sets.known("a")
    assert restarted.known("b") is None
    await settled(restarted)
    clock.advance(PACE.max_stale)
    assert restarted.known("a") is None
    older = make()
    await older.load()
    older.use(["a"])
    assert older.known("a") is None
    await settled(older)


async def test_kept_keys_that_cannot_be_read_are_refused(make, sources):
    key_sets = make()
    key_sets.use(["a"])
    await settled(key_sets)
    key_sets._keys["a"].last_good = key_sets._keys["a"].last_good.__class__(b"\xff{", 0.0)
    await key_sets.save()
    sources["a"].let_go.clear()
    restarted = make()
    restarted.use(["a"])
    with pytest.raises(PreconditionError, match="is not JSON"):
        await restarted.load()
    restarted.close()
    await settled(restarted)


async def test_another_time_limit_takes_over_the_keys_that_were_fetched_last_and_not_those_of_the_start(
    sources, clock, tmp_path
):
    file = LastGoodFile(tmp_path / "last-good" / "jwks", "jwks", "sqlite")

    def make():
        return KeySets(lambda place: sources[place[0]], clock, Metrics(), file, name_of=lambda place: place[0])

    first = make()
    first.use([("a", 5)])
    await (await settled(first)).save()
    old = first.known(("a", 5))
    restarted = make()
    await restarted.load()
    sources["a"].content = jwks({"ec": EC_KEY})
    restarted.use([("a", 5)])
    await settled(restarted)
    new = restarted.known(("a", 5))
    assert new != old
    sources["a"].failure = AWAY
    restarted.use([("a", 9)])
    assert restarted.known(("a", 9)) == new
    await settled(restarted)
    restarted.use([])
    restarted.use([("a", 5)])
    assert restarted.known(("a", 5)) is None
    await settled(restarted)


async def test_what_was_kept_of_a_place_that_no_document_names_is_forgotten(make, sources):
    key_sets = make()
    key_sets.use(["a"])
    await (await settled(key_sets)).save()
    restarted = make()
    await restarted.load()
    restarted.use(["b"])
    await restarted.save()
    sources["a"].failure = AWAY
    restarted.use(["a"])
    assert restarted.known("a") is None
    await settled(restarted)
