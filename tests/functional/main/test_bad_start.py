"""What keeps the control plane from starting: one sentence, a status, and nothing that a second start trips over."""

import os
import socket
import sqlite3
import stat
import subprocess
import sys
from typing import Any

import pytest

from app.cli import cli
from app.cli.failures import FAILURE, guarded
from app.core.errors import PreconditionError
from app.core.private_files import ensure_data_directory
from app.telemetry import logs
from tests.support.serving import environment


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def serve(data_dir, monkeypatch, capfd):
    """Runs `meshward serve` in this process: its exit status, and what it said apart from its log."""
    monkeypatch.setattr(logs, "configure", lambda *_: None)

    def run(*arguments, **settings):
        for name, value in environment(data_dir, **settings).items():
            if name.startswith("MESHWARD_"):
                monkeypatch.setenv(name, value)
        status = guarded(lambda: cli(["serve", *arguments]))
        said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("meshward: ")]
        return status, said

    return run


def assert_refused(outcome, *words):
    """One sentence that has all the words."""
    status, said = outcome
    assert status == FAILURE, said
    (sentence,) = said
    assert "Traceback" not in sentence
    assert "a fault of Meshward's own" not in sentence
    for word in words:
        assert str(word) in sentence


WRONG_SETTINGS: dict[str, tuple[Any, ...]] = {
    "a bind without a port": ({"mesh_tls_bind": "127.0.0.1"}, "mesh.tls_bind", "host:port"),
    "a port that is too large": ({"admin_bind": "127.0.0.1:99999"}, "admin.bind", "65535"),
    "plaintext for everybody": ({"mesh_plaintext_bind": "0.0.0.0:0"}, "plaintext_public", "0.0.0.0"),
    "one port for two": ({"mesh_plaintext_bind": "127.0.0.1:9", "admin_bind": "127.0.0.1:9"}, "must differ"),
    "a duration without a unit": ({"ca_svid_default_ttl": "3600"}, "ca.svid_default_ttl", "unit"),
    "a duration of nothing": ({"shutdown_grace": "0s"}, "shutdown_grace", "one second"),
    "a default above the maximum": ({"ca_svid_default_ttl": "2h", "ca_svid_max_ttl": "1h"}, "svid_default_ttl", "1h"),
    "a maximum above the bound": ({"ca_svid_max_ttl": "91d"}, "svid_max_ttl", "90d"),
    "a trust domain in capitals": ({"trust_domain": "Cluster.Local"}, "trust_domain", "Cluster.Local"),
    "a level that there is not": ({"log_level": "loud"}, "log.level", "MESHWARD_LOG_LEVEL"),
    "a value that is empty": ({"trust_domain": ""}, "MESHWARD_TRUST_DOMAIN", "empty"),
    "a database of another kind": ({"database_url": "mysql://db/x"}, "database_url", "mysql"),
    "a counter store that there is not": ({"counters_url": "etcd://x"}, "counters.url", "memory://"),
    "a variable that there is not": ({"mesh_tls_bid": "x"}, "MESHWARD_MESH_TLS_BID", "MESHWARD_MESH_TLS_BIND"),
    "a number that is none": ({"mesh_max_message_bytes": "many"}, "mesh.max_message_bytes"),
    "an answer that is neither yes nor no": ({"admin_metrics_public": "perhaps"}, "admin.metrics_public"),
}


@pytest.mark.parametrize("what", WRONG_SETTINGS)
def test_a_wrong_setting_is_named_and_nothing_is_made(serve, data_dir, what):
    settings, *words = WRONG_SETTINGS[what]
    assert_refused(serve(**settings), *words)
    assert not data_dir.exists()


WRONG_FILES = {
    "a key that there is not": ('[mesh]\ntls_bnd = "x"', "mesh.tls_bnd", "did you mean mesh.tls_bind"),
    "a table that there is not": ("[mush]\nx = 1", "mush.x"),
    "a value of another type": ('[authz]\nexpose_decision = "perhaps"', "authz.expose_decision"),
    "what is not TOML": ("data_dir = ", "not valid TOML"),
    "what is not text": (b"\xff\xfe", "not valid TOML"),
}


@pytest.mark.parametrize("what", WRONG_FILES)
def test_a_wrong_file_is_named_with_the_key(serve, data_dir, tmp_path, what):
    text, *words = WRONG_FILES[what]
    config = tmp_path / "meshward.toml"
    config.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_refused(serve("--config", str(config)), config, *words)
    assert not data_dir.exists()


def test_a_file_that_is_not_there_is_named(serve, tmp_path):
    assert_refused(serve("--config", str(tmp_path / "nope.toml")), tmp_path / "nope.toml", "No such file")


def test_a_data_directory_that_is_a_file_is_named(serve, data_dir):
    data_dir.write_text("")
    assert_refused(serve(), data_dir, "not a directory")


def test_a_data_directory_under_a_file_is_named(serve, data_dir):
    data_dir.parent.joinpath("file").write_text("")
    below = data_dir.parent / "file/data"
    assert_refused(serve(data_dir=below), below)


def test_a_data_directory_that_everybody_may_write_is_named(serve, data_dir):
    data_dir.mkdir()
    data_dir.chmod(0o777)
    assert_refused(serve(), data_dir, "chmod go-w")
    assert list(data_dir.iterdir()) == []


def test_a_data_directory_that_cannot_be_written_is_named(data_dir, monkeypatch):
    """Asked of the check itself, as root may write everywhere."""
    data_dir.mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PreconditionError, match=f"{data_dir} is not writable"):
        ensure_data_directory(data_dir)


@pytest.mark.parametrize("which", ["mesh_tls_bind", "mesh_plaintext_bind", "admin_bind"])
def test_a_port_in_use_is_named_before_anything_is_made(serve, data_dir, which):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(serve(**{which: f"127.0.0.1:{port}"}), port, "in use")
    assert not (data_dir / "keys").exists()
    assert not (data_dir / "meshward.db").exists()


def test_a_port_in_use_leaves_no_other_port_taken(serve):
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        port, free = taken.getsockname()[1], other.getsockname()[1]
        other.close()
        assert_refused(serve(admin_bind=f"127.0.0.1:{port}", mesh_plaintext_bind=f"127.0.0.1:{free}"), port)
    socket.create_server(("127.0.0.1", free)).close()


def test_an_address_of_another_machine_is_named(serve):
    assert_refused(serve(mesh_tls_bind="192.0.2.1:0"), "192.0.2.1", "not an address of this machine")


def test_a_host_that_there_is_not_is_named(serve):
    assert_refused(serve(mesh_tls_bind="no-such-host.invalid:0"), "no-such-host.invalid")


def test_a_database_that_is_away_is_named_without_its_password(serve, data_dir):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    outcome = serve(database_url=f"postgresql+asyncpg://me:hidden@127.0.0.1:{port}/mesh")
    assert_refused(outcome, "'mesh'", f"127.0.0.1:{port}")
    assert "hidden" not in outcome[1][0]
    assert not (data_dir / "keys").exists()


def test_a_database_in_no_directory_is_named(serve, tmp_path):
    path = tmp_path / "nowhere/meshward.db"
    assert_refused(serve(database_url=f"sqlite+aiosqlite:///{path}"), path)


def test_a_file_that_is_no_database_is_named(serve, data_dir):
    data_dir.mkdir()
    (data_dir / "meshward.db").write_bytes(b"certainly not a database" * 1000)
    assert_refused(serve(), data_dir / "meshward.db", "not a database")


def test_a_database_of_somebody_else_is_named(serve, data_dir):
    data_dir.mkdir()
    with sqlite3.connect(data_dir / "meshward.db") as database:
        database.execute("CREATE TABLE theirs (x)")
    database.close()
    assert_refused(serve(), data_dir / "meshward.db", "empty database")


@pytest.fixture
def served_once(serving, data_dir):
    """The data directory of a control plane that has ended."""
    serving.start().stop()
    return data_dir


def key_files(data_dir):
    return sorted((data_dir / "keys").glob("*.pem"))


def spoil_schema(data_dir):
    database = sqlite3.connect(data_dir / "meshward.db")
    with database:
        (step,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        database.execute("UPDATE alembic_version SET version_num = '9999'")

    def mend():
        with database:
            database.execute("UPDATE alembic_version SET version_num = ?", (step,))
        database.close()

    return (data_dir / "meshward.db", "'9999'", "newer version"), mend


def widen(path, mode, narrow):
    path.chmod(mode)
    return (path, f"{mode:04o}", "run chmod"), lambda: path.chmod(narrow)


def replaced(path, content):
    kept = path.read_bytes()
    path.write_bytes(content)
    return lambda: path.write_bytes(kept)


def garbage_key(data_dir):
    path = key_files(data_dir)[0]
    return (path, "private key"), replaced(path, b"garbage")


def swapped_key(data_dir):
    one, two = key_files(data_dir)
    return (one, "does not hold the key"), replaced(one, two.read_bytes())


def linked_key(data_dir):
    path = key_files(data_dir)[0]
    real = path.rename(data_dir / "elsewhere.pem")
    path.symlink_to(real)
    return (path, "symbolic link"), lambda: real.rename(path)


def cut_token(data_dir):
    path = data_dir / "admin.token"
    return (path, "meshward admin token --rotate"), replaced(path, b"short\n")


SPOILED = {
    "a newer schema": spoil_schema,
    "a database that others can write": lambda data_dir: widen(data_dir / "meshward.db", 0o620, 0o600),
    "a data directory that a group can write": lambda data_dir: widen(data_dir, 0o770, 0o700),
    "a key that others can read": lambda data_dir: widen(key_files(data_dir)[0], 0o644, 0o600),
    "a directory of keys that others can enter": lambda data_dir: widen(data_dir / "keys", 0o755, 0o700),
    "a token that others can read": lambda data_dir: widen(data_dir / "admin.token", 0o644, 0o600),
    "a key of garbage": garbage_key,
    "a key in the place of another": swapped_key,
    "a key that is a symbolic link": linked_key,
    "a token cut short": cut_token,
}


def test_every_file_but_the_bundle_is_for_its_owner_alone(serving, data_dir):
    """While it runs, so with the journals of the database; and one that an earlier version left open to others."""
    before = os.umask(0)
    try:
        serving.start().stop()
        (data_dir / "meshward.db").chmod(0o644)
        server = serving.start()
        assert server.join_token("spiffe://cluster.local/ns/shop/sa/cart")
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in data_dir.rglob("*") if file.is_file()}
    finally:
        os.umask(before)
    assert modes.pop("bundle.pem") == 0o644
    assert {"meshward.db", "meshward.db-wal", "meshward.db-shm", "admin.token"} <= modes.keys()
    assert set(modes.values()) == {0o600}


def test_what_was_spoiled_is_named_and_once_it_is_mended_all_is_as_before(serve, served_once, serving):
    roots = (served_once / "bundle.pem").read_bytes()
    database = (served_once / "meshward.db").read_bytes()
    for spoil in SPOILED.values():
        words, mend = spoil(served_once)
        assert_refused(serve(), *words)
        mend()
    assert_refused(serve(trust_domain="other.example"), "cluster.local", "other.example")
    assert (served_once / "meshward.db").read_bytes() == database
    server = serving.start()
    assert server.roots == roots
    assert len(key_files(served_once)) == 2


def test_the_process_says_it_on_standard_error_and_exits(data_dir):
    """As it is run, once: the sentence comes alone, without the log's lines or a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "app.cli", "serve"],
            env=environment(data_dir, mesh_tls_bind=f"127.0.0.1:{port}"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == FAILURE
    assert ended.stdout == ""
    (sentence,) = ended.stderr.splitlines()
    assert sentence == (
        f"meshward: port {port} on 127.0.0.1 is in use by another process: stop it or choose another port"
    )
