"""A demo that runs in a process of its own, as a user starts it."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

from app.demo.mesh import environment

# How long the demo may take on a busy machine; an idle one needs half of it.
LONGEST_SECONDS = 110.0


class RunningDemo:
    def __init__(self, process):
        self._process = process
        self.pid = process.pid
        self.output = ""

    async def until(self, text):
        """Return once the output contains `text`; fail with all that was printed if it ends without."""
        while text not in self.output:
            line = await self._process.stdout.readline()
            assert line, f"the demo ended without {text!r}:\n{self.output}"
            self.output += line.decode()

    async def end(self):
        """Return the exit code, with the whole output read."""
        self.output += (await self._process.stdout.read()).decode()
        return await self._process.wait()

    def signal(self, number):
        self._process.send_signal(number)

    def children(self):
        """Return the command lines of its child processes by pid."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and parent_of(entry.name) == self.pid:
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def child(self, words):
        (pid,) = [pid for pid, command in self.children().items() if words in command]
        return pid


@asynccontextmanager
async def running_demo(directory, *arguments):
    """Start `meshward demo` with its temporary files below `directory`; it is gone when the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.cli", "demo", *arguments),
        env=environment() | {"TMPDIR": str(directory)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            yield RunningDemo(process)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()


def parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
