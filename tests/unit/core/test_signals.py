"""Waking tasks for a change, and telling a change from a repetition."""

import asyncio

from app.core.signals import Latest, Signal


async def test_every_waiter_is_woken():
    signal = Signal()
    waiters = [asyncio.ensure_future(signal.wait_beyond(0)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(waiter.done() for waiter in waiters)
    signal.fire()
    await asyncio.wait_for(asyncio.gather(*waiters), 5)


async def test_an_event_between_looking_and_waiting_is_not_missed():
    signal = Signal()
    seen = signal.count
    signal.fire()
    await asyncio.wait_for(signal.wait_beyond(seen), 5)


async def test_an_event_that_was_seen_is_not_waited_for_again():
    signal = Signal()
    signal.fire()
    waiter = asyncio.ensure_future(signal.wait_beyond(signal.count))
    await asyncio.sleep(0)
    assert not waiter.done()
    signal.fire()
    await asyncio.wait_for(waiter, 5)


async def test_a_wait_with_a_time_limit_ends_with_the_next_event_or_at_the_limit():
    signal = Signal()
    waiter = asyncio.ensure_future(signal.wait(3600))
    await asyncio.sleep(0)
    assert not waiter.done()
    signal.fire()
    await asyncio.wait_for(waiter, 5)
    await asyncio.wait_for(signal.wait(0.001), 5)
    assert signal.count == 1


def test_only_a_change_is_reported():
    latest = Latest("")
    assert [latest.set(value) for value in ("", "away", "away", "locked", "", "")] == [
        False,
        True,
        False,
        True,
        True,
        False,
    ]
    assert latest.value == ""
