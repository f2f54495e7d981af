"""Keys on disk under a passphrase: what is written, what a wrong one says, how it is changed."""

import subprocess
from base64 import b64decode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from app.ca.backends.disk import DiskKeyStore
from app.ca.backends.encrypted_key import encrypted
from app.ca.backends.passphrase import change_passphrase, read_passphrase
from app.ca.model import KeyAlgorithm
from app.ca.rules.profile import authority_id
from app.core.errors import InvalidInputError, PreconditionError

SCRYPT, AES = bytes.fromhex("2b06010401da47040b"), bytes.fromhex("60864801650304012a")
SIXTEEN_OCTETS = b"\x04\x10"
OLD, NEW = "correct horse battery staple", "another long passphrase"


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "keys"


@pytest.fixture
def passphrase(tmp_path):
    path = tmp_path / "passphrase"
    path.touch(0o600)
    path.write_text(OLD + "\n")
    return path


@pytest.fixture
def store(directory, passphrase):
    return DiskKeyStore(directory, passphrase)


def openssl(*words):
    return subprocess.run(["openssl", *words], capture_output=True, check=True).stdout.decode()


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_3072])
async def test_what_is_written_is_encrypted_and_can_be_read_by_others(store, directory, algorithm):
    key = await store.create(algorithm)
    (path,) = directory.iterdir()
    content = path.read_bytes()
    assert content.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert max(map(len, content.splitlines())) <= 64
    assert load_pem_private_key(content, OLD.encode()).public_key() == key.public_key
    assert openssl("pkey", "-in", path, "-passin", f"pass:{OLD}", "-check").startswith("Key is valid")
    shape = openssl("asn1parse", "-in", path)
    assert ":PBES2" in shape
    assert ":scrypt" in shape
    assert ":aes-256-cbc" in shape


def test_two_files_of_one_key_share_neither_salt_nor_vector():
    files = [encrypted(b"a key", OLD.encode()).decode().splitlines() for _ in range(2)]
    documents = [b64decode("".join(lines[1:-1])) for lines in files]
    for name in (SCRYPT, AES):
        # What follows the name of an algorithm: for scrypt a sequence that begins with the salt, for AES the vector.
        one, other = (document.partition(name)[2].partition(SIXTEEN_OCTETS)[2][:16] for document in documents)
        assert len(one) == 16
        assert one != other


async def test_a_wrong_passphrase_says_so_and_shows_nothing(store, passphrase):
    authority = authority_id((await store.create(KeyAlgorithm.P256)).public_key)
    passphrase.write_text(NEW)
    with pytest.raises(PreconditionError, match=r"the passphrase is wrong, .* keys passphrase") as refusal:
        await store.load(authority)
    assert NEW not in refusal.value.message
    passphrase.write_text(OLD + "\r\n")
    assert await store.load(authority)


async def test_a_key_without_a_passphrase_is_not_used_where_one_is_set(store, directory):
    authority = authority_id((await DiskKeyStore(directory).create(KeyAlgorithm.P256)).public_key)
    with pytest.raises(PreconditionError, match=r"not encrypted, .* keys passphrase"):
        await store.load(authority)


async def test_a_key_with_a_passphrase_is_not_used_where_none_is_set(store, directory):
    authority = authority_id((await store.create(KeyAlgorithm.P256)).public_key)
    with pytest.raises(PreconditionError, match=r"encrypted, and there is no passphrase"):
        await DiskKeyStore(directory).load(authority)


async def test_what_openssl_encrypted_is_read(store, directory, passphrase):
    key = ec.generate_private_key(ec.SECP256R1())
    authority = authority_id(key.public_key())
    directory.mkdir(0o700)
    path = directory / f"{authority}.pem"
    path.touch(0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(OLD.encode())))
    assert (await store.load(authority)).public_key == key.public_key()


@pytest.mark.parametrize("cut", [20, 100, -60])
async def test_a_damaged_key_is_refused(store, directory, cut):
    authority = authority_id((await store.create(KeyAlgorithm.P256)).public_key)
    path = directory / f"{authority}.pem"
    content = path.read_bytes()
    path.write_bytes(content[:cut] + b"A" + content[cut:])
    with pytest.raises(PreconditionError, match="restore it"):
        await store.load(authority)


@pytest.mark.parametrize(("content", "mode"), [("short", 0o600), ("", 0o600), ("x" * 1100, 0o600), (OLD, 0o640)])
def test_a_passphrase_that_cannot_be_used_is_refused(passphrase, content, mode):
    passphrase.write_text(content)
    passphrase.chmod(mode)
    with pytest.raises((InvalidInputError, PreconditionError)) as refusal:
        read_passphrase(passphrase)
    assert str(passphrase) in refusal.value.message
    assert content not in refusal.value.message or not content


def test_a_passphrase_that_is_missing_says_where(tmp_path):
    with pytest.raises(PreconditionError, match="nowhere"):
        read_passphrase(tmp_path / "nowhere")


async def test_the_passphrase_is_set_changed_and_taken_away(directory, passphrase):
    plain = DiskKeyStore(directory)
    authorities = [authority_id((await plain.create(algorithm)).public_key) for algorithm in KeyAlgorithm]
    old, new = OLD.encode(), NEW.encode()
    number = len(authorities)
    for before, after in ((None, old), (old, new), (new, None)):
        assert change_passphrase(directory, before, after) == (number, number)
        assert change_passphrase(directory, before, after) == (0, number)
        if after is not None:
            passphrase.write_bytes(after)
        store = DiskKeyStore(directory, None if after is None else passphrase)
        for authority in authorities:
            assert await store.load(authority)
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}


async def test_nothing_is_changed_unless_every_key_can_be_read(store, directory, passphrase):
    await store.create(KeyAlgorithm.P256)
    passphrase.write_text(NEW)
    await store.create(KeyAlgorithm.P256)
    before = {path: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(PreconditionError, match="cannot read the key in"):
        change_passphrase(directory, OLD.encode(), b"a third passphrase")
    assert {path: path.read_bytes() for path in directory.iterdir()} == before
    assert change_passphrase(directory, OLD.encode(), NEW.encode()) == (1, 2)
