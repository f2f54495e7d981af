"""Following the trust bundle: the control plane pushes it on an SDS stream, and gets it acknowledged."""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import structlog
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from app.agent.authority import MeshAuthority
from app.agent.identity import Identity
from app.agent.secrets import HeldSecrets
from app.core.clock import Sleep
from app.core.errors import InvalidInputError, MeshwardError
from app.core.signals import Latest, Signal
from app.envoy.sds import BUNDLE_NAME, SECRET_TYPE, WITHDRAWN_NAME
from app.spiffe.bundle import TrustBundle, parse_bundle, parse_crls
from app.spiffe.id import TrustDomain
from app.spiffe.subscribers import Subscriber
from app.spiffe.x509_svid import authority_ids, pem

# A stream is opened again after this long, with the SVID of then: one whose server has gone without a word ends too.
MAX_STREAM_SECONDS = 900.0
# After a stream has ended, and after one that could not be opened; doubled from the first up to the last.
FIRST_BACKOFF = 0.5
LAST_BACKOFF = 30.0
# How much of a sidecar's reason for refusing a bundle is passed on.
MAX_REASON = 256
# google.rpc.Code.INVALID_ARGUMENT, as Envoy itself answers.
INVALID_ARGUMENT = 3

log = structlog.get_logger()


class Trusting(Protocol):
    """What is to be done with a pushed bundle."""

    def trust(self, bundle: TrustBundle) -> None:
        """Serve a trust bundle."""

    def unfollowed(self) -> None:
        """Take note that no bundle is pushed any more."""


class Subscribed(Protocol):
    """Who the bundle is passed on to; `changed` fires when one of them has answered."""

    @property
    def changed(self) -> Signal:
        """Fires when one comes, goes, or answers differently than before."""

    def of_bundles(self) -> Sequence[Subscriber]:
        """Return those that ask for the bundle."""
        ...


class TrustFollower:
    """Keeps an SDS stream to the control plane open, and acknowledges a bundle once the sidecars of this agent have it.

    Log events: `trust_stream_ended` when bundles are no longer pushed, `trust_stream_opened` when they are, and
    `trust_stream_failed` for a fault.
    """

    def __init__(
        self,
        authority: MeshAuthority,
        held: HeldSecrets,
        subscribers: Subscribed,
        trusting: Trusting,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._authority, self._held, self._subscribers = authority, held, subscribers
        self._trusting, self._sleep = trusting, sleep
        self._failure: Latest[str | None] = Latest("")

    async def follow(self) -> None:
        """Follow for as long as the task runs."""
        backoff = FIRST_BACKOFF
        while True:
            try:
                async with asyncio.timeout(MAX_STREAM_SECONDS):
                    await self._stream(self._held.current())
                backoff = FIRST_BACKOFF
            except TimeoutError:
                backoff = FIRST_BACKOFF
            except MeshwardError as error:
                if self._failure.set(error.message):
                    log.warning("trust_stream_ended", reason=error.message)
                backoff = min(2 * backoff, LAST_BACKOFF)
            except Exception:
                # Identities are served and renewed without it.
                log.exception("trust_stream_failed")
                backoff = LAST_BACKOFF
            finally:
                self._trusting.unfollowed()
            await self._sleep(backoff)

    async def _stream(self, identity: Identity) -> None:
        async with self._authority.secrets(identity) as stream:
            names = [BUNDLE_NAME, WITHDRAWN_NAME]
            request = discovery_pb2.DiscoveryRequest(type_url=SECRET_TYPE, resource_names=names)
            request.node.id = f"meshward-agent {identity.svid.spiffe_id}"
            await stream.send_message(request)
            receiving = asyncio.ensure_future(stream.recv_message())
            try:
                while (response := await receiving) is not None:
                    receiving = asyncio.ensure_future(stream.recv_message())
                    problem = await self._apply(response, identity.svid.spiffe_id.trust_domain, receiving)
                    if problem is not None:
                        await stream.send_message(_reply(request, response, problem))
                await stream.end()
            finally:
                receiving.cancel()

    async def _apply(self, response: Any, domain: TrustDomain, receiving: asyncio.Future[Any]) -> str | None:
        """Serve a pushed bundle; return why it is refused, "" if it is accepted, None if another came meanwhile."""
        try:
            bundle = read_bundle(response, domain)
        except InvalidInputError as error:
            return error.message
        if self._failure.set(None):
            log.info("trust_stream_opened")
        self._trusting.trust(bundle)
        while not receiving.done():
            seen = self._subscribers.changed.count
            late = [each for each in self._subscribers.of_bundles() if each.bundle != bundle.version]
            if not late:
                return ""
            if refused := next((each for each in late if each.problem), None):
                return f"a sidecar of this agent refused it: {refused.problem[:MAX_REASON]}"
            changed = asyncio.ensure_future(self._subscribers.changed.wait_beyond(seen))
            await asyncio.wait({changed, receiving}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
        return None


def read_bundle(response: Any, domain: TrustDomain) -> TrustBundle:
    """Return the trust bundle in a DiscoveryResponse. Raises InvalidInputError if that is not one of the domain."""
    secrets = dict[str, secret_pb2.Secret]()
    try:
        for resource in response.resources:
            secret = secret_pb2.Secret.FromString(resource.value)
            secrets[secret.name] = secret
        context = secrets[BUNDLE_NAME].validation_context
        text, crls = context.trusted_ca.inline_bytes.decode("ascii"), context.crl.inline_bytes.decode("ascii")
        withdrawn = secrets[WITHDRAWN_NAME].generic_secret.secret.inline_bytes.decode("ascii")
    except (DecodeError, KeyError, UnicodeDecodeError) as error:
        raise InvalidInputError("the response has no trust bundle") from error
    roots = parse_bundle(text)
    if any(spiffe_id != str(domain.id) for root in roots for spiffe_id in authority_ids(root)):
        raise InvalidInputError(f"the trust bundle has a root of another trust domain than {domain}")
    certificates = tuple(pem(root) for root in roots)
    return TrustBundle(domain, certificates, withdrawn=tuple(withdrawn.split()), crls=parse_crls(crls))


def _reply(request: Any, response: Any, problem: str) -> Any:
    """Return the request that accepts a response, or refuses it with a problem."""
    reply = discovery_pb2.DiscoveryRequest(
        type_url=request.type_url,
        resource_names=request.resource_names,
        response_nonce=response.nonce,
        version_info="" if problem else response.version_info,
    )
    if problem:
        reply.error_detail.code = INVALID_ARGUMENT
        reply.error_detail.message = problem
    return reply
