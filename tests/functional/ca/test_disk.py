"""Keys in the data directory: private, whole, and refused where somebody else could have had them."""

import os
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from app.ca.backends.disk import BundleFile, DiskKeyStore
from app.ca.model import KeyAlgorithm
from app.ca.rules.profile import authority_id
from app.core.errors import PreconditionError
from app.spiffe.bundle import TrustBundle
from app.spiffe.id import TrustDomain

DOMAIN = TrustDomain("example.org")


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "keys"


@pytest.fixture
def store(directory):
    return DiskKeyStore(directory)


async def made(store):
    key = await store.create(KeyAlgorithm.P256)
    return authority_id(key.public_key)


async def test_a_key_is_kept_under_its_authoritys_id_and_is_nobody_elses_to_read(store, directory):
    key = await store.create(KeyAlgorithm.P384)
    authority = authority_id(key.public_key)
    loaded = await store.load(authority)
    assert loaded.public_key == key.public_key
    assert [path.name for path in directory.iterdir()] == [f"{authority}.pem"]
    assert stat.S_IMODE((directory / f"{authority}.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_a_key_that_is_not_there_is_none(store):
    assert await store.load("0" * 40) is None


async def test_a_key_that_was_never_used_is_removed(store, directory):
    await store.remove(await made(store))
    await store.remove("0" * 40)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o666])
async def test_a_key_open_to_others_is_refused(store, directory, mode):
    authority = await made(store)
    (directory / f"{authority}.pem").chmod(mode)
    with pytest.raises(PreconditionError, match="chmod 600"):
        await store.load(authority)


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o777])
async def test_a_directory_open_to_others_is_refused(store, directory, mode):
    authority = await made(store)
    directory.chmod(mode)
    with pytest.raises(PreconditionError, match="chmod 700"):
        await store.load(authority)
    with pytest.raises(PreconditionError, match="chmod 700"):
        await store.create(KeyAlgorithm.P256)


async def test_a_symbolic_link_in_a_keys_place_is_refused(store, directory, tmp_path):
    authority = await made(store)
    path = directory / f"{authority}.pem"
    path.rename(tmp_path / "elsewhere.pem")
    path.symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(PreconditionError, match="symbolic link"):
        await store.load(authority)


def pkcs8(key, protection=None):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection or NoEncryption())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        pkcs8(ec.generate_private_key(ec.SECP256R1())),
        pkcs8(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"a password")),
        pkcs8(rsa.generate_private_key(65537, 2048)),
        b"x" * (2 << 20),
    ],
    ids=["empty", "nonsense", "another key", "encrypted", "RSA", "too large"],
)
async def test_a_file_that_does_not_hold_the_key_it_is_named_after_is_refused(store, directory, content):
    authority = await made(store)
    (directory / f"{authority}.pem").write_bytes(content)
    with pytest.raises(PreconditionError, match="restore it"):
        await store.load(authority)


async def test_a_place_that_is_no_directory_is_refused(tmp_path):
    (tmp_path / "keys").write_text("in the way")
    with pytest.raises(PreconditionError, match="keys"):
        await DiskKeyStore(tmp_path / "keys").create(KeyAlgorithm.P256)


async def test_the_bundle_is_replaced_whole_and_everybody_may_read_it(tmp_path):
    path = tmp_path / "bundle.pem"
    old = os.umask(0o022)
    try:
        await BundleFile(path).publish(TrustBundle(DOMAIN, ("one\n",)))
        await BundleFile(path).publish(TrustBundle(DOMAIN, ("one\n", "two\n"), 2))
    finally:
        os.umask(old)
    assert path.read_text() == "one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle.pem"]


async def test_a_bundle_that_cannot_be_written_says_where(tmp_path):
    with pytest.raises(PreconditionError, match="nowhere"):
        await BundleFile(tmp_path / "nowhere" / "bundle.pem").publish(TrustBundle(DOMAIN, ("one\n",)))


async def test_a_bundle_in_the_place_of_a_file_is_one_clear_refusal(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PreconditionError, match=r"cannot write .*file/bundle\.pem"):
        await BundleFile(tmp_path / "file" / "bundle.pem").publish(TrustBundle(DOMAIN, ("one\n",)))


async def test_a_bundle_that_is_there_already_is_not_written_again(tmp_path):
    """A control plane starts on a full disk, too."""
    path = tmp_path / "bundle.pem"
    bundle = TrustBundle(DOMAIN, ("one\n",))
    await BundleFile(path).publish(bundle)
    before = path.stat().st_ino
    await BundleFile(path).publish(bundle)
    assert path.stat().st_ino == before
    path.write_text("another")
    await BundleFile(path).publish(bundle)
    assert path.stat().st_ino != before
