"""Steps about change: a policy, the certificates, and the control plane going away and coming back."""

from collections.abc import Awaitable
from datetime import timedelta
from functools import partial

import httpx

from app.core.clock import Clock
from app.demo.documents import CLOSE_NEWS
from app.demo.identity import IDENTITIES
from app.demo.load import SteadyLoad
from app.demo.mesh import CONTROL_PLANE, WORKLOADS, Mesh, agent, sidecar, until
from app.demo.steps import UnexpectedError
from app.demo.traffic import ask, told

# What the workloads' SVIDs are given once the rotation has been seen: nobody needs to watch that every few seconds.
LONG_SVID_SECONDS = 3600
# A certificate that lives longer than this is one of those.
CLEARLY_LONG = timedelta(minutes=10)


async def policy_changed(mesh: Mesh, clock: Clock) -> str:
    """See a policy in force for the requests that follow its being applied, and out of it once it is deleted."""
    before = await ask(mesh, "/news")
    if before.status_code != httpx.codes.OK:
        raise UnexpectedError("200 before the change", told(before), CONTROL_PLANE)
    closing = await _until_status(mesh, clock, mesh.admin.apply_policies(CLOSE_NEWS), httpx.codes.FORBIDDEN)
    opening = await _until_status(mesh, clock, mesh.admin.delete_policy("demo", "close-news"), httpx.codes.OK)
    return f"in force after {closing:.0f} ms, out of force after {opening:.0f} ms"


async def certificates_rotated(mesh: Mesh, load: SteadyLoad, clock: Clock) -> str:
    """See both sidecars change to new certificates while requests go on, none of which fails."""
    first = await _serials(mesh)
    handshakes = await mesh.envoy("api").handshakes()

    for spiffe_id in IDENTITIES.values():
        await mesh.admin.set_entry(spiffe_id, LONG_SVID_SECONDS)

    async def changed(workload: str) -> bool:
        held = await mesh.envoy(workload).certificates()
        new = all(each.serial not in first[workload] for each in held)
        return new and all(each.expires - clock.now() > CLEARLY_LONG for each in held)

    for workload in WORKLOADS:
        await until(partial(changed, workload))
    renewed = await mesh.envoy("api").handshakes()

    async def in_use() -> bool:
        return await mesh.envoy("api").handshakes() > renewed

    await until(in_use)
    shaken = await mesh.envoy("api").handshakes() - handshakes
    tally = await load.stop()
    if tally.failed or not tally.sent:
        seen = f"{tally.failed} of {tally.sent} failed: {'; '.join(tally.failures)}"
        raise UnexpectedError("no failed request", seen, sidecar("web"), sidecar("api"), CONTROL_PLANE)
    return f"0 of {tally.sent} requests failed, {shaken} new handshakes"


async def control_plane_away(mesh: Mesh) -> str:
    """See that without the control plane identities stay, even for a sidecar that starts anew; requests are denied."""
    before = await _serials(mesh)
    await mesh.stop_control_plane()
    await mesh.restart_sidecar("api")
    if await _serials(mesh) != before:
        raise UnexpectedError("api's sidecar to get the certificate it had", "another", agent("api"), sidecar("api"))
    answer = await ask(mesh, "/hello")
    if answer.status_code != httpx.codes.FORBIDDEN:
        raise UnexpectedError("403, since nobody can be asked", told(answer), sidecar("api"))
    return "a restarted sidecar gets its certificate; requests → 403"


async def control_plane_back(mesh: Mesh) -> str:
    """See the control plane come back with the policies, limits and CA that it had."""
    await mesh.start_control_plane()

    async def answered() -> bool:
        return (await ask(mesh, "/hello")).status_code == httpx.codes.OK

    await until(answered)
    denied = await ask(mesh, "/admin")
    if denied.status_code != httpx.codes.FORBIDDEN:
        raise UnexpectedError("403 for /admin, as before", told(denied), CONTROL_PLANE)
    return "/hello → 200, /admin → 403: the policies were kept"


async def _until_status(mesh: Mesh, clock: Clock, change: Awaitable[None], status: int) -> float:
    """Return the milliseconds from the start of `change` until a request for /news is answered with `status`."""
    started = clock.monotonic()
    await change

    async def answered() -> bool:
        return (await ask(mesh, "/news")).status_code == status

    await until(answered)
    return (clock.monotonic() - started) * 1000


async def _serials(mesh: Mesh) -> dict[str, set[str]]:
    return {workload: {held.serial for held in await mesh.envoy(workload).certificates()} for workload in WORKLOADS}
