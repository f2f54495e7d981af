"""The child process in which Rego is evaluated: `rego.py` sends it the policies, then one input after another.

regorus holds the interpreter's lock while it evaluates and has no limit of time or memory. Here an evaluation that
takes too long is ended with its process by an alarm, and one that takes too much memory by the operating system.
"""

import json
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

from app.authz.backends.rego_engine import Loaded, check_data, rewritten, said
from app.authz.backends.rego_known import known_json
from app.authz.backends.rego_wire import FAILED, LENGTH_BYTES, READY, frame, length_of

# The first evaluation compiles the policies, which takes a second for some megabytes.
COMPILE_SECONDS = 20.0
# The interpreter, regorus and the largest policies take a quarter of this.
MAX_MEMORY_BYTES = 1 << 30

_CHUNK_BYTES = 256 * 1024


def work(connection: socket.socket) -> None:
    """Answer the frames of one connection until it ends."""
    frames = _frames(connection)
    first = json.loads(next(frames))
    try:
        loaded, known = _load(first)
    except Exception as error:  # noqa: BLE001 - RuntimeError and what else the library has for a wrong policy
        connection.sendall(frame(FAILED + said(error)))
        return
    connection.sendall(frame(READY + known))
    seconds: float = first["seconds"]
    for text in frames:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        answer = loaded.reply(text)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.sendall(frame(answer))


def _frames(connection: socket.socket) -> Iterator[bytes]:
    buffer = bytearray()
    while chunk := connection.recv(_CHUNK_BYTES):
        buffer += chunk
        while len(buffer) >= LENGTH_BYTES and len(buffer) >= (end := length_of(buffer)):
            yield bytes(buffer[LENGTH_BYTES:end])
            del buffer[:end]


def _load(first: dict[str, Any]) -> tuple[Loaded, bytes]:
    modules = rewritten(first["modules"], v0=first["v0"])
    check_data(modules, first["data"], v0=first["v0"])
    signal.setitimer(signal.ITIMER_REAL, COMPILE_SECONDS)
    try:
        loaded = Loaded(modules, first["data"], first["query"], v0=first["v0"])
        return loaded, known_json(modules, first["data"], v0=first["v0"])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to parent and child: the parent ends both
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=sys.stdin.fileno()) as parent:
        work(parent)
