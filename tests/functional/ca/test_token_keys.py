"""Keys on a token: lost sessions, PINs, and tokens that are not as they are set."""

import asyncio

import pkcs11
import pytest
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.util.ec import encode_named_curve_parameters

from app.ca.backends import pkcs11_keys
from app.ca.backends.pkcs11_keys import LABEL, TokenKeyStore, TokenPlace
from app.ca.model import CaConfig, KeyAlgorithm
from app.ca.rules.authority import root_builder
from app.ca.rules.profile import authority_id
from app.core.errors import InternalError, MeshwardError, PreconditionError, UnavailableError
from app.spiffe.id import TrustDomain
from tests.fakes.clock import ManualClock
from tests.support.softhsm import MODULE, PIN, softhsm

__all__ = ["softhsm"]


@pytest.fixture
def place(softhsm):
    return TokenPlace(MODULE, "meshward", softhsm.pin_file)


@pytest.fixture
def store(place):
    return TokenKeyStore(place)


def certificate_for(key):
    return root_builder(CaConfig(TrustDomain("example.org")), key.public_key, 1, ManualClock().now())


async def signs(key):
    certificate = await key.sign(certificate_for(key))
    certificate.verify_directly_issued_by(certificate)
    return True


async def refusal_of(call, kind):
    with pytest.raises(MeshwardError) as refusal:
        await call
    assert type(refusal.value) is kind
    assert PIN not in refusal.value.message
    return refusal.value.message


LOST = {
    "the session was closed": lambda session: session.close(),
    "the library was finalized": lambda _: pkcs11.lib(str(MODULE)).finalize(),
}


# The library's searches end, and say so, after what they belonged to has ended.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("lose", LOST.values(), ids=LOST)
async def test_a_lost_session_is_opened_again(store, lose):
    key = await store.create(KeyAlgorithm.P256)
    lose(store._session)
    assert await signs(key)
    lose(store._session)
    assert (await store.load(authority_id(key.public_key))).public_key == key.public_key


async def test_another_replica_with_the_same_token_finds_the_key(store, place):
    key = await store.create(KeyAlgorithm.P256)
    assert await signs(await TokenKeyStore(place).load(authority_id(key.public_key)))


async def test_keys_are_made_so_that_they_cannot_be_taken_out(store):
    await store.create(KeyAlgorithm.P256)
    await store.create(KeyAlgorithm.RSA_2048)
    privates = list(store._session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}))
    assert len(privates) == 2
    for key in privates:
        assert (key[Attribute.EXTRACTABLE], key[Attribute.SENSITIVE], key[Attribute.LABEL]) == (False, True, LABEL)


async def test_a_key_that_can_be_taken_out_is_not_used(store):
    key = await store.create(KeyAlgorithm.P256)
    authority = authority_id(key.public_key)
    await store.remove(authority)
    parameters = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
    maker = store._session.create_domain_parameters(KeyType.EC, parameters, local=True)
    open_to_all = {Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}
    public, _ = maker.generate_keypair(
        store=True, label=LABEL, id=bytes.fromhex(authority), private_template=open_to_all
    )
    assert "can be taken out" in await refusal_of(store.load(authority), PreconditionError)
    assert public


async def test_another_key_under_an_authoritys_id_is_not_used(store):
    first, second = [await store.create(KeyAlgorithm.P256) for _ in range(2)]
    wanted = authority_id(first.public_key)
    await store.remove(wanted)
    for part in store._session.get_objects({Attribute.ID: bytes.fromhex(authority_id(second.public_key))}):
        part[Attribute.ID] = bytes.fromhex(wanted)
    assert "another key" in await refusal_of(store.load(wanted), PreconditionError)


async def test_a_key_that_is_gone_signs_nothing(store):
    key = await store.create(KeyAlgorithm.P256)
    await store.remove(authority_id(key.public_key))
    assert "no longer on the token" in await refusal_of(signs(key), InternalError)


async def test_a_wrong_pin_says_so_and_a_new_one_in_the_file_is_tried(place, softhsm):
    store = TokenKeyStore(place)
    softhsm.pin_file.write_text("0-0-0-0")
    for _ in range(3):
        assert "refused the PIN" in await refusal_of(store.load("a" * 40), PreconditionError)
    softhsm.pin_file.write_text(PIN)
    assert await signs(await store.create(KeyAlgorithm.P256))


async def test_a_pin_is_tried_once_so_that_the_token_does_not_lock_itself(place, monkeypatch):
    tried = []

    class Library:
        def reinitialize(self):
            pass

        def get_token(self, **_):
            return self

        def open(self, **options):
            tried.append(options["user_pin"])
            raise pkcs11.PinIncorrect

    monkeypatch.setattr(pkcs11, "lib", lambda _: Library())
    store = TokenKeyStore(place)
    for _ in range(5):
        await refusal_of(store.load("a" * 40), PreconditionError)
    assert tried == [PIN]


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        (PIN, 0o644, "chmod 600"),
        ("é", 0o600, "not ASCII"),
        ("x" * 300, 0o600, "larger than"),
        (None, 0o600, "no file"),
    ],
)
async def test_a_pin_that_cannot_be_used_says_why(store, softhsm, content, mode, problem):
    softhsm.pin_file.unlink()
    if content is not None:
        softhsm.pin_file.touch(0o600)
        softhsm.pin_file.write_text(content)
        softhsm.pin_file.chmod(mode)
    assert problem in await refusal_of(store.load("a" * 40), PreconditionError)


async def test_a_token_that_is_not_there_is_unavailable(softhsm, tmp_path):
    other = TokenKeyStore(TokenPlace(MODULE, "other", softhsm.pin_file))
    assert "there is no token other" in await refusal_of(other.load("a" * 40), UnavailableError)
    softhsm.init("other")
    assert await signs(await other.create(KeyAlgorithm.P256))
    nowhere = TokenKeyStore(TokenPlace(tmp_path / "nowhere.so", "meshward", softhsm.pin_file))
    assert "nowhere.so" in await refusal_of(nowhere.load("a" * 40), UnavailableError)


async def test_a_token_that_hangs_is_unavailable(store, monkeypatch):
    monkeypatch.setattr(pkcs11_keys, "TOKEN_SECONDS", 0.1)
    held = asyncio.Event()
    loop = asyncio.get_running_loop()
    blocked = asyncio.run_coroutine_threadsafe

    def hang(_session):
        blocked(held.wait(), loop).result(10)

    await store.run(lambda _: None)
    assert "did not answer within" in await refusal_of(store.run(hang), UnavailableError)
    held.set()


@pytest.mark.parametrize("name", ["../admin", "", "a" * 39, "A" * 40])
async def test_a_name_that_is_no_authoritys_is_not_looked_for(store, name):
    assert await store.load(name) is None
    assert store._session is None
