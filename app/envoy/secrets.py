"""A workload's secrets as Envoy knows them: their names, their messages, and where they come from."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Protocol

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from google.protobuf import any_pb2

from app.core.errors import InvalidInputError, Violation
from app.spiffe.bundle import TrustBundle
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Principal
from app.spiffe.x509_svid import WorkloadSvid
from app.transport.xds.resources import WILDCARD, Resource, content_version

SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type's name
SVID_NAME = "default"
BUNDLE_NAME = "ROOTCA"
WILDCARD_NAMES = frozenset({SVID_NAME, BUNDLE_NAME})

# A caller has four names and the wildcard; the rest is room for repetition. Bounds the work of one request.
MAX_NAMES = 16
# How much of a name that was refused is repeated to the caller.
MAX_QUOTED = 128


class SecretSession(Protocol):
    """The secrets of one SDS stream."""

    async def svid(self) -> WorkloadSvid:
        """Return the caller's current SVID, making it on first use. Raises UnauthenticatedError or UnavailableError."""
        ...

    async def bundle(self) -> TrustBundle:
        """Return the current trust bundle."""
        ...

    async def wait_for_change(self) -> None:
        """Return once what `svid` or `bundle` returned last has been, or is due to be, replaced.

        It returns until the new one has been asked for.
        """
        ...


class SecretSource(Protocol):
    """Where SDS takes secrets from: the CA itself in the control plane, the held SVID in the agent."""

    def open(self, caller: Principal) -> SecretSession:
        """Return the session of a stream that `caller` opened."""
        ...


class SecretKind(Enum):
    """The secret behind a name."""

    SVID = "svid"
    BUNDLE = "bundle"


@dataclass(frozen=True, slots=True)
class SecretCatalog:
    """The secrets that `owner`, and no other caller, may subscribe to. An implementation of `Catalog`."""

    type_url: ClassVar = SECRET_TYPE
    max_names: ClassVar = MAX_NAMES
    owner: SpiffeId

    def check(self, name: str) -> None:
        """Raise InvalidInputError, listing the names that are available, if `name` is not one of the owner's."""
        self.kind(name)

    def kind(self, name: str) -> SecretKind:
        """Return which secret is behind `name`. Raises as `check` does."""
        if name in {SVID_NAME, str(self.owner)}:
            return SecretKind.SVID
        if name in {BUNDLE_NAME, str(self.owner.trust_domain.id)}:
            return SecretKind.BUNDLE
        raise InvalidInputError(
            f"there is no secret {_quoted(name)} for {self.owner}: ask for {SVID_NAME} or {self.owner} (its SVID), "
            f"{BUNDLE_NAME} or {self.owner.trust_domain.id} (the trust bundle)",
            Violation("resource_names", f"unknown secret {_quoted(name)}"),
        )

    def kinds(self, subscribed: frozenset[str]) -> dict[str, SecretKind]:
        """Return which secret is behind each name of a subscription; `*` stands for one name of each secret."""
        names = subscribed - {WILDCARD} | WILDCARD_NAMES if WILDCARD in subscribed else subscribed
        return {name: self.kind(name) for name in names}


def svid_resource(name: str, svid: WorkloadSvid) -> Resource:
    """Return the `tls_certificate` secret of an SVID.

    The version is made from the certificates alone: they bind the public key, and nothing derived from the private one
    belongs in a log.
    """
    chain = "".join(svid.chain).encode()
    secret = secret_pb2.Secret(name=name)
    secret.tls_certificate.certificate_chain.inline_bytes = chain
    secret.tls_certificate.private_key.inline_bytes = svid.private_key
    return Resource(name, content_version([chain]), _packed(secret))


def bundle_resource(name: str, bundle: TrustBundle) -> Resource:
    """Return the `validation_context` secret of a trust bundle."""
    roots = "".join(bundle.roots).encode()
    secret = secret_pb2.Secret(name=name)
    secret.validation_context.trusted_ca.inline_bytes = roots
    return Resource(name, content_version([roots]), _packed(secret))


def _packed(secret: Any) -> any_pb2.Any:
    return any_pb2.Any(type_url=SECRET_TYPE, value=secret.SerializeToString(deterministic=True))


def _quoted(name: str) -> str:
    return repr(name if len(name) <= MAX_QUOTED else name[:MAX_QUOTED] + "…")
