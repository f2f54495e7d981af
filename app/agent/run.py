"""The agent's process: locks its files, gets its identity, serves it, and cleans up."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from app.agent.authority import MeshAuthority
from app.agent.following import TrustFollower
from app.agent.keeper import IdentityKeeper
from app.agent.options import AgentOptions, read_trust_bundle
from app.agent.secrets import HeldSecrets
from app.agent.server import SecretServer, check_platform
from app.agent.store import IdentityStore
from app.core.clock import ConfirmedClock, SystemClock
from app.core.net import Address
from app.core.process import forbid_core_dumps, until_signal
from app.spiffe.subscribers import Subscribers
from app.telemetry.metrics import Metrics
from app.transport.rest.metrics import metrics_application
from app.transport.rest.server import HttpListener
from app.transport.sockets import listen
from app.transport.unix_socket import ANY_USER, OWNER_ONLY, check_free, listening

# How long open streams have to end when the agent stops; Envoy keeps what it was given.
SHUTDOWN_SECONDS = 3.0

log = structlog.get_logger()


def run(options: AgentOptions) -> None:
    """Run the agent until SIGTERM or SIGINT. Raises a MeshwardError if it cannot start."""
    forbid_core_dumps()
    asyncio.run(until_signal(serve(options), lambda _: None, signal.SIGTERM, signal.SIGINT))
    log.info("agent_stopped")


async def serve(options: AgentOptions) -> None:
    """Run the agent until it is cancelled; all else is checked before the join token, which works once, is used."""
    check_platform()
    clock = ConfirmedClock(SystemClock())
    bootstrap = read_trust_bundle(options.trust_bundle, options.trust_domain)
    store = IdentityStore(options.data_dir)
    metrics = Metrics()
    held, subscribers = HeldSecrets(clock, metrics), Subscribers(clock.monotonic, away_seconds=0)
    with store.locked():
        check_free(options.socket)
        async with _serving_metrics(options.metrics_bind, metrics):
            authority = MeshAuthority(options.server, options.server_name, bootstrap)
            keeper = IdentityKeeper(authority, held, read_token=options.tokens.read, save=store.save, clock=clock)
            saved = store.load(clock.now())
            if saved is not None:
                keeper.resume(saved)
            identity = await keeper.obtain()
            mode = OWNER_ONLY if options.allowed_uids <= {os.geteuid(), 0} else ANY_USER
            with listening(options.socket, mode) as socket:
                server = SecretServer(held, metrics, options.allowed_uids, subscribers)
                await server.start(sock=socket)
                log.info("agent_ready", spiffe_id=str(identity.svid.spiffe_id), socket=str(options.socket))
                follower = TrustFollower(authority, held, subscribers, keeper)
                try:
                    await asyncio.gather(keeper.keep(), follower.follow())
                finally:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(server.stop(), SHUTDOWN_SECONDS)


@asynccontextmanager
async def _serving_metrics(bind: Address | None, metrics: Metrics) -> AsyncIterator[None]:
    """Serve the metrics at `bind`, if given, for the length of the block. Raises as `listen` does."""
    if bind is None:
        yield
        return
    server = HttpListener(listen(bind), metrics_application(metrics), grace_seconds=SHUTDOWN_SECONDS)
    await server.start()
    log.info("agent_metrics_served", address=str(Address(bind.host, server.port)))
    try:
        yield
    finally:
        await server.stop()
