"""Work that takes longer than a decision may wait, done beside the event loop: in a thread, or in a child process.

A thread shares the interpreter's lock with the loop, which costs every decision a little for as long as it works; a
process does not, but takes a third of a second to start. A job is a function without arguments that makes items; for a
process it is one that can be pickled, such as a `functools.partial` of a module's function.
"""

import asyncio
import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from io import BytesIO
from operator import attrgetter
from typing import IO, Any, Generic, Protocol, TypeVar

from app.core.errors import MeshwardError, UnavailableError

# Input up to which a thread is done before a process has started.
MAX_THREAD_BYTES = 64 * 1024
# How long a process may work for its next item: many times what the largest input takes on a busy machine.
SILENCE_SECONDS = 60.0

_LENGTH_BYTES = 8
# The child's settings are none of its business: its environment has no secrets.
_SETTINGS_PREFIX = "MESHWARD_"

Item = TypeVar("Item")
Job = Callable[[], Iterable[Item]]


class Offload(Protocol):
    """Does jobs beside the event loop."""

    async def __call__(self, job: Job[Item], size: int = 0, /) -> list[Item]:
        """Return the items that `job` makes of an input of `size` bytes.

        Raises what the job raises, UnavailableError if it was not done.
        """
        ...


async def in_thread(job: Job[Item], _size: int = 0) -> list[Item]:
    """Do the job in a thread. An Offload."""
    return await asyncio.to_thread(_kept, job)


def _kept(job: Job[Item]) -> list[Item]:
    return list(_uncollected(job()))


def _uncollected(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items, and take what they are made of from the garbage collector.

    There are millions of objects in the policies of a large mesh, and a collection that looks at all of them stops
    every decision for a second. They make no cycles, so that nothing is lost: they are freed when they are let go.
    """
    found = iter(items)
    while True:
        gc.collect(1)  # what is garbage now is not kept for ever
        gc.disable()
        try:
            item = next(found)
        except StopIteration:
            return
        finally:
            gc.freeze()
            gc.enable()
        yield item


class ChildProcess:
    """An Offload: small jobs in a thread, larger ones each in a child process, one at a time."""

    def __init__(self, *, max_thread_bytes: int = MAX_THREAD_BYTES, silence_seconds: float = SILENCE_SECONDS) -> None:
        """End a process that makes no item for `silence_seconds`."""
        self._max_thread_bytes, self._silence = max_thread_bytes, silence_seconds
        self._turn = asyncio.Semaphore()

    async def __call__(self, job: Job[Item], size: int = 0, /) -> list[Item]:
        """Do the job. Raises UnavailableError if its process ends, or stops, before it is done."""
        if size <= self._max_thread_bytes:
            return await in_thread(job)
        async with self._turn:
            talk = _Conversation(job)
            talking = asyncio.ensure_future(asyncio.to_thread(talk.run))
            try:
                await self._watch(talk, talking)
            except asyncio.CancelledError:
                talk.end()
                await asyncio.wait({talking})
                raise
            return talking.result()

    async def _watch(self, talk: "_Conversation[Any]", talking: "asyncio.Future[list[Any]]") -> None:
        seen = -1
        while not talking.done() and seen != talk.progress:
            seen = talk.progress
            await asyncio.wait({talking}, timeout=self._silence)
        if talking.done():
            return
        talk.end()
        await asyncio.wait({talking})
        talking.exception()  # it says no more than that the process was ended
        raise UnavailableError(f"the process that reads documents did nothing for {self._silence:g} seconds: try again")


class _Conversation(Generic[Item]):
    """One child process: it is sent the job, and sends items, each as soon as it is made."""

    def __init__(self, job: Job[Item]) -> None:
        self._job = job
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False
        self.progress = 0

    def end(self) -> None:
        """End the process."""
        self._ended = True
        if self._process is not None:
            self._process.kill()

    def run(self) -> list[Item]:
        """Return the items, in a thread."""
        command = [sys.executable, "-P", "-m", "app.core.child"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS_PREFIX)}
        # It finds the modules where this process does, and nowhere else.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        try:
            process = subprocess.Popen(  # noqa: S603 - this program itself
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        except OSError as error:
            raise UnavailableError(f"cannot start a process to read documents: {error.strerror}") from error
        with process:
            self._process = process
            if self._ended:
                process.kill()
            try:
                return list(_uncollected(self._items(process)))
            except (BrokenPipeError, EOFError, pickle.UnpicklingError) as error:
                process.kill()
                how = process.wait()
                problem = f"the process that reads documents ended before it was done (status {how})"
                raise UnavailableError(f"{problem}: try again, and see that there is memory for it") from error
            finally:
                process.kill()

    def _items(self, process: "subprocess.Popen[bytes]") -> Iterator[Item]:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018, S101 - both are pipes
        with process.stdin as sink:
            send(sink, self._job)
        while True:
            frame = receive(process.stdout)
            self.progress += 1
            match frame:
                case ("item", item):
                    yield item
                case ("error", MeshwardError() as error):
                    raise error
                case _:
                    return


def send(stream: IO[bytes], value: object) -> None:
    """Write a value: the length of its pickle, then the pickle."""
    buffer = BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    stream.write(buffer.tell().to_bytes(_LENGTH_BYTES))
    stream.write(buffer.getbuffer())
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read a value that was sent. Raises EOFError if there is none."""
    length = int.from_bytes(_exactly(stream, _LENGTH_BYTES))
    return pickle.loads(_exactly(stream, length))  # noqa: S301 - of this program, over a pipe that nobody else has


def _exactly(stream: IO[bytes], length: int) -> bytes:
    found = stream.read(length)
    if len(found) < length:
        raise EOFError
    return found


class _Pickler(pickle.Pickler):
    """Writes a frozen dataclass as the call that makes it: a third of the time that its state takes to be restored."""

    def reducer_override(self, value: Any) -> Any:
        cls = type(value)
        if cls not in _FIELDS:
            frozen = is_dataclass(cls) and cls.__dataclass_params__.frozen  # type: ignore[attr-defined]  # no public name
            _FIELDS[cls] = tuple(field.name for field in fields(cls) if field.init) if frozen else ()
        names = _FIELDS[cls]
        if not names:
            return NotImplemented
        found = attrgetter(*names)(value)
        return cls, found if len(names) > 1 else (found,)


_FIELDS: dict[type, tuple[str, ...]] = {}
"""The fields that a frozen dataclass is made with, none for other classes."""
