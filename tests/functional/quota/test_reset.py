"""Counters in Valkey that an operator looks at and resets: by several processes, from many names, within an ACL."""

import asyncio

import pytest

from app.core.errors import UnavailableError
from app.quota.backends.valkey import browser as browser_module
from app.quota.backends.valkey import counters as counters_module
from app.quota.model import FixedWindow, Hit
from tests.fakes.quota import settled
from tests.support.counters import listed
from tests.support.counting import counting
from tests.support.serving import eventually_async
from tests.support.valkey import valkey_started

DAILY = FixedWindow(1, 86_400)
# What the guide says that the user of the store needs.
ACL = "~t:* +eval +evalsha +script +time +get +mget +set +del +scan"


def hit(name="k", limit="limit"):
    return Hit(limit, (name,), DAILY, 1)


async def allowed(counters, each=None):
    return (await settled(counters.add([each or hit()])))[0].allowed


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(counters_module, "RESET_CHECK_SECONDS", 0.01)


@pytest.fixture
def url(valkey_server):
    with valkey_server.client() as client:
        client.flushall()
    return valkey_server.url


async def test_another_process_that_knows_the_limit_to_be_used_up_hears_of_a_reset(soon, url):
    async with counting(url) as one, counting(url) as other:
        assert [await allowed(one), await allowed(other), await allowed(other)] == [True, False, False]
        await one.reset([("limit", ("k",))])
        await eventually_async(lambda: allowed(other), "the other to ask again")
        assert not await allowed(one)
        await one.reset_limits({"limit"})
        await eventually_async(lambda: allowed(other), "the other to ask again")


async def test_a_page_is_bounded_however_many_other_names_there_are(monkeypatch, url, valkey_server):
    monkeypatch.setattr(browser_module, "MAX_STEPS", 2)
    monkeypatch.setattr(browser_module, "MAX_LOOKED_AT", 50)
    with valkey_server.client() as client:
        client.mset({f"t:other:{{=,{number}}}": b"" for number in range(1000)})
        client.mset({f"foreign:{number}": b"" for number in range(1000)})
        client.set("t:limit:{=,not a counter", b"")
        client.set("t:limit:{=,unreadable}", b"not a state")
        client.lpush("t:limit:{=,list}", b"not a counter")
    async with counting(url) as counters:
        await settled(counters.add([hit(f"{number}") for number in range(20)]))
        pages, cursor = [], None
        while True:
            page = await counters.page({"limit": DAILY}, cursor, 5)
            pages.append(page.counters)
            cursor = page.following
            if cursor is None:
                break
        assert len(pages) > 5
        assert max(map(len, pages)) < 15
        assert {each.name[1] for page in pages for each in page} == {(f"{number}",) for number in range(20)}
        assert await counters.reset_limits({"limit"}) == 22


async def test_a_user_with_no_more_than_the_guide_says_lists_and_resets():
    with valkey_started("user default off", f"user quota on >s3cret {ACL}") as server:
        async with counting(f"valkey://quota:s3cret@127.0.0.1:{server.port}") as counters:
            await settled(counters.add([hit("a"), hit("b")]))
            assert (await listed(counters, {"limit": DAILY})).keys() == {("a",), ("b",)}
            await counters.reset([("limit", ("a",))])
            assert await counters.reset_limits({"limit"}) == 1


async def test_a_store_that_is_away_is_an_error_and_not_an_empty_list(url, valkey_server):
    async with counting("valkey://127.0.0.1:1", wait=False) as counters:
        for asked in (
            counters.page({"limit": DAILY}, None, 10),
            counters.read([("limit", ("a",))], {"limit": DAILY}),
            counters.reset([("limit", ("a",))]),
            counters.reset_limits({"limit"}),
        ):
            with pytest.raises(UnavailableError):
                await asked
    async with counting("valkey+cluster://127.0.0.1:1", wait=False) as counters:
        for asked in (counters.page({"limit": DAILY}, None, 10), counters.reset_limits({"limit"})):
            with pytest.raises(UnavailableError):
                await asked


async def test_a_server_that_hangs_is_an_error_in_time(monkeypatch):
    monkeypatch.setattr(browser_module, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(browser_module, "OPEN_SECONDS", 0.05)
    with valkey_started() as server:
        async with counting(server.url) as counters:
            server.pause()
            try:
                async with asyncio.timeout(30):
                    with pytest.raises(UnavailableError, match="timeout"):
                        await counters.reset_limits({"limit"})
            finally:
                server.resume()
