"""The agent's process: takes its places, gets its identity, serves it, and leaves nothing behind."""

import asyncio
import os
import signal
from contextlib import suppress

import structlog

from app.agent.authority import MeshAuthority
from app.agent.keeper import IdentityKeeper
from app.agent.listener import EVERYBODY, OWNER_ONLY, check_free, listening
from app.agent.options import AgentOptions, read_trust_bundle
from app.agent.peer import check_platform
from app.agent.sds import SecretService
from app.agent.secrets import HeldSecrets
from app.agent.server import SecretServer
from app.agent.store import IdentityStore
from app.core.clock import Clock, SystemClock
from app.telemetry.metrics import Metrics

# How long open streams have to end when the agent stops; Envoy keeps what it was given.
SHUTDOWN_SECONDS = 3.0

log = structlog.get_logger()


def run(options: AgentOptions) -> None:
    """Run the agent until SIGTERM or SIGINT. Raises a MeshwardError if it cannot start."""
    asyncio.run(serve_until_signalled(options))


async def serve_until_signalled(options: AgentOptions) -> None:
    """Run the agent on this event loop until the process gets SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    agent = asyncio.ensure_future(serve(options))
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, agent.cancel)
    try:
        with suppress(asyncio.CancelledError):
            await agent
    finally:
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(name)
    log.info("agent_stopped")


async def serve(options: AgentOptions, clock: Clock | None = None) -> None:
    """Run the agent until it is cancelled.

    What can be wrong with its places is found out before the join token, which works once, is used.
    """
    check_platform()
    clock = clock or SystemClock()
    bootstrap_roots = read_trust_bundle(options.trust_bundle)
    store = IdentityStore(options.data_dir)
    held = HeldSecrets(clock)
    with store.locked():
        check_free(options.socket)
        authority = MeshAuthority(options.server, options.server_name, bootstrap_roots)
        keeper = IdentityKeeper(authority, store, options.tokens, held, clock=clock)
        saved = store.load(clock.now())
        if saved is not None:
            keeper.resume(saved)
        identity = await keeper.obtain()
        mode = OWNER_ONLY if options.allowed_uids <= {os.geteuid(), 0} else EVERYBODY
        with listening(options.socket, mode) as socket:
            server = SecretServer(SecretService(held, Metrics(), options.allowed_uids))
            await server.start(sock=socket)
            log.info("agent_ready", spiffe_id=str(identity.svid.spiffe_id), socket=str(options.socket))
            try:
                await keeper.keep()
            finally:
                await _stop(server)


async def _stop(server: SecretServer) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(SHUTDOWN_SECONDS):
            await server.stop()
