"""What the demo shows, in order."""

import asyncio
from functools import partial

from app.core.clock import Clock
from app.demo import changes, identity, traffic
from app.demo.load import SteadyLoad
from app.demo.mesh import CONTROL_PLANE, WORKLOADS, Mesh, agent, sidecar
from app.demo.steps import Step

AGENTS = tuple(agent(workload) for workload in WORKLOADS)
SIDECARS = tuple(sidecar(workload) for workload in WORKLOADS)


def steps(mesh: Mesh, load: SteadyLoad, clock: Clock) -> tuple[Step, ...]:
    """Return every step of the demo. Each builds on those before it."""

    async def started() -> str:
        await asyncio.gather(mesh.start_control_plane(), *(mesh.start_workload(workload) for workload in WORKLOADS))
        at = mesh.plan.addresses
        return f"mesh TLS {at['mesh_tls']}, admin {at['admin']}"

    async def allowed() -> str:
        seen = await traffic.allowed(mesh)
        load.start()
        return seen

    return (
        Step("control plane ready", started, (CONTROL_PLANE,)),
        Step("policies and quota applied", partial(traffic.documents_applied, mesh), (CONTROL_PLANE,)),
        Step("workloads attested by join token", partial(identity.workloads_attested, mesh), (*AGENTS, CONTROL_PLANE)),
        Step("certificates over SDS", partial(identity.certificates_over_sds, mesh), (*SIDECARS, *AGENTS)),
        Step("mTLS and the peer's SPIFFE ID", partial(identity.mutual_tls, mesh), SIDECARS),
        Step("an allowed request passes", allowed, SIDECARS),
        Step("a denied one does not, and says why", partial(traffic.denied, mesh), SIDECARS),
        Step("the same when asked over HTTP", partial(traffic.denied_over_http, mesh), SIDECARS),
        Step("plaintext refused", partial(identity.plaintext_refused, mesh), SIDECARS),
        Step("a stranger's certificate refused", partial(identity.stranger_refused, mesh, clock), SIDECARS),
        Step("a used join token refused", partial(identity.token_refused_twice, mesh), (CONTROL_PLANE,)),
        Step("a policy change took effect", partial(changes.policy_changed, mesh, clock), (CONTROL_PLANE, *SIDECARS)),
        Step("rate limited, with headers", partial(traffic.limited, mesh), (CONTROL_PLANE, *SIDECARS)),
        Step(
            "certificates rotated",
            partial(changes.certificates_rotated, mesh, load, clock),
            (*AGENTS, *SIDECARS, CONTROL_PLANE),
        ),
        Step("control plane away: identities stay", partial(changes.control_plane_away, mesh), (*AGENTS, *SIDECARS)),
        Step("control plane back: nothing lost", partial(changes.control_plane_back, mesh), (CONTROL_PLANE, *SIDECARS)),
    )
