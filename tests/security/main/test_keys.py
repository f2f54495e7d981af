"""Private keys of authorities at a running control plane: where they are, and that nothing shows them."""

import asyncio
import os
import re
import resource
import subprocess
import sys
from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from app.core.clock import SystemClock
from app.main.parts import make_parts
from app.main.routes import route_table
from app.settings import Settings
from tests.support.callers import CART, certify, tls_channel
from tests.support.softhsm import softhsm

__all__ = ["softhsm"]

PASSPHRASE = "correct horse battery staple"
GET_DUMPABLE = 3
# What `serve` and `agent` do before anything is served, and what the kernel then says of this process.
STARTS = {
    "serve": "import app.main.serve as it; start = lambda: it.run(load(os.environ).settings)",
    "agent": "import app.agent.run as it; it.serve = lambda _: None; it.until_signal = lambda *_: None;"
    "start = lambda: it.run(None)",
}
SHOWN = """
import ctypes, os, resource
from app.settings import load
{start}
_, hard = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
def shown(work):
    if work is not None:
        work.close()
    print(ctypes.CDLL(None).prctl({number}), resource.getrlimit(resource.RLIMIT_CORE)[0])
it.asyncio.run = shown
start()
"""


def spellings(key):
    """How a private key could be written: its number, and pieces of its documents long enough to be no chance."""
    number = key.private_numbers().private_value
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    raw = number.to_bytes(32)
    found = {str(number), f"{number:x}", raw.hex(), b64encode(raw).decode()[:40], der.hex()[72:136]}
    return found | {line for line in b64encode(der).decode()[24:].split("=") if len(line) > 40}


def files_of(directory):
    return sorted((directory / "keys").glob("*.pem"))


async def exercise(server):
    """Have the keys used, and return all that the admin API answers without a parameter."""
    async with tls_channel(server) as channel:
        secret = await asyncio.to_thread(server.join_token, CART)
        assert (await certify(channel, token=secret)).spiffe_id == CART
    routes = route_table(make_parts(Settings(), SystemClock()))
    paths = {route.path for route in routes if route.method == "GET" and "{" not in route.path}
    assert "/v1/ca/authorities" in paths
    answers = [await asyncio.to_thread(server.ask, "GET", path) for path in sorted(paths)]
    return "".join(answer.text for answer in answers)


async def test_encrypted_keys_are_shown_nowhere(serving, tmp_path):
    passphrase = tmp_path / "passphrase"
    passphrase.touch(0o600)
    passphrase.write_text(PASSPHRASE)
    server = await asyncio.to_thread(serving.start, keys_passphrase_file=passphrase, log_level="debug")
    answers = await exercise(server)
    files = files_of(server.directory)
    assert len(files) == 2
    for file in files:
        assert file.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
        key = load_pem_private_key(file.read_bytes(), PASSPHRASE.encode())
        for spelling in spellings(key):
            assert spelling not in server.log_text
            assert spelling not in answers
    for text in (server.log_text, answers):
        assert "PRIVATE KEY" not in text
        assert PASSPHRASE not in text
    await asyncio.to_thread(server.stop)
    passphrase.write_text("another long passphrase")
    refused = await asyncio.to_thread(serving.launch, keys_passphrase_file=passphrase)
    assert await asyncio.to_thread(refused.wait) == 1
    assert "the passphrase is wrong" in refused.log_text
    assert re.search(r"Traceback|another long", refused.log_text) is None


async def test_keys_on_a_token_leave_no_file(serving, softhsm):
    server = await asyncio.to_thread(serving.start, **softhsm.settings)
    answers = await exercise(server)
    assert files_of(server.directory) == []
    pin = softhsm.pin_file.read_text().strip()
    assert pin not in server.log_text
    assert pin not in answers
    await asyncio.to_thread(server.stop)
    again = await asyncio.to_thread(serving.start, **softhsm.settings)
    assert again.roots == server.roots


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_process_with_keys_leaves_no_core_dump(start, tmp_path):
    script = SHOWN.format(start=start, number=GET_DUMPABLE)
    environment = {**os.environ, "MESHWARD_DATA_DIR": str(tmp_path / "data")}
    shown = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    assert shown.stdout.decode().splitlines()[0] == "0 0"
    # A process that starts nothing can be dumped, so that the flag tells.
    idle = f"import ctypes; print(ctypes.CDLL(None).prctl({GET_DUMPABLE}))"
    assert subprocess.run([sys.executable, "-c", idle], capture_output=True, check=True).stdout.strip() == b"1"
    assert resource.getrlimit(resource.RLIMIT_CORE)
