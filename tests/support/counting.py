"""Counters on a real Valkey, at a time that the test moves."""

import asyncio
from contextlib import asynccontextmanager, suppress

from app.core.store_url import parse_store_url
from app.quota.backends.valkey.counters import ValkeyCounters
from app.quota.backends.valkey.link import LinkOptions, server_time
from app.quota.backends.valkey.servers import StoreFiles, connect
from app.telemetry.metrics import Metrics
from tests.fakes.clock import ManualClock
from tests.support.serving import PATIENCE, eventually_async

# Far from what a busy machine takes: only tests of what is too late set another.
UNHURRIED = PATIENCE


@asynccontextmanager
async def counting(
    url, clock=None, *, seconds=UNHURRIED, files=None, metrics=None, wait=True, real_time=False, **options
):
    """Counters at the store of `url` whose time is that of `clock`, connected unless `wait` is False."""
    clock, metrics = clock or ManualClock(), metrics or Metrics()
    time = server_time if real_time else lambda: b"%d" % int(clock.now().timestamp() * 1000)
    prefix = options.pop("prefix", "t")
    link_options = LinkOptions(clock, metrics, seconds, prefix, time)
    servers = connect(parse_store_url(url), files or StoreFiles(), link_options)
    counters = ValkeyCounters(servers, clock, metrics, prefix=prefix, **options)
    task = asyncio.create_task(counters.run())
    try:
        if wait:
            await eventually_async(lambda: available(metrics), "a connection to the store")
        yield counters
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def available(metrics, servers=1):
    text = metrics.render().decode()
    up = [
        line
        for line in text.splitlines()
        if line.startswith("meshward_quota_store_available{") and line.endswith("1.0")
    ]
    return len(up) >= servers
