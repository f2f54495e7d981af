"""`meshward serve` as it is run: a process, steered by its environment, seen through its ports and its log."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

# What anything may take that is waited for, on a machine that does much else; below the time limit of a test.
PATIENCE = 60.0
POLL_SECONDS = 0.02
# How long the process may wait for calls in flight when it ends.
GRACE = "5s"


def eventually(condition, what, seconds=PATIENCE):
    """What `condition` gives as soon as it is true; fails with `what` was waited for."""
    until = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(POLL_SECONDS)
    return result


async def eventually_async(condition, what, seconds=PATIENCE):
    """The same where others run meanwhile; `condition` is a coroutine function."""
    until = time.monotonic() + seconds
    while not (result := await condition()):
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        await asyncio.sleep(POLL_SECONDS)
    return result


def environment(directory, **settings):
    """The environment of a control plane on ports that the kernel chooses: `mesh_tls_bind="…"` over the usual."""
    usual = {
        "data_dir": str(directory),
        "mesh_tls_bind": "127.0.0.1:0",
        "mesh_plaintext_bind": "127.0.0.1:0",
        "admin_bind": "127.0.0.1:0",
        "shutdown_grace": GRACE,
        "log_format": "json",
        "mesh_reflection": "true",
    }
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MESHWARD_")}
    return outside | {f"MESHWARD_{name.upper()}": str(value) for name, value in (usual | settings).items()}


SERVE_WITH_DESCRIPTORS = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0}))
runpy.run_module("app.cli", run_name="__main__")
"""


def command(descriptors=None):
    """What is run; with a number of `descriptors` that the process may have at most."""
    module = ["-m", "app.cli"] if descriptors is None else ["-c", SERVE_WITH_DESCRIPTORS.format(descriptors)]
    return [sys.executable, *module, "serve"]


class ServeProcess:
    """A running control plane: its ports, its data directory, its log."""

    def __init__(self, directory: Path, log: Path, descriptors=None, **settings) -> None:
        self.directory, self._log = directory, log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command(descriptors),
                env=environment(directory, **settings),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    @property
    def log_text(self):
        return self._log.read_text(errors="replace")

    def events(self, name=None):
        """What was logged so far, of this name or all."""
        lines = [line for line in self.log_text.splitlines() if line.startswith("{") and line.endswith("}")]
        return [event for event in map(json.loads, lines) if name in (None, event["event"])]

    def wait_until_listening(self):
        """Return once the ports are known."""
        listening = eventually(lambda: self._while_it_runs(self._listening), "the ports")
        self.tls_port, self.plaintext_port = listening["mesh_tls"], listening["mesh_plaintext"]
        self.admin_port = listening["admin"]
        return self

    def wait_until_ready(self):
        """Return once `/readyz` says so, with the ports known."""
        self.wait_until_listening()
        eventually(lambda: self._while_it_runs(self._is_ready), "/readyz to be 200")
        return self

    @property
    def token(self):
        return (self.directory / "admin.token").read_text().strip()

    @property
    def roots(self):
        return (self.directory / "bundle.pem").read_bytes()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.admin_port}"

    def ask(self, method, path, token=None, **request):
        """The answer of the admin API, as somebody who bears the admin token."""
        headers = {"authorization": f"Bearer {token or self.token}"} | request.pop("headers", {})
        return httpx.request(method, self.url + path, headers=headers, timeout=PATIENCE, **request)

    def get(self, path):
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def items(self, path):
        return self.get(path)["items"]

    def post_policies(self, text):
        answer = self.ask("POST", "/v1/policies", content=text)
        assert answer.is_success, answer.text

    def put_quota(self, domain, text):
        answer = self.ask("PUT", f"/v1/quota/configs/{domain}", content=text)
        assert answer.is_success, answer.text

    def metrics(self):
        """Every sample of `/metrics` by its name and labels, as they are spelled."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
        }

    def join_token(self, spiffe_id, **options):
        answer = self.ask("POST", "/v1/join-tokens", json={"spiffe_id": spiffe_id, **options})
        assert answer.status_code == 201, answer.text
        return answer.json()["token"]

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self):
        """The exit code."""
        return self.process.wait(PATIENCE)

    def stop(self):
        """Tell it to stop and return the exit code."""
        self.signal()
        return self.wait()

    def kill(self):
        """End it whatever it does; what a test leaves behind."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _listening(self):
        return next((event for event in self.events("listening") if "mesh_tls" in event), None)

    def _is_ready(self):
        return httpx.get(f"{self.url}/readyz").status_code == httpx.codes.OK

    def _while_it_runs(self, condition):
        assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log_text}"
        return condition()


class Serving:
    """Starts control planes whose data and logs are below `directory`, and ends them all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._started: list[ServeProcess] = []

    def launch(self, name="data", **settings):
        """A process that was started and may not be ready yet."""
        log = self.directory / f"serve-{len(self._started)}.log"
        self._started.append(ServeProcess(self.directory / name, log, **settings))
        return self._started[-1]

    def start(self, name="data", **settings):
        """A process that is ready."""
        return self.launch(name, **settings).wait_until_ready()

    def end(self):
        for process in self._started:
            process.kill()
