"""The commands on identities against a control plane that runs as a process."""

import asyncio
import json
import os
import sqlite3
import sys
from contextlib import closing

import pytest

from app.ca.backends.memory import MemoryKeyStore
from app.ca.model import KeyAlgorithm
from app.ca.rules.authority import authority_request
from app.ca.rules.profile import authority_id
from tests.assets.certificates import pem
from tests.support.serving import eventually_async


@pytest.fixture
async def control_plane(tmp_path):
    """The variables with which the command line finds a running control plane."""
    variables = {
        "MESHWARD_DATA_DIR": str(tmp_path / "data"),
        "MESHWARD_LOG_FORMAT": "json",
        **{f"MESHWARD_{name}_BIND": "127.0.0.1:0" for name in ("MESH_TLS", "MESH_PLAINTEXT", "ADMIN")},
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MESHWARD_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.cli", "serve"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**inherited, **variables},
    )
    lines = []
    async with asyncio.timeout(60):
        port = await _admin_port(process.stderr, lines)
    # Its log must not fill the pipe.
    reader = asyncio.create_task(process.stderr.read())
    yield {**variables, "MESHWARD_ADMIN_URL": f"http://127.0.0.1:{port}"}
    process.terminate()
    async with asyncio.timeout(60):
        await reader
        assert await process.wait() == 0


async def _admin_port(stream, lines):
    async for line in stream:
        lines.append(line)
        event = json.loads(line)
        if "admin" in event:
            return event["admin"]
    raise AssertionError(b"".join(lines).decode())


@pytest.fixture
def meshward(run, control_plane):
    async def meshward(*arguments, **environ):
        return await run({**control_plane, **environ}, *arguments)

    return meshward


async def test_an_entry_is_made_listed_shown_and_deleted(meshward):
    cart = "spiffe://cluster.local/ns/shop/sa/cart"
    status, out, _ = await meshward(
        "entry", "create", "--spiffe-id", cart, "--ttl", "1h", "--dns-name", "cart.shop.svc", "-o", "json"
    )
    assert status == 0
    made = json.loads(out)
    assert (made["x509_svid_ttl_seconds"], made["dns_names"]) == (3600, ["cart.shop.svc"])
    status, _, err = await meshward("entry", "create", "--spiffe-id", cart)
    assert (status, err.count("\n")) == (1, 1)
    assert cart in (await meshward("entry", "list"))[1]
    for subject in (cart, made["id"]):
        assert json.loads((await meshward("entry", "show", subject, "--output", "json"))[1]) == made
    assert (await meshward("entry", "delete", cart))[0] == 0
    assert (await meshward("entry", "list", "-o", "json"))[1] == "[]\n"
    assert "there is no entry for" in (await meshward("entry", "show", cart))[2]


async def test_a_join_token_is_alone_on_standard_output(meshward):
    status, out, err = await meshward("token", "create", "--spiffe-id", "spiffe://cluster.local/ns/shop/sa/cart")
    assert status == 0
    assert len(out.split()) == 1
    assert out.strip() not in err
    status, out, err = await meshward("token", "create", "--spiffe-id", "spiffe://other.example/a")
    assert (status, out, err.count("\n")) == (1, "", 1)


async def test_the_certificate_authority_is_shown(meshward):
    shown = json.loads((await meshward("ca", "show", "-o", "json"))[1])
    assert shown["ready"] is True
    assert shown["signers"][0]["certificate"].startswith("-----BEGIN CERTIFICATE-----")
    assert "cluster.local" in (await meshward("ca", "show"))[1]


async def test_the_admin_token_can_be_rotated_under_the_running_control_plane(meshward):
    before = (await meshward("admin", "token", "--show"))[1].strip()
    assert (await meshward("entry", "list", MESHWARD_ADMIN_TOKEN=before))[0] == 0
    await meshward("admin", "token", "--rotate")
    assert (await meshward("entry", "list"))[0] == 0
    status, _, err = await meshward("entry", "list", MESHWARD_ADMIN_TOKEN=before)
    assert status == 1
    assert "does not take the admin token of MESHWARD_ADMIN_TOKEN" in err


async def test_a_signing_request_that_waits_is_listed_and_approved(meshward, control_plane):
    key = await MemoryKeyStore().create(KeyAlgorithm.P256)
    request, root = authority_id(key.public_key), json.loads((await meshward("ca", "show", "-o", "json"))[1])["root_id"]
    row = (request, root, pem(await key.sign(authority_request())), "2026-01-01 00:00:00.000000")
    with closing(sqlite3.connect(f"{control_plane['MESHWARD_DATA_DIR']}/meshward.db")) as database, database:
        database.execute("INSERT INTO ca_signers (id, root_id, request, created_at) VALUES (?, ?, ?, ?)", row)

    async def listed(command):
        async def found():
            return request in (await meshward("ca", command, "-o", "json"))[1]

        await eventually_async(found, f"the request to be in ca {command}", 20)

    await listed("requests")
    assert (await meshward("ca", "approve", "0" * 40))[0] == 1
    status, out, _ = await meshward("ca", "approve", request)
    assert status == 0
    assert request in out
    await listed("show")
