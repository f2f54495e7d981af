"""`meshward demo`: start the mesh, look at it, stay up if asked to, and leave nothing behind."""

import asyncio
import io
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.core.clock import Clock, SystemClock
from app.core.errors import PreconditionError
from app.core.net import Address
from app.core.private_files import read_private_file, replace_private_file
from app.demo.addresses import choose_addresses
from app.demo.binary import envoy_binary
from app.demo.children import ChildEndedError, Children
from app.demo.documents import CLOSE_NEWS
from app.demo.guide import curl_configuration, guide
from app.demo.load import SteadyLoad
from app.demo.mesh import Mesh, http_client
from app.demo.plan import USUAL_PORTS, Plan
from app.demo.steps import Failure, Screen, render_failure, run_steps, style_of
from app.demo.story import steps

# How often to start again with other ports, if another process takes one between its choice and its use.
ATTEMPTS = 3
# A shell's convention: 128 and the number of the signal that ended the command.
SIGNAL_EXIT = 128

# A Unix socket's path has room for 107 bytes on Linux and 103 on macOS; the demo's own part of it takes the rest.
MAX_PLACE_BYTES = 64

_PORT_TAKEN = re.compile(r"address already in use|port \d+ on \S+ is in use", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Demo:
    """One run of the demo: what it needs from outside. With `check` it ends when all has been seen."""

    check: bool
    envoy: Path
    clock: Clock
    screen: Screen

    async def run(self) -> int:
        """Run the demo and return its exit code: 0 only if every step saw what it should."""
        # Whoever took a usual port may be about to take the others, so these are not tried again.
        for ports in (USUAL_PORTS, *(ATTEMPTS - 1) * (dict.fromkeys(USUAL_PORTS, 0),)):
            failure = await self._attempt(choose_addresses(ports))
            if failure is None:
                return 0
            if not port_taken(failure):
                return 1
            self.screen.line("  another process took a port meanwhile: once more, with other ports")
        return 1

    async def _attempt(self, addresses: Mapping[str, Address]) -> Failure | None:
        directory = make_directory()
        plan = Plan(directory, addresses, self.envoy)
        plan.close_news_file.write_text(CLOSE_NEWS, encoding="utf-8")
        plan.logs.mkdir()
        try:
            async with Children(plan.logs) as children, http_client() as client:
                mesh = Mesh(plan, children, client)
                load = SteadyLoad(client, f"{plan.addresses['web_outbound'].url}/hello")
                try:
                    return await self._look(mesh, load)
                finally:
                    await load.stop()
        finally:
            shutil.rmtree(directory)

    async def _look(self, mesh: Mesh, load: SteadyLoad) -> Failure | None:
        todo = steps(mesh, load, self.clock)
        started = self.clock.monotonic()
        self.screen.line(f"A mesh of two workloads with real Envoy sidecars, in {mesh.plan.directory}\n")
        failure = await run_steps(todo, mesh.children, self.clock, self.screen)
        if failure is None:
            self.screen.line(f"\n{len(todo)} of {len(todo)} seen in {self.clock.monotonic() - started:.0f} s")
        if failure or self.check:
            return failure
        token = read_private_file(mesh.plan.admin_token).decode().strip()
        replace_private_file(mesh.plan.curl_file, curl_configuration(token).encode())
        self.screen.line(guide(mesh.plan))
        return await self._stay(mesh)

    async def _stay(self, mesh: Mesh) -> Failure:
        """Stay up until a signal cancels this. Return why not, if a process ends before."""
        try:
            await mesh.children.unless_one_ends(asyncio.Event().wait())
        except ChildEndedError as error:
            name = error.child.name
            failure = Failure(
                "the mesh stays up", f"{name} to keep running", error.message, ((name, mesh.children.tail(name)),)
            )
            self.screen.line(render_failure(self.screen.style, failure))
            return failure
        raise AssertionError("an event that nobody sets was set")


def run(*, check: bool) -> int:
    """Run the demo on this process's output until it is done or a signal ends it. Return the exit code.

    Raises PreconditionError if there is no Envoy to run, or no place for the files.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what a process said may not fit this terminal's encoding
    demo = Demo(check, envoy_binary(), SystemClock(), Screen(sys.stdout, style_of(sys.stdout)))
    try:
        return asyncio.run(_until_signal(demo))
    except BrokenPipeError:
        # Whoever read the output has gone; what is left of it must not be written once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGNAL_EXIT + signal.SIGPIPE


async def _until_signal(demo: Demo) -> int:
    running = asyncio.create_task(demo.run())
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if not received:
            demo.screen.line(f"\n{number.name}: stopping everything")
            running.cancel()
        received.append(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        return await running
    except asyncio.CancelledError:
        # To stay up until Ctrl-C is what was asked for; a check that is cut short has not seen everything.
        return SIGNAL_EXIT + received[0] if demo.check else 0


def make_directory() -> Path:
    """Return a new directory, ours alone, for one demo. Raises PreconditionError if there is no place for it."""
    place = tempfile.gettempdir()
    advice = "set TMPDIR to another directory"
    if len(place.encode()) > MAX_PLACE_BYTES:
        raise PreconditionError(f"the path {place} is too long for the Unix sockets of the demo: {advice}")
    try:
        return Path(tempfile.mkdtemp(prefix="meshward-demo-", dir=place))
    except OSError as error:
        raise PreconditionError(f"cannot make a directory in {place}: {error.strerror}; {advice}") from error


def port_taken(failure: Failure) -> bool:
    """Return whether a process ended because another one holds its port."""
    return any(_PORT_TAKEN.search(line) for _, tail in failure.logs for line in tail)
