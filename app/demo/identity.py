"""Steps about who is who: attestation, certificates over SDS, mutual TLS, and those who get no further than that."""

import asyncio
import ssl
from functools import partial

import httpx

from app.core.clock import Clock
from app.demo.children import ending
from app.demo.mesh import CONTROL_PLANE, WORKLOADS, Mesh, agent, sidecar, until
from app.demo.plan import API, WEB, environment
from app.demo.steps import UnexpectedError
from app.demo.stranger import stranger_context, stranger_pem

# Short enough to see a rotation, at half of it, while one looks on; long enough for a machine that is busy.
SHORT_SVID_SECONDS = 16
# An answer to a client that is refused comes at once or never.
REFUSAL_SECONDS = 5.0

IDENTITIES = {"web": WEB, "api": API}


async def workloads_attested(mesh: Mesh) -> str:
    """See each agent redeem its join token for an SVID of its workload."""

    async def attest(workload: str) -> None:
        await mesh.admin.set_entry(IDENTITIES[workload], SHORT_SVID_SECONDS)
        await mesh.start_agent(workload, await mesh.admin.create_join_token(IDENTITIES[workload]))
        await until(partial(mesh.admin.has_issued, IDENTITIES[workload]))

    await asyncio.gather(*(attest(workload) for workload in WORKLOADS))
    return f"{WEB}, …/{API.path.rpartition('/')[2]}"


async def token_refused_twice(mesh: Mesh) -> str:
    """See a second agent get nothing for web's token, which is used up."""
    thief = "thief-agent"
    command = mesh.plan.agent_command("web", instance="-thief")
    child = await mesh.children.start(thief, command, environment(), ends=True)
    code = await child.process.wait()
    told = (mesh.children.tail(thief, 1) or ("",))[0]
    if code == 0 or "UNAUTHENTICATED" not in told or mesh.plan.socket("web-thief").exists():
        raise UnexpectedError(
            "a used join token to be refused", f"the second agent {ending(code)}", thief, CONTROL_PLANE
        )
    return told.rpartition("answered ")[2].partition(": make")[0]


async def certificates_over_sds(mesh: Mesh) -> str:
    """See each sidecar hold the certificate of its workload, which it can have from the agent's socket alone."""
    await asyncio.gather(*(mesh.start_sidecar(workload) for workload in WORKLOADS))
    for workload, spiffe_id in IDENTITIES.items():
        uris = {uri for held in await mesh.envoy(workload).certificates() for uri in held.uris}
        if uris != {str(spiffe_id)}:
            raise UnexpectedError(f"Envoy to hold {spiffe_id}", f"{sorted(uris)}", sidecar(workload), agent(workload))
    return "Envoy's /certs shows both"


async def mutual_tls(mesh: Mesh) -> str:
    """See api told by its sidecar who calls, by the certificate that the sidecar verified."""
    answer = await mesh.client.get(f"{mesh.plan.addresses['web'].url}/hello")
    if answer.status_code != httpx.codes.OK:
        raise UnexpectedError("200", f"{answer.status_code} {answer.text}", sidecar("api"), sidecar("web"))
    forwarded = answer.json()["headers"].get("x-forwarded-client-cert", "")
    if f"URI={WEB}" not in forwarded.split(";"):
        raise UnexpectedError(f"x-forwarded-client-cert with URI={WEB}", repr(forwarded), sidecar("api"))
    return f"api sees {WEB}"


async def plaintext_refused(mesh: Mesh) -> str:
    """See a client without TLS cut off by api's sidecar."""
    address = mesh.plan.addresses["api_inbound"]
    try:
        answer = await mesh.client.get(f"{address.url}/hello")
    except httpx.TransportError as error:
        return f"{address}: {error or type(error).__name__}"
    raise UnexpectedError("the connection to be closed", f"{answer.status_code} {answer.text}", sidecar("api"))


async def stranger_refused(mesh: Mesh, clock: Clock) -> str:
    """See a client refused that says it is web, with a certificate of a CA of its own."""
    pem = stranger_pem(WEB, clock.now())
    context = stranger_context(pem, mesh.plan.directory / "stranger.pem", mesh.plan.data_dir / "bundle.pem")
    address = mesh.plan.addresses["api_inbound"]
    try:
        # In TLS 1.3 a client is through before the server has looked at its certificate: the alert comes when it reads.
        reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
        try:
            data = await asyncio.wait_for(reader.read(1), REFUSAL_SECONDS)
        finally:
            writer.transport.abort()
    except ssl.SSLError as error:
        if "ALERT" in (error.reason or ""):
            return f"TLS alert: {(error.reason or '').rpartition('ALERT_')[2].lower().replace('_', ' ')}"
        raise UnexpectedError("a TLS alert from api's sidecar", str(error), sidecar("api")) from error
    except TimeoutError as error:
        raise UnexpectedError("a TLS alert", "an open connection", sidecar("api")) from error
    raise UnexpectedError("a TLS alert", f"{data!r} and the end of the connection", sidecar("api"))
