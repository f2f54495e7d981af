"""Authorities with each kind of key: their certificates are good for the mesh port, its clients, and OpenSSL."""

import asyncio
import shutil
import subprocess

import pytest

from tests.support.callers import join, tls_channel

KINDS = ["ec-p256", "ec-p384", "ec-p521", "rsa-3072", "ed25519"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_mesh_runs_on_authorities_with_such_keys(serving, tmp_path, kind):
    server = serving.start(ca_key_algorithm=kind)
    identity = await join(server)
    async with tls_channel(server, identity) as channel:
        await channel.channel_ready()
    assert server.ask("GET", "/v1/bundle", headers={"accept": "application/json"}).json()["keys"]
    if openssl := shutil.which("openssl"):
        (tmp_path / "svid.pem").write_bytes(identity.chain)
        (tmp_path / "roots.pem").write_bytes(server.roots)
        command = [openssl, "verify", "-x509_strict", "-CAfile", "roots.pem", "-untrusted", "svid.pem", "svid.pem"]
        verified = await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, check=True, capture_output=True)
        assert verified.stdout == b"svid.pem: OK\n"
