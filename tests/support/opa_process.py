"""A real OPA server, in a directory of its own."""

import json
import subprocess
import time
from contextlib import contextmanager

import httpx

from tests.support.peers import OPA
from tests.support.ports import free_ports

START_SECONDS = 30


@contextmanager
def opa_process(directory, rego):
    """Run OPA with one policy; yield the address of its API."""
    program = OPA.required()
    policy = directory / "opa.rego"
    policy.write_text(rego)
    (port,) = free_ports(1)
    with (directory / "opa.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "run", "--server", "--addr", f"127.0.0.1:{port}", "--disable-telemetry", policy],
            stdout=log,
            stderr=log,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _await_health(url, process, directory / "opa.log")
            yield url
        finally:
            process.terminate()
            process.wait(10)


def decisions(url, query, inputs):
    """What OPA decides on each of the inputs; None where the decision is undefined."""
    with httpx.Client() as client:
        for text in inputs:
            response = client.post(f"{url}/v1/data/{query}", content=b'{"input":' + text + b"}")
            yield (response.status_code, json.loads(response.content).get("result"))


def _await_health(url, process, log):
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"OPA does not start:\n{log.read_text()[-4000:]}")
