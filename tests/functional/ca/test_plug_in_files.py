"""The files of a plug-in CA as they are in a directory: in both layouts, by links, and as they should not be."""

import os

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from app.ca.backends.plug_in_files import MAX_KEY_BYTES, PlugInDirectory
from app.ca.rules.plug_in import CACERTS, TLS
from app.core.errors import InvalidInputError
from app.spiffe.bundle import MAX_BUNDLE_BYTES
from tests.assets.plug_in import cacerts, enterprise_root, mesh_ca, tls_secret

ROOT = enterprise_root()
SIGNER = mesh_ca(ROOT)
ENCRYPTION = BestAvailableEncryption(b"secret")
FILES = cacerts(SIGNER, roots=[ROOT])


@pytest.fixture
def directory(tmp_path):
    return put(tmp_path / "cacerts", FILES)


def put(directory, files):
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def mount(directory, version, files):
    """Replace the files as the kubelet does: a directory for each version, and one link that is renamed over."""
    put(directory / f"..{version}", files)
    (directory / "..data_tmp").symlink_to(f"..{version}")
    (directory / "..data_tmp").rename(directory / "..data")
    for name in files:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
    return directory


async def refusal(directory):
    with pytest.raises(InvalidInputError) as caught:
        await PlugInDirectory(directory).read()
    return caught.value.message


async def test_both_layouts_are_read(tmp_path, directory):
    files, key = await PlugInDirectory(directory).read()
    assert (files.layout, files.roots) == (CACERTS, FILES["root-cert.pem"])
    assert key.public_key == SIGNER.key.public_key()
    files, _ = await PlugInDirectory(put(tmp_path / "tls", tls_secret(SIGNER, roots=[ROOT]))).read()
    assert (files.layout, files.certificates, files.chain) == (TLS, SIGNER.pem.encode(), b"")


async def test_revocation_lists_are_read_where_they_are(directory):
    source = PlugInDirectory(directory)
    before = await source.version()
    assert (await source.read())[0].crls is None
    (directory / "ca-crl.pem").write_bytes(b"lists")
    assert (await source.read())[0].crls == b"lists"
    assert await source.version() != before


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
async def test_the_key_may_be_in_either_form_that_openssl_writes(directory, form):
    (directory / "ca-key.pem").write_bytes(SIGNER.key.private_bytes(Encoding.PEM, form, NoEncryption()))
    _, key = await PlugInDirectory(directory).read()
    assert key.public_key == SIGNER.key.public_key()


async def test_a_secret_that_is_replaced_by_a_link_has_another_version(tmp_path):
    directory = tmp_path / "mounted"
    directory.mkdir()
    source = PlugInDirectory(mount(directory, 1, FILES))
    before = await source.version()
    assert await source.version() == before
    second = mesh_ca(ROOT, "Next")
    mount(directory, 2, cacerts(second, roots=[ROOT]))
    assert await source.version() != before
    assert (await source.read())[1].public_key == second.key.public_key()


async def test_so_has_a_file_that_is_written_or_removed(directory):
    source, seen = PlugInDirectory(directory), set()
    for change in (
        lambda: None,
        lambda: (directory / "ca-cert.pem").write_bytes(FILES["root-cert.pem"]),
        (directory / "ca-key.pem").unlink,
        (directory / "tls.crt").touch,
    ):
        change()
        seen.add(await source.version())
    assert len(seen) == 4


async def test_what_is_missing_or_cannot_be_read_is_named(tmp_path, directory):
    assert "the directory cannot be read: No such file" in await refusal(tmp_path / "nowhere")
    (directory / "cert-chain.pem").unlink()
    assert (await refusal(directory)).startswith("cert-chain.pem is missing")
    (directory / "cert-chain.pem").symlink_to("cert-chain.pem")
    assert (await refusal(directory)).startswith("cert-chain.pem: it cannot be read: Too many levels")


@pytest.mark.parametrize("name", CACERTS.files)
async def test_what_is_no_file_is_refused_without_waiting(directory, name):
    (directory / name).unlink()
    os.mkfifo(directory / name)
    assert (await refusal(directory)).startswith(f"{name}: ")
    (directory / name).unlink()
    (directory / name).mkdir()
    assert (await refusal(directory)).startswith(f"{name}: ")


@pytest.mark.parametrize("name", CACERTS.files)
async def test_a_file_that_is_too_long_is_refused(directory, name):
    most = MAX_KEY_BYTES if name == CACERTS.key else MAX_BUNDLE_BYTES
    (directory / name).write_bytes(b"#" * (most + 1))
    assert await refusal(directory) == f"{name}: it is longer than {most} bytes: it is not what belongs there"


@pytest.mark.parametrize("name", CACERTS.files)
async def test_a_file_that_everybody_can_write_is_refused(directory, name):
    (directory / name).chmod(0o666)
    assert (await refusal(directory)).startswith(f"{name}: every user can write it: run chmod o-w ")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a private key"),
        (SIGNER.pem.encode(), "not a private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a private key"),
        (
            SIGNER.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, ENCRYPTION),
            "encrypted, and there is no passphrase",
        ),
        (
            SIGNER.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, ENCRYPTION),
            "not a private key",
        ),
    ],
)
async def test_what_is_not_a_plain_private_key_is_refused_and_not_quoted(directory, content, reason):
    (directory / "ca-key.pem").write_bytes(content)
    message = await refusal(directory)
    assert message.startswith("ca-key.pem: ")
    assert reason in message
    assert "put the private key there, in PEM and not encrypted" in message
    assert "AAAA" not in message
