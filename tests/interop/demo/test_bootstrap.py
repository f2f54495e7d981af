import asyncio

import pytest

from app.core.net import Address
from app.demo.place import envoy_binary
from app.envoy.bootstrap import bootstrap_json
from app.envoy.sidecar import ControlPlane, Inbound, Outbound, Protocol, Sidecar
from app.spiffe.id import SpiffeId

API = SpiffeId.parse("spiffe://example.org/ns/shop/sa/api")


def at(port):
    return Address("127.0.0.1", port)


async def validate(file):
    process = await asyncio.create_subprocess_exec(
        *(str(envoy_binary()), "--mode", "validate", "--log-level", "warning", "-c", str(file)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, output.decode()


@pytest.mark.parametrize("protocol", list(Protocol))
async def test_the_real_envoy_accepts_the_bootstrap_without_a_warning(tmp_path, protocol):
    inbound = (Inbound("inbound", at(15006), at(8080), protocol),)
    outbound = (Outbound("outbound", at(15001), at(15006), API, connection_seconds=0.5),)
    control_plane = ControlPlane(at(15012), "localhost")
    sidecar = Sidecar(API, "/run/agent.sock", control_plane, inbound, outbound, labels={"app": "api"}, admin=at(15000))
    file = tmp_path / "envoy.json"
    file.write_text(bootstrap_json(sidecar))
    code, output = await validate(file)
    assert code == 0, output
    assert "warning" not in output
    assert "deprecated" not in output


async def test_the_real_envoy_refuses_a_field_that_it_does_not_know(tmp_path):
    """Shows that the test above can fail."""
    sidecar = Sidecar(API, "/run/agent.sock", ControlPlane(at(15012), "localhost"))
    file = tmp_path / "envoy.json"
    file.write_text(bootstrap_json(sidecar).replace('"connect_timeout"', '"connect_timeot"'))
    code, output = await validate(file)
    assert code != 0
    assert "connect_timeot" in output
