"""Real Envoy refuses new connections of banned peers and revoked certificates, by the lists that it is sent."""

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager, suppress
from urllib.parse import quote

import pytest

from tests.support.callers import CART, join
from tests.support.envoy_process import EnvoyProcess
from tests.support.serving import eventually_async
from tests.support.sidecar import client_tls_of, secret, sidecar

NEWS = "spiffe://cluster.local/ns/press/sa/news"
OTHER = "spiffe://cluster.local/ns/press-test/sa/news"
PRESS = "spiffe://cluster.local/ns/press/*"
OK = "HTTP/1.1 200 OK"
REFUSED = "refused"
SECONDS = 10


class Peer:
    """A workload that connects to sidecars anew for each request, and remembers what they answered."""

    def __init__(self, server, identity):
        self.identity, self.answers = identity, []
        self._context = client_tls_of(server.roots.decode(), identity.key + identity.chain)
        self.session = None

    @staticmethod
    async def joined(server, spiffe_id):
        return Peer(server, await join(server, spiffe_id))

    @property
    def serial(self):
        return f"{self.identity.leaf.serial_number:032x}"

    async def ask(self, port):
        """The status line of a new connection's answer, or that it was refused."""
        self.answers.append(await asyncio.to_thread(self._ask, port, None))
        return self.answers[-1]

    async def resume(self, port):
        """The same with the session of the last connection."""
        assert self.session is not None
        return await asyncio.to_thread(self._ask, port, self.session)

    def _ask(self, port, session):
        try:
            with (
                socket.create_connection(("127.0.0.1", port), SECONDS) as raw,
                self._context.wrap_socket(raw, session=session) as tls,
            ):
                tls.sendall(b"GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n")
                answer = tls.recv(4096)
                self.session = tls.session
        except (ssl.SSLError, ConnectionError):  # the alert, which is lost where the connection is reset behind it
            return REFUSED
        return answer.partition(b"\r\n")[0].decode() or REFUSED

    @asynccontextmanager
    async def going_on(self, *ports):
        """Let it connect again and again meanwhile, and check that each time it got its answer."""

        async def requests():
            while True:
                for port in ports:
                    await self.ask(port)

        task = asyncio.create_task(requests())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert set(self.answers) == {OK}


@asynccontextmanager
async def envoy_of(server, directory, api_type="GRPC"):
    """A sidecar with its secrets from the control plane; the port of its listener."""
    token = server.join_token(CART)
    svid, roots = (secret(name, api_type, token) for name in ("default", "ROOTCA"))
    source = {"socket_address": {"address": "127.0.0.1", "port_value": server.plaintext_port}}
    async with EnvoyProcess.started(sidecar(source, svid, roots), directory) as envoy:
        yield await envoy.port_of("mtls")


def ban(server, subject):
    answer = server.ask("PUT", f"/v1/identities/{quote(subject, safe='')}/ban", json={"reason": "stolen key"})
    assert answer.status_code == 200


def unban(server, subject):
    assert server.ask("DELETE", f"/v1/identities/{quote(subject, safe='')}/ban").is_success


async def until(peer, port, answer):
    async def is_so():
        return await peer.ask(port) == answer

    await eventually_async(is_so, f"the answer {answer}")


@pytest.mark.parametrize("api_type", ["GRPC", "DELTA_GRPC"])
async def test_new_connections_of_a_banned_peer_are_refused_until_the_ban_is_lifted(serving, tmp_path, api_type):
    server = serving.start()
    news, honest = await Peer.joined(server, NEWS), await Peer.joined(server, OTHER)
    async with envoy_of(server, tmp_path / "envoy", api_type) as port, honest.going_on(port):
        assert [await news.ask(port), await news.resume(port)] == [OK, OK]
        ban(server, PRESS)
        await until(news, port, REFUSED)
        assert await news.resume(port) == REFUSED
        unban(server, PRESS)
        await until(news, port, OK)
    assert server.get("/v1/ca")["problems"] == []


async def test_a_revoked_certificate_is_refused_and_another_of_its_identity_is_not(serving, tmp_path):
    server = serving.start()
    stolen, honest = await Peer.joined(server, NEWS), await Peer.joined(server, NEWS)
    revocation = f"/v1/svids/{stolen.serial}/revocation"
    async with envoy_of(server, tmp_path / "envoy") as port, honest.going_on(port):
        assert await stolen.ask(port) == OK
        assert server.ask("PUT", revocation, json={"reason": "laptop lost"}).status_code == 200
        await until(stolen, port, REFUSED)
        assert server.ask("DELETE", revocation).is_success
        await until(stolen, port, OK)


async def test_a_ban_reaches_the_sidecars_of_both_replicas_whoever_signed_the_certificate(replicas, tmp_path):
    one, two = replicas
    peers = [await Peer.joined(server, NEWS) for server in replicas]
    honest = [await Peer.joined(server, OTHER) for server in replicas]
    async with (
        envoy_of(one, tmp_path / "one-envoy") as first,
        envoy_of(two, tmp_path / "two-envoy") as second,
        honest[0].going_on(first, second),
        honest[1].going_on(first, second),
    ):
        ban(one, NEWS)
        for peer in peers:
            for port in (first, second):
                await until(peer, port, REFUSED)
        unban(two, NEWS)
        for peer in peers:
            for port in (first, second):
                await until(peer, port, OK)
