import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from app.demo import children as module
from app.demo import launch
from app.demo.children import ChildEndedError, Children, ending, tail

FOREVER = "import signal, sys; print('up', flush=True); signal.pause()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOREVER}"


def python(code):
    return (sys.executable, "-I", "-S", "-c", code)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(holds):
    async with asyncio.timeout(20):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


async def up(children, name):
    await until(lambda: "up" in children.tail(name))


async def test_leaving_stops_every_child(tmp_path):
    async with Children(tmp_path) as children:
        pids = [(await children.start(name, python(FOREVER), {})).process.pid for name in ("one", "two")]
        await up(children, "one")
        await up(children, "two")
    assert not any(alive(pid) for pid in pids)


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "STOP_SECONDS", 0.05)
    async with Children(tmp_path) as children:
        child = await children.start("one", python(STUBBORN), {})
        await up(children, "one")
    assert child.process.returncode == -signal.SIGKILL


async def test_work_ends_with_the_name_of_the_child_that_ended_unexpectedly(tmp_path):
    work = asyncio.Event()
    async with Children(tmp_path) as children:
        await children.start("one", python(FOREVER), {})
        await children.start("two", python("print('no such file'); raise SystemExit(3)"), {})
        with pytest.raises(ChildEndedError, match="two ended with exit code 3") as caught:
            await asyncio.wait_for(children.unless_one_ends(work.wait()), 20)
        assert caught.value.child.name == "two"
        assert children.tail("two") == ("no such file",)


async def test_the_end_of_a_child_is_reported_rather_than_the_failure_that_it_caused(tmp_path):
    async def work(child):
        await child.process.wait()
        raise ConnectionError

    async with Children(tmp_path) as children:
        child = await children.start("one", python("raise SystemExit(3)"), {})
        with pytest.raises(ChildEndedError, match="one ended with exit code 3"):
            await asyncio.wait_for(children.unless_one_ends(work(child)), 20)


async def test_work_that_fails_by_itself_raises_its_own_error(tmp_path, monkeypatch):
    async def work():
        raise ConnectionError("refused")

    monkeypatch.setattr(module, "NOTICE_SECONDS", 0.01)
    async with Children(tmp_path) as children:
        await children.start("one", python(FOREVER), {})
        with pytest.raises(ConnectionError, match="refused"):
            await children.unless_one_ends(work())


async def test_work_that_ends_first_returns_its_result(tmp_path):
    async with Children(tmp_path) as children:
        await children.start("one", python(FOREVER), {})
        assert await children.unless_one_ends(asyncio.sleep(0, "done")) == "done"


async def test_a_child_that_is_stopped_or_expected_to_end_is_no_failure(tmp_path):
    async with Children(tmp_path) as children:
        one = await children.start("one", python(FOREVER), {})
        await children.stop(one)
        two = await children.start("two", python("pass"), {}, ends=True)
        assert await asyncio.wait_for(two.process.wait(), 20) == 0
        assert await children.unless_one_ends(asyncio.sleep(0, "done")) == "done"


async def test_a_program_that_cannot_be_run_leaves_the_reason_in_its_log(tmp_path):
    async with Children(tmp_path) as children:
        child = await children.start("one", ("/no/such/program",), {}, ends=True)
        assert await asyncio.wait_for(child.process.wait(), 20) != 0
        assert "/no/such/program" in children.tail("one")[-1]


async def test_a_child_ends_when_its_parent_is_killed(tmp_path):
    started = tmp_path / "started"
    command = [sys.executable, "-I", "-S", launch.__file__]
    grandchild = f"import os, signal; open({str(started)!r}, 'w').write(str(os.getpid())); signal.pause()"
    code = (
        "import os, signal, subprocess\n"
        f"subprocess.Popen({command!r} + [str(os.getpid()), {sys.executable!r}, '-I', '-S', '-c', {grandchild!r}])\n"
        "signal.pause()\n"
    )
    parent = await asyncio.create_subprocess_exec(*python(code))
    await until(lambda: started.exists() and started.read_text())
    pid = int(started.read_text())
    assert alive(pid)
    parent.kill()
    await parent.wait()
    await until(lambda: not running(pid))


def running(pid):
    """Whether a process runs; one that was not waited for yet exists but has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_log_is_shown_without_control_characters(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo\n\x1b[31mred\x1b[0m\x07\xc2\x9b2J \xff\r\n" + b"x" * 1000 + b"\n")
    last = tail(log, 2)
    assert "\x1b" not in last[0]
    assert "\x9b" not in last[0]
    assert last[0].startswith("red")
    assert len(last[1]) == 400
    assert tail(tmp_path / "none") == ()


@pytest.mark.parametrize(
    ("code", "words"), [(None, "is running"), (0, "ended with exit code 0"), (-9, "was ended by SIGKILL")]
)
def test_an_ending_in_words(code, words):
    assert ending(code) == words
