"""The child process in which Rego is evaluated: `rego.py` sends it the policies, then one input after another.

regorus holds the interpreter's lock while it evaluates and has no limit of time or memory. Here an evaluation that
takes too long is ended with its process by an alarm, and one that takes too much memory by the operating system.
"""

import json
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from app.authz.backends.rego_rewrite import UnsupportedError, rewrite
from app.authz.backends.rego_wire import (
    DECISION,
    FAILED,
    FALSE,
    LENGTH_BYTES,
    READY,
    TRUE,
    UNDEFINED,
    frame,
    length_of,
)

# An error of regorus has a source line and a stack; its beginning says what is wrong.
MAX_ERROR = 512
# The first evaluation compiles the policies, which takes a second for some megabytes.
COMPILE_SECONDS = 20.0
# The interpreter, regorus and the largest policies take a quarter of this.
MAX_MEMORY_BYTES = 1 << 30

_CHUNK_BYTES = 256 * 1024
_NO_RULE = "not a valid rule path"


def work(connection: socket.socket) -> None:
    """Answer the frames of one connection until it ends."""
    frames = _frames(connection)
    first = json.loads(next(frames))
    try:
        evaluate = _load(first)
    except Exception as error:  # noqa: BLE001 - RuntimeError and what else the library has for a wrong policy
        connection.sendall(frame(FAILED + _said(error)))
        return
    connection.sendall(frame(READY))
    seconds: float = first["seconds"]
    for text in frames:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        reply = _reply(evaluate, text)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.sendall(frame(reply))


def _frames(connection: socket.socket) -> Iterator[bytes]:
    buffer = bytearray()
    while chunk := connection.recv(_CHUNK_BYTES):
        buffer += chunk
        while len(buffer) >= LENGTH_BYTES and len(buffer) >= (end := length_of(buffer)):
            yield bytes(buffer[LENGTH_BYTES:end])
            del buffer[:end]


def _load(policies: dict[str, Any]) -> Callable[[str], Any]:
    """Return what evaluates the query with an input. Raises what regorus raises for policies that are not valid."""
    engine = _engine(v0=policies["v0"])
    for name, text in policies["modules"]:
        try:
            engine.add_policy(name, rewrite(text, partial(_parsed, name, v0=policies["v0"])))
        except UnsupportedError as error:
            raise RuntimeError(f"{name}: {error}") from error
    engine.add_data_json(json.dumps(policies["data"]))
    query: str = policies["query"]

    def rule(text: str) -> Any:
        engine.set_input_json(text)
        return engine.eval_rule(query)

    def document(text: str) -> Any:
        engine.set_input_json(text)
        found = engine.eval_query(query)["result"]
        return found[0]["expressions"][0]["value"] if found else None

    signal.setitimer(signal.ITIMER_REAL, COMPILE_SECONDS)
    try:
        rule("{}")
    except RuntimeError as error:
        if _NO_RULE in str(error):
            # A package or a part of the data; what is nowhere in the policies is undefined for every input.
            if not any(f"data.{package}".startswith(query) for package in _packages(engine)) and document("{}") is None:
                raise RuntimeError(f"the policies have nothing at {query}") from error
            return document
        # Another error may come from the empty input; one in the policies themselves comes with every input.
        if "is unsafe" in str(error) or "could not find" in str(error):
            raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return rule


def _engine(*, v0: bool) -> Any:
    try:
        import regorus  # noqa: PLC0415 - an extra, of which the control plane itself has no need
    except ImportError as error:
        raise RuntimeError("regorus is not installed: install meshward[rego]") from error
    engine: Any = regorus.Engine()
    engine.set_rego_v0(v0)
    return engine


def _parsed(name: str, text: str, *, v0: bool) -> Any:
    parser = _engine(v0=v0)
    parser.add_policy(name, text)
    (module,) = json.loads(parser.get_ast_as_json())
    return module["ast"]


def _packages(engine: Any) -> list[str]:
    return [name.removeprefix("data.") for name in engine.get_packages()]


def _reply(evaluate: Callable[[str], Any], text: bytes) -> bytes:
    try:
        value = evaluate(text.decode())
        if value is True:
            return TRUE
        if value is False:
            return FALSE
        if value is None:
            return UNDEFINED
        return DECISION + json.dumps(value, default=_listed).encode()
    except Exception as error:  # noqa: BLE001 - as above; and a value that is no JSON
        return FAILED + _said(error)


def _listed(value: object) -> list[Any]:
    if isinstance(value, set | frozenset):
        return sorted(value, key=json.dumps)
    raise TypeError(f"{type(value).__name__} is no JSON")


def _said(error: Exception) -> bytes:
    text = str(error).partition("Stack backtrace")[0]
    return " ".join(text.split())[:MAX_ERROR].encode("utf-8", "replace")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to parent and child: the parent ends both
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=sys.stdin.fileno()) as parent:
        work(parent)
