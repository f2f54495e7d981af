"""A real Envoy for the length of a test: started from a bootstrap, ready before the test goes on, gone after it."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from app.demo.place import envoy_binary

START_SECONDS = 30.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.05
LOG_LINES = 40


class EnvoyProcess:
    """A running Envoy. `directory` holds its bootstrap and its log; `admin_address` is host:port."""

    def __init__(self, process: asyncio.subprocess.Process, directory: Path) -> None:
        self.process = process
        self.directory = directory
        self.admin_address = ""

    @staticmethod
    @asynccontextmanager
    async def started(
        bootstrap: dict[str, Any], directory: Path, *, wait_ready: bool = True
    ) -> AsyncIterator["EnvoyProcess"]:
        """Run Envoy with `bootstrap`; its admin port is chosen by the kernel, and so may be those of its listeners."""
        write_bootstrap(bootstrap, directory)
        with (directory / "envoy.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                str(envoy_binary()),
                *("-c", str(directory / "bootstrap.json")),
                *("--admin-address-path", str(directory / "admin")),
                *("--concurrency", "1", "--disable-hot-restart", "--log-level", "info"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        async with EnvoyProcess.run_by(process, directory, wait_ready=wait_ready) as envoy:
            yield envoy

    @staticmethod
    @asynccontextmanager
    async def run_by(
        process: asyncio.subprocess.Process, directory: Path, *, wait_ready: bool = True
    ) -> AsyncIterator["EnvoyProcess"]:
        """The Envoy that `process` is or starts, with `--admin-address-path` in the directory; ends the process."""
        envoy = EnvoyProcess(process, directory)
        try:
            await envoy.eventually(envoy._has_admin, "Envoy's admin port", START_SECONDS)
            if wait_ready:
                await envoy.eventually(envoy.is_ready, "Envoy to be ready", START_SECONDS)
            yield envoy
        finally:
            await envoy._stop()

    async def admin(self, path: str, **parameters: str) -> httpx.Response:
        """Return the answer of the admin port to a GET."""
        async with httpx.AsyncClient(base_url=f"http://{self.admin_address}") as client:
            return await client.get(path, params=parameters)

    async def is_ready(self) -> bool:
        """Whether every listener and secret that Envoy waits for at its start is there."""
        try:
            return (await self.admin("/ready")).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    async def port_of(self, listener: str) -> int:
        """Return the port that the listener got."""
        found = (await self.admin("/listeners", format="json")).json()
        for status in found.get("listener_statuses", ()):
            if status["name"] == listener:
                return int(status["local_address"]["socket_address"]["port_value"])
        raise AssertionError(f"Envoy has no listener {listener}: {found}\n{self.log_tail()}")

    async def certificates(self) -> list[dict[str, Any]]:
        """Return what `/certs` tells of every TLS certificate with its chain and of every root."""
        return list((await self.admin("/certs")).json()["certificates"])

    async def statistic(self, name: str) -> int:
        """Return a counter or gauge, 0 if Envoy has none of that name."""
        lines = (await self.admin("/stats", filter=f"^{name}$")).text.splitlines()
        return int(lines[0].partition(": ")[2]) if lines else 0

    async def eventually(self, condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
        """Return what `condition` (plain or async) gives as soon as it is true; fail with the log after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    if self.process.returncode is not None:
                        raise AssertionError(f"Envoy ended with {self.process.returncode}\n{self.log_tail()}")
                    result = condition()
                    result = await result if asyncio.iscoroutine(result) else result
                    if result:
                        return result
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise AssertionError(f"waited {seconds} s for {what}\n{self.log_tail()}") from None

    def log_tail(self, lines: int = LOG_LINES) -> str:
        """Return the end of Envoy's log."""
        text = (self.directory / "envoy.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _has_admin(self) -> bool:
        file = self.directory / "admin"
        self.admin_address = file.read_text().strip() if file.exists() else ""
        return bool(self.admin_address)

    async def _stop(self) -> None:
        if self.process.returncode is not None:
            return
        self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        except TimeoutError:
            os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()


def cluster(name: str, port: int, **more: Any) -> dict[str, Any]:
    """Return the cluster of one server on a port of this machine, with `more` of its fields."""
    endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
    endpoints = [{"lb_endpoints": [{"endpoint": endpoint}]}]
    return {"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": endpoints}, **more}


def write_bootstrap(bootstrap: dict[str, Any], directory: Path) -> None:
    """Write the file, with an admin port that the kernel chooses if it has none."""
    directory.mkdir(parents=True, exist_ok=True)
    admin = {"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}}
    (directory / "bootstrap.json").write_text(json.dumps(admin | bootstrap))
