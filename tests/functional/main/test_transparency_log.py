"""The transparency log of a running control plane, verified by the command line with nothing but the bundle."""

import asyncio
import json
import signal
import sqlite3

import pytest

from app.ca.rules.log import serial_of
from app.cli import cli
from app.cli.failures import guarded
from tests.support.callers import certify, join, tls_channel
from tests.support.serving import eventually_async

CALLERS = 16


@pytest.fixture
def meshward(serving, monkeypatch, capsys, tmp_path):
    """Run `meshward` for a server, or offline with a directory that has nothing; return status, output and errors."""

    async def run(*arguments, server=None):
        with monkeypatch.context() as patch:
            patch.setenv("MESHWARD_DATA_DIR", str(server.directory if server else tmp_path / "nothing"))
            if server:
                patch.setenv("MESHWARD_ADMIN_URL", server.url)
            status = await asyncio.to_thread(guarded, lambda: cli(["log", *map(str, arguments)], prog_name="meshward"))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


async def covered(server):
    """Wait until the signed head covers all that is in the log."""

    async def whole():
        head = server.ask("GET", "/v1/log/head")
        return head.is_success and head.json()["size"] == len(server.items("/v1/log/entries?limit=1000"))

    await eventually_async(whole, "the log to be signed")


async def test_proofs_are_verified_offline(serving, meshward, tmp_path):
    server = serving.start()
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(server.roots)
    identity, other = await join(server), await join(server)
    await covered(server)
    for name, one in (("cart", identity), ("other", other)):
        (tmp_path / f"{name}.pem").write_bytes(one.chain)
    files = {}
    for name, arguments in (
        ("head", ["head"]),
        ("proof", ["prove", tmp_path / "cart.pem"]),
        ("log", ["export"]),
    ):
        status, out, err = await meshward(*arguments, server=server)
        assert status == 0, err
        files[name] = tmp_path / name
        files[name].write_text(out)
    await join(server)
    await covered(server)
    status, out, _ = await meshward("compare", files["head"], server=server)
    (tmp_path / "comparison").write_text(out)

    offline = ("verify", "--bundle", bundle)
    status, out, err = await meshward(*offline, "--proof", files["proof"], "--certificate", tmp_path / "cart.pem")
    assert (status, err) == (0, "")
    assert json.loads(out.partition(" is ")[2])["serial"] == serial_of(identity.leaf)
    status, out, _ = await meshward(*offline, "--proof", tmp_path / "comparison", "--head", files["head"])
    assert (status, "begins with" in out) == (0, True)
    status, out, _ = await meshward(
        *offline, "--log", files["log"], "--head", files["head"], "--certificate", tmp_path / "other.pem"
    )
    assert (status, "is whole" in out) == (0, True)

    status, _, err = await meshward(*offline, "--proof", files["proof"], "--certificate", tmp_path / "other.pem")
    assert (status, "another certificate" in err) == (1, True)
    changed = files["log"].read_text().replace("/sa/cart", "/sa/evil")
    (tmp_path / "changed").write_text(changed)
    status, _, err = await meshward(*offline, "--log", tmp_path / "changed")
    assert (status, "was changed" in err) == (1, True)
    shorter = "".join(files["log"].read_text().splitlines(keepends=True)[:-1])
    (tmp_path / "shorter").write_text(shorter)
    status, _, err = await meshward(*offline, "--log", tmp_path / "shorter")
    assert (status, "of another log" in err) == (1, True)


CHANGES = {
    "a record changed": "UPDATE ca_svids SET spiffe_id = 'spiffe://cluster.local/ns/shop/sa/evil'",
    "a record added": "INSERT INTO ca_svids (serial, spiffe_id, signer_id, fingerprint, not_before, not_after, "
    "issued_at, surface) SELECT lower(hex(randomblob(16))), spiffe_id, signer_id, fingerprint, not_before, not_after, "
    "issued_at, surface FROM ca_svids LIMIT 1",
    "an entry changed": "UPDATE ca_log SET text = replace(text, 'sa/cart', 'sa/evil')",
    "an entry and its hash changed": 'UPDATE ca_log SET hash = zeroblob(32) WHERE "index" = 2',
    "an entry removed": 'DELETE FROM ca_log WHERE "index" = 2',
    "the last entry removed": 'DELETE FROM ca_log WHERE "index" = (SELECT max("index") FROM ca_log)',
    "a head changed": "UPDATE ca_log_heads SET root_hash = zeroblob(32)",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_row_that_was_changed_by_hand_is_found(serving, meshward, change):
    server = serving.start()
    for _ in range(2):
        await join(server)
    await covered(server)
    status, out, err = await meshward("verify", server=server)
    assert (status, "is whole" in out, err) == (0, True, "")
    with sqlite3.connect(server.directory / "meshward.db") as database:
        assert database.execute(change).rowcount
    status, _, err = await meshward("verify", server=server)
    assert (status, err.startswith("meshward: "), "Traceback" in err) == (1, True, False)


async def test_every_certificate_that_a_client_received_is_in_the_log_after_a_crash(serving, meshward):
    server = serving.start()
    received = []

    async def caller(identity):
        async with tls_channel(server, identity) as channel:
            while True:
                received.append(serial_of((await certify(channel)).leaf))

    calls = [asyncio.create_task(caller(await join(server))) for _ in range(CALLERS)]

    async def many():
        return len(received) > 100

    await eventually_async(many, "a burst of certificates")
    server.signal(signal.SIGKILL)
    await asyncio.gather(*calls, return_exceptions=True)
    server.wait()

    again = serving.start()
    subjects = {entry["subject"] for entry in again.items("/v1/log/entries?limit=1000")}
    assert subjects.issuperset(received)
    await covered(again)
    status, out, err = await meshward("verify", server=again)
    assert (status, "is whole" in out, err) == (0, True, "")
