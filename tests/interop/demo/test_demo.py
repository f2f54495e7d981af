import asyncio
import io
import os
import shutil
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.core.clock import SystemClock
from app.demo.children import Children
from app.demo.mesh import USUAL_PORTS, Mesh, Plan
from app.demo.run import Demo
from app.demo.steps import Screen
from app.demo.story import steps
from tests.interop.demo.running import running_demo, runs

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc, which is Linux's own")

NOTHING: Any = None
TITLES = [step.title for step in steps(Mesh(Plan(Path(), {}, Path()), NOTHING, NOTHING, SystemClock()))]


@pytest.fixture
def taken_ports():
    """The usual ports, held by another process: this one."""
    with ExitStack() as held:
        for port in USUAL_PORTS.values():
            holder = held.enter_context(socket.socket())
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                holder.bind(("127.0.0.1", port))
            except OSError:
                continue  # another process holds it already
            holder.listen()
        yield


async def test_every_step_of_the_check_passes_on_other_ports_than_the_usual_and_nothing_is_left(directory, taken_ports):
    async with running_demo(directory, "--check") as demo:
        await demo.until(f"✔ {TITLES[0]}")
        children = demo.children()
        assert await demo.end() == 0, demo.output
    lines = [line for line in demo.output.splitlines() if line.startswith("  ✔ ")]
    assert [line[4:].startswith(title) for line, title in zip(lines, TITLES, strict=True)] == [True] * len(TITLES)
    assert not any(f":{port}" in demo.output for port in USUAL_PORTS.values())
    assert children
    assert not any(runs(pid) for pid in children)
    assert list(directory.iterdir()) == []


async def test_without_check_it_stays_up_and_ctrl_c_removes_everything(directory):
    async with running_demo(directory) as demo:
        await demo.until("Ctrl-C stops it")
        await try_what_the_guide_says(demo.output)
        children = demo.children()
        assert len(children) == 7
        demo.signal(signal.SIGINT)
        assert await demo.end() == 0, demo.output
    assert not any(runs(pid) for pid in children)
    assert list(directory.iterdir()) == []


async def test_a_process_that_ends_is_named_with_its_log_and_nothing_is_left(directory):
    async with running_demo(directory, "--check") as demo:
        await demo.until(f"✔ {TITLES[0]}")
        children = demo.children()
        os.kill(demo.child("app.cli serve"), signal.SIGKILL)
        assert await demo.end() == 1
    assert "✘" in demo.output
    assert "control-plane was ended by SIGKILL" in demo.output
    assert "the end of the log of control-plane:" in demo.output
    assert not any(runs(pid) for pid in children)
    assert list(directory.iterdir()) == []


async def test_a_process_that_ends_while_the_mesh_stays_up_ends_the_demo_with_its_log(directory):
    output = io.StringIO()
    demo = Demo(False, Path(), SystemClock(), Screen(output))
    async with Children(directory) as children:
        await children.start("api-envoy", (sys.executable, "-c", "raise SystemExit('out of memory')"), {})
        failure = await asyncio.wait_for(demo._stay(children), 20)
    assert failure.seen == "api-envoy ended with exit code 1"
    assert "out of memory" in output.getvalue()


async def test_a_check_that_is_ended_early_has_not_succeeded(directory):
    async with running_demo(directory, "--check") as demo:
        await demo.until(f"✔ {TITLES[0]}")
        children = demo.children()
        demo.signal(signal.SIGTERM)
        assert await demo.end() == 128 + signal.SIGTERM
    assert not any(runs(pid) for pid in children)
    assert list(directory.iterdir()) == []


async def try_what_the_guide_says(text):
    """Run the printed commands and check their answers."""
    if shutil.which("curl") is None or shutil.which("bash") is None:
        return
    commands = [line.strip() for line in text.splitlines() if line.startswith("    ") and "curl " in line]
    answers = [await answer_of(command) for command in commands]
    first_lines = [answer.splitlines()[0] if answer else "" for answer in answers]
    allowed, admin, post, limited, plain, *_ = first_lines
    assert "200" in allowed
    assert "403" in admin
    assert "403" in post
    assert "x-meshward-decision" in answers[1]
    assert set(limited.split()) <= {"200", "429"}  # a new minute may begin in between
    assert plain == ""
    assert "403" in first_lines[6]
    assert "# HELP" in answers[-1]


async def answer_of(command):
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    return output.decode()
