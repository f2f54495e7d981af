"""Keys on a token that never gives them out: an HSM or SoftHSM, by PKCS#11 (OASIS PKCS #11 2.40)."""

import asyncio
import hashlib
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pkcs11
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import NoSuchToken, PinIncorrect, PinLocked, PKCS11Error
from pkcs11.util.ec import encode_named_curve_parameters

from app.ca.model import KeyAlgorithm
from app.ca.ports import Document, KeyStore, SigningKey, Unsigned
from app.ca.rules.profile import authority_id
from app.ca.rules.signatures import signing_hash
from app.core.errors import InternalError, InvalidInputError, NotFoundError, PreconditionError, UnavailableError
from app.core.private_files import read_private_file
from app.spiffe.keys import SubjectKey
from app.spiffe.x509_svid import MALFORMED

# What our keys are called on the token; each has the id of its authority as its CKA_ID.
LABEL = "meshward"
# A network HSM answers in milliseconds; one that takes this long is away.
TOKEN_SECONDS = 10.0
# To find the primes of an RSA key of 4096 bits takes a small HSM a minute.
GENERATE_SECONDS = 180.0
MAX_PIN_BYTES = 256

_AUTHORITY_ID = re.compile(r"[0-9a-f]{40}")
_CURVES = {KeyAlgorithm.P256: "secp256r1", KeyAlgorithm.P384: "secp384r1", KeyAlgorithm.P521: "secp521r1"}
_RSA_BITS = {KeyAlgorithm.RSA_2048: 2048, KeyAlgorithm.RSA_3072: 3072, KeyAlgorithm.RSA_4096: 4096}
# As the token has it: the DER of the curve's name.
_CURVE_OF = {
    encode_named_curve_parameters("secp256r1"): ec.SECP256R1(),
    encode_named_curve_parameters("secp384r1"): ec.SECP384R1(),
    encode_named_curve_parameters("secp521r1"): ec.SECP521R1(),
}
_PRIVATE = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class TokenPlace:
    """Where the keys are: the vendor's library, the label of the token, and the file with its user's PIN."""

    module: Path
    token: str
    pin_file: Path


class TokenKeyStore(KeyStore):
    """A KeyStore on a token. Keys are made there, cannot be taken out, and sign there.

    One thread speaks to the token. A session that is lost, as when an HSM restarts, is opened again with the PIN that
    is in the file by then; a PIN that the token refused is not tried again, because tokens lock themselves after a few.
    """

    def __init__(self, place: TokenPlace) -> None:
        self._place = place
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pkcs11")
        self._session: Any = None
        self._refused_pin = b""

    async def create(self, algorithm: KeyAlgorithm) -> "TokenKey":
        return TokenKey(self, await self.run(lambda session: _generated(session, algorithm), GENERATE_SECONDS))

    async def load(self, authority: str) -> "TokenKey | None":
        if not _AUTHORITY_ID.fullmatch(authority):  # it may be from a row that anybody wrote
            return None
        public_key = await self.run(lambda session: _found(session, authority))
        return None if public_key is None else TokenKey(self, public_key)

    async def remove(self, authority: str) -> None:
        await self.run(lambda session: _destroy(session, authority))

    async def run(self, work: Callable[[Any], Result], seconds: float | None = None) -> Result:
        """Return what `work` does with an open session, in the token's thread; after a session was lost, once more.

        `seconds` is how long that may take, TOKEN_SECONDS if it is None. Raises UnavailableError if the token does not
        answer in that time, PreconditionError if it cannot be used as it is set.
        """
        seconds = TOKEN_SECONDS if seconds is None else seconds
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                return await loop.run_in_executor(self._thread, self._run, work)
        except TimeoutError as error:
            raise UnavailableError(f"the {self._named} did not answer within {seconds:g} s") from error

    @property
    def _named(self) -> str:
        return f"token {self._place.token} of {self._place.module}"

    def _run(self, work: Callable[[Any], Result]) -> Result:
        held = self._session is not None
        try:
            return work(self._session or self._opened())
        except PKCS11Error as error:
            self._close()
            if not held:
                raise self._away(error) from error
        try:
            return work(self._opened())
        except PKCS11Error as error:
            self._close()
            raise self._away(error) from error

    def _opened(self) -> Any:
        place, pin = self._place, self._pin()
        if pin == self._refused_pin:
            raise PreconditionError(f"the {self._named} refused the PIN in {place.pin_file}: put the right one there")
        # The library keeps the objects of a token that was removed until it is initialised again.
        library = pkcs11.lib(str(place.module))
        library.reinitialize()
        try:
            self._session = library.get_token(token_label=place.token).open(rw=True, user_pin=pin.decode())
        except PinIncorrect as error:
            self._refused_pin = pin
            raise PreconditionError(
                f"the {self._named} refused the PIN in {place.pin_file}: put the right one there"
            ) from error
        except PinLocked as error:
            raise PreconditionError(f"the {self._named} has locked its PIN: unlock it with its own tool") from error
        except NoSuchToken as error:
            raise UnavailableError(f"there is no {self._named}: see keys.pkcs11_token") from error
        return self._session

    def _pin(self) -> bytes:
        try:
            pin = read_private_file(self._place.pin_file, MAX_PIN_BYTES).rstrip(b"\r\n")
            pin.decode("ascii")
        except (NotFoundError, InvalidInputError) as error:
            raise PreconditionError(f"the PIN of the {self._named} cannot be read: {error.message}") from error
        except UnicodeDecodeError as error:
            raise PreconditionError(f"the PIN in {self._place.pin_file} is not ASCII text") from error
        return pin

    def _close(self) -> None:
        session, self._session = self._session, None
        try:
            if session is not None:
                session.close()
        except PKCS11Error:  # it is lost already
            return

    def _away(self, error: PKCS11Error) -> UnavailableError:
        return UnavailableError(f"the {self._named} cannot be used: {type(error).__name__} {error}".rstrip())


class TokenKey(SigningKey):
    """A SigningKey whose private key is on the token."""

    def __init__(self, store: TokenKeyStore, public_key: SubjectKey) -> None:
        self._store, self._public_key = store, public_key
        self._authority, self._hash = authority_id(public_key), signing_hash(public_key)

    @property
    def public_key(self) -> SubjectKey:
        return self._public_key

    async def sign(self, document: Unsigned[Document]) -> Document:
        return await self._store.run(lambda session: self._signed(session, document))

    def _signed(self, session: Any, document: Unsigned[Document]) -> Document:
        private_key = _object(session, ObjectClass.PRIVATE_KEY, self._authority)
        if private_key is None:
            raise InternalError(f"the key of the authority {self._authority} is no longer on the token")
        stand_in = _EcKey if isinstance(self._public_key, ec.EllipticCurvePublicKey) else _RsaKey
        try:
            return document.sign(stand_in(private_key, self._public_key), self._hash)
        except MALFORMED as error:
            raise InternalError("a certificate could not be signed") from error


class _StaysOnToken:
    """What `cryptography` takes in the place of a private key that it cannot have: it is asked to sign, no more."""

    def __init__(self, on_token: Any, public_key: Any) -> None:
        self._on_token, self._public_key = on_token, public_key

    def public_key(self) -> Any:
        return self._public_key

    @property
    def key_size(self) -> int:
        return int(self._public_key.key_size)


def _refuse(*_args: object, **_named: object) -> Any:
    raise InternalError("a private key does not leave its token")


# As a value of any type, because the methods in whose place it stands have a signature each.
_STAYS: Any = _refuse


class _EcKey(_StaysOnToken, ec.EllipticCurvePrivateKey):
    @property
    def curve(self) -> ec.EllipticCurve:
        curve: ec.EllipticCurve = self._public_key.curve
        return curve

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        algorithm = signature_algorithm.algorithm
        if not isinstance(algorithm, hashes.HashAlgorithm):
            raise InternalError("a token signs data, and no digest")
        digest = hashlib.new(algorithm.name, data).digest()
        signature = self._on_token.sign(digest, mechanism=Mechanism.ECDSA)
        half = len(signature) // 2
        return encode_dss_signature(int.from_bytes(signature[:half]), int.from_bytes(signature[half:]))

    exchange = private_numbers = private_bytes = __copy__ = __deepcopy__ = _STAYS


class _RsaKey(_StaysOnToken, rsa.RSAPrivateKey):
    def sign(self, data: Any, _padding: Any, _algorithm: Any) -> bytes:
        return bytes(self._on_token.sign(data, mechanism=Mechanism.SHA256_RSA_PKCS))

    decrypt = private_numbers = private_bytes = __copy__ = __deepcopy__ = _STAYS


def _generated(session: Any, algorithm: KeyAlgorithm) -> SubjectKey:
    """Make a key pair on the token, name it after its authority, and return its public key."""
    if algorithm in _CURVES:
        parameters = {Attribute.EC_PARAMS: encode_named_curve_parameters(_CURVES[algorithm])}
        maker = session.create_domain_parameters(KeyType.EC, parameters, local=True)
        public, private = maker.generate_keypair(store=True, label=LABEL, private_template=_PRIVATE)
    else:
        public, private = session.generate_keypair(
            KeyType.RSA, _RSA_BITS[algorithm], store=True, label=LABEL, private_template=_PRIVATE
        )
    public_key = _public_key(public)
    named = bytes.fromhex(authority_id(public_key))
    for part in (public, private):
        part[Attribute.ID] = named
    return public_key


def _found(session: Any, authority: str) -> SubjectKey | None:
    public = _object(session, ObjectClass.PUBLIC_KEY, authority)
    private = _object(session, ObjectClass.PRIVATE_KEY, authority)
    if public is None or private is None:
        return None
    if private[Attribute.EXTRACTABLE] or not private[Attribute.SENSITIVE]:
        raise PreconditionError(f"the key of the authority {authority} can be taken out of its token: it is not used")
    public_key = _public_key(public)
    if authority_id(public_key) != authority:
        raise PreconditionError(f"the token has another key under the id of the authority {authority}")
    return public_key


def _destroy(session: Any, authority: str) -> None:
    for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
        found = _object(session, kind, authority)
        if found is not None:
            found.destroy()


def _object(session: Any, kind: ObjectClass, authority: str) -> Any:
    wanted = {Attribute.CLASS: kind, Attribute.LABEL: LABEL, Attribute.ID: bytes.fromhex(authority)}
    # To the end, because a session searches for one thing at a time.
    return next(iter(list(session.get_objects(wanted))), None)


def _public_key(public: Any) -> SubjectKey:
    if public.key_type is KeyType.RSA:
        modulus, exponent = (int.from_bytes(public[name]) for name in (Attribute.MODULUS, Attribute.PUBLIC_EXPONENT))
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    point = bytes(public[Attribute.EC_POINT])
    curve = _CURVE_OF[bytes(public[Attribute.EC_PARAMS])]
    # An OCTET STRING, whose header has another length for longer curves, with an uncompressed point (SEC 1, 2.3.3).
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, point[-(1 + 2 * -(-curve.key_size // 8)) :])
