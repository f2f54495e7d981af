"""The loop of every background pass: it goes on whatever fails, and logs the beginning and the end of a failure."""

import asyncio

import pytest
from structlog.testing import capture_logs

from app.core.errors import UnavailableError
from app.main.control_plane import REFRESH_SECONDS, repeat


class Work:
    """Fails with each reason in turn, "" for a success; the sleep after the last one is cancelled."""

    def __init__(self, *reasons):
        self.reasons = list(reasons)
        self.calls = 0

    async def __call__(self):
        self.calls += 1
        if reason := self.reasons.pop(0):
            raise UnavailableError(reason)

    async def sleep(self, seconds):
        assert seconds == REFRESH_SECONDS
        if not self.reasons:
            raise asyncio.CancelledError


async def run(*reasons):
    work = Work(*reasons)
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await repeat(work, failed="x_failed", recovered="x_recovered", sleep=work.sleep)
    assert work.calls == len(reasons)
    return [(entry["event"], entry.get("reason")) for entry in logs]


async def test_a_failure_is_logged_once_when_it_begins_and_once_when_it_ends():
    assert await run("", "away", "away", "away", "", "") == [("x_failed", "away"), ("x_recovered", None)]


async def test_another_reason_is_logged_as_well():
    assert await run("away", "locked", "locked", "away") == [
        ("x_failed", "away"),
        ("x_failed", "locked"),
        ("x_failed", "away"),
    ]


async def test_nothing_is_logged_as_long_as_all_is_well():
    assert await run("", "", "") == []


async def test_a_fault_of_our_own_ends_it():
    async def broken():
        raise RuntimeError("broken")

    async def at_once(_seconds):
        pass

    with pytest.raises(RuntimeError):
        await repeat(broken, failed="x_failed", recovered="x_recovered", sleep=at_once)
