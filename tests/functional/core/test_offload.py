"""Jobs in a real child process: what it makes arrives, and however it ends the caller is told."""

import asyncio
import gc
import os
from functools import partial

import pytest

from app.authz.model import AuthzOptions
from app.authz.rules.compile import compile_policy
from app.authz.rules.parse import POLICY_KIND
from app.core.errors import InternalError, InvalidInputError, UnavailableError
from app.core.offload import SILENCE_SECONDS, ChildProcess, in_thread
from app.documents.compiling import read_given
from tests.fakes.authz import policy
from tests.functional.core import jobs
from tests.support.serving import eventually_async

LARGE = 1 << 20


@pytest.fixture
def offload():
    return ChildProcess()


async def test_a_large_job_is_done_in_another_process_and_a_small_one_here(offload):
    (large,) = await offload(jobs.process_id, LARGE)
    (small,) = await offload(jobs.process_id, 100)
    assert large != os.getpid() == small


async def test_the_items_arrive_in_their_order(offload):
    assert await offload(partial(jobs.numbers, 5000), LARGE) == list(range(5000))
    assert await offload(partial(jobs.numbers, 0), LARGE) == []


async def test_jobs_at_once_are_done_one_after_the_other(offload):
    found = await asyncio.gather(*(offload(partial(jobs.numbers, count), LARGE) for count in (1, 2, 3)))
    assert [len(items) for items in found] == [1, 2, 3]


async def test_policies_compiled_in_another_process_are_those_compiled_here(offload):
    rule = """{from: [{source: {principals: [cluster.local/ns/a/sa/b], notNamespaces: [x]}}],
      to: [{operation: {paths: [/a/*, "/b/{*}/c"], hosts: [h], notMethods: [PUT], ports: ["80"]}}],
      when: [{key: source.ip, values: [10.0.0.0/8]}, {key: "request.headers[x]", notValues: ["a*"]}]}"""
    text = "".join(
        policy(f"{{action: {action}, selector: {{matchLabels: {{app: x}}}}, rules: [{rule}]}}", action.lower())
        for action in ("ALLOW", "DENY")
    )
    compile_document = partial(compile_policy, options=AuthzOptions())
    job = partial(read_given, POLICY_KIND, compile_document, frozenset(), text.encode())
    there = await offload(job, LARGE)
    assert there == await in_thread(job)
    assert [len(each.compiled.rules) for each in there] == [1, 1]


async def test_what_the_job_refuses_is_refused_with_its_violations(offload):
    with pytest.raises(InvalidInputError, match="it is wrong") as caught:
        await offload(jobs.refuse, LARGE)
    assert [str(violation) for violation in caught.value.violations] == ["spec.x: is not a field here"]


async def test_a_fault_of_the_job_is_a_fault_of_ours(offload):
    with pytest.raises(InternalError, match="ZeroDivisionError"):
        await offload(jobs.fail, LARGE)


async def test_a_process_that_dies_is_told_with_its_status_and_the_next_one_works(offload):
    with pytest.raises(UnavailableError, match=r"ended before it was done \(status 7\): try again"):
        await offload(jobs.die, LARGE)
    assert await offload(partial(jobs.numbers, 1), LARGE) == [0]


async def test_a_process_that_hangs_is_ended_and_the_next_one_works():
    offload = ChildProcess(silence_seconds=1)
    with pytest.raises(UnavailableError, match="did nothing for 1 seconds"):
        await offload(jobs.hang, LARGE)
    offload._silence = SILENCE_SECONDS  # the next one may take its time on a busy machine
    assert await offload(partial(jobs.numbers, 1), LARGE) == [0]


async def test_a_process_that_is_slow_but_alive_is_not_ended():
    assert await ChildProcess(silence_seconds=2)(partial(jobs.speak_slowly, 12), LARGE) == list(range(12))


async def test_a_caller_who_leaves_ends_the_process(offload, tmp_path):
    begun = tmp_path / "begun"
    waiting = asyncio.create_task(offload(partial(jobs.hang, begun), LARGE))

    async def process_id():
        return begun.exists() and begun.read_text().strip()

    process = await eventually_async(process_id, "the process to begin")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(ProcessLookupError):
        os.kill(int(process), 0)
    assert await offload(partial(jobs.numbers, 1), LARGE) == [0]


async def test_the_process_has_none_of_our_settings(offload, monkeypatch):
    monkeypatch.setenv("MESHWARD_DATABASE_URL", "postgresql+asyncpg://user:secret@host/name")
    assert await offload(jobs.settings, LARGE) == []


async def test_a_process_that_cannot_be_started_is_told(offload, monkeypatch):
    monkeypatch.setattr("app.core.offload.sys.executable", "/nowhere/python")
    with pytest.raises(UnavailableError, match="cannot start a process"):
        await offload(partial(jobs.numbers, 1), LARGE)


async def test_what_is_made_is_not_looked_at_by_the_collector_which_goes_on():
    frozen = gc.get_freeze_count()
    items = await in_thread(lambda: [[number] for number in range(1000)])
    assert len(items) == 1000
    assert gc.get_freeze_count() > frozen
    assert gc.isenabled()
    gc.unfreeze()


async def test_a_job_that_fails_leaves_the_collector_on():
    with pytest.raises(InvalidInputError):
        await in_thread(jobs.refuse)
    assert gc.isenabled()
