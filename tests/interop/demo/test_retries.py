"""Retries of the bootstrap: real Envoy repeats calls that were refused or broke off, and no request fails."""

import asyncio
import contextlib
from typing import Any

import httpx
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import RequestReceived, StreamEnded

from app.core.net import Address
from app.demo.mesh import USUAL_PORTS, Plan
from app.envoy.bootstrap import CONTROL_PLANE_CLUSTER, bootstrap
from tests.support.envoy_process import EnvoyProcess

# More than Envoy retries at a time by default.
AT_ONCE = 32
ALLOWED = CheckResponse()
ALLOWED.ok_response.SetInParent()
MESSAGE = ALLOWED.SerializeToString()


class ControlPlane(asyncio.Protocol):
    """Ends its first connection with AT_ONCE checks open, and allows those over the others."""

    connections = 0

    def __init__(self, end):
        ControlPlane.connections += 1
        self._end = end if ControlPlane.connections == 1 else None
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._grpc, self._open = {}, []

    def connection_made(self, transport):
        self._transport = transport
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data):
        for event in self._h2.receive_data(data):
            if isinstance(event, RequestReceived):
                headers: list[tuple[Any, Any]] = event.headers
                self._grpc[event.stream_id] = ("content-type", "application/grpc") in headers
            if isinstance(event, StreamEnded):
                self._open.append(event.stream_id)
        if self._end is None:
            while self._open:
                self._allow(self._open.pop())
        elif len(self._open) == AT_ONCE:
            self._end(self)
            return
        self._flush()

    def refuse(self):
        """Do as a server that shuts down: GOAWAY, and every call refused before it was handled."""
        for stream in self._open:
            self._h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
        self._h2.close_connection(last_stream_id=0)
        self._flush()
        self._transport.close()

    def break_off(self):
        """Do as a machine that crashes."""
        self._transport.abort()

    def _allow(self, stream):
        if not self._grpc[stream]:
            self._h2.send_headers(stream, [(":status", "200")], end_stream=True)
            return
        self._h2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        self._h2.send_data(stream, b"\0" + len(MESSAGE).to_bytes(4) + MESSAGE)
        self._h2.send_headers(stream, [("grpc-status", "0")], end_stream=True)

    def _flush(self):
        self._transport.write(self._h2.data_to_send())


def sidecar(directory, port):
    """The demo's own sidecar, with its listeners and its control plane in plaintext; it answers allowed requests."""
    document = bootstrap(
        Plan(directory, dict.fromkeys(USUAL_PORTS, Address("127.0.0.1", port)), directory).sidecar("api")
    )
    static = document["static_resources"]
    static["clusters"] = [each for each in static["clusters"] if each["name"] == CONTROL_PLANE_CLUSTER]
    del static["clusters"][0]["transport_socket"]
    for listener in static["listeners"]:
        listener["address"]["socket_address"]["port_value"] = 0
        (chain,) = listener["filter_chains"]
        del chain["transport_socket"]
        manager = chain["filters"][0]["typed_config"]
        route = manager["route_config"]["virtual_hosts"][0]["routes"][-1]  # those before it refuse
        del route["route"]
        route["direct_response"] = {"status": 200}
    del document["admin"]
    return document


@contextlib.asynccontextmanager
async def control_plane(end):
    ControlPlane.connections = 0
    server = await asyncio.get_running_loop().create_server(lambda: ControlPlane(end), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("listener", ["inbound", "inbound_http_check"])
@pytest.mark.parametrize("end", [ControlPlane.refuse, ControlPlane.break_off])
async def test_no_request_fails_because_the_control_plane_ends_a_connection(tmp_path, listener, end):
    async with (
        control_plane(end) as port,
        EnvoyProcess.started(sidecar(tmp_path, port), tmp_path / "envoy") as envoy,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{await envoy.port_of(listener)}") as client,
    ):
        answers = await asyncio.gather(*(client.get("/") for _ in range(AT_ONCE)))
        assert [answer.status_code for answer in answers] == [200] * AT_ONCE
        assert ControlPlane.connections > 1
