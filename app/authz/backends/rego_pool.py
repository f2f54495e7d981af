"""The processes that evaluate one set of Rego policies, and what each of them was sent."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from app.authz.backends.rego_known import Known, read_known
from app.authz.backends.rego_wire import LENGTH_BYTES, READY, frame, length_of
from app.core.errors import InvalidInputError, UnavailableError

# Requests that wait for an evaluation; each would take a fraction of a millisecond.
MAX_WAITING = 1000
# How long a process may take to start on a busy machine, and to compile the largest policies.
START_SECONDS = 30.0
# After how long a process that ended is started again: a request that ends every one is not to take the machine.
RESTART_SECONDS = 0.1

_SETTINGS_PREFIX = "MESHWARD_"


@dataclass(frozen=True, slots=True)
class Setup:
    """What is evaluated, for how long at most, and by how many processes; `data` is JSON."""

    modules: tuple[tuple[str, str], ...]
    data: str
    query: str
    seconds: float
    workers: int
    v0: bool

    def first_frame(self) -> bytes:
        """Return what a process is sent first."""
        content = {
            "modules": self.modules,
            "data": self.data,
            "query": self.query,
            "v0": self.v0,
            "seconds": self.seconds,
        }
        return frame(json.dumps(content).encode())


@dataclass(eq=False, slots=True)
class _Call:
    text: bytes
    until: float
    reply: "asyncio.Future[bytes]"


class _Worker(asyncio.Protocol):
    """The connection to one process; replies come in the order of the calls."""

    def __init__(self, process: "subprocess.Popen[bytes]", on_lost: Callable[["_Worker"], None]) -> None:
        self.process, self._on_lost = process, on_lost
        self.calls: deque[_Call] = deque()
        self.ready: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._buffer = bytearray()
        self._unsent: list[bytes] = []
        self.transport: asyncio.Transport | None = None
        self.retired = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what a stream socket has
        self.transport = transport

    def send(self, call: _Call) -> None:
        """Have the input sent with those of the other calls of this turn of the loop: a write wakes the process."""
        self.calls.append(call)
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(frame(call.text))

    def _flush(self) -> None:
        if self.transport is not None:
            self.transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= LENGTH_BYTES:
            end = length_of(buffer)
            if len(buffer) < end:
                return
            self._received(bytes(buffer[LENGTH_BYTES:end]))
            del buffer[:end]

    def _received(self, payload: bytes) -> None:
        if not self.ready.done():
            self.ready.set_result(payload)
            return
        reply = self.calls.popleft().reply
        if not reply.done():
            reply.set_result(payload)
        if self.retired and not self.calls:
            self.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self.transport = None
        if not self.ready.done():
            self.ready.set_result(b"")
        self._on_lost(self)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class RegoPool:
    """Has inputs evaluated by one set of policies."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._workers: list[_Worker] = []
        self._waiting: deque[_Call] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._first = b""
        self._retired = False

    async def start(self) -> Known:
        """Start the processes, and return what they say about the policies.

        Raises InvalidInputError that says what is wrong with the policies.
        """
        self._first = await asyncio.to_thread(self._setup.first_frame)
        for _ in range(self._setup.workers):
            self._workers.append(await self._started())
        return await asyncio.to_thread(read_known, self._workers[0].ready.result()[1:])

    def retire(self) -> None:
        """Let the processes end once they have answered what they were sent."""
        self._retired = True
        for worker in self._workers:
            worker.retired = True
            if not worker.calls:
                worker.close()

    async def close(self) -> None:
        """End the processes."""
        self._retired = True
        if self._timer is not None:
            self._timer.cancel()
        for worker in self._workers:
            worker.process.kill()
            worker.close()
        while self._tasks or self._workers:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)

    async def evaluate(self, text: bytes) -> bytes:
        """Return the reply to an input. Raises UnavailableError if there is none in time."""
        loop = asyncio.get_running_loop()
        call = _Call(text, loop.time() + self._setup.seconds, loop.create_future())
        self._give(call)
        if self._timer is None:
            self._timer = loop.call_at(call.until, self._expire)
        return await call.reply

    def _give(self, call: _Call) -> None:
        worker = min(self._workers, key=lambda each: len(each.calls), default=None)
        if worker is not None and len(worker.calls) < MAX_WAITING:
            worker.send(call)
        elif len(self._waiting) < MAX_WAITING and worker is None:
            self._waiting.append(call)
        else:
            _fail(call, f"more than {MAX_WAITING} requests wait for its evaluation")

    def _expire(self) -> None:
        """Fail what has had its time, and end a process that holds it up: its alarm should have."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = None
        left: list[float] = []
        for calls in (self._waiting, *(worker.calls for worker in self._workers)):
            for call in calls:
                if call.reply.done():
                    continue
                if call.until > now:
                    left.append(call.until)
                    break
                _fail(call, f"it was not evaluated within {self._setup.seconds * 1000:g} ms")
        for worker in self._workers:
            if worker.calls and worker.calls[0].until + self._setup.seconds < now:
                worker.process.kill()
        overdue = [worker.calls[0].until + self._setup.seconds for worker in self._workers if worker.calls]
        if left or overdue:
            self._timer = loop.call_at(max(min(left + overdue), now + 0.001), self._expire)

    async def _started(self) -> _Worker:
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.to_thread(_spawn, theirs)
        except OSError as error:
            ours.close()
            raise UnavailableError(f"cannot start a process to evaluate Rego: {error.strerror}") from error
        finally:
            theirs.close()
        loop = asyncio.get_running_loop()
        worker = _Worker(process, self._lost)
        try:
            await loop.create_connection(lambda: worker, sock=ours)
            assert worker.transport is not None  # noqa: S101 - create_connection has made it
            worker.transport.write(self._first)
            async with asyncio.timeout(START_SECONDS):
                said = await asyncio.shield(worker.ready)
        except TimeoutError:
            said = b""
        except BaseException:
            process.kill()
            worker.close()
            raise
        if said.startswith(READY):
            return worker
        process.kill()
        worker.close()
        if not said:
            raise InvalidInputError("the policies cannot be compiled in the time and memory that a process may take")
        raise InvalidInputError(f"the policies are not valid: {said[1:].decode(errors='replace')}")

    def _lost(self, worker: _Worker) -> None:
        """Fail the call that ended the process, have the others evaluated elsewhere, and start another process."""
        self._run(_reap(worker.process))
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        if worker.calls:
            _fail(worker.calls.popleft(), "its evaluation took too much time or memory, and was ended")
        if self._retired:
            for call in worker.calls:
                _fail(call, "the control plane is shutting down")
            return
        for call in worker.calls:
            if not call.reply.done():
                self._give(call)
        self._run(self._restart())

    async def _restart(self) -> None:
        while not self._retired:
            await asyncio.sleep(RESTART_SECONDS)
            try:
                worker = await self._started()
            except (InvalidInputError, UnavailableError):
                continue
            self._adopt(worker)
            return

    def _adopt(self, worker: _Worker) -> None:
        self._workers.append(worker)
        if self._retired:
            worker.close()
        while self._waiting:
            self._give(self._waiting.popleft())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _fail(call: _Call, problem: str) -> None:
    if not call.reply.done():
        call.reply.set_exception(UnavailableError(problem))


async def _reap(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    await asyncio.to_thread(process.wait)


def _spawn(connection: socket.socket) -> "subprocess.Popen[bytes]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS_PREFIX)}
    # It finds the modules where this process does, and nowhere else.
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "app.authz.backends.rego_worker"],
        stdin=connection.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
