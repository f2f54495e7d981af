"""Replicas with the same files of a plug-in CA on one database: they agree on its root, started at once too."""

import asyncio
from datetime import UTC, datetime

import pytest

from app.ca.model import Origin, Stage, Surface
from app.db.migrate import upgrade
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.spiffe.x509_svid import parse_certificate, verify_svid
from tests.assets.csrs import csr
from tests.assets.plug_in import cacerts, enterprise_root, mesh_ca
from tests.support.serving import eventually_async

CART = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/cart")


@pytest.fixture
def files(tmp_path):
    directory = tmp_path / "cacerts"
    directory.mkdir()

    def put(contents):
        for name, content in contents.items():
            (directory / name).write_bytes(content)
        return directory

    return put


async def test_replicas_that_start_at_once_trust_one_root_and_sign_under_it(control_plane, files, tmp_path):
    now = datetime.now(UTC)
    root = enterprise_root(now=now)
    directory = files(cacerts(mesh_ca(root, now=now), roots=[root]))
    secret = tmp_path / "replica.secret"
    secret.write_bytes(bytes(range(32)))
    secret.chmod(0o600)
    parts = [control_plane(name, ca_plugin_dir=str(directory), ca_secret_file=str(secret)) for name in ("a", "b", "c")]
    await upgrade(parts[0].engine)
    await asyncio.gather(*(each.ca.start() for each in parts))
    for each in parts:
        (stored,) = each.ca.authorities.status().roots
        assert (stored.certificate, stored.origin) == (root.pem, Origin.PLUG_IN)
        issued = await each.ca.issuance.issue(Principal(Credential.SVID, CART), csr(), 0, Surface.SDS)
        chain = [parse_certificate(text) for text in issued.chain]
        assert verify_svid(chain, [root.certificate], CART.trust_domain, now).spiffe_id == CART

    second = enterprise_root("Next Root", now)
    files(cacerts(mesh_ca(second, "Next", now), roots=[second]))

    async def is_active():
        await asyncio.gather(*(each.ca.maintain() for each in parts))
        stages = [each.ca.authorities.trust().stage(each.ca.authorities.status().roots[-1].id) for each in parts]
        return stages == [Stage.ACTIVE] * len(parts)

    await eventually_async(is_active, "the new root to sign at every replica")
    assert all(each.ca.authorities.status().root_id == parts[0].ca.authorities.status().root_id for each in parts)
