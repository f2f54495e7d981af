"""The identity on disk."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from app.agent.identity import accept_answer, make_request
from app.agent.store import IDENTITY_FILE, IdentityStore
from app.core.errors import PreconditionError
from tests.assets.certificates import MeshCa
from tests.fakes.clock import ManualClock

NOW = ManualClock().now()
CA = MeshCa(NOW)


def identity(ttl=timedelta(hours=1)):
    made = make_request()
    return accept_answer(made.private_key, CA.answer(made.csr, NOW, ttl), NOW)


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "agent"


@pytest.fixture
def store(directory):
    store = IdentityStore(directory)
    with store.locked():
        yield store


def test_the_identity_saved_last_is_loaded(store):
    assert store.load(NOW) is None
    first, second = identity(), identity()
    store.save(first)
    assert store.load(NOW) == first
    store.save(second)
    assert store.load(NOW) == second


def test_revocation_lists_are_kept_with_the_identity(store, directory):
    saved = identity()
    crls = tuple(CA.signer.crl(serial, now=NOW, end=NOW + timedelta(hours=1)) for serial in (7, 8))
    saved = replace(saved, bundle=replace(saved.bundle, crls=crls))
    store.save(saved)
    assert store.load(NOW) == saved
    path = directory / IDENTITY_FILE
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"crls": ["nonsense"]}))
    with pytest.raises(PreconditionError):
        store.load(NOW)
    del content["crls"]  # as an older version writes it
    path.write_text(json.dumps(content))
    assert store.load(NOW).bundle.crls == ()


def test_directory_and_file_are_accessible_only_to_their_owner(store, directory):
    store.save(identity())
    assert directory.stat().st_mode & 0o777 == 0o700
    for path in directory.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_an_expired_identity_is_still_loaded(store):
    saved = identity()
    store.save(saved)
    assert store.load(NOW + timedelta(days=30)) == saved
    assert store.load(NOW - timedelta(days=300)) == saved


def test_a_directory_or_a_file_that_others_may_read_is_refused(store, directory):
    store.save(identity())
    (directory / IDENTITY_FILE).chmod(0o640)
    with pytest.raises(PreconditionError, match="chmod 600"):
        store.load(NOW)
    directory.chmod(0o755)
    with pytest.raises(PreconditionError, match="chmod 700"), IdentityStore(directory).locked():
        pass


def test_a_second_agent_is_refused_until_the_first_has_ended(directory):
    first, second = IdentityStore(directory), IdentityStore(directory)
    with first.locked(), pytest.raises(PreconditionError, match="another agent uses the data dir"), second.locked():
        pass
    with second.locked():
        pass


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: document | {"extra": 1},
        lambda document: document | {"private_key": make_request().private_key.decode()},
        lambda document: document | {"private_key": 7},
        lambda document: document | {"private_key": "é"},
        lambda document: document | {"chain": []},
        lambda document: document | {"chain": document["chain"][:1]},
        lambda document: document | {"chain": None},
        lambda document: document | {"roots": [MeshCa(NOW).roots]},
        lambda document: document | {"roots": []},
        lambda document: {},
        lambda document: [],
        lambda document: None,
    ],
)
def test_a_damaged_file_is_refused_with_what_to_do(store, directory, damage):
    store.save(identity())
    path = directory / IDENTITY_FILE
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(
        PreconditionError, match=r"identity\.json does not hold a usable identity .*: remove it and enrol"
    ):
        store.load(NOW)


def test_a_truncated_file_is_refused(store, directory):
    store.save(identity())
    path = directory / IDENTITY_FILE
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(PreconditionError, match="usable identity"):
        store.load(NOW)


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("app.agent.store.fcntl.flock", no_locks)
    with pytest.raises(PreconditionError, match=r"cannot lock the data dir .*: No locks available"):
        IdentityStore(tmp_path / "agent").locked().__enter__()


def test_an_error_while_the_lock_is_held_is_not_reported_as_another_agent(tmp_path):
    with pytest.raises(BlockingIOError), IdentityStore(tmp_path / "agent").locked():
        raise BlockingIOError
