"""What the demo shows, in order: each step looks at the mesh and returns what it saw, or raises UnexpectedError."""

import asyncio
import ssl
from collections.abc import Awaitable
from datetime import timedelta
from functools import partial

import httpx

from app.demo.children import ending
from app.demo.clients import Tally, steady_load, tls_client, unknown_ca_pem
from app.demo.documents import CLOSE_NEWS, POLICIES, QUOTA, QUOTA_DOMAIN, REQUESTS_PER_MINUTE
from app.demo.mesh import API, CONTROL_PLANE, IDENTITIES, WEB, Mesh, agent, environment, sidecar, until
from app.demo.steps import Step, UnexpectedError

AGENTS = tuple(agent(workload) for workload in IDENTITIES)
SIDECARS = tuple(sidecar(workload) for workload in IDENTITIES)
DECIDERS = (CONTROL_PLANE, sidecar("api"))

# Short enough to watch a rotation, at half of it; long enough for a busy machine.
SHORT_SVID_SECONDS = 16
# The lifetime of SVIDs after the rotation has been seen.
LONG_SVID_SECONDS = 3600
# A certificate that lives longer than this has that lifetime.
CLEARLY_LONG = timedelta(minutes=10)
# A client is refused immediately or never.
REFUSAL_SECONDS = 5.0
# Two windows' worth and one: a window may end in between, but not twice.
LIMIT_TRIES = 2 * REQUESTS_PER_MINUTE + 1


def steps(mesh: Mesh) -> tuple[Step, ...]:
    """Return every step of the demo. Each builds on those before it."""
    every = (CONTROL_PLANE, *AGENTS, *SIDECARS)
    story = (
        ("control plane ready", started, (CONTROL_PLANE,)),
        ("policies and quota applied", documents_applied, (CONTROL_PLANE,)),
        ("workloads attested by join token", workloads_attested, (*AGENTS, CONTROL_PLANE)),
        ("certificates over SDS", certificates_over_sds, (*SIDECARS, *AGENTS)),
        ("mTLS and the peer's SPIFFE ID", mutual_tls, SIDECARS),
        ("allowed request passes", allowed, SIDECARS),
        ("denied request gets 403 and reason", denied, SIDECARS),
        ("same decisions with checks over HTTP", denied_over_http, SIDECARS),
        ("plaintext refused", plaintext_refused, SIDECARS),
        ("certificate of unknown CA refused", unknown_ca_refused, SIDECARS),
        ("used join token refused", token_refused_twice, (CONTROL_PLANE,)),
        ("policy change takes effect", policy_changed, (CONTROL_PLANE, *SIDECARS)),
        ("rate limited, with headers", limited, (CONTROL_PLANE, *SIDECARS)),
        ("banned identity denied, then unbanned", identity_banned, (CONTROL_PLANE, *SIDECARS)),
        ("certificates rotated under load", certificates_rotated, every),
        ("root rotated with a new key", root_rotated, every),
        ("control plane away: identities stay", control_plane_away, (*AGENTS, *SIDECARS)),
        ("control plane back: nothing lost", control_plane_back, (CONTROL_PLANE, *SIDECARS)),
    )
    return tuple(Step(title, partial(look, mesh), logs) for title, look, logs in story)


async def started(mesh: Mesh) -> str:
    """See the control plane and the workloads start."""
    await asyncio.gather(mesh.start_control_plane(), *(mesh.start_workload(workload) for workload in IDENTITIES))
    at = mesh.plan.addresses
    return f"mesh TLS {at['mesh_tls']}, admin {at['admin']}"


async def documents_applied(mesh: Mesh) -> str:
    """See the admin API accept the demo's policies and limits."""
    await mesh.admin.apply_policies(POLICIES)
    await mesh.admin.put_quota(QUOTA_DOMAIN, QUOTA)
    return "2 AuthorizationPolicies, 1 rate limit"


async def workloads_attested(mesh: Mesh) -> str:
    """See each agent redeem its join token for an SVID of its workload."""

    async def attest(workload: str) -> None:
        await mesh.admin.set_entry(IDENTITIES[workload], SHORT_SVID_SECONDS)
        await mesh.start_agent(workload, await mesh.admin.create_join_token(IDENTITIES[workload]))
        await until(partial(mesh.admin.has_issued, IDENTITIES[workload]))

    await asyncio.gather(*(attest(workload) for workload in IDENTITIES))
    return f"{WEB}, …/{API.path.rpartition('/')[2]}"


async def certificates_over_sds(mesh: Mesh) -> str:
    """See each sidecar hold the certificate of its workload, which only the agent's socket gives it."""
    await asyncio.gather(*(mesh.start_sidecar(workload) for workload in IDENTITIES))
    for workload, spiffe_id in IDENTITIES.items():
        uris = {uri for held in await mesh.envoy(workload).certificates() for uri in held.uris}
        if uris != {str(spiffe_id)}:
            raise UnexpectedError(f"Envoy to hold {spiffe_id}", f"{sorted(uris)}", sidecar(workload), agent(workload))
    return "Envoy's /certs shows both"


async def mutual_tls(mesh: Mesh) -> str:
    """See api get the caller's SPIFFE ID from its sidecar, which verified the certificate."""
    answer = await ask(mesh, "/hello", listener="web")
    _check_status(answer, httpx.codes.OK, "200", *SIDECARS)
    forwarded = answer.json()["headers"].get("x-forwarded-client-cert", "")
    if f"URI={WEB}" not in forwarded.split(";"):
        raise UnexpectedError(f"x-forwarded-client-cert with URI={WEB}", repr(forwarded), sidecar("api"))
    return f"api sees {WEB}"


async def allowed(mesh: Mesh) -> str:
    """See a request that the policy allows reach the workload."""
    answer = await ask(mesh, "/hello")
    if answer.status_code != httpx.codes.OK or answer.json()["workload"] != "api":
        raise UnexpectedError("200 from api", described(answer), *DECIDERS)
    return "GET /hello → 200"


async def denied(mesh: Mesh) -> str:
    """See a request that a rule denies answered with 403 and the name of the rule."""
    return f"GET /admin → 403 by {await _denied_by(mesh, 'no-admin', 'web_outbound')}"


async def denied_over_http(mesh: Mesh) -> str:
    """See a sidecar whose checks are HTTP instead of gRPC get the same answers."""
    good = await ask(mesh, "/hello", listener="web_outbound_http_check")
    _check_status(good, httpx.codes.OK, "200 from api", *DECIDERS)
    await _denied_by(mesh, "no-admin", "web_outbound_http_check")
    return "/hello → 200, /admin → 403"


async def plaintext_refused(mesh: Mesh) -> str:
    """See api's sidecar close the connection of a client without TLS."""
    address = mesh.plan.addresses["api_inbound"]
    try:
        answer = await ask(mesh, "/hello", listener="api_inbound")
    except httpx.TransportError as error:
        return f"{address}: {error or type(error).__name__}"
    raise UnexpectedError("the connection to be closed", described(answer), sidecar("api"))


async def unknown_ca_refused(mesh: Mesh) -> str:
    """See a client refused that claims to be web, with a certificate of a CA that the mesh does not know."""
    pem = unknown_ca_pem(WEB, mesh.clock.now())
    context = tls_client(pem, mesh.plan.directory / "unknown-ca.pem", mesh.plan.data_dir / "bundle.pem")
    address = mesh.plan.addresses["api_inbound"]
    try:
        # In TLS 1.3 the client's handshake ends before the server has verified its certificate: the alert comes later.
        reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
        try:
            data = await asyncio.wait_for(reader.read(1), REFUSAL_SECONDS)
        finally:
            writer.transport.abort()
        seen = f"{data!r} and the end of the connection"
    except ssl.SSLError as error:
        reason = error.reason or ""
        if "ALERT" in reason:
            return f"TLS alert: {reason.rpartition('ALERT_')[2].lower().replace('_', ' ')}"
        seen = str(error)
    except TimeoutError:
        seen = "an open connection"
    raise UnexpectedError("a TLS alert from api's sidecar", seen, sidecar("api"))


async def token_refused_twice(mesh: Mesh) -> str:
    """See a second agent get nothing for web's token, which is used up."""
    thief = agent("thief")
    command = mesh.plan.agent_command("web", instance="-thief")
    child = await mesh.children.start(thief, command, environment(), ends=True)
    code = await child.process.wait()
    last = (mesh.children.tail(thief, 1) or ("",))[0]
    if code == 0 or "UNAUTHENTICATED" not in last or mesh.plan.socket("web-thief").exists():
        raise UnexpectedError(
            "a used join token to be refused", f"the second agent {ending(code)}", thief, CONTROL_PLANE
        )
    return last.rpartition("answered ")[2].rpartition(": ")[0]


async def policy_changed(mesh: Mesh) -> str:
    """See a policy active for the requests after it was applied, and gone for those after it was deleted."""
    _check_status(await ask(mesh, "/news"), httpx.codes.OK, "200 before the change", CONTROL_PLANE)
    closing = await _until_status(mesh, mesh.admin.apply_policies(CLOSE_NEWS), httpx.codes.FORBIDDEN)
    opening = await _until_status(mesh, mesh.admin.delete_policy("demo", "close-news"), httpx.codes.OK)
    return f"active after {closing:.0f} ms, deleted after {opening:.0f} ms"


async def limited(mesh: Mesh) -> str:
    """See requests above the limit answered with 429 and headers that say when to come back."""
    for sent in range(LIMIT_TRIES):
        answer = await ask(mesh, "/limited")
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            headers = {key: value for key, value in answer.headers.items() if "ratelimit-" in key}
            if not headers or sent < REQUESTS_PER_MINUTE:
                break
            return f"GET /limited → 429 after {sent}, x-ratelimit-reset: {headers.get('x-ratelimit-reset', '?')}"
        if answer.status_code != httpx.codes.OK:
            break
    raise UnexpectedError(f"{REQUESTS_PER_MINUTE} times 200, then 429 with headers", described(answer), *DECIDERS)


async def certificates_rotated(mesh: Mesh) -> str:
    """See both sidecars change to new certificates and use them while requests go on, none of which fails."""
    api = mesh.envoy("api")

    async def renewed(workload: str) -> bool:
        held = await mesh.envoy(workload).certificates()
        new = all(each.serial not in first[workload] for each in held)
        return new and all(each.expires - mesh.clock.now() > CLEARLY_LONG for each in held)

    async with steady_load(mesh.client, f"{mesh.plan.addresses['web_outbound'].url}/hello") as tally:
        first, handshakes = await _serials(mesh), await api.handshakes()
        for spiffe_id in IDENTITIES.values():
            await mesh.admin.set_entry(spiffe_id, LONG_SVID_SECONDS)
        for workload in IDENTITIES:
            await until(partial(renewed, workload))
        await until(partial(_more_handshakes, mesh, await api.handshakes()))
        new_handshakes = await api.handshakes() - handshakes
    _check_tally(tally)
    return f"0 of {tally.sent} requests failed, {new_handshakes} new handshakes"


async def identity_banned(mesh: Mesh) -> str:
    """See requests of a banned identity denied and its new connections refused, and both end when the ban is lifted."""

    async def refused() -> bool:
        return await mesh.envoy("api").has_revocation_lists()

    async def accepted() -> bool:
        return not await refused()

    banning = await _until_status(mesh, mesh.admin.ban(WEB, "the demo bans it"), httpx.codes.FORBIDDEN)
    await until(refused)
    unbanning = await _until_status(mesh, mesh.admin.unban(WEB), httpx.codes.OK)
    await until(accepted)
    return f"denied after {banning:.0f} ms, allowed after {unbanning:.0f} ms"


async def root_rotated(mesh: Mesh) -> str:
    """See a new root prepared, acknowledged by the sidecars and activated, the old one revoked, and no request fail."""
    (old,) = await mesh.admin.roots("active")
    before = await _serials(mesh)

    async def active() -> bool:
        return await mesh.admin.roots("active") == [new]

    async def renewed() -> bool:
        now = await _serials(mesh)
        return all(now[workload].isdisjoint(before[workload]) for workload in IDENTITIES)

    async def revoked() -> bool:
        return await mesh.admin.revoke_root(old)

    async def trusted() -> bool:
        return all([await mesh.envoy(workload).roots() == 1 for workload in IDENTITIES])

    async with steady_load(mesh.client, f"{mesh.plan.addresses['web_outbound'].url}/hello") as tally:
        new = await mesh.admin.prepare_root()
        await mesh.admin.activate_root(new)
        await until(active)
        await mesh.admin.taint_root(old)
        await until(renewed)
        await until(revoked)
        await until(trusted)
        handshakes = await mesh.envoy("api").handshakes()
        await until(partial(_more_handshakes, mesh, handshakes))
    _check_tally(tally)
    return f"0 of {tally.sent} requests failed, {old[:8]} → {new[:8]}"


async def control_plane_away(mesh: Mesh) -> str:
    """See identities stay without the control plane, even for a sidecar that restarts, while requests are denied."""
    before = await _serials(mesh)
    await mesh.stop(CONTROL_PLANE)
    await mesh.stop(sidecar("api"))
    await mesh.start_sidecar("api")
    if await _serials(mesh) != before:
        raise UnexpectedError("api's sidecar to get the certificate it had", "another", agent("api"), sidecar("api"))
    _check_status(await ask(mesh, "/hello"), httpx.codes.FORBIDDEN, "403, since no check is answered", sidecar("api"))
    return "a restarted sidecar gets its certificate; requests → 403"


async def control_plane_back(mesh: Mesh) -> str:
    """See the control plane come back with the policies, limits and CA that it had."""
    await mesh.start_control_plane()
    await _until_answered(mesh, "/hello", httpx.codes.OK)
    _check_status(await ask(mesh, "/admin"), httpx.codes.FORBIDDEN, "403 for /admin, as before", CONTROL_PLANE)
    return "/hello → 200, /admin → 403: the policies were kept"


async def ask(mesh: Mesh, path: str, *, listener: str = "web_outbound") -> httpx.Response:
    """Return the answer to a GET of `path` at `listener`; web's own calls to api go through `web_outbound`."""
    return await mesh.client.get(mesh.plan.addresses[listener].url + path)


def described(answer: httpx.Response) -> str:
    """Return the status and the beginning of the text of an answer."""
    return f"{answer.status_code} {answer.text.strip()[:300]}".strip()


def _check_status(answer: httpx.Response, status: int, expected: str, *logs: str) -> None:
    if answer.status_code != status:
        raise UnexpectedError(expected, described(answer), *logs)


def _check_tally(tally: Tally) -> None:
    if tally.failed or not tally.sent:
        seen = f"{tally.failed} of {tally.sent} failed: {'; '.join(tally.failures)}"
        raise UnexpectedError("no failed request", seen, *SIDECARS, CONTROL_PLANE)


async def _more_handshakes(mesh: Mesh, before: int) -> bool:
    """Return whether api's sidecar has completed a handshake more: with the certificates and roots that are new."""
    return await mesh.envoy("api").handshakes() > before


async def _denied_by(mesh: Mesh, policy: str, listener: str) -> str:
    """Return what denied /admin, which must be `policy`."""
    answer = await ask(mesh, "/admin", listener=listener)
    decision: str = answer.headers.get("x-meshward-decision", "")
    if answer.status_code != httpx.codes.FORBIDDEN or policy not in decision:
        raise UnexpectedError(f"403 by {policy}", f"{described(answer)} (x-meshward-decision: {decision!r})", *DECIDERS)
    return decision


async def _until_status(mesh: Mesh, change: Awaitable[None], status: int) -> float:
    """Return the milliseconds from the start of `change` until a request for /news is answered with `status`."""
    began = mesh.clock.monotonic()
    await change
    await _until_answered(mesh, "/news", status)
    return (mesh.clock.monotonic() - began) * 1000


async def _until_answered(mesh: Mesh, path: str, status: int) -> None:
    async def answered() -> bool:
        return (await ask(mesh, path)).status_code == status

    await until(answered)


async def _serials(mesh: Mesh) -> dict[str, set[str]]:
    return {workload: {held.serial for held in await mesh.envoy(workload).certificates()} for workload in IDENTITIES}
