"""Pages are bounded in items and in bytes, go through everything, and are sent in pieces."""

import json

import pytest

from app.transport.rest import pages as pages_module
from app.transport.rest.pages import page_of

ITEMS = [f"{number:03}" for number in range(120)]


class Shelf:
    """Items in the order of their keys; `asked` are the numbers that were asked for."""

    def __init__(self, items):
        self.items, self.asked = items, []

    async def fetch(self, after, count):
        self.asked.append(count)
        return [item for item in self.items if after is None or item > after][:count]


async def pieces_of(response):
    return [piece async for piece in response.body_iterator]


async def read(shelf, limit, size=lambda _: 0, cursor=None):
    response = await page_of(shelf.fetch, cursor, limit, parse=str, key=str, render=json.dumps, size=size)
    return json.loads("".join(await pieces_of(response)))


async def walk(shelf, limit, size=lambda _: 0):
    pages, cursor = [], None
    while True:
        page = await read(shelf, limit, size, cursor)
        pages.append(page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            return pages


@pytest.mark.parametrize("limit", [1, 7, 50, 119, 120, 121, 1000])
async def test_pages_go_through_everything_once(limit):
    pages = await walk(Shelf(ITEMS), limit)
    assert [item for page in pages for item in page] == ITEMS
    assert all(len(page) == limit for page in pages[:-1])
    assert len(pages) == -(-len(ITEMS) // limit)


async def test_an_empty_list_is_one_empty_page():
    assert await walk(Shelf([]), 10) == [[]]


async def test_a_page_ends_before_it_is_too_long(monkeypatch):
    monkeypatch.setattr(pages_module, "MAX_PAGE_BYTES", 100)
    pages = await walk(Shelf(ITEMS), 1000, size=lambda _: 30)
    assert [item for page in pages for item in page] == ITEMS
    assert {len(page) for page in pages} == {3}


async def test_an_item_that_is_longer_than_a_page_is_a_page(monkeypatch):
    monkeypatch.setattr(pages_module, "MAX_PAGE_BYTES", 100)
    sizes = {"000": 10, "001": 500, "002": 500, "003": 10}
    assert await walk(Shelf(sorted(sizes)), 1000, sizes.get) == [["000"], ["001"], ["002"], ["003"]]


async def test_no_more_is_read_than_a_page_may_have(monkeypatch):
    monkeypatch.setattr(pages_module, "MAX_PAGE_BYTES", 100)
    monkeypatch.setattr(pages_module, "ITEMS_AT_ONCE", 10)
    shelf = Shelf(ITEMS)
    await read(shelf, 1000, size=lambda _: 30)
    assert shelf.asked == [10]


async def test_an_answer_is_sent_in_pieces():
    response = await page_of(Shelf(ITEMS).fetch, None, 1000, parse=str, key=str, render=json.dumps)
    pieces = await pieces_of(response)
    assert len(pieces) == 2 + -(-len(ITEMS) // pages_module.ITEMS_AT_ONCE)
