"""`meshward agent` as it is run: a process of its own, with signals, files and a control plane that comes and goes."""

import asyncio
import json
import os
import socket
import sys
from contextlib import asynccontextmanager
from datetime import timedelta

import grpc
import httpx
import pytest
from envoy.service.discovery.v3 import discovery_pb2

from app.agent.server import SERVICE
from tests.assets.certificates import CART, MeshCa
from tests.assets.discovery import names_in, request
from tests.fakes.mesh_ca import MeshServer

PATIENCE = 30


@pytest.fixture
def ca():
    return MeshCa()


@pytest.fixture
async def mesh(ca):
    async with MeshServer(ca, {"token-1", "token-2"}).running() as mesh:
        yield mesh


class Agent:
    def __init__(self, process, socket_path) -> None:
        self.process, self.socket = process, socket_path
        self.events: list[dict] = []

    async def event(self, name) -> dict:
        """The next log event of this name."""
        async with asyncio.timeout(PATIENCE):
            while line := await self.process.stderr.readline():
                self.events.append(json.loads(line))
                if self.events[-1]["event"] == name:
                    return self.events[-1]
        raise AssertionError(f"the agent ended without {name}: {self.events}")

    async def end(self) -> tuple[int, str]:
        """The exit code and the last line that it said."""
        async with asyncio.timeout(PATIENCE):
            _, errors = await self.process.communicate()
        return self.process.returncode, errors.decode().strip().rpartition("\n")[2]

    async def stop(self) -> tuple[int, str]:
        self.process.terminate()
        return await self.end()

    async def secrets(self):
        async with grpc.aio.insecure_channel(f"unix:{self.socket}") as channel:
            fetch = channel.unary_unary(
                f"/{SERVICE}/FetchSecrets",
                request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
                response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
            )
            return names_in(await fetch(request(), timeout=PATIENCE))


@pytest.fixture
def run(tmp_path, mesh, ca):
    """Runs agents of one data dir and socket, or of others where a test says so."""
    (tmp_path / "bundle.pem").write_text(ca.roots)

    @asynccontextmanager
    async def run(*options, environment=None, **changes):
        settings = {
            "server": f"127.0.0.1:{mesh.port}",
            "server-name": "localhost",
            "trust-bundle": tmp_path / "bundle.pem",
            "data-dir": tmp_path / "agent",
            "socket": tmp_path / "sds.sock",
        } | {name.replace("_", "-"): value for name, value in changes.items()}
        arguments = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "app.cli", "agent", "--log-format", "json", *arguments, *options),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(environment or {})},
        )
        try:
            yield Agent(process, settings["socket"])
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    return run


def stream_secrets(channel):
    return channel.stream_stream(
        f"/{SERVICE}/StreamSecrets",
        request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
        response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
    )()


TOKEN = {"MESHWARD_JOIN_TOKEN": "token-1"}


async def test_it_enrols_serves_and_ends_cleanly(run, mesh, tmp_path):
    async with run(environment=TOKEN) as agent:
        ready = await agent.event("agent_ready")
        assert ready["spiffe_id"] == CART
        assert ready["socket"] == str(agent.socket)
        assert await agent.secrets() == ["ROOTCA", "default"]
        code, last = await agent.stop()
    assert code == 0
    assert json.loads(last)["event"] == "agent_stopped"
    assert not agent.socket.exists()
    assert mesh.seen == ["token-1"]
    assert (tmp_path / "agent").stat().st_mode & 0o777 == 0o700


async def test_an_open_stream_does_not_keep_it_from_ending(run):
    async with run(environment=TOKEN) as agent:
        await agent.event("agent_ready")
        async with grpc.aio.insecure_channel(f"unix:{agent.socket}") as channel:
            call = stream_secrets(channel)
            await call.write(request("default"))
            assert names_in(await asyncio.wait_for(call.read(), PATIENCE)) == ["default"]
            code, _ = await agent.stop()
        assert code == 0


async def test_metrics_are_served_even_before_enrolment(run):
    async with run(environment=TOKEN, server="127.0.0.1:1", metrics_bind="0") as waiting:
        address = (await waiting.event("agent_metrics_served"))["address"]
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            assert "meshward_sds_streams" in (await client.get("/metrics")).text
        assert (await waiting.stop())[0] == 0
    async with run(environment=TOKEN, metrics_bind="127.0.0.1:0") as agent:
        address = (await agent.event("agent_metrics_served"))["address"]
        assert address.startswith("127.0.0.1:")
        await agent.event("agent_ready")
        async with (
            httpx.AsyncClient(base_url=f"http://{address}") as client,
            grpc.aio.insecure_channel(f"unix:{agent.socket}") as channel,
        ):
            call = stream_secrets(channel)
            await call.write(request("default"))
            await asyncio.wait_for(call.read(), PATIENCE)
            scraped = await client.get("/metrics")
            assert scraped.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert "\nmeshward_sds_streams 1.0\n" in scraped.text
            assert "\nmeshward_agent_svid_expiry_timestamp_seconds 1." in scraped.text
            assert [(await client.get(path)).status_code for path in ("/", "/healthz")] == [404, 404]
            assert (await client.post("/metrics", content=b"x")).status_code == 405
            call.cancel()
        assert (await agent.stop())[0] == 0


async def test_a_metrics_port_in_use_is_reported_before_the_token_is_redeemed(run, mesh):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with run(environment=TOKEN, metrics_bind=port) as agent:
            code, last = await agent.end()
    assert (code, mesh.seen) == (1, [])
    assert f"port {port} on 127.0.0.1 is in use" in last


async def test_after_a_restart_it_serves_without_a_token_and_without_the_control_plane(run, mesh):
    async with run(environment=TOKEN) as agent:
        await agent.event("agent_ready")
        await agent.stop()
    async with run(server="127.0.0.1:1") as agent:
        await agent.event("agent_ready")
        assert await agent.secrets() == ["ROOTCA", "default"]
        assert (await agent.stop())[0] == 0
    assert mesh.seen == ["token-1"]


async def test_it_waits_for_the_control_plane_and_can_be_stopped_meanwhile(run):
    async with run(environment=TOKEN, server="127.0.0.1:1") as agent:
        away = await agent.event("control_plane_away")
        assert "127.0.0.1:1 cannot be reached" in away["reason"]
        assert not agent.socket.exists()
        assert (await agent.stop())[0] == 0


async def test_it_renews_over_mtls_while_it_runs(run, mesh):
    mesh.ttl = timedelta(seconds=3)
    async with run(environment=TOKEN) as agent:
        await agent.event("agent_ready")
        await agent.event("svid_issued")
        await agent.event("svid_issued")
        assert (await agent.stop())[0] == 0
    assert mesh.seen == ["token-1", CART, CART]


async def test_a_used_token_ends_it_with_one_error_message(run, mesh, tmp_path):
    mesh.tokens.clear()
    async with run(environment=TOKEN) as agent:
        code, last = await agent.end()
    assert code == 1
    assert last == (
        f"meshward: enrolment failed: the control plane at 127.0.0.1:{mesh.port} answered UNAUTHENTICATED: "
        "join token unknown, used or expired"
    )
    assert not agent.socket.exists()
    assert not (tmp_path / "agent" / "identity.json").exists()


@pytest.mark.parametrize(
    ("changes", "options", "sentence"),
    [
        ({}, (), "no join token: make one with `meshward token create`"),
        ({"join_token": "token-1"}, ("--join-token-file", "x"), "use one of them"),
        ({"join_token_file": "/dev/null"}, (), "does not hold a join token"),
        ({"server_name": "mesh.example.org", "join_token": "token-1"}, (), "--server-name"),
        ({"server": "127.0.0.1:0"}, (), "write host:port"),
        ({"trust_bundle": "/nowhere/bundle.pem"}, (), "cannot read the trust bundle /nowhere/bundle.pem"),
        ({"trust_bundle": "/dev/null"}, (), "no well-formed PEM certificate"),
        ({"data_dir": "/dev/null/agent", "join_token": "token-1"}, (), "/dev/null/agent"),
        ({"socket": "/" + "x" * 200, "join_token": "token-1"}, (), "longer than 107 bytes"),
        ({"socket": "/dev/null", "join_token": "token-1"}, (), "is not a socket"),
        ({"allow_uid": "4294967295", "join_token": "token-1"}, (), "is not a user id"),
    ],
)
async def test_an_invalid_option_is_reported_before_the_token_is_used(run, mesh, changes, options, sentence):
    async with run(*options, **changes) as agent:
        code, last = await agent.end()
    assert code == 1
    assert last.startswith("meshward: ")
    assert sentence in last
    assert mesh.seen == []


async def test_a_second_agent_is_refused_before_its_token_is_used(run, mesh, tmp_path):
    async with run(environment=TOKEN) as first:
        await first.event("agent_ready")
        second = {"MESHWARD_JOIN_TOKEN": "token-2"}
        async with run(environment=second) as same:
            assert "another agent uses the data dir" in (await same.end())[1]
        async with run(environment=second, data_dir=tmp_path / "other") as neighbour:
            assert "another process is listening" in (await neighbour.end())[1]
        assert await first.secrets() == ["ROOTCA", "default"]
    assert mesh.seen == ["token-1"]


async def test_the_socket_of_a_killed_agent_is_replaced(run):
    async with run(environment=TOKEN) as agent:
        await agent.event("agent_ready")
        agent.process.kill()
        await agent.process.wait()
    assert agent.socket.is_socket()
    async with run() as again:
        await again.event("agent_ready")
        assert await again.secrets() == ["ROOTCA", "default"]


async def test_a_token_file_is_read(run, tmp_path):
    (tmp_path / "token").write_text("token-1\n")
    async with run(join_token_file=tmp_path / "token") as agent:
        assert (await agent.event("agent_ready"))["spiffe_id"] == CART


async def test_neither_key_nor_token_is_in_its_log_at_any_level(run, tmp_path):
    async with run("--log-level", "debug", environment=TOKEN) as agent:
        await agent.event("agent_ready")
        await agent.secrets()
        _, rest = await agent.stop()
    everything = json.dumps(agent.events) + rest
    assert "token-1" not in everything
    key = json.loads((tmp_path / "agent" / "identity.json").read_text())["private_key"].splitlines()[1]
    assert key not in everything


async def test_a_port_without_tls_is_retried(run):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]

        def hang_up():
            silent.accept()[0].close()

        async with run(environment=TOKEN, server=f"127.0.0.1:{port}") as agent:
            await asyncio.get_running_loop().run_in_executor(None, hang_up)
            assert "cannot be reached" in (await agent.event("control_plane_away"))["reason"]
