"""The running control plane: its listeners and background tasks."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from app.core.clock import Sleep
from app.core.errors import MeshwardError, UnavailableError
from app.core.net import Address, UnixSocket
from app.core.signals import Latest
from app.db.engine import HeldBack
from app.db.migrate import upgrade
from app.envoy.sds import SecretSession
from app.main.kubernetes import CHECK_SECONDS
from app.main.parts import Parts, make_health
from app.main.routes import route_table
from app.main.rpcs import RATELIMIT_HEALTH, SERVICES, mount_table, rpc_table
from app.settings.areas import MeshSettings
from app.telemetry.refusals import REPORT_SECONDS
from app.transport.grpc.admission import OpenStreams, RateLimiter
from app.transport.grpc.application import GrpcApplication
from app.transport.grpc.health import Health as GrpcHealth
from app.transport.mesh import MeshApplication
from app.transport.rest.app import create_app
from app.transport.rest.authentication import TokenAuthenticator
from app.transport.rest.server import HttpListener
from app.transport.serving import MeshListener, TlsMaterial
from app.transport.sockets import listen
from app.transport.unix_socket import listening

# How soon a change made at another replica, or in a directory, is active here.
REFRESH_SECONDS = 1.0
# A database that was away at the start is tried again after a second, then after twice as long each time, up to this.
MAX_RECONNECT_SECONDS = 15.0
# How soon a ban, or the revocation of an API key, of another replica is active here: with a query, within a second.
REVOCATION_REFRESH_SECONDS = 0.5
# How soon a revocation list that another replica has signed is given to the sidecars of this one.
CRL_REFRESH_SECONDS = 0.25
# How soon a failed attempt to renew the serving certificate is repeated; it is due at half of its life.
SERVING_RETRY_SECONDS = 5.0
# How long a connection to the TLS port may live, as on istiod. A call over one is refused once the SVID that opened it
# has expired, and Envoy does not open another by itself; a sidecar whose SVID lives twice as long never sees that.
MAX_CONNECTION_SECONDS = 1800.0

Work = Callable[[], Awaitable[object]]

log = structlog.get_logger(__name__)


class ControlPlane:
    """Starts, supervises and stops the listeners and the background tasks.

    The sockets are bound in the constructor, so that a port in use is reported before anything else happens.
    """

    def __init__(self, parts: Parts) -> None:
        settings = parts.settings
        grace = settings.shutdown_grace.total_seconds()
        self._parts = parts
        self._health = make_health(parts, self._mesh_is_served)
        self._grpc_health = GrpcHealth(SERVICES | {RATELIMIT_HEALTH})
        self._streams = OpenStreams(settings.ca.streams_per_identity, settings.ca.streams_per_token)
        grpc = GrpcApplication(
            rpc_table(parts, self._grpc_health),
            authenticator=parts.authenticator,
            limiter=RateLimiter(parts.clock.monotonic),
            metrics=parts.metrics,
            streams=self._streams,
            max_message_bytes=settings.mesh.max_message_bytes,
        )
        mesh = MeshApplication(grpc, mount_table(parts), parts.authenticator)
        admin = create_app(
            route_table(parts),
            authenticator=TokenAuthenticator(settings.data_dir / "admin.token"),
            health=self._health,
            metrics=parts.metrics,
            metrics_public=settings.admin.metrics_public,
        )
        with ExitStack() as sockets:
            tls, rest = (sockets.enter_context(listen(bind)) for bind in (settings.mesh.tls_bind, settings.admin.bind))
            plaintext = _plaintext_socket(settings.mesh, sockets)
            self._sockets = sockets.pop_all()
        self._tls = MeshListener(tls, mesh, grace_seconds=grace, metrics=parts.metrics)
        self._plaintext: MeshListener | None = None
        if plaintext is not None:
            self._plaintext = MeshListener(plaintext, mesh, grace_seconds=grace, metrics=parts.metrics)
        self._mesh = tuple(listener for listener in (self._tls, self._plaintext) if listener is not None)
        self._admin = HttpListener(rest, admin, grace_seconds=grace)
        self._tls_served = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Read what is stored and start to serve. The TLS port starts once the CA can sign its certificate.

        Without the database it starts with what is kept, and goes on as usual once the database is back.
        """
        parts = self._parts
        if parts.upstream is not None:
            await parts.upstream.start()
            self._supervise(parts.upstream.run(), "upstream")
        held = await self._read_database()
        await parts.last_good.load_keys()
        authentication = parts.authentication
        documents = {
            "request-authentications": authentication.requests.documents.refresh,
            "credential-authentications": authentication.credentials.documents.refresh,
            "peer-authentications": authentication.peers.documents.refresh,
            "policies": parts.policies.documents.refresh,
            "quotas": parts.quotas.documents.refresh,
        }
        if parts.quotas.limits is not None:
            documents["limits"] = parts.quotas.limits.refresh
        providers = {f"provider-{name}": provider.refresh for name, provider in parts.providers.items()}
        refreshes: dict[str, Work] = {**providers, **documents}
        for refresh in refreshes.values():
            await _attempt(refresh)
        await self._admin.start()
        if self._plaintext is not None:
            await self._plaintext.start()
            self._supervise(self._plaintext.ended.wait(), "mesh-plaintext")
        self._supervise(self._tls.ended.wait(), "mesh-tls")
        self._supervise(self._work_on_database(held), "database")
        for name, refresh in refreshes.items():
            self._supervise(repeat(refresh, failed="refresh_failed", recovered="refresh_recovered"), name)
        self._supervise(parts.counters.run(), "counters")
        if parts.config_stream is not None:
            self._supervise(parts.config_stream.run(), "config-stream")
        self._supervise(self._end_banned_streams(), "banned-streams")
        self._supervise(self._serve_tls(), "serving-certificate")
        self._supervise(self._publish_health(), "health")
        self._supervise(self._report_refusals(), "refusals")
        self._supervise(parts.write_probe.run(), "write-probe")
        for name, keys in {"jwks": parts.jwt_bearer, "request-jwks": authentication.key_sets}.items():
            if keys is not None:
                refreshed = repeat(keys.maintain, failed="jwks_refresh_failed", recovered="jwks_refreshed")
                self._supervise(refreshed, name)
        if parts.kubernetes is not None:
            check = partial(repeat, failed="kubernetes_check_failed", recovered="kubernetes_check_recovered")
            self._supervise(check(parts.kubernetes.check, every=CHECK_SECONDS), "kubernetes")
        log.info(
            "listening",
            mesh_tls=self._tls.port,
            mesh_plaintext=self._plaintext_at(),
            admin=self._admin.port,
            trust_domain=str(parts.settings.trust_domain),
        )

    async def _read_database(self) -> HeldBack | None:
        """Start the CA with the database, or with what was last good if that is away, which is then held back."""
        parts = self._parts
        try:
            await upgrade(parts.engine)
            await parts.ca.start()
            await parts.api_keys.refresh()
        except UnavailableError as error:
            held = HeldBack(parts.engine, error.message)
            await parts.last_good.restore(error)
            return held
        return None

    async def _work_on_database(self, held: HeldBack | None) -> None:
        """Do what is done on the database now and then, once it is back and up to date if it was `held` back."""
        parts = self._parts
        if held is not None:
            await self._reconnect(held)
            parts.last_good.use_database()
        maintenance = partial(repeat, failed="ca_maintenance_failed", recovered="ca_maintenance_recovered")
        self._supervise(maintenance(parts.ca.maintain), "ca")
        self._supervise(maintenance(self._settle_tokens), "join-tokens")
        self._supervise(maintenance(parts.ca.bans.refresh, every=REVOCATION_REFRESH_SECONDS), "bans")
        keys, refreshing = (
            parts.api_keys,
            partial(repeat, failed="refresh_failed", recovered="refresh_recovered"),
        )
        self._supervise(refreshing(keys.refresh, every=REVOCATION_REFRESH_SECONDS), "api-keys")
        self._supervise(refreshing(keys.maintain), "ended-api-keys")
        self._supervise(
            repeat(
                parts.ca.maintain_crls,
                failed="crl_not_signed",
                recovered="crl_recovered",
                every=CRL_REFRESH_SECONDS,
                sleep=parts.ca.bans.changed.wait,
            ),
            "crls",
        )
        self._supervise(repeat(parts.audit.maintain, failed="refresh_failed", recovered="refresh_recovered"), "audit")
        await repeat(parts.last_good.save, failed="last_good_not_saved", recovered="last_good_saved")

    async def _reconnect(self, held: HeldBack) -> None:
        """Return once the database could be used again. Nothing but the migration has used it until then."""
        wait = REFRESH_SECONDS
        while True:
            await asyncio.sleep(wait)
            wait = min(2 * wait, MAX_RECONNECT_SECONDS)
            try:
                await upgrade(self._parts.engine)
                held.release()
                await self._parts.ca.start()
                await self._parts.api_keys.refresh()
            except UnavailableError as error:
                held.reason = error.message
            else:
                log.info("database_back")
                return

    async def stop(self) -> None:
        """Report the shutdown to health checks, let calls in flight finish, and close everything."""
        self._health.drain()
        self._grpc_health.set_serving(serving=False)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(listener.stop() for listener in self._mesh), self._admin.stop())
        if self._parts.kubernetes is not None:
            await self._parts.kubernetes.close()
        await asyncio.gather(*(provider.close() for provider in self._parts.providers.values()))
        self._parts.authentication.key_sets.close()
        await self._parts.authentication.sources.close()
        if self._parts.upstream is not None:
            self._parts.upstream.close()
        self._sockets.close()

    def _plaintext_at(self) -> int | str:
        """Return where the plaintext port is served: its number, the path of its socket, or `off`."""
        number = 0 if self._plaintext is None else self._plaintext.port
        return number or str(self._parts.settings.mesh.plaintext_bind)

    def _supervise(self, work: Coroutine[Any, Any, object], name: str) -> None:
        """Run `work` in the background; if it ends by itself, `failed` ends the process."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[object]") -> None:
        self._tasks.discard(task)
        if task.cancelled() or self.failed.done():
            return
        log.error("task_ended", task=task.get_name(), exc_info=task.exception())
        self.failed.set_result(None)

    async def _report_refusals(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            self._parts.metrics.refusals.report()

    async def _settle_tokens(self) -> None:
        """End the streams of join tokens that were deleted or have expired unused."""
        if waiting := self._streams.unsettled:
            for token_id, used in (await self._parts.ca.join_tokens.settled(waiting)).items():
                self._streams.settle(token_id, used=used)

    async def _end_banned_streams(self) -> None:
        changed = self._parts.ca.bans.changed
        while True:
            seen = changed.count
            self._streams.refuse(self._parts.authenticator.refusal)
            await changed.wait_beyond(seen)

    async def _mesh_is_served(self) -> None:
        if not self._tls_served.is_set():
            raise UnavailableError("the mesh TLS port waits for its certificate")
        for listener in self._mesh:
            if listener.full:
                raise UnavailableError(f"the mesh port {listener.name} has as many connections as it may have")

    async def _serve_tls(self) -> None:
        """Serve the TLS port with a certificate of our own CA.

        The server is replaced when the certificate or the roots change, and in any case every MAX_CONNECTION_SECONDS:
        its clients then open new connections, with the certificates that they hold by then.
        """
        await self._parts.ca.authorities.ready.wait()
        session = self._parts.ca.secrets.serving()
        served: TlsMaterial | None = None
        replace_at, failure = 0.0, Latest("")
        while True:
            try:
                material, now = await _material(session), self._parts.clock.monotonic()
                if material != served or now >= replace_at:
                    await (self._tls.start if served is None else self._tls.rotate)(material)
                    self._tls_served.set()
                    served, replace_at = material, now + MAX_CONNECTION_SECONDS
                    log.info("serving_certificate_replaced", port=self._tls.port)
                failure.set("")
                with suppress(TimeoutError):
                    async with asyncio.timeout(replace_at - now):
                        await session.wait_for_change()
            except MeshwardError as error:
                if failure.set(error.message):
                    log.error("serving_certificate_failed", reason=error.message)  # noqa: TRY400 - a reason, not a crash
                await asyncio.sleep(SERVING_RETRY_SECONDS)

    async def _publish_health(self) -> None:
        """Set what grpc.health.v1 reports to what `/readyz` reports, once the TLS port has been served."""
        await self._tls_served.wait()
        while True:
            self._grpc_health.set_serving(serving=not await self._health.failures())
            await asyncio.sleep(REFRESH_SECONDS)


def _plaintext_socket(settings: MeshSettings, sockets: ExitStack) -> socket.socket | None:
    """Return the listening socket of the plaintext port, which `sockets` closes, None if it is off."""
    match settings.plaintext_bind:
        case Address() as bind:
            return sockets.enter_context(listen(bind))
        case UnixSocket(path):
            mode = int(settings.plaintext_mode, 8)
            return sockets.enter_context(listening(Path(path), mode, settings.plaintext_uids))
        case _:
            return None


async def _material(session: SecretSession) -> TlsMaterial:
    svid, bundle = await session.svid(), await session.bundle()
    return TlsMaterial("".join(svid.chain), svid.private_key, "".join(bundle.roots))


async def _attempt(work: Work) -> str:
    """Call `work` once and return why it failed, "" if it did not. What was active before a failed refresh stays."""
    try:
        await work()
    except MeshwardError as error:
        return error.message
    return ""


async def repeat(
    work: Work, *, failed: str, recovered: str, every: float = REFRESH_SECONDS, sleep: Sleep = asyncio.sleep
) -> None:
    """Call `work` every so many seconds until cancelled; a failure does not end it.

    Logs the event `failed` when a failure begins or its reason changes, and `recovered` when it is over.
    """
    failure = Latest("")
    while True:
        await sleep(every)
        reason = await _attempt(work)
        if not failure.set(reason):
            continue
        if reason:
            log.error(failed, reason=reason)
        else:
            log.info(recovered)
