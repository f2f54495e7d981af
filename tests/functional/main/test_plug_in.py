"""A control plane with a plug-in CA that openssl made: it signs, and follows its files while it runs."""

import shutil
import subprocess

import pytest

from tests.support.callers import CART, join, tls_channel
from tests.support.serving import eventually, eventually_async

OPENSSL = shutil.which("openssl") or ""
pytestmark = pytest.mark.skipif(not OPENSSL, reason="openssl is not installed")

AUTHORITY = "basicConstraints=critical,CA:TRUE{}\nkeyUsage=critical,keyCertSign,cRLSign\n"
IDENTIFIERS = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"


class Pki:
    """An offline CA on the command line, as the guide has it."""

    def __init__(self, directory) -> None:
        self.directory = directory
        directory.mkdir()

    def run(self, *arguments, **options):
        command = [OPENSSL, *map(str, arguments)]
        return subprocess.run(command, cwd=self.directory, check=True, capture_output=True, **options).stdout

    def root(self, name):
        subject, curve, usage = f"/C=DE/O=Example/CN={name}", "ec_paramgen_curve:P-384", "keyCertSign,cRLSign"
        self.run("req", "-x509", "-newkey", "ec", "-pkeyopt", curve, "-nodes", "-days", 3650, "-subj", subject,
                 "-keyout", f"{name}-key.pem", "-out", f"{name}.pem",
                 "-addext", "basicConstraints=critical,CA:TRUE", "-addext", f"keyUsage=critical,{usage}")  # fmt: skip
        return name

    def issue(self, name, issuer, limit="", key=("-newkey", "rsa:2048")):
        (self.directory / f"{name}.ext").write_text(AUTHORITY.format(limit) + IDENTIFIERS)
        self.run("req", "-new", *key, "-nodes", "-subj", f"/C=DE/O=Example/CN={name}",
                 "-keyout", f"{name}-key.pem", "-out", f"{name}.csr")  # fmt: skip
        self.run("x509", "-req", "-in", f"{name}.csr", "-CA", f"{issuer}.pem", "-CAkey", f"{issuer}-key.pem",
                 "-CAcreateserial", "-days", 365, "-extfile", f"{name}.ext", "-out", f"{name}.pem")  # fmt: skip
        return name

    def text(self, *names):
        return "".join((self.directory / f"{name}.pem").read_text() for name in names)

    def mount(self, directory, version, signer, *between, roots):
        """Put the files into a directory as the kubelet does, by a link that is renamed over the one before."""
        directory.mkdir(exist_ok=True)
        data = directory / f"..{version}"
        data.mkdir()
        (data / "ca-cert.pem").write_text(self.text(signer))
        (data / "ca-key.pem").write_text(self.text(f"{signer}-key"))
        (data / "cert-chain.pem").write_text(self.text(signer, *between, roots[0]))
        (data / "root-cert.pem").write_text(self.text(*roots))
        (directory / "..data_tmp").symlink_to(data.name)
        (directory / "..data_tmp").rename(directory / "..data")
        for file in data.iterdir():
            if not (directory / file.name).is_symlink():
                (directory / file.name).symlink_to(f"..data/{file.name}")
        return directory


@pytest.fixture
def pki(tmp_path):
    made = Pki(tmp_path / "pki")
    made.root("root")
    made.root("first")
    made.issue("policy", "root", ",pathlen:1")
    made.issue("mesh", "policy", ",pathlen:0")
    return made


def issuer_of(identity):
    return identity.leaf.issuer.rfc4514_string()


async def test_it_signs_and_follows_its_files(serving, pki, tmp_path):
    mounted = pki.mount(tmp_path / "cacerts", 1, "mesh", "policy", roots=["root"])
    server = serving.start(ca_plugin_dir=mounted)
    assert server.roots.decode() == pki.text("root")

    identity = await join(server)
    assert issuer_of(identity) == "CN=mesh,O=Example,C=DE"
    assert identity.chain.count(b"BEGIN") == 3
    (pki.directory / "svid.pem").write_bytes(identity.chain)
    (pki.directory / "bundle.pem").write_bytes(server.roots)
    verified = pki.run(
        "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "bundle.pem", "-untrusted", "svid.pem", "svid.pem"
    )
    assert verified == b"svid.pem: OK\n"
    async with tls_channel(server, identity) as channel:  # and it proves its holder to the control plane
        await channel.channel_ready()

    async def signs(name):
        return issuer_of(await join(server)) == f"CN={name},O=Example,C=DE"

    pki.issue("next", "policy", ",pathlen:0", ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"))
    pki.mount(mounted, 2, "next", "policy", roots=["root"])
    await eventually_async(lambda: signs("next"), "the next authority under the same root to sign")

    pki.root("new")
    pki.issue("under-new", "new")
    pki.mount(mounted, 3, "under-new", roots=["new", "root"])
    await eventually_async(lambda: signs("under-new"), "the authority under another root to sign")
    assert set(server.roots.decode().split("-----BEGIN")) >= set(pki.text("new", "root").split("-----BEGIN"))
    stages = {each["stage"] for each in server.get("/v1/ca/authorities")["roots"]}
    assert stages == {"active", "old"}


async def test_files_that_are_refused_are_reported_everywhere_and_change_nothing(serving, pki, tmp_path):
    mounted = pki.mount(tmp_path / "cacerts", 1, "mesh", "policy", roots=["root"])
    server = serving.start(ca_plugin_dir=mounted)
    pki.issue("stranger", "first")
    pki.mount(mounted, 2, "stranger", "policy", roots=["root"])
    problem = eventually(lambda: server.get("/v1/ca")["plug_in"]["problem"], "the files to be refused")
    assert problem.startswith("ca-cert.pem: no root vouches for 'CN=stranger,O=Example,C=DE'")
    (event,) = server.events("ca_plug_in_refused")
    assert event["reason"] == problem
    assert server.metrics()["meshward_ca_plug_in_refused"] == 1
    assert issuer_of(await join(server, CART)) == "CN=mesh,O=Example,C=DE"
    assert server.get("/v1/ca")["ready"]
    assert "PRIVATE" not in server.log_text


def test_a_first_start_with_files_that_are_refused_ends_with_the_reason(serving, pki, tmp_path):
    mounted = pki.mount(tmp_path / "cacerts", 1, "mesh", roots=["root"])
    server = serving.launch(ca_plugin_dir=mounted)
    assert server.wait() != 0
    assert "whose issuer is 'CN=policy,O=Example,C=DE': put its root into root-cert.pem" in server.log_text
