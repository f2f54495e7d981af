"""A plug-in CA: its authority signs, is replaced when the files are, and waits until its root is trusted."""

from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

import pytest

from app.ca.backends.memory import MemoryKeyStore
from app.ca.model import RotationConfig, Stage, Surface
from app.ca.rules.log import fields_of
from app.ca.rules.profile import authority_id
from app.ca.service import CaService
from app.core.errors import PreconditionError, UnavailableError
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.telemetry.metrics import Metrics
from tests.assets.certificates import proven_id, usage
from tests.assets.csrs import csr
from tests.assets.plug_in import YEAR, cacerts, enterprise_root, mesh_ca, tls_secret
from tests.fakes.ca_store import MemoryPublisher
from tests.fakes.plug_in import MemoryPlugIn
from tests.fakes.principals import OPERATOR

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
HOLDER = Principal(Credential.SVID, CART)


def id_of(authority):
    return authority_id(authority.key.public_key())


@pytest.fixture
def root(clock):
    return enterprise_root(now=clock.now())


@pytest.fixture
def signer(root, clock):
    return mesh_ca(root, now=clock.now())


@pytest.fixture
def files(signer, root):
    return MemoryPlugIn(cacerts(signer, roots=[root]))


@pytest.fixture
def replica(config, transactions, clock):
    """Makes a replica, with the files or without; its metrics are `metrics`."""

    def make(source=None, metrics=None, keys=None):
        ca = CaService(config, transactions, keys or MemoryKeyStore(), MemoryPublisher(), clock, metrics or Metrics())
        if source is not None:
            ca.authorities.use_plug_in(source)
        return ca

    return make


@pytest.fixture
async def plugged(replica, files, metrics):
    ca = replica(files, metrics)
    await ca.start()
    return ca


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


async def passes(clock, *services, count=3):
    for _ in range(count):
        clock.advance(1)
        for service in services:
            await service.maintain()


def stage(ca, authority):
    return ca.authorities.trust().stage(id_of(authority))


def status(ca):
    return ca.authorities.status().plug_in


async def signed_by(ca):
    """The authority that signs now; its chain is good under the bundle."""
    issued = await ca.issuance.issue(HOLDER, csr(), 0, Surface.SDS)
    assert proven_id(issued.chain, issued.bundle, issued.not_before) == CART
    return issued.chain[1]


def sidecar(ca, stack):
    """A stream that asks for the bundle, and what has it accept the one of now."""
    stream = stack.enter_context(ca.subscribers.opened(CART, "10.0.0.7:4711"))
    ca.subscribers.answered(stream, subscribed=True, bundle=None, problem="")

    def accept():
        version = ca.authorities.bundle().version
        ca.subscribers.answered(stream, subscribed=True, bundle=version, problem="")

    return accept


async def test_a_new_database_has_the_root_of_the_files_and_no_other(plugged, root, signer, keys):
    assert await signed_by(plugged) == signer.pem
    assert plugged.authorities.bundle().roots == (root.pem,)
    assert stage(plugged, root) is Stage.ACTIVE
    found = status(plugged)
    assert (found.layout, found.signer_id, found.root_id, found.problem) == (
        "cacerts",
        id_of(signer),
        id_of(root),
        None,
    )
    assert not keys.keys  # nothing was made here


async def test_the_answer_has_leaf_intermediates_and_the_root_in_the_bundle(replica, root, clock):
    policy = mesh_ca(root, "Policy CA", clock.now(), path_length=1)
    signer = mesh_ca(policy, now=clock.now())
    ca = replica(MemoryPlugIn(cacerts(signer, policy, roots=[root])))
    await ca.start()
    issued = await ca.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)
    assert issued.chain[1:] == (signer.pem, policy.pem)
    assert issued.bundle.roots == (root.pem,)
    assert proven_id(issued.chain, issued.bundle, clock.now()) == CART


async def test_a_root_that_signs_itself_can_be_plugged_in(replica, root, clock):
    ca = replica(MemoryPlugIn(cacerts(root, roots=[root])))
    await ca.start()
    assert await signed_by(ca) == root.pem
    await ca.check_ready()


async def test_svids_end_no_later_than_anything_above_them(replica, root, clock):
    policy = root.authority("Policy CA", clock.now() - YEAR, clock.now() + timedelta(hours=2), path_length=1)
    ca = replica(MemoryPlugIn(tls_secret(mesh_ca(policy, now=clock.now()), policy, roots=[root])))
    await ca.start()
    issued = await ca.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)
    assert issued.not_after == clock.now() + timedelta(hours=2)


async def test_a_new_signing_authority_under_the_same_root_signs_at_once(plugged, files, root, signer, clock, stack):
    sidecar(plugged, stack)  # which accepts nothing
    second = mesh_ca(root, "Next", clock.now(), path_length=0)
    files.put(cacerts(second, roots=[root]))
    await passes(clock, plugged)
    assert await signed_by(plugged) == second.pem
    assert status(plugged).signer_id == id_of(second)


async def test_it_does_so_though_the_one_before_ends_later(plugged, files, root, clock):
    brief = root.authority("Brief", clock.now() - timedelta(days=1), clock.now() + timedelta(days=30), path_length=0)
    files.put(cacerts(brief, roots=[root]))
    await passes(clock, plugged)
    assert await signed_by(plugged) == brief.pem


async def test_the_certificate_may_be_issued_again_for_the_same_key(plugged, files, root, signer, clock):
    """As cert-manager renews it unless its rotationPolicy is Always."""
    clock.advance(100 * 24 * 3600)
    again = mesh_ca(root, "Mesh CA", clock.now(), key=signer.key)
    files.put(cacerts(again, roots=[root]))
    await passes(clock, plugged)
    assert await signed_by(plugged) == again.pem
    assert [each.certificate for each in plugged.authorities.status().signers] == [again.pem]


async def test_a_replica_with_the_files_of_before_does_not_bring_back_their_certificate(
    plugged, replica, files, root, signer, clock
):
    old = MemoryPlugIn(files.files)
    clock.advance(24 * 3600)
    again = mesh_ca(root, "Mesh CA", clock.now() + timedelta(days=1), key=signer.key)
    files.put(cacerts(again, roots=[root]))
    await passes(clock, plugged)
    late = replica(old)
    await late.start()
    assert await signed_by(late) == again.pem


async def test_the_root_may_be_issued_again_for_the_same_key(plugged, files, root, signer, clock):
    again = enterprise_root(now=clock.now() + timedelta(days=9), key=root.key)
    clock.advance(9 * 24 * 3600)
    files.put(cacerts(signer, roots=[again]))
    await passes(clock, plugged)
    assert plugged.authorities.bundle().roots == (again.pem,)
    assert await signed_by(plugged) == signer.pem


async def test_under_another_name_it_is_another_root_and_refused(plugged, files, root, signer, clock):
    renamed = enterprise_root("Renamed", clock.now() + timedelta(days=9), key=root.key)
    clock.advance(9 * 24 * 3600)
    files.put(cacerts(mesh_ca(renamed, now=clock.now(), key=signer.key), roots=[renamed]))
    await passes(clock, plugged)
    assert "issued again under another name" in status(plugged).problem
    assert await signed_by(plugged) == signer.pem


async def test_a_new_root_signs_once_everybody_has_accepted_it(plugged, files, root, signer, clock, stack):
    accept = sidecar(plugged, stack)
    accept()
    next_root = enterprise_root("Next Root", clock.now())
    next_signer = mesh_ca(next_root, "Next", clock.now())
    files.put(cacerts(next_signer, roots=[next_root]))
    await passes(clock, plugged)
    assert stage(plugged, next_root) is Stage.ACTIVATING
    assert set(plugged.authorities.bundle().roots) == {root.pem, next_root.pem}
    assert await signed_by(plugged) == signer.pem
    accept()
    await passes(clock, plugged)
    assert await signed_by(plugged) == next_signer.pem
    assert (stage(plugged, root), stage(plugged, next_root)) == (Stage.OLD, Stage.ACTIVE)


async def test_another_set_in_the_meantime_takes_the_place_of_the_one_that_waits(plugged, files, clock, stack):
    sidecar(plugged, stack)
    second, third = (enterprise_root(name, clock.now()) for name in ("Second", "Third"))
    for each in (second, third):
        files.put(cacerts(mesh_ca(each, now=clock.now()), roots=[each]))
        await passes(clock, plugged)
    assert (stage(plugged, second), stage(plugged, third)) == (Stage.VERIFY_ONLY, Stage.ACTIVATING)
    await plugged.authorities.roots.revoke(OPERATOR, id_of(second))
    assert stage(plugged, second) is Stage.REVOKED


async def test_a_root_that_was_added_before_its_authority_signs_at_once(plugged, files, root, signer, clock, stack):
    """As Istio's own instructions have it: first both roots, then the new authority."""
    accept = sidecar(plugged, stack)
    next_root = enterprise_root("Next Root", clock.now())
    files.put(cacerts(signer, roots=[root, next_root]))
    await passes(clock, plugged)
    assert stage(plugged, next_root) is Stage.VERIFY_ONLY
    with pytest.raises(PreconditionError, match="no signing authority under the root"):
        await plugged.authorities.roots.activate(OPERATOR, id_of(next_root), force=True)
    accept()
    next_signer = mesh_ca(next_root, "Next", clock.now())
    files.put(cacerts(next_signer, roots=[root, next_root]))
    await passes(clock, plugged)
    assert await signed_by(plugged) == next_signer.pem


async def test_after_a_restart_while_a_root_waits_it_is_told_what_to_do(plugged, replica, files, clock, stack):
    sidecar(plugged, stack)
    next_root = enterprise_root("Next Root", clock.now())
    files.put(cacerts(mesh_ca(next_root, now=clock.now()), roots=[next_root]))
    await passes(clock, plugged)
    again = replica(files)
    await again.start()
    with pytest.raises(UnavailableError, match="put back the files of before until everybody has accepted"):
        again.authorities.active()
    await again.authorities.roots.activate(OPERATOR, id_of(next_root), force=True)
    assert await signed_by(again) == mesh_pem(files)


def mesh_pem(files):
    return files.files["ca-cert.pem"].decode()


async def test_every_replica_is_waited_for_until_it_has_read_the_files(replica, transactions, root, signer, clock):
    sources = [MemoryPlugIn(cacerts(signer, roots=[root])) for _ in range(2)]
    first, second = (replica(source) for source in sources)
    for each in (first, second):
        await each.start()
    await passes(clock, first, second)
    next_root = enterprise_root("Next Root", clock.now())
    changed = cacerts(mesh_ca(next_root, "Next", clock.now()), roots=[next_root])
    sources[0].put(changed)
    await passes(clock, first, second, count=4)
    assert stage(first, next_root) is Stage.ACTIVATING
    assert (await signed_by(first), await signed_by(second)) == (signer.pem, signer.pem)
    sources[1].put(changed)
    await passes(clock, first, second, count=4)
    assert stage(second, next_root) is Stage.ACTIVE
    assert await signed_by(first) == await signed_by(second) == changed["ca-cert.pem"].decode()


async def test_from_a_root_of_our_own_to_the_files_and_back(replica, ca, files, root, signer, keys, clock, metrics):
    own = ca.authorities.status().root_id
    plugged = replica(files, keys=keys)
    await plugged.start()
    assert stage(plugged, root) is Stage.ACTIVATING
    await passes(clock, plugged, count=40)  # the report of the replica before has to be old
    assert await signed_by(plugged) == signer.pem
    assert plugged.authorities.trust().stage(own) is Stage.OLD

    again = await plugged.authorities.roots.prepare(OPERATOR)
    await plugged.authorities.roots.activate(OPERATOR, again.id)
    await passes(clock, plugged, count=4)
    assert plugged.authorities.status().root_id == again.id
    restarted = replica(files, keys=keys)  # the files do not undo what an operator decided
    await restarted.start()
    assert restarted.authorities.status().root_id == again.id
    assert stage(restarted, root) is Stage.OLD


async def test_while_a_root_of_our_own_is_prepared_the_files_wait(replica, ca, files, keys, clock):
    prepared = await ca.authorities.roots.prepare(OPERATOR)
    plugged = replica(files, keys=keys)
    await plugged.start()
    assert f"{prepared.id} is prepared: activate or revoke it first" in status(plugged).problem
    await plugged.authorities.roots.revoke(OPERATOR, prepared.id)
    await passes(clock, plugged, count=12)
    assert status(plugged).problem is None


async def test_the_schedule_leaves_roots_of_the_files_to_their_operator(plugged, config, clock):
    assert config.rotation == RotationConfig()
    clock.advance(timedelta(days=9 * 365).total_seconds())
    await passes(clock, plugged)
    assert len(plugged.authorities.status().roots) == 1


async def test_files_that_are_refused_change_nothing_and_are_reported(plugged, files, root, signer, clock, metrics):
    stranger = mesh_ca(enterprise_root("Stranger", clock.now()), now=clock.now())
    files.put(cacerts(stranger, roots=[root]))
    await passes(clock, plugged)
    assert await signed_by(plugged) == signer.pem
    found = status(plugged)
    assert found.signer_id == id_of(signer)
    assert found.problem.startswith("ca-cert.pem: no root vouches for 'CN=Mesh CA'")
    assert plugged.status().problems == (f"the files in /etc/cacerts are refused: {found.problem}",)
    assert b"meshward_ca_plug_in_refused 1" in metrics.render()
    files.put(cacerts(signer, roots=[root]))
    await passes(clock, plugged)
    assert status(plugged).problem is None
    assert b"meshward_ca_plug_in_refused 0" in metrics.render()


async def test_what_is_not_valid_yet_is_tried_again(plugged, files, root, clock):
    early = root.authority("Early", clock.now() + timedelta(seconds=8), clock.now() + YEAR, path_length=0)
    files.put(cacerts(early, roots=[root]))
    await passes(clock, plugged)
    assert "not valid before" in status(plugged).problem
    await passes(clock, plugged, count=15)
    assert await signed_by(plugged) == early.pem


async def test_a_tainted_root_of_the_files_is_refused(plugged, files, root, signer, clock):
    next_root = enterprise_root("Next Root", clock.now())
    files.put(cacerts(mesh_ca(next_root, "Next", clock.now()), roots=[next_root]))
    await passes(clock, plugged, count=5)
    await plugged.authorities.roots.taint(OPERATOR, id_of(root))
    files.put(cacerts(signer, roots=[root]))
    await passes(clock, plugged)
    assert "is tainted: have it signed by another root" in status(plugged).problem
    assert await signed_by(plugged) != signer.pem


async def test_a_tainted_signing_authority_of_the_files_signs_nothing(plugged, files, root, signer, clock):
    await plugged.authorities.roots.taint(OPERATOR, id_of(signer))
    with pytest.raises(UnavailableError):
        await signed_by(plugged)
    second = mesh_ca(root, "Next", clock.now())
    files.put(cacerts(second, roots=[root]))
    await passes(clock, plugged)
    assert await signed_by(plugged) == second.pem


async def test_files_that_are_being_replaced_are_read_when_they_stay(plugged, files, root, signer, clock):
    second = mesh_ca(root, "Next", clock.now())
    changed = cacerts(second, roots=[root])
    files.torn = files.files | {"ca-key.pem": changed["ca-key.pem"]}
    files.put(changed)
    for _ in range(6):
        await passes(clock, plugged, count=1)
        assert status(plugged).problem is None
    assert await signed_by(plugged) == second.pem


async def test_files_that_go_on_changing_are_not_read(plugged, files, root, clock):
    changed = cacerts(mesh_ca(root, "Next", clock.now()), roots=[root])
    for _ in range(5):
        files.put(changed)
        await passes(clock, plugged, count=1)
    assert files.reads == 1
    await passes(clock, plugged, count=1)
    assert files.reads == 2


async def test_files_that_nobody_touches_are_not_read_again(plugged, files, clock):
    await passes(clock, plugged, count=30)
    assert files.reads == 1


async def test_a_first_start_with_files_that_are_refused_makes_no_root_of_its_own(replica, signer, transactions):
    ca = replica(MemoryPlugIn(cacerts(signer, roots=[enterprise_root("Stranger")])))
    with pytest.raises(PreconditionError, match=r"the plug-in CA in /etc/cacerts is refused: ca-cert\.pem: no root"):
        await ca.start()
    assert not await transactions.state.roots()


async def test_a_later_start_with_such_files_waits_for_others(plugged, replica, files, root, signer, clock):
    files.put({})
    again = replica(files)
    await again.start()
    assert "the files in /etc/cacerts are refused: there is neither" in again.authorities.waiting_for
    files.put(cacerts(signer, roots=[root]))
    await passes(clock, again)
    assert await signed_by(again) == signer.pem


async def test_without_the_setting_a_replica_says_that_it_is_missing(plugged, replica):
    ca = replica()
    await ca.start()
    assert "set ca.plugin_dir or upstream.server again" in ca.authorities.waiting_for


async def test_without_the_database_the_authority_of_the_files_goes_on(plugged, replica, files, transactions, signer):
    kept = plugged.authorities.known()
    transactions.away = True
    again = replica(files)
    await again.authorities.restore(kept)
    assert (await again.issuance.issue_serving()).chain[1] == signer.pem


async def test_each_change_is_in_the_log_and_audited(plugged, transactions, root, signer, clock):
    entries = [fields_of(leaf) for leaf in transactions.state.leaves.values()]
    kinds = [(each["kind"], each.get("id"), each.get("stage")) for each in entries]
    assert kinds[:3] == [
        ("root", id_of(root), None),
        ("authority", id_of(root), "active"),
        ("signer", id_of(signer), None),
    ]
    assert [record.action for record in transactions.state.audited] == ["authority.adopt"]
    await passes(clock, plugged)
    assert (await plugged.log.head()).certificate == signer.pem


async def test_an_authority_that_may_not_sign_revocation_lists_does_not(replica, config, root, clock):
    """As Istio's own tool makes them: verifiers refuse such a list, and every certificate with it."""
    signer = mesh_ca(root, now=clock.now(), usage=(usage("digital_signature", "key_cert_sign"), True))
    ca = replica(MemoryPlugIn(cacerts(signer, roots=[root])))
    await ca.start()
    await ca.crls.maintain()
    assert not ca.authorities.active().signs_crls
    with pytest.raises(Exception, match="no revocation list"):
        ca.crls.get(id_of(signer))
    assert replace(config, crl_url="http://crl").crl_url
