"""Real Envoy with a ban: requests on connections that are open are denied, those of others are not."""

import asyncio
from contextlib import AsyncExitStack
from urllib.parse import quote

import pytest

from app.core.net import Address
from app.envoy.bootstrap import bootstrap as generated_bootstrap
from app.envoy.sidecar import ControlPlane, Inbound, Protocol, Sidecar
from app.spiffe.id import SpiffeId
from tests.support.callers import CART, join
from tests.support.envoy_process import EnvoyProcess
from tests.support.serving import eventually_async
from tests.support.sidecar import client_tls_of, secret, sidecar

NEWS = "spiffe://cluster.local/ns/press/sa/news"
OTHER = "spiffe://cluster.local/ns/press-test/sa/news"
OK, FORBIDDEN = 200, 403


def with_checks(bootstrap):
    """The sidecar with the external authorization of the generated bootstrap, at the cluster of its secrets."""
    generated = generated_bootstrap(
        Sidecar(
            SpiffeId.parse(CART),
            admin=Address("127.0.0.1", 0),
            sds_socket="/unused",
            control_plane=ControlPlane(Address("127.0.0.1", 1), "unused"),
            inbound=(Inbound("inbound", Address("127.0.0.1", 0), Address("127.0.0.1", 1), Protocol.GRPC),),
        )
    )
    (listener,) = generated["static_resources"]["listeners"]
    filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    check = next(each for each in filters if each["name"] == "envoy.filters.http.ext_authz")
    check["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = "sds"
    (mtls,) = bootstrap["static_resources"]["listeners"]
    mtls["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"].insert(0, check)
    return bootstrap


class Connection:
    """An open HTTP/1.1 connection to a sidecar, with a client certificate."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer

    @staticmethod
    async def open(port, server, identity):
        context = client_tls_of(server.roots.decode(), identity.key + identity.chain)
        return Connection(*await asyncio.open_connection("127.0.0.1", port, ssl=context))

    async def get(self):
        """The status that the sidecar answers with."""
        self._writer.write(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n")
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await self._reader.readexactly(int(length.partition(b":")[2]))
        return int(head.split()[1])

    def close(self):
        self._writer.close()


@pytest.fixture
def server(serving):
    return serving.start()


def path(subject):
    return f"/v1/identities/{quote(subject, safe='')}/ban"


async def test_requests_on_the_open_connections_of_a_banned_peer_are_denied_and_those_of_others_are_not(
    server, tmp_path
):
    svid, roots = (secret(name, "GRPC", server.join_token(CART)) for name in ("default", "ROOTCA"))
    source = {"socket_address": {"address": "127.0.0.1", "port_value": server.plaintext_port}}
    async with AsyncExitStack() as stack:
        bootstrap = with_checks(sidecar(source, svid, roots))
        envoy = await stack.enter_async_context(EnvoyProcess.started(bootstrap, tmp_path / "envoy"))
        port = await envoy.port_of("mtls")
        identities = [await join(server, spiffe_id) for spiffe_id in (NEWS, NEWS, OTHER)]
        connections = [await Connection.open(port, server, identity) for identity in identities]
        for connection in connections:
            stack.callback(connection.close)

        async def answers():
            return [await connection.get() for connection in connections]

        assert await answers() == [OK, OK, OK]
        ban = server.ask("PUT", path("spiffe://cluster.local/ns/press/*"), json={"reason": "stolen key"})
        assert ban.status_code == OK
        assert await answers() == [FORBIDDEN, FORBIDDEN, OK]
        assert server.ask("DELETE", path("spiffe://cluster.local/ns/press/*")).is_success
        assert await answers() == [OK, OK, OK]
        serial = f"{identities[0].leaf.serial_number:032x}"
        assert server.ask("PUT", f"/v1/svids/{serial}/revocation", json={"reason": "laptop lost"}).status_code == OK
        assert await answers() == [FORBIDDEN, OK, OK]


async def test_the_sidecar_of_a_banned_workload_denies_and_gets_no_secrets(server, tmp_path):
    token = server.join_token(CART)
    svid, roots = (secret(name, "GRPC", token) for name in ("default", "ROOTCA"))
    source = {"socket_address": {"address": "127.0.0.1", "port_value": server.plaintext_port}}
    async with EnvoyProcess.started(sidecar(source, svid, roots), tmp_path / "envoy") as envoy:
        assert await envoy.statistic("cluster.sds.upstream_rq_active") == 2
        server.ask("PUT", path(CART), json={"reason": "stolen key"})

        async def refused():
            return server.metrics().get('meshward_refusals_total{reason="banned",surface="grpc"}', 0) >= 2

        await eventually_async(refused, "the streams to end", 10)
